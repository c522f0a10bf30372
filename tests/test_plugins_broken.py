"""Six broken plugins, built and installed by pip: each stops `longline train` before any model is loaded, with exit 3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "broken_plugins"

TRAIN = """
import sys
from longline.cli import run_cli
code = run_cli(["train", sys.argv[1]])
print("imported:", *[name for name in ("torch", "transformers", "datasets") if name in sys.modules])
sys.exit(code)
"""


@dataclass(frozen=True)
class Case:
    """One broken plugin: its version, what the message says of it, and what it says to do."""

    name: str
    version: str
    told: tuple[str, ...]
    remedy: str

    @property
    def plugin(self) -> str:
        return f"broken-{self.name}"


CASES = [
    Case(
        "import-error",
        "0.1.1",
        (
            "cannot be imported: RuntimeError: libtracker.so: cannot open shared object file",
            "longline_broken_import_error/__init__.py:10",
        ),
        "pip install --force-reinstall longline-broken-import-error",
    ),
    Case(
        "wrong-class",
        "0.2.1",
        ("'longline_broken_wrong_class:BrokenPlugin' is the class BrokenPlugin, which does not derive from longline.Plugin",),
        "or tell its author",
    ),
    Case(
        "misspelled-hook",
        "0.3.1",
        ("there is no hook 'on_chekpoint'; did you mean 'on_checkpoint'?",),
        "or tell its author",
    ),
    Case(
        "misspelled-argument",
        "0.4.1",
        ("on_evaluate has no argument 'metrcs'; did you mean 'metrics'?",),
        "or tell its author",
    ),
    Case(
        "too-new",
        "0.5.1",
        ("it requires longline>=99, but longline 0.", "is installed"),
        "pip install 'longline>=99'",
    ),
    Case(
        "missing-dependency",
        "0.6.1",
        ("it requires longline-test-no-such-library>=2.0, but longline-test-no-such-library is not installed",),
        "pip install 'longline-test-no-such-library>=2.0'",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All broken plugins, built from copies of their sources and installed into one folder."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(SOURCES, folder / "sources")
    target = folder / "site"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    sources = [str(path) for path in sorted((folder / "sources").iterdir())]
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *sources], check=True)
    return target


@pytest.fixture
def config(tmp_path: Path):
    """Write a config that enables one plugin; its model does not exist, so that loading it would be a different error."""

    def write(plugin: str) -> Path:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "one line"}\n')
        path = tmp_path / "run.yaml"
        path.write_text(
            f"model: {{path: longline-tests/no-such-model}}\n"
            f"data: {{train: [{{path: {rows}}}]}}\n"
            f"plugins: [{plugin}]\n"
            f"output_dir: {tmp_path / 'run'}\n"
        )
        return path

    return write


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_there_is_a_case_for_every_broken_plugin():
    assert {path.name for path in SOURCES.iterdir()} == {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_stops_before_a_model_is_loaded(site: Path, config, tmp_path: Path, case: Case):
    done = python(site, "-c", TRAIN, str(config(case.plugin)))
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip() == "imported:"
    assert f"plugin '{case.plugin}' (longline-broken-{case.name} {case.version})" in done.stderr
    for text in case.told:
        assert text in done.stderr
    assert case.remedy in done.stderr
    assert f"remove '{case.plugin}' from plugins:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_finds_it_too(site: Path, config, case: Case):
    done = python(site, "-m", "longline", "check", str(config(case.plugin)))
    assert done.returncode == 3, done.stderr
    assert case.told[0] in done.stderr


def test_they_are_listed_without_being_imported(site: Path, config):
    done = python(site, "-m", "longline", "plugins", str(config("broken-too-new")))
    assert done.returncode == 3
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "cannot be used here: it requires longline>=99" in lines["broken-too-new"]
    assert lines["broken-import-error"].endswith("not enabled")
    assert "A test plugin that cannot be imported." in lines["broken-import-error"]
    assert (
        "not enabled, cannot be used here: it requires longline-test-no-such-library>=2.0" in lines["broken-missing-dependency"]
    )


def test_the_traceback_is_shown_on_demand(site: Path, config):
    done = python(site, "-m", "longline", "--debug", "train", str(config("broken-import-error")))
    assert done.returncode == 3
    assert 'raise RuntimeError("libtracker.so' in done.stderr
