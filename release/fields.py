"""Writes what the distributions of this repository say alike into their files, from `[tool.longline]` of the root's pyproject.toml.

    python release/fields.py            # writes it
    python release/fields.py --check    # compares; exit status 1 names each file that says something else

In a pyproject.toml that is the version, the range of longline that a plugin was built for, that of plugins in the core's
extras, and the urls. The plugins are those with a folder in plugins/: the extra `all` brings them, and messages of the core
offer them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["longline"]
DISCOVERY = ROOT / "core" / "src" / "longline" / "plugins" / "discovery.py"
VERSION = Version(SETTINGS["version"])
RANGE = f">={VERSION.major}.{VERSION.minor},<{VERSION.major + 1}"
"""The contract with authors, from the version in which it is as it is now: docs/writing-a-plugin.md."""


def main(arguments: list[str]) -> int:
    """Write every file that differs, or with --check name it; returns the exit status."""
    texts = {**{path: written(path) for path in map(file_of, distributions())}, DISCOVERY: offered()}
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale: run `python release/fields.py`", file=sys.stderr)
        else:
            path.write_text(texts[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


def distributions() -> list[Path]:
    """The folders of all distributions that are released, the core's first."""
    return [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def plugins() -> list[str]:
    """The names of all distributions but the core's."""
    return [str(project(folder)["name"]) for folder in distributions()[1:]]


def file_of(folder: Path) -> Path:
    """The file that says what a distribution is."""
    return folder / "pyproject.toml"


def project(folder: Path) -> dict[str, object]:
    """The metadata of a distribution."""
    return tomllib.loads(file_of(folder).read_text(encoding="utf-8"))["project"]


def written(path: Path) -> str:
    """A pyproject.toml with all of it."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'^version = ".*"$', f'version = "{VERSION}"', text, count=1, flags=re.MULTILINE)
    if path.parent.name == "core":
        text = re.sub(r"^all = \[.*?^\]$", _all(text), text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r'"(longline[a-z0-9-]*(?:\[[a-z, -]+\])?)[<>=~!][^";]*', rf'"\1{RANGE}', text)
    urls = "\n".join(("[project.urls]", *(f'{name} = "{url}"' for name, url in _urls(path.parent).items()), ""))
    if "[project.urls]" in text:
        return re.sub(r"^\[project\.urls\]\n(?:\w.*\n)*", urls, text, flags=re.MULTILINE)
    return re.sub(r"^\[project\.", f"{urls}\n[project.", text, count=1, flags=re.MULTILINE)


def _urls(folder: Path) -> dict[str, str]:
    home, place = SETTINGS["home"], folder.relative_to(ROOT).as_posix()
    return {"Homepage": home, "Issues": f"{home}/issues", "Changelog": f"{home}/blob/main/{place}/CHANGELOG.md"}


def _all(text: str) -> str:
    """The extra that brings every plugin; what stands behind a name already, as on which systems it runs, is kept."""
    lines = tomllib.loads(text)["project"]["optional-dependencies"]["all"]
    kept = {Requirement(line).name: line for line in lines}
    return "\n".join(("all = [", *(f'    "{kept.get(name, name + RANGE)}",' for name in plugins()), "]"))


def offered() -> str:
    """The module of the core that offers plugins which are not installed."""
    names = "\n".join(("PUBLISHED = (", *(f'    "{name.removeprefix("longline-")}",' for name in plugins()), ")"))
    return re.sub(r"^PUBLISHED = \([^)]*\)", names, DISCOVERY.read_text(encoding="utf-8"), flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
