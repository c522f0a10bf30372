"""Builds every distribution as it is released, and installs the wheels as people will: `python3 -m tox run -e release`.

Each is built by `python -m build` into dist/: an sdist, and out of that a wheel. Wheels go into new environments: the core alone,
every plugin alone, every bundle of the core's extras. What the core requires lies in one environment below all of them, to spare
gigabytes, at the versions of constraints.txt; what a plugin requires beside it is installed each time. Only the registry is asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from pathlib import Path
from tempfile import TemporaryDirectory

from fields import ROOT, SETTINGS, VERSION, distributions, project
from packaging.requirements import Requirement

DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
BUNDLES = ("rl", "track", "kernels", "all")
NAMES = {folder: str(project(folder)["name"]) for folder in distributions()}
EXTRAS = project(ROOT / "core")["optional-dependencies"]
PLAIN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
LAST = 20
"""How many lines of a command that fails are shown, of each stream."""
LOOK = """
import importlib.metadata, json, pathlib, sys
place, found = pathlib.Path(sys.prefix), {}
for item in importlib.metadata.distributions():
    found.setdefault(item.name.lower().replace("_", "-"), []).append(pathlib.Path(item.locate_file("")).is_relative_to(place))
for item in importlib.metadata.distributions(path=[p for p in sys.path if pathlib.Path(p).is_relative_to(place)]):
    if item.name.startswith("longline"):
        [entry.load() for entry in item.entry_points if entry.group != "pytest11"]
