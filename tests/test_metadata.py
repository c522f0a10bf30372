"""What a distribution says of itself is complete, and what they say alike is the same. `tox run -e release` looks at the builds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
DISCOVERY = "core/src/longline/plugins/discovery.py"
PLUGINS = {folder.name for folder in DISTRIBUTIONS[1:]}
each = pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def project(folder: Path) -> dict[str, Any]:
    return read(folder / "pyproject.toml")["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(item.name): item for item in map(Requirement, lines)}


def extras(folder: Path) -> dict[str, dict[str, Requirement]]:
    return {extra: requirements(lines) for extra, lines in project(folder).get("optional-dependencies", {}).items()}


# --- what they say alike --------------------------------------------------------------------------------------------------------


def fields(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """release/fields.py of a tree."""
    command = [sys.executable, str(root / "release" / "fields.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_distributions_say_alike_is_written_from_one_place():
    done = fields(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_the_next_number_and_a_new_plugin_reach_every_file(tmp_path: Path):
    for path in [
        ROOT / "pyproject.toml",
        *(folder / "pyproject.toml" for folder in DISTRIBUTIONS),
        ROOT / "release" / "fields.py",
        ROOT / DISCOVERY,
    ]:
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    root = tmp_path / "pyproject.toml"
    settings = read(root)["tool"]["longline"]
    text = root.read_text().replace(f'"{settings["version"]}"', '"3.4.5"', 1)
    root.write_text(text.replace(f'"{settings["home"]}"', '"https://line.test"'))
    tide = tmp_path / "plugins" / "longline-tide"
    tide.mkdir()
    table = '[project]\nname = "longline-tide"\nversion = "9"\ndependencies = ["longline>=0.1"]\n'
    (tide / "pyproject.toml").write_text(f'{table}\n[project.entry-points.longline]\ntide = "longline_tide:Tide"\n')

    assert fields(tmp_path, "--check").stderr.count("is stale") == len(DISTRIBUTIONS) + 2
    assert fields(tmp_path).returncode == 0
    assert fields(tmp_path, "--check").returncode == 0
    for folder in [*(tmp_path / folder.relative_to(ROOT) for folder in DISTRIBUTIONS), tide]:
        now = project(folder)
        place = folder.relative_to(tmp_path).as_posix()
        assert (now["version"], now["urls"]["Homepage"]) == ("3.4.5", "https://line.test")
        assert now["urls"]["Changelog"] == f"https://line.test/blob/main/{place}/CHANGELOG.md"
        found = requirements([*now["dependencies"], *now.get("optional-dependencies", {}).get("all", ())])
        ours = {name: str(item.specifier) for name, item in found.items() if name.startswith("longline")}
        assert ours == dict.fromkeys([*PLUGINS, "longline-tide"] if place == "core" else ["longline"], "<4,>=3.4")
    assert '    "tide",\n' in (tmp_path / DISCOVERY).read_text()
    markers = {name: item.marker for name, item in extras(ROOT / "core")["all"].items()}
    assert {**markers, "longline-tide": None} == {name: item.marker for name, item in extras(tmp_path / "core")["all"].items()}


# --- what each says -------------------------------------------------------------------------------------------------------------


@each
def test_metadata_are_complete(folder: Path):
    found, package = project(folder), folder.name.replace("-", "_") if folder.name != "core" else "longline"
    assert found["name"] == package.replace("_", "-")
    assert found["license"] == "Apache-2.0"
    assert found["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(found["classifiers"])
    assert [line for line in found["classifiers"] if line.startswith("Topic :: ")]
    assert not [line for line in found["classifiers"] if line.startswith("License :: ")]  # `license` says it
    assert found["requires-python"] == project(ROOT / "core")["requires-python"]
    assert found["description"].endswith(".")
    assert (folder / found["readme"]).read_text(encoding="utf-8").startswith(f"# {found['name']}\n")
    assert f"## {found['version']}\n" in (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (folder / "src" / package / "py.typed").is_file()
    assert "py.typed" in read(folder / "pyproject.toml")["tool"]["setuptools"]["package-data"][package]


@each
def test_no_other_file_says_the_version(folder: Path):
    for path in (folder / "src").rglob("*.py"):
        names = {name.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _assigned(node)}
        assert "__version__" not in names, f"{path}: the version stands in pyproject.toml; importlib.metadata.version reads it"


def _assigned(node: ast.AST) -> list[ast.Name]:
    return [target for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []


brought_by = cache(packages_distributions)
NOT_DECLARED = {"pytest": "the test kit is a plugin of it", "pydantic-core": "pydantic requires one version of it"}


@each
def test_what_is_imported_is_declared(folder: Path):
    """By the distribution itself; for a plugin also by the core, which chooses the versions of what it brings."""
    known = {
        *requirements(project(folder)["dependencies"]),
        *requirements(project(ROOT / "core")["dependencies"]),
        *NOT_DECLARED,
    }
    known |= {name for extra in extras(folder).values() for name in extra}
    for path in sorted((folder / "src").rglob("*.py")):
        for name in imported(path) - sys.stdlib_module_names - {"longline", path.relative_to(folder / "src").parts[0]}:
            distributions = {canonicalize_name(item) for item in brought_by().get(name, [name])}
            assert distributions & known, f"{path} imports {name}: declare one of {sorted(distributions)}"


def imported(path: Path) -> set[str]:
    """The packages that a file imports anywhere, but for types alone; templates are other distributions' files."""
    if "templates" in path.parts:
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = {below for node in typing for below in ast.walk(node)}
    nodes = [node for node in ast.walk(tree) if node not in left_out]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


# --- bundles, and lists of other tools ------------------------------------------------------------------------------------------


def test_the_extra_all_brings_every_plugin_of_this_repository():
    found = extras(ROOT / "core")
    assert set(found["all"]) == PLUGINS
    for bundle in ("rl", "track", "kernels"):
        for name, item in found[bundle].items():
            if name.startswith("longline-"):
                assert str(item) == str(found["all"][name]), f"{bundle} and all bring {name} alike"
    named = {name for extra in ("rl", "track", "kernels") for name in found[extra]}
    assert named & PLUGINS == named - {"longline"}


@pytest.mark.parametrize("page", ["README.md", "core/README.md"])
def test_the_bundles_are_told(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [extra for extra in ("all", "rl", "track", "kernels") if f"`{extra}`" not in text] == []


def test_every_plugin_is_linted_and_tested():
    tools = (ROOT / "tox.ini").read_text(encoding="utf-8")
    linter = read(ROOT / "pyproject.toml")["tool"]["importlinter"]
    for name in PLUGINS:
        package = name.replace("-", "_")
        assert f"-e ./plugins/{name}" in tools, "tox.ini, [testenv:tests]"
        assert f"plugins/{name}/src" in tools, "tox.ini, [testenv:lint]"
        assert package in linter["root_packages"]
        for contract in linter["contracts"]:
            listed = {*contract.get("modules", ()), *contract.get("source_modules", ()), *contract.get("forbidden_modules", ())}
            assert package in listed or not any(item.startswith("longline_") for item in listed), contract["name"]
