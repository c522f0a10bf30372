"""What the documentation says is true: references are current, configs load, commands exist, rows and hooks do what is shown."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest
from pages import DOCS, PAGES, READMES, ROOT, Block, blocks_of, each

from longline import Plugin, hookimpl, hookspecs
from longline.cli import COMMANDS, cli, run_cli
from longline.cli.convert import report
from longline.config.sections import Config
from longline.converters import Draft
from longline.converters.axolotl import convert as from_axolotl
from longline.converters.writer import written
from longline.errors import PluginError
from longline.hookspecs import hook_facts
from longline.methods import find
from longline.plan import TRAINER_DEFAULTS
from longline.plugins import Bus, LoadedPlugin
from longline.testing import chat

CAN_DO = DOCS / "what-a-plugin-can-do.md"
EXAMPLE = ROOT / "examples" / "minimal-plugin"


def first_column(page: Path, heading: str) -> list[str]:
    """The code in the first cells of the table under a heading (or at the top of the page)."""
    text = page.read_text(encoding="utf-8")
    text = text.partition(f"\n{heading}\n")[2] if heading else text
    table = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert table
    return [name for row in table[0].splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


# --- the generated references -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_references_are_current(generate: ModuleType, capsys: pytest.CaptureFixture[str]):
    status = generate.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_a_stale_page_is_named_with_what_to_run(generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pages = tmp_path / "reference"
    shutil.copytree(DOCS / "reference", pages)
    shutil.copytree(DOCS / "plugins", tmp_path / "plugins")
    (pages / "hooks.md").write_text((pages / "hooks.md").read_text().replace("on_log", "on_lag"))
    (pages / "commands.md").unlink()
    assert generate.main(["--check"], pages) == 1
    told = capsys.readouterr().err
    assert f"{pages / 'hooks.md'} is stale: run `python docs/generate.py`" in told
    assert f"{pages / 'commands.md'} is stale" in told
    assert "config.md" not in told
    generate.main([], pages)
    assert generate.main(["--check"], pages) == 0


# --- what is public for authors -----------------------------------------------------------------------------------------------


def core_modules() -> list[str]:
    """Every module of the core, `longline.testing.zoo` and packages included."""
    folder = ROOT / "core" / "src"
    found = [path.relative_to(folder).with_suffix("").parts for path in (folder / "longline").rglob("*.py")]
    found = [parts for parts in found if "templates" not in parts]
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in found]


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """What a file imports of the core, also for types alone: (module, name), the name None where the module is imported whole."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)


def authors_files() -> list[Path]:
    return [*sorted(ROOT.glob("plugins/*/src/**/*.py")), *sorted(ROOT.glob("examples/**/*.py"))]


def test_plugins_and_examples_import_what_is_public_alone(generate: ModuleType):
    public = {item["name"]: {*generate.public_of(item["name"])} for item in generate.PUBLIC["module"]}
    wrong, seen = [], 0
    for path in authors_files():
        for module, name in imports(path):
            if module.split(".")[0] == "longline":
                seen += 1
                known = public.get(module, set())
                if name is None or (name not in known and f"{module}.{name}" not in public and name != "__version__"):
                    wrong.append(f"{path.relative_to(ROOT)}: {module}.{name}")
    assert seen > 100
    assert wrong == [], "docs/public.toml lists what is public"


def test_what_is_public_is_there(generate: ModuleType):
    for item in generate.PUBLIC["module"]:
        module = importlib.import_module(item["name"])
        assert all(hasattr(module, name) for name in generate.public_of(item["name"])), item["name"]


def test_hookspecs_send_authors_to_public_modules_alone(generate: ModuleType):
    text = inspect.getsource(hookspecs)
    public = {item["name"] for item in generate.PUBLIC["module"]}
    named = set(re.findall(r"\blongline(?:\.[a-z_]+)+", text)) & set(core_modules())
    assert {"longline.events", "longline.plugins.run"} <= named <= public


