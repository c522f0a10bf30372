"""The example distributions as third parties ship them: wheels of them and of the core, a fresh environment, real runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = [path.parent for path in sorted((ROOT / "examples").glob("*/pyproject.toml"))]
PACKAGES = {folder: next(folder.glob("src/longline_*")).name for folder in EXAMPLES}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheels; the libraries that they need come from this one, to spare gigabytes."""
    folder = tmp_path_factory.mktemp("third-party")
    ignored = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    sources = [shutil.copytree(source, folder / source.name, ignore=ignored) for source in (ROOT / "core", *EXAMPLES)]
    wheels = folder / "wheels"
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*PIP, *build, *map(str, sources)], check=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    found = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    assert {Path(wheel).name.split("-")[0] for wheel in found} == {"longline", *PACKAGES.values()}
    subprocess.run([*PIP, "--python", str(python), "install", "--no-index", "--no-deps", *found], check=True)
    # A folder that a .pth file names comes after the environment's own; .pth files in it (editable installs) are not read.
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    torch = find_spec("torch")
    assert torch is not None
    (packages / "libraries.pth").write_text(f"{Path(str(torch.origin)).parents[1]}\n")
    return folder / "env"


def run(environment: Path, *arguments: object) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(environment / "bin" / str(arguments[0])), *map(str, arguments[1:])]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_environment_has_the_wheels_and_nothing_of_this_tree(environment: Path):
    names = ["longline", *PACKAGES.values()]
    places = run(environment, "python", "-c", f"import {', '.join(names)}\nfor m in ({', '.join(names)}): print(m.__file__)")
    assert len(places.split()) == len(names)
    assert all(Path(place).is_relative_to(environment) for place in places.split())


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_its_own_tests_pass(environment: Path, folder: Path, tmp_path: Path):
    shutil.copytree(folder / "tests", tmp_path / "tests")
    told = run(environment, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")
    assert " passed" in told
    assert "skipped" not in told


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_it_is_a_whole_distribution(folder: Path):
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["version"] in (folder / "CHANGELOG.md").read_text()
    assert project["name"] in (folder / "README.md").read_text()
    assert project["name"].replace("-", "_") == PACKAGES[folder]
    assert (folder / "src" / PACKAGES[folder] / "py.typed").is_file()


# --- the minimal plugin, from the command line ----------------------------------------------------------------------------------


def test_the_plugins_hook_fires_in_a_real_run(environment: Path, run_config, tmp_path: Path):
    config = run_config(plugins={"losslimit": {"limit": 0.001, "patience": 2}}, trainer={"max_steps": 4})
    told = run(environment, "longline", "train", config)
    assert "the loss is above its limit" in told
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["status"] == "completed"
    assert {"name": "losslimit", "distribution": "longline-losslimit", "version": "0.1.0"} in manifest["plugins"]
    cost = manifest["hooks"]["plugins"]["losslimit"]["on_log"]
    assert cost["calls"] >= 4
    assert cost["failures"] == 0


def test_the_plugin_is_listed_and_shown(environment: Path, run_config):
    config = run_config(plugins={"losslimit": {"limit": 3.5}})
    rows = json.loads(run(environment, "longline", "plugins", "--json", config))
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


# --- state on several ranks -----------------------------------------------------------------------------------------------------

STOP = """
import signal
from longline import Plugin, hookimpl

class Stop(Plugin):
    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
"""
RANKS = """
import sys
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train
sys.path.insert(0, {folder!r})
from stop import Stop
more = [LoadedPlugin.of(Stop(Stop.Config()))] if "stop" in sys.argv[2:] else []
train(load_config(sys.argv[1]), resume="last" if "resume" in sys.argv[2:] else None, plugins=more)
"""
SAME = """
import sys, torch
from safetensors.torch import load_file
a, b = map(load_file, sys.argv[1:])
print(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a))
"""


def test_a_resumed_average_of_gradients_on_two_ranks_equals_an_uninterrupted_one(environment, run_config, tmp_path):
    """Two real ranks over gloo, with FSDP2: each keeps the averages of its own shards."""
    (tmp_path / "stop.py").write_text(STOP)
    (tmp_path / "ranks.py").write_text(RANKS.format(folder=str(tmp_path)))
    launch = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "ranks.py"]
    trainer = {"max_steps": 4, "max_grad_norm": 0, "fsdp": "full_shard"}

    def config(name: str) -> Path:
        return run_config(plugins=["gradaverage"], trainer=trainer, output_dir=str(tmp_path / name))

    run(environment, *launch, config("whole"))
    stopped = config("stopped")
    run(environment, *launch, stopped, "stop")
    kept = sorted(path.name for path in (tmp_path / "stopped" / "checkpoint-2" / "plugins").iterdir())
    assert kept == ["gradaverage.rank0.pt", "gradaverage.rank1.pt"]
    run(environment, *launch, stopped, "resume")
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "stopped")]
    assert run(environment, "python", "-c", SAME, *weights) == "True\n"
