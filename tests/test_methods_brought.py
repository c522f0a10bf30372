"""Methods that other distributions bring, in processes that find them in a folder as pip would leave them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

KNOTS = """
    from typing import ClassVar

    from longline.methods.base import Fact, Method, Refusal, Starter

    class Knots(Method):
        name = "knots"
        summary = "rows are learnt knot by knot"
        kind = "longline.data.kinds.sample:SAMPLE"
        packs = True
        chooses_trained = True
        cross_entropy = True
        arguments = "knots_arguments:KnotsArguments"
        defaults: ClassVar = {"knots": 4}
        refused: ClassVar = {**Method.refused, "splices": "use `knots`"}
        evaluation = None
        no_evaluation = Refusal("{method} is measured by hand")
        starter = Starter("chat", more="  knots: 3")

        def settle(self, args, config, machine):
            return [*super().settle(args, config, machine), Fact("knots", str(args["knots"]), "what the method ties")]

    METHOD = Knots()
"""
ARGUMENTS = """
    from dataclasses import dataclass, field

    from transformers import TrainingArguments

    @dataclass
    class KnotsArguments(TrainingArguments):
        knots: int = field(default=2, metadata={"help": "How many."})
        splices: int = 0
"""


class Site:
    """A folder of distributions, and processes that find them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, code: str, *, dist: str = "") -> None:
        """Install a distribution that brings a method: the object METHOD of the module that `code` is."""
        dist = dist or f"longline-{name}"
        module = f"{dist.replace('-', '_')}_module"
        self.module(module, code)
        info = self.folder / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n\n")
        (info / "entry_points.txt").write_text(f"[longline.methods]\n{name} = {module}:METHOD\n")

    def module(self, name: str, code: str) -> None:
        (self.folder / f"{name}.py").write_text(dedent(code))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, check=False)

    def longline(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "longline", *map(str, arguments))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


@pytest.fixture
def knots(site: Site) -> Site:
    site.add("knots", KNOTS)
    site.module("knots_arguments", ARGUMENTS)
    return site


def test_check_knows_its_fields_and_what_it_refuses(knots, run_config):
    done = knots.longline("check", run_config(method="knots", trainer={"knots": 3, "learning_rate": 1e-4}))
    assert (done.returncode, done.stderr) == (0, "")
    assert "method knots" in done.stdout
    done = knots.longline("check", run_config(method="knots", trainer={"knotz": 3, "splices": 1, "output_dir": "a"}))
    assert done.returncode == 2
    assert "trainer.knotz: unknown field (did you mean `knots`?)" in done.stderr
    assert "trainer.splices: is not set here (use `knots`)" in done.stderr
    assert "trainer.output_dir: is not set here" in done.stderr
    done = knots.longline("check", run_config(method="knots", trainer={"knots": "many"}))
    assert 'trainer.knots: expected a whole number, got "many"' in done.stderr


def test_plan_tells_what_it_decides(knots, run_config):
    done = knots.longline("plan", run_config(method="knots"))
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any("knots 4 what the method ties" in line.replace("(", "").replace(")", "") for line in lines), done.stdout


def test_the_schema_has_it_and_names_what_is_broken(knots):
    knots.add("loose", "raise RuntimeError('untied')")
    done = knots.longline("schema")
    schema = json.loads(done.stdout)
    offered = schema["properties"]["method"]["anyOf"][0]["enum"]
    assert {"sft", "knots"} <= set(offered)
    assert schema["$defs"]["trainer.knots"]["properties"]["knots"]["description"] == "How many."
    assert "splices" not in schema["$defs"]["trainer.knots"]["properties"]
    assert "loose" not in offered
    assert "left out: the method 'loose' (longline-loose 1.0) cannot be imported: RuntimeError: untied" in done.stderr


def test_new_offers_it_and_what_it_writes_is_right(knots, tmp_path):
    assert "|knots|" in knots.longline("new", "config", "--help").stdout.replace("\n", "").replace(" ", "").replace("]", "|")
    path = tmp_path / "knots.yaml"
    assert knots.longline("new", path, "--method", "knots", "--data", "somebody/rows").returncode == 0
    text = path.read_text()
    assert "method: knots                      # rows are learnt knot by knot" in text
    assert "trainer:                           # any field of knots_arguments.KnotsArguments" in text
    assert "\n  knots: 3\n" in text
    done = knots.longline("check", path)
    assert done.returncode == 0, done.stderr


def test_it_trains_and_says_why_it_is_not_measured(knots, run_config, tmp_path):
    done = knots.longline("train", run_config(method="knots", trainer={"max_steps": 1}, output_dir=str(tmp_path / "run")))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["method"], manifest["plan"]["knots"]) == ("knots", "4")
    done = knots.longline("evaluate", tmp_path / "run")
    assert done.returncode == 2
    assert "knots is measured by hand" in done.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("knot", "4:9: method: there is no method 'knot' (did you mean 'knots'?)"),
        ("diffusion", "method: the method 'diffusion' is not installed (pip install longline-diffusion)"),
        ("zzzz", "method: there is no method 'zzzz' (installed: "),
    ],
)
def test_a_name_that_is_none(knots, tmp_path, name, told):
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{path: a/b}}\ndata: {{train: a/b}}\noutput_dir: out\nmethod: {name}\ntrainer: {{whatever: 1}}\n")
    done = knots.longline("check", path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 2, "what a method would say of its fields nobody knows"


def test_rivals_for_one_name_are_refused_and_ours_cannot_be_taken(knots, run_config):
    knots.add("knots", KNOTS, dist="other-knots")
    knots.add("sft", "raise RuntimeError('imported')", dist="other-sft")
    done = knots.longline("check", run_config(method="knots"))
    assert done.returncode == 2
    assert "the method 'knots' is offered by several distributions: longline-knots 1.0, other-knots 1.0" in done.stderr.replace(
        "other-knots 1.0, longline-knots 1.0", "longline-knots 1.0, other-knots 1.0"
    )
    assert "pip uninstall all but one" in done.stderr
    assert knots.longline("check", run_config(method="sft")).returncode == 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("METHOD = object", "is a type, and must be an instance of Method"),
        ("import nothing_like_it", "cannot be imported: ModuleNotFoundError"),
        (
            "from longline.methods.base import Method\nclass Other(Method):\n    name = 'other'\nMETHOD = Other()",
            "itself 'other'",
        ),
    ],
)
def test_what_is_no_method_is_refused_with_its_distribution(site, run_config, code, told):
    site.add("odd", code)
    done = site.longline("check", run_config(method="odd"))
    assert done.returncode == 2
    assert told in done.stderr
    assert "longline-odd 1.0" in done.stderr


OPENED = """
    import sys
    opened = []
    sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
    from longline.cli import run_cli
    code = run_cli(["check", sys.argv[1]])
    print(code, *{path for path in opened if path.endswith("entry_points.txt")}, sep="\\n", file=sys.stderr)
"""


def test_with_twenty_others_installed_a_check_reads_the_metadata_of_the_core_alone(site, run_config, monkeypatch):
    """So that what else is installed slows nothing down, and nothing of it can break it. pydantic looks for plugins of its own in
    the metadata of everything; here it is told not to.
    """
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for number in range(20):
        site.add(f"m{number}", "raise RuntimeError('imported')")
    broken = site.folder / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"[longline.methods\n\xff\xfe = = =\n")
    done = site.python("-c", dedent(OPENED), str(run_config(method="dpo", data={"train": [{"path": "somebody/pairs"}]})))
    code, *read = done.stderr.splitlines()
    assert code == "0", done.stderr
    assert len(read) == 1
    assert "longline-" in read[0]