def test_the_contract_forbids_every_module_that_is_not_public(generate: ModuleType):
    public = {item["name"] for item in generate.PUBLIC["module"]}
    closed = set(generate.closed())
    above = {".".join(name.split(".")[:end]) for name in public for end in range(1, name.count(".") + 1)}
    for module in core_modules():
        forbidden = any(module == name or module.startswith(f"{name}.") for name in closed)
        assert forbidden != (module in public or module in above or module.endswith(".__main__")), module
    for package in above - public:  # nothing can be had of it but what is below
        tree = generate.module(package)
        assert all(isinstance(node, ast.Expr) for node in tree.body), package
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [mine] = [item for item in contracts if item["name"] == "plugins use the public names of longline"]
    assert set(mine["forbidden_modules"]) == closed


def test_every_door_is_listed(generate: ModuleType):
    listed = {door["group"]: door for door in generate.PUBLIC["door"]}
    used: dict[str, set[str]] = {}
    for path in [
        ROOT / "core" / "pyproject.toml",
        *ROOT.glob("plugins/*/pyproject.toml"),
        *ROOT.glob("examples/*/pyproject.toml"),
    ]:
        for group, entries in tomllib.loads(path.read_text())["project"].get("entry-points", {}).items():
            used.setdefault(group, set()).update(f'{name} = "{value}"' for name, value in entries.items())
    assert used.keys() - {"pytest11"} == listed.keys()
    assert all(door["entry"] in used[group] for group, door in listed.items() if group != "longline.rewards")


def test_generating_needs_no_torch_and_no_terminal():
    code = (
        "import runpy, sys; sys.argv = ['generate.py', '--check']\n"
        "try: runpy.run_path('docs/generate.py', run_name='__main__')\n"
        "except SystemExit as stop: status = stop.code\n"
        "print(status, *[name for name in ('torch', 'transformers', 'datasets', 'pytest') if name in sys.modules])"
    )
    environment = {**os.environ, "COLUMNS": "40", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["0"], done.stderr


def hook_signatures() -> dict[str, ast.FunctionDef]:
    """What the hook reference shows, by name."""
    trees = [ast.parse(block.text) for block in blocks_of(DOCS / "reference" / "hooks.md") if block.language == "python"]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name: function for function in functions}


def test_every_hook_is_documented_with_its_signature():
    shown = hook_signatures()
    assert list(shown) == list(hook_facts())
    text = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
    for name, facts in hook_facts().items():
        real = inspect.signature(getattr(hookspecs, name))
        arguments = {argument.arg: ast.unparse(argument.annotation) for argument in shown[name].args.args}
        plain = {key: re.sub(r"\s+", " ", str(item.annotation)) for key, item in real.parameters.items()}
        assert arguments == plain, name
        section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert f"**{facts.kind}**, on {'every' if facts.ranks == 'all' else 'the main'} rank; {facts.when}." in section
        assert " ".join((inspect.getdoc(getattr(hookspecs, name)) or "").split()) in " ".join(section.split())
        assert "Answered here by nobody" not in section
        assert "Fired by nobody" not in section


def test_every_config_key_is_documented():
    text = (DOCS / "reference" / "config.md").read_text(encoding="utf-8")
    top = text.partition("## The top level")[2].partition("\n## ")[0]
    for name, info in Config.model_fields.items():
        assert f"| `{name}` |" in top
        assert " ".join((info.description or "?").split()) in top


def test_the_trainer_defaults_are_those_of_transformers_but_for_logging():
    known = find("sft").fields()
    differing = {name for name, value in TRAINER_DEFAULTS.items() if known[name].default != value}
    assert differing == {"logging_steps", "logging_first_step"}


def test_every_command_has_its_help():
    shown = {block.heading: block.text for block in blocks_of(DOCS / "reference" / "commands.md")}
    assert [f"longline {name}" for name in COMMANDS] == [name for name in shown if name.count(" ") == 1]
    assert {"longline plugins list", "longline plugins show"} < set(shown)
    with click.Context(cli, info_name="longline", **cli.context_settings) as context:
        for name in COMMANDS:
            for option in cli.get_command(context, name).params:
                assert all(spelling in shown[f"longline {name}"] for spelling in option.opts if spelling.startswith("-"))


def test_the_first_page_lists_every_command():
    row = next(line for line in (DOCS / "index.md").read_text().splitlines() if line.startswith("| commands |"))
    assert re.findall(r"`(\w+)`", row) == list(COMMANDS)


