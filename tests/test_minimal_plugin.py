"""The example plugin as a third party ships it: wheels of it and of the core, a fresh environment, a real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the two wheels; the libraries that they need come from this one, to spare gigabytes."""
    folder = tmp_path_factory.mktemp("third-party")
    ignored = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    sources = [
        shutil.copytree(ROOT / source, folder / source, ignore=ignored) for source in ("core", "examples/minimal-plugin")
    ]
    wheels = folder / "wheels"
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*PIP, *build, *map(str, sources)], check=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    found = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    assert [Path(wheel).name.split("-")[0] for wheel in found] == ["longline", "longline_losslimit"]
    subprocess.run([*PIP, "--python", str(python), "install", "--no-index", "--no-deps", *found], check=True)
    # A folder that a .pth file names comes after the environment's own; .pth files in it (editable installs) are not read.
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env"


def run(environment: Path, *arguments: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([environment / "bin" / arguments[0], *arguments[1:]], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_environment_has_the_wheels_and_nothing_of_this_tree(environment: Path):
    code = "import longline, longline_losslimit.plugin as p; print(longline.__file__); print(p.__file__)"
    places = run(environment, "python", "-c", code).split()
    assert len(places) == 2
    assert all(Path(place).is_relative_to(environment) for place in places)


def test_its_hook_fires_in_a_real_run(environment: Path, run_config, tmp_path: Path):
    config = run_config(plugins={"losslimit": {"limit": 0.001, "patience": 2}}, trainer={"max_steps": 4})
    told = run(environment, "longline", "train", str(config))
    assert "the loss is above its limit" in told
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["status"] == "completed"
    assert {"name": "losslimit", "distribution": "longline-losslimit", "version": "0.1.0"} in manifest["plugins"]
    cost = manifest["hooks"]["plugins"]["losslimit"]["on_log"]
    assert cost["calls"] >= 4
    assert cost["failures"] == 0


def test_it_is_listed_and_shown(environment: Path, run_config):
    config = run_config(plugins={"losslimit": {"limit": 3.5}})
    rows = json.loads(run(environment, "longline", "plugins", "--json", str(config)))
    mine = [row for row in rows if row["name"] == "losslimit"]
    assert mine == [
        {
            "name": "losslimit",
            "version": "0.1.0",
            "distribution": "longline-losslimit",
            "summary": "Raises an alert when the training loss stays above a limit.",
            "status": "enabled",
        }
    ]
    shown = run(environment, "longline", "plugins", "show", "losslimit")
    assert "limit: float required\n      The loss that should not be passed." in shown
    assert "patience: int = 1" in shown
    assert "on_log (observe, on the main rank)" in shown


def test_its_own_tests_pass(environment: Path, tmp_path: Path):
    shutil.copytree(ROOT / "examples" / "minimal-plugin" / "tests", tmp_path / "tests")
    told = run(environment, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "tests"))
    assert "2 passed" in told
