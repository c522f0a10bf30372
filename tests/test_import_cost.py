"""What should start at once imports neither torch nor anything that brings it along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate", "trl", "pyarrow", "pandas", "numpy", "bitsandbytes")

RUN = """
import json, sys
from longline.cli import run_cli
code = run_cli(sys.argv[1:])
print("\\n" + json.dumps({"code": code, "modules": sorted(name for name in sys.modules if "." not in name)}))
"""


def modules_of(*arguments: str) -> tuple[int, set[str]]:
    """Exit status and top-level modules of a command line in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stdout.splitlines()[-1])
    return told["code"], set(told["modules"])


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "config.yaml").write_text(
        f"model: {{path: owner/name, quantization: {{load_in_4bit: true}}}}\nadapter: {{r: 4}}\n"
        f"data: {{train: {folder}/rows.jsonl}}\ntrainer: {{learning_rate: 1e-4}}\noutput_dir: {folder}/run\n"
    )
    return folder / "config.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["generate", "--help"],
        ["check", "{config}"],
        ["plugins"],
        ["plugins", "{config}"],
        ["schema"],
        ["new", "{folder}/new.yaml"],
    ],
    ids=" ".join,
)
def test_a_command_that_trains_nothing_imports_nothing_heavy(arguments, config):
    code, modules = modules_of(*(argument.format(config=config, folder=config.parent) for argument in arguments))
    assert code == 0
    assert modules & set(HEAVY) == set()
    if arguments == ["--help"]:
        assert modules & {"pydantic", "yaml", "rich", "pluggy"} == set(), "not even what a config needs"
    if arguments[:1] == ["train"]:
        assert "importlib_metadata" not in modules, "whether plugins bring commands of the same name does not matter"


def test_an_sft_run_imports_no_trl(run_config):
    code, modules = modules_of("train", str(run_config(trainer={"max_steps": 1})))
    assert code == 0
    assert "torch" in modules
    assert modules & {"trl", "reasoning_gym", "tensorboard", "sklearn"} == set()


@pytest.mark.parametrize(
    "module",
    [
        "longline",
        "longline.config.attention",
        "longline.cli",
        "longline.process.garbage",
        "longline.config",
        "longline.config.checks",
        "longline.parallel.ranks",
        "longline.parallel.launch",
        "longline.parallel.machine",
        "longline.errors",
        "longline.events",
        "longline.hookspecs",
        "longline.methods.answering",
        "longline.methods.concatenated",
        "longline.methods.dpo",
        "longline.methods.kto",
        "longline.methods.reward",
        "longline.methods.sft",
        "longline.plan",
        "longline.plugins",
        "longline.run",
        "longline.testing",
        "longline.process.threads",
    ],
)
def test_a_module_imports_nothing_heavy(module):
    code = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(HEAVY) == set()


def test_the_package_itself_needs_nothing_but_python():
    code = (
        "import sys; before = set(sys.modules); import longline; "
        "print(*({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["longline"]
