"""Metadata, `TESTED` and constraints.txt say the same of the versions that the tests ran with."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REGISTERS = {
    "longline.upstream": "core",
    "longline_cce.upstream": "plugins/longline-cce",
    "longline_densemixer.upstream": "plugins/longline-densemixer",
    "longline_liger.upstream": "plugins/longline-liger",
    "longline_lm_eval.upstream": "plugins/longline-lm-eval",
    "longline_spectrum.upstream": "plugins/longline-spectrum",
    "longline_swanlab.upstream": "plugins/longline-swanlab",
}


def declared(folder: str) -> dict[str, Requirement]:
    """The requirements of a distribution by name, those of its extras too."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project.get("optional-dependencies", {}).values() for line in extra)]
    return {canonicalize_name(item.name): item for item in map(Requirement, lines)}


def pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines if line)}


@pytest.mark.parametrize("module", REGISTERS)
def test_the_ranges_of_metadata_are_the_tested_ones(module):
    tested: dict[str, str] = import_module(module).TESTED
    found = declared(REGISTERS[module])
    for name, versions in tested.items():
        assert str(found[name].specifier) == str(Requirement(f"{name}{versions}").specifier), name
        assert {item.operator for item in found[name].specifier} == {">=", "<"}, f"{name}: a range ends where the tests end"
        assert found[name].specifier.contains(pins()[name], prereleases=True), f"{name}: constraints.txt pins {pins()[name]}"


def test_every_library_with_a_register_has_a_tested_range():
    for module in REGISTERS:
        upstream = import_module(module)
        about = {canonicalize_name(assumption.about.partition(".")[0]) for assumption in upstream.ASSUMPTIONS}
        assert about <= {*upstream.TESTED, *import_module("longline.upstream").TESTED}, module
