"""The example distributions, and what `longline new` writes, as third parties ship them: wheels of them and of the core, a fresh
environment, real runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from longline.cli import run_cli, scaffold

ROOT = Path(__file__).parents[1]
EXAMPLES = [path.parent for path in sorted((ROOT / "examples").glob("*/pyproject.toml"))]
PACKAGES = {folder: next(folder.glob("src/longline_*")).name for folder in EXAMPLES}
BEGUN = {"plugin": "ebb-watch", "method": "tidewise", "format": "tide_table"}
"""What `longline new` is asked for."""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `longline new` wrote, each under the name of its template."""
    folder = tmp_path_factory.mktemp("begun")
    for kind, name in BEGUN.items():
        assert run_cli(["new", kind, name, "--path", str(folder / kind)]) == 0
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, begun: Path) -> Path:
    """A new virtual environment with the wheels; the libraries that they need come from this one, to spare gigabytes."""
    folder = tmp_path_factory.mktemp("third-party")
    ignored = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    sources = [shutil.copytree(source, folder / source.name, ignore=ignored) for source in (ROOT / "core", *EXAMPLES)]
    sources += [str(begun / kind) for kind in BEGUN]
    wheels = folder / "wheels"
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*PIP, *build, *map(str, sources)], check=True)
    found = sorted(wheels.glob("*.whl"))
    written = {f"longline_{name.replace('-', '_')}" for name in BEGUN.values()}
    assert {wheel.name.split("-")[0] for wheel in found} == {"longline", *PACKAGES.values(), *written}
    return installed(folder / "env", found)


def installed(place: Path, wheels: Sequence[Path]) -> Path:
    """Make an environment with these wheels; what they need comes from this one."""
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    subprocess.run([*PIP, "--python", str(python), "install", "--no-index", "--no-deps", *map(str, wheels)], check=True)
    # A folder that a .pth file names comes after the environment's own; .pth files in it (editable installs) are not read.
    packages = next(place.glob("lib/python*/site-packages"))
    torch = find_spec("torch")
    assert torch is not None
    (packages / "libraries.pth").write_text(f"{Path(str(torch.origin)).parents[1]}\n")
    return place


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


@pytest.mark.parametrize("kind", BEGUN)
def test_what_new_writes_passes_its_own_tests(environment: Path, begun: Path, kind: str, tmp_path: Path):
    shutil.copytree(begun / kind / "tests", tmp_path / "tests")
    told = run(environment, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")
    assert " passed" in told
    assert "skipped" not in told


def test_new_works_where_longline_was_installed_from_a_wheel(environment: Path, begun: Path, tmp_path: Path):
    run(environment, "longline", "new", "plugin", BEGUN["plugin"] + "2", "--path", tmp_path / "again")
    found = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert found == {path for path, _ in scaffold.written("plugin", f"{BEGUN['plugin']}2")}
    assert len(found) == 10


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


# --- a plugin that was built before ---------------------------------------------------------------------------------------------


def test_the_minimal_plugin_of_the_last_release_works_as_it_was_built(environment: Path, run_config, tmp_path: Path):
    [core] = (environment.parent / "wheels").glob("longline-*.whl")
    [built] = (ROOT / "tests" / "contract").glob("*.whl")
    place = installed(tmp_path / "env", [core, built])
    told = run(place, "longline", "train", run_config(plugins={"losslimit": {"limit": 0.001}}, trainer={"max_steps": 2}))
    assert "the loss is above its limit" in told
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["hooks"]["plugins"]["losslimit"]["on_log"]["failures"] == 0


# --- the tutorial ---------------------------------------------------------------------------------------------------------------


def test_the_tutorial_works_letter_by_letter(environment: Path, tmp_path: Path):
    text = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    block = text.partition("```console\n")[2].partition("```")[0]
    steps = [(step.splitlines()[0], step.splitlines()[1:]) for step in block.removeprefix("$ ").split("\n$ ")]
    assert len(steps) > 5
    # No index is asked: what the plugin needs is there.
    own = {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    for command, shown in steps:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**clean, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert all(line in done.stdout for line in shown), f"{command}\n{done.stdout}"