import longline
assert pathlib.Path(longline.__file__).is_relative_to(place), longline.__file__
print(json.dumps(found))
"""


class FailedError(Exception):
    """What was run, and what it said."""


def main(place: Path) -> int:
    """Do all of it below `place`; returns the exit status."""
    shutil.rmtree(DIST, ignore_errors=True)
    problems = [
        *each(build, NAMES),
        *contents(),
        *attempt(run, sys.executable, "-m", "twine", "check", "--strict", *files("*")),
    ]
    if not problems:
        environments = {"core": "longline", **{name: name for name in [*NAMES.values()][1:]}}
        environments |= {extra: f"longline[{extra}]" for extra in BUNDLES}
        below = libraries(place / "libraries")
        ours = place / "ours.txt"
        ours.write_text("".join(f"{name} @ {wheel(name).as_uri()}\n" for name in NAMES.values()), encoding="utf-8")
        problems += each(lambda item: install(place / item[0], item[1], below, ours), environments.items())
        problems = problems or attempt(train, place)
    print(*problems, sep="\n\n", file=sys.stderr)
    if problems:
        return 1
    print("\n".join(f"{path.stat().st_size:>10,}  {path.relative_to(ROOT)}" for path in files("*")))
    print(f"{len(NAMES)} distributions of {VERSION} are in order")
    if SETTINGS["home"].endswith(".example"):
        print("not to be uploaded yet: [tool.longline] of pyproject.toml names no home that exists")
    return 0


# --- building -------------------------------------------------------------------------------------------------------------------


def build(folder: Path) -> None:
    """Build the sdist and wheel of a copy, in which nothing lies that was built before."""
    with TemporaryDirectory() as copy:
        ignored = shutil.ignore_patterns("*.egg-info", "build", "dist", "__pycache__")
        source = shutil.copytree(folder, Path(copy) / folder.name, ignore=ignored)
        (source / "MANIFEST.in").write_text("include CHANGELOG.md\ngraft tests\nglobal-exclude *.py[cod]\n", encoding="utf-8")
        (source / "README.md").write_text(readme(folder), encoding="utf-8")
        run(sys.executable, "-m", "build", "--outdir", str(DIST), str(source))


def readme(folder: Path) -> str:
    """The README with whole addresses: on the page of an index no file lies beside it."""

    def whole(link: re.Match[str]) -> str:
        path = (folder / link[1]).resolve().relative_to(ROOT).as_posix()
        return f"]({SETTINGS['home']}/blob/main/{path}{link[2] or ''})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)", whole, (folder / "README.md").read_text(encoding="utf-8"))


def contents() -> Iterator[str]:
    """What is wrong with the built files."""
    for folder, name in NAMES.items():
        stem = f"{name.replace('-', '_')}-{VERSION}"
        if not (DIST / f"{stem}.tar.gz").is_file() or not wheel(name).is_file():
            yield f"{name}: there is no {stem}.tar.gz, or no wheel"
            continue
        with tarfile.open(DIST / f"{stem}.tar.gz") as archive:
            here = {f"{stem}/{path.relative_to(folder).as_posix()}" for path in folder.glob("tests/**/*.py")}
            wanted = {*here, f"{stem}/CHANGELOG.md", f"{stem}/LICENSE"}
            yield from (f"{name}: the sdist has no {path}" for path in sorted(wanted - {*archive.getnames()}))
        yield from (f"{name}: {text}" for text in inside_wheel(folder, wheel(name), stem))


def inside_wheel(folder: Path, path: Path, stem: str) -> Iterator[str]:
    """What is wrong with the files and the metadata in a wheel."""
    with zipfile.ZipFile(path) as archive:
        inside, metadata = {*archive.namelist()}, BytesParser().parsebytes(archive.read(f"{stem}.dist-info/METADATA"))
    package = path.name.partition("-")[0]
    wanted = {f"{package}/py.typed", f"{stem}.dist-info/licenses/LICENSE", f"{stem}.dist-info/entry_points.txt"}
    wanted |= {source.relative_to(folder / "src").as_posix() for source in folder.glob("src/*/**/*.py")}
    yield from (f"the wheel has no {name}" for name in sorted(wanted - inside))
    yield from (
        f"the wheel has {name}" for name in {name.partition("/")[0] for name in inside} - {package, f"{stem}.dist-info"}
    )
    told = ("Summary", "License-Expression", "Project-URL", "Classifier", "Requires-Python", "Description-Content-Type")
    yield from (f"its metadata have no {field}" for field in told if field not in metadata)


def files(suffix: str) -> list[Path]:
    """The built files."""
    return sorted(DIST.glob(suffix))


def wheel(name: str) -> Path:
    """Where the wheel of a distribution is."""
    return DIST / f"{name.replace('-', '_')}-{VERSION}-py3-none-any.whl"


# --- installing -----------------------------------------------------------------------------------------------------------------


def libraries(place: Path) -> Path:
    """Make the environment of what the core requires, or bring it up to date; returns its site-packages."""
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=False)
    pip(place, "install", "--constraint", str(CONSTRAINTS), *project(ROOT / "core")["dependencies"])
    return packages(place)


def install(place: Path, requirement: str, below: Path, ours: Path) -> None:
    """Make an environment with a requirement, and see that it brings what it should and nothing that is below already."""
    venv.create(place, with_pip=False, clear=True)
    (packages(place) / "libraries.pth").write_text(f"{below}\n", encoding="utf-8")
    pip(place, "install", "--constraint", str(CONSTRAINTS), "--constraint", str(ours), requirement)
    pip(place, "check")
    found = json.loads(run(place / "bin" / "python", "-c", LOOK).splitlines()[-1])
    again = sorted(name for name, places in found.items() if len(places) > 1)
    if again:
        raise FailedError(f"{requirement}: pip took another {', '.join(again)} than constraints.txt has")
    got = {name for name in found if name.startswith("longline")}
    if got != wanted(requirement):
        raise FailedError(f"{requirement} brings {sorted(got)}, not {sorted(wanted(requirement))}")
    told = run(place / "bin" / "longline", "--version")
    if str(VERSION) not in told:
        raise FailedError(f"{requirement}: longline --version says {told}")
    rows = json.loads(run(place / "bin" / "longline", "plugins", "--json"))
    if {row["distribution"] for row in rows} != got - {"longline"}:
        raise FailedError(f"{requirement}: longline plugins lists {rows}")
    for row in rows:
        run(place / "bin" / "longline", "plugins", "show", row["name"])


def wanted(requirement: str) -> set[str]:
    """The distributions of this repository that a requirement brings."""
    asked = Requirement(requirement)
    lines = [Requirement(line) for extra in asked.extras for line in EXTRAS[extra]]
    lines = [line for line in lines if not line.marker or line.marker.evaluate()]
    return {"longline", asked.name, *(line.name for line in lines if line.name.startswith("longline"))}


def train(place: Path) -> None:
    """Train two steps with the core alone, and with all plugins beside it, on the model and rows of the test kit."""
    pip(place / "core", "install", "--constraint", str(CONSTRAINTS), "pytest")  # the kit is a plugin of it
    run(place / "core" / "bin" / "python", "-m", "longline.testing", str(place / "rows"))
    for name in ("core", "all"):
        config = place / f"{name}.yaml"
        config.write_text(
            f"model: {{path: {place}/rows/model}}\ndata: {{train: {place}/rows/chat.jsonl}}\ntrainer: {{max_steps: 2, "
            f"learning_rate: 1e-3, use_cpu: true}}\noutput_dir: {place}/{name}-run\n",
            encoding="utf-8",
        )
        told = run(place / name / "bin" / "longline", "train", str(config), "--overwrite")
        if "completed: 2 steps" not in told:
            raise FailedError(f"{name}: {told}")


def packages(place: Path) -> Path:
    """The site-packages of an environment."""
    return next(place.glob("lib/python*/site-packages"))


def pip(place: Path, *arguments: str) -> None:
    """Run this environment's pip for another."""
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place / "bin" / "python"), *arguments)


# --- running --------------------------------------------------------------------------------------------------------------------


def run(*command: object) -> str:
    """Run a command away from the sources and return what it wrote; raises FailedError with it."""
    done = subprocess.run(
        [*map(str, command)], env=PLAIN, cwd=DIST.parent / "release", capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = [line for text in (done.stdout, done.stderr) for line in text.splitlines()[-LAST:]]
        raise FailedError("\n  ".join((" ".join(map(str, command)), *told)))
    return done.stdout


def attempt(work: Callable[..., object], *arguments: object) -> list[str]:
    """What fails when this is done, as one text or none."""
    begun = time.monotonic()
    try:
        work(*arguments)
    except FailedError as error:
        return [str(error)]
    last = arguments[-1]
    shown = last.name if isinstance(last, Path) else last[0] if isinstance(last, tuple) else last
    print(f"{time.monotonic() - begun:>6.1f} s  {work.__name__.replace('<lambda>', 'install')} {shown}", flush=True)
    return []


def each(work: Callable[..., object], items: Iterable[object]) -> list[str]:
    """Do this with each of the items, several at a time; returns what failed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [text for texts in pool.map(lambda item: attempt(work, item), items) for text in texts]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))  # commands run elsewhere