# --- configs ------------------------------------------------------------------------------------------------------------------


@each(sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("**/config.yaml")))
def test_example_configs_are_accepted(item: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # else liger's wants a GPU; the interpreter's arithmetic is float32
    assert run_cli(["check", item, "--set", "trainer.bf16=false"]) == 0, capsys.readouterr().err


MISTAKEN = """\
method: sft
model:
  path: HuggingFaceTB/SmolLM2-135M-Instruct
data:
  train: train.jsonl
  max_lenght: 512
trainer:
  learning_rte: 2e-4
  num_train_epochs: two
  run_name: demo
output_dir: runs/demo
"""


def shown_with(page: str, start: str) -> str:
    return next(block.text for block in blocks_of(DOCS / page) if block.text.startswith(start))


def test_mistakes_are_reported_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(MISTAKEN)
    Path("train.jsonl").write_text("{}\n")
    assert run_cli(["check", "config.yaml"]) == 2
    assert capsys.readouterr().err == shown_with("config.md", "config.yaml:6:3")


def test_the_config_of_axolotl_becomes_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    page = [block.text for block in blocks_of(DOCS / "moving-from-axolotl.md") if block.language in ("text", "yaml")]
    Path("support.yml").write_text(page[0])
    draft = Draft.read(Path("support.yml"), "axolotl")
    from_axolotl(draft)
    draft.finish()
    assert [written(draft), "".join(f"{line}\n" for line in report(draft))] == page[1:]


# --- rows ---------------------------------------------------------------------------------------------------------------------


def rows_with_previews() -> list[tuple[Block, Block]]:
    own = list(blocks_of(DOCS / "data.md"))
    return [(row, shown) for row, shown in itertools.pairwise(own) if (row.language, shown.language) == ("json", "text")]


METHODS_OF = {
    "preference": ["--set", "method=dpo"],
    "unpaired": ["--set", "method=kto"],
    "prompts": ["--set", "method=grpo", "--set", "rewards=reasoning_gym"],
}
"""How the formats are previewed that sft can't use."""


@pytest.mark.parametrize(("row", "shown"), rows_with_previews(), ids=[str(row) for row, _ in rows_with_previews()])
def test_rows_are_read_and_masked_as_shown(
    row: Block, shown: Block, run_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "rows.jsonl"
    path.write_text(row.text, encoding="utf-8")
    config = run_config(data={"train": [{"path": str(path)}]})
    options = METHODS_OF.get(row.heading, [])
    assert run_cli(["preview", str(config), *options]) == 0
    printed = capsys.readouterr().out
    assert re.match(rf"train row 0(, [\w ]+)?: {re.escape(str(path))}:1", printed)
    printed = re.sub(
        r"^train row 0(?:, ([\w ]+))?: .*\n", lambda found: f"{found[1]}:\n" if found[1] else "", printed, flags=re.M
    )
    assert printed.startswith(shown.text)
    assert f"rows.jsonl: {row.heading} (guessed)" in printed


def test_every_format_has_a_row():
    from longline.config import doors
    from longline.data.formats import GROUP

    assert {row.heading for row, _ in rows_with_previews()} == set(doors.own(GROUP))


def test_the_table_of_train_on_is_right():
    from longline.config import doors
    from longline.data.formats import GROUP, find

    section = (DOCS / "masks.md").read_text(encoding="utf-8").partition("## train_on")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", line) for line in section.splitlines() if line.startswith("| `")]
    assert {row[0]: (row[1], tuple(row[2:])) for row in rows} == {
        name: (find(name).train_on[0], find(name).train_on) for name in doors.own(GROUP)
    }


GOOD = '{"messages": [{"role": "user", "content": "Hooks?"}, {"role": "assistant", "content": "7"}]}'


def test_reasoning_that_would_be_lost_is_refused_as_shown(
    run_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    page = list(blocks_of(DOCS / "reasoning.md"))
    [row] = [block.text for block in page if block.language == "json" and "reasoning_content" in block.text]
    Path("reasons.jsonl").write_text(row)
    config = run_config(data={"train": [{"path": "reasons.jsonl"}]})
    assert run_cli(["preprocess", str(config)]) == 2
    assert capsys.readouterr().err == shown_with("reasoning.md", "error: 1 row")
    assert run_cli(["preprocess", str(config), "--set", "data.allow_dropped=[reasoning]"]) == 0


def test_calls_are_learnt_and_results_are_not_as_the_page_says(
    run_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    [row] = [
        block.text for block in blocks_of(DOCS / "reasoning.md") if block.language == "json" and "tool_calls" in block.text
    ]
    (tmp_path / "calls.jsonl").write_text(row)
    template = ROOT / "core" / "tests" / "data" / "templates" / "qwen2_5.jinja"
    data = {"train": [{"path": str(tmp_path / "calls.jsonl")}], "max_length": 2048}
    config = run_config(data=data, model={"tokenizer": {"chat_template": str(template)}})
    assert run_cli(["preview", str(config)]) == 0
    printed = capsys.readouterr().out
    assert shown_with("reasoning.md", "<|im_start|>system") in printed


def test_bad_rows_are_reported_as_shown(
    run_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    rows = [GOOD, GOOD.replace(', {"role"', ' {"role"'), GOOD, GOOD.replace("assistant", "robot")]
    Path("support.jsonl").write_text("\n".join(rows) + "\n")
    config = run_config(data={"train": [{"path": "support.jsonl"}]})
    assert run_cli(["preprocess", str(config)]) == 2
    assert capsys.readouterr().err == shown_with("data.md", "error: 2 rows")


# --- plugins and runs ---------------------------------------------------------------------------------------------------------


def plugin_in(page: Path, name: str) -> Any:
    """Run the block of a page that defines a plugin, and return its names."""
    block = next(block for block in blocks_of(page) if block.language == "python" and f"class {name}(Plugin)" in block.text)
    names: dict[str, Any] = {"__name__": "shown_plugin"}
    text = "\n" * block.line + block.text  # pydantic reads the source of options, at its place in the page
    exec(compile(text, str(page), "exec", dont_inherit=True), names)
    Bus([LoadedPlugin.of(names[name](names[name].Config()))])
    return names


def test_the_hook_in_the_readme_has_15_lines_and_works(run_longline: Any):
    names = plugin_in(ROOT / "README.md", "SpikePlugin")
    lines = inspect.cleandoc(next(block.text for block in blocks_of(ROOT / "README.md") if "SpikePlugin(" in block.text))
    assert len([line for line in lines.splitlines() if line.strip()]) <= 15
    sharp = run_longline(plugins=[names["SpikePlugin"](names["SpikeConfig"](limit=0.0001))], trainer={"max_steps": 2})
    assert sharp.hooks("on_alert") == ["on_alert(alert=warning: the gradient jumps)"] * 2
    blunt = run_longline(
        plugins=[names["SpikePlugin"](names["SpikeConfig"](limit=1e6))], trainer={"max_steps": 2}, overwrite=True
    )
    assert blunt.hooks("on_alert") == []


def test_the_optimizer_in_the_tutorial_replaces_the_cores(run_longline: Any):
    names = plugin_in(CAN_DO, "MomentumPlugin")
    outcome = run_longline(plugins=[names["MomentumPlugin"](names["MomentumConfig"]())], trainer={"max_steps": 2})
    hooks = outcome.manifest["hooks"]
    assert hooks["plugins"]["momentum"]["provide_optimizer"]["calls"] == 1
    assert "provide_optimizer" not in hooks["core"]["longline:defaults"]
    assert "provide_scheduler" in hooks["core"]["longline:defaults"]


def test_the_loss_in_the_tutorial_counts_by_a_column(run_longline: Any, tmp_path: Path):
    trust = plugin_in(CAN_DO, "TrustPlugin")["TrustPlugin"]
    losses = []
    for value in (1.0, 0.25):
        rows = tmp_path / f"trusted-{value}.jsonl"
        rows.write_text("".join(json.dumps({**row, "trust": value}) + "\n" for row in chat(8)))
        data = {"train": [{"path": str(rows)}]}
        outcome = run_longline(plugins=[trust(trust.Config())], data=data, trainer={"max_steps": 1}, overwrite=True)
        losses.append(outcome.log[0]["loss"])
    assert losses[1] == pytest.approx(losses[0] / 4)


def test_the_mean_in_the_tutorial_is_resumed_and_checked(run_longline: Any, run_config: Any):
    names = plugin_in(CAN_DO, "SmoothPlugin")

    def plugin() -> Any:
        return names["SmoothPlugin"](names["SmoothConfig"](decay=0.5))

    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = run_longline(plugins=[plugin()], trainer=saving)
    shutil.rmtree(whole.output_dir / "checkpoint-4")
    resumed = run_longline(plugins=[plugin()], trainer=saving, resume="last")
    means = [[event["loss_mean"] for event in outcome.log if "loss_mean" in event] for outcome in (whole, resumed)]
    losses = [event["loss"] for event in whole.log if "loss" in event]
    expected = list(itertools.accumulate(losses, lambda mean, loss: 0.5 * mean + 0.5 * loss))
    assert means[0] == pytest.approx(expected)
    assert means[1][-2:] == pytest.approx(expected[-2:])
    with pytest.raises(PluginError, match="too few events for a mean"):
        run_longline(plugins=[plugin()], trainer={"logging_steps": 200}, overwrite=True)


@each(["pyproject.toml", "src/longline_losslimit/config.py", "src/longline_losslimit/plugin.py", "tests/test_losslimit.py"])
def test_the_tutorial_shows_the_example_as_it_is(item: str):
    shown = [block.text for block in blocks_of(DOCS / "writing-a-plugin.md") if block.language in ("python", "toml")]
    assert (EXAMPLE / item).read_text(encoding="utf-8") in shown


def test_the_examples_of_the_test_kit_pass(tmp_path: Path):
    """The first block is the plugin, the others together are its tests."""
    module, *tests = (block.text for block in blocks_of(DOCS / "testing-a-plugin.md") if block.language == "python")
    (tmp_path / "bell.py").write_text(module, encoding="utf-8")
    (tmp_path / "test_bell.py").write_text("import json\nimport urllib.request\n\n" + "\n".join(tests), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=.", "test_bell.py"]
    environ = {**os.environ, "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert f"{len(re.findall(r'^def test_', ''.join(tests), flags=re.MULTILINE))} passed" in done.stdout


class Onlooker(Plugin):
    """Keeps the run that it was handed."""

    run: Any = None

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        self.run = run


def test_a_run_has_what_the_pages_say(run_longline: Any):
    from longline.artifacts import OWN_NAMES, UNFINISHED
    from longline.plugins.run import Phase

    onlooker = Onlooker(Onlooker.Config())
    outcome = run_longline(plugins=[onlooker], trainer={"save_strategy": "steps", "save_steps": 5, "logging_first_step": True})
    attributes = first_column(CAN_DO, "## What a plugin knows: run")
    assert sorted(attributes) == [f"run.{name}" for name in dir(onlooker.run) if not name.startswith("_")]
    tutorial = " ".join(CAN_DO.read_text(encoding="utf-8").split())
    *phases, last = get_args(Phase)
    assert f"{', '.join(phases)} or {last}" in tutorial
    folder = {name.rstrip("/") for name in first_column(DOCS / "runs.md", "")}
    assert folder == {name for name in OWN_NAMES if not name.startswith(".")} | {"checkpoint-N"}
    left = {re.sub(r"^checkpoint-\d+$", "checkpoint-N", path.name) for path in outcome.output_dir.iterdir()}
    assert folder - {"merged", "evaluation", UNFINISHED} == {name for name in left if not name.startswith(".")}
    line = next(block.text for block in blocks_of(DOCS / "runs.md") if block.language == "json")
    assert list(json.loads(line)) == list(outcome.log[0])


# --- links --------------------------------------------------------------------------------------------------------------------


@each(PAGES)
def test_links_lead_somewhere(item: Path):
    """Files and folders of the tree; what is inside the site, anchors included, mkdocs checks as well."""
    text = re.sub(r"^```.*?^```$", "", item.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("https://"):
            assert (item.parent / target).exists(), target
            assert item in READMES or (item.parent / target).resolve().is_relative_to(DOCS)
