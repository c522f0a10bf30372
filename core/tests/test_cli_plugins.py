"""`longline plugins`: a list from metadata alone, and one plugin shown in full."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from longline.cli import run_cli

if TYPE_CHECKING:
    from pathlib import Path

RICH = """
    from typing import Annotated, Literal
    from pydantic import BaseModel, Field, SecretStr
    from longline import Plugin, PluginConfig, hookimpl

    class Inner(PluginConfig):
        width: int = 3
        '''How wide.'''

    class RichConfig(PluginConfig):
        project: str
        '''Where to
        send it.'''
        mode: Literal["local", "cloud"] = "local"
        every: int | None = None
        token: SecretStr | None = SecretStr("hush-hush")
        tags: list[str] = Field(default_factory=lambda: ["a"])
        table: Inner = Inner()

    class RichPlugin(Plugin):
        Config = RichConfig
        claims = frozenset({"tables", "loss"})

        @hookimpl
        def on_log(self, step): ...

        @hookimpl
        def pre_model_load(self, model_kwargs): ...

        @hookimpl
        def on_lgo(self): ...
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three installed plugins: one to show, one that cannot be imported, one that requires what is not there."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    module = f"rich_plugin_{tmp_path.name}"
    add(folder, "rich", module, dedent(RICH), "1.4", "Shows everything.")
    add(folder, "broken", f"broken_{tmp_path.name}", "raise RuntimeError('imported')", "0.1", "Cannot be imported.")
    add(folder, "needy", f"needy_{tmp_path.name}", "raise RuntimeError('imported')", "0.2", "Needs more.", "longline>=99")
    return folder


def add(folder: Path, name: str, module: str, code: str, version: str, summary: str, *requires: str) -> None:
    (folder / f"{module}.py").write_text(code)
    info = folder / f"longline_{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: longline-{name}", f"Version: {version}", f"Summary: {summary}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n\n")
    (info / "entry_points.txt").write_text(f"[longline]\n{name} = {module}:RichPlugin\n")


@pytest.fixture
def config(tmp_path: Path):
    def write(plugins: str, extra: str = "") -> str:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"text": "a"}\n')
        path = tmp_path / "show"  # also the name of the subcommand
        text = (
            f"model: {{path: no/model}}\ndata: {{train: [{{path: {rows}}}]}}\nplugins: {plugins}\noutput_dir: {tmp_path}/run\n"
        )
        path.write_text(text + extra)
        return str(path)

    return write


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines()}


OURS = ("name", "rich", "broken", "needy")
"""What these tests install; the environment may have plugins of its own."""


def test_it_lists_from_metadata_alone(site, capsys):
    assert run_cli(["plugins"]) == 0
    told = rows(capsys.readouterr().out)
    assert [name for name in told if name in OURS] == ["name", "broken", "needy", "rich"]
    assert told["rich"].split() == ["rich", "1.4", "longline-rich", "Shows", "everything."]
    assert "status" not in told["name"]
    assert run_cli(["plugins", "list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["rich"] == {"name": "rich", "version": "1.4", "distribution": "longline-rich", "summary": "Shows everything."}


def test_with_a_config_it_says_what_is_enabled_in_its_order(site, config, capsys):
    path = config("[rich, broken]")
    assert run_cli(["plugins", path]) == 0
    told = rows(capsys.readouterr().out)
    assert [name for name in told if name in OURS] == ["name", "rich", "broken", "needy"]
    assert told["rich"].endswith("enabled")
    assert told["broken"].endswith("enabled")
    assert "not enabled, cannot be used here: it requires longline>=99" in told["needy"]


def test_what_cannot_be_used_is_told_with_its_remedy_and_exit_3(site, config, capsys):
    path = config("[richt, needy]")
    assert run_cli(["plugins", path, "--json"]) == 3
    status = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert status["richt"] == "is not installed (did you mean 'rich'?): write 'rich', which is installed"
    assert "it requires longline>=99" in status["needy"]
    assert "pip install 'longline>=99'" in status["needy"]
    assert status["rich"] == "not enabled"


def test_other_mistakes_of_the_config_do_not_hide_the_plugins(site, config, capsys):
    path = config("[rich]", extra="trainer: {learning_rat: 1}\n")
    assert run_cli(["plugins", path]) == 0
    assert rows(capsys.readouterr().out)["rich"].endswith("enabled")


def test_overrides_reach_the_list(site, config, capsys):
    path = config("[]")
    assert run_cli(["plugins", "--set", "plugins=[rich]", path]) == 0
    assert rows(capsys.readouterr().out)["rich"].endswith("  enabled")


def test_a_config_that_is_named_like_the_subcommand_needs_its_folder(site, config, capsys, monkeypatch, tmp_path):
    config("[rich]")
    monkeypatch.chdir(tmp_path)
    assert run_cli(["plugins", "./show"]) == 0
    assert rows(capsys.readouterr().out)["rich"].endswith("enabled")


def test_a_plugins_name_in_place_of_a_config_leads_to_show(site, capsys):
    assert run_cli(["plugins", "rich"]) == 2
    assert "longline plugins show rich" in capsys.readouterr().err


def test_a_config_that_does_not_exist_is_an_error(site, capsys):
    assert run_cli(["plugins", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_show_prints_options_claims_and_hooks(site, capsys):
    assert run_cli(["plugins", "show", "rich"]) == 0
    told = capsys.readouterr().out
    assert "rich 1.4  Shows everything." in told
    assert "claims        loss, tables" in told
    assert "  project: str required\n      Where to send it.\n" in told
    assert "  mode: Literal['local', 'cloud'] = \"local\"" in told
    assert "  every: int | None = null" in told
    assert '  tags: list[str] = ["a"]' in told
    assert "  table.width: int = 3\n      How wide." in told
    assert "hush-hush" not in told
    hooks = told.partition("hooks\n")[2]
    assert hooks.index("pre_model_load (shape, on all ranks)") < hooks.index("on_log (observe, on the main rank)")
    assert "on_lgo (unknown" in hooks


REFUSED = "fused: bool = True; one_of = model_validator(mode='after')(refuse)"
"""Options of which none is required by itself, and some have to be given."""


@pytest.mark.parametrize(
    ("options", "told"),
    [("fused: bool = True", "loss"), ("fused: bool = False", "nothing"), ("fused: bool", "nothing"), (REFUSED, "nothing")],
)
def test_show_tells_claims_that_depend_on_options(tmp_path, monkeypatch, capsys, options, told):
    module = f"claiming_{tmp_path.name}"
    code = f"""
        from longline import Plugin, PluginConfig
        from pydantic import model_validator

        def refuse(options):
            raise ValueError("needs one of two")

        class KernelConfig(PluginConfig):
            {options}

        class RichPlugin(Plugin):
            Config = KernelConfig

            @property
            def claims(self):
                return frozenset({{"loss"}} if self.config.fused else ())
    """
    monkeypatch.syspath_prepend(tmp_path)
    add(tmp_path, "kernel", module, dedent(code), "1.0", "A kernel.")
    assert run_cli(["plugins", "show", "kernel"]) == 0
    assert f"claims        {told} without options; its options decide" in capsys.readouterr().out


def test_show_as_json(site, capsys):
    assert run_cli(["plugins", "--json", "show", "rich"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["claims"] == ["loss", "tables"]
    options = {option["name"]: option for option in told["options"]}
    assert options["project"]["required"] is True
    assert options["tags"] == {"name": "tags", "type": "list[str]", "required": False, "default": ["a"], "description": ""}
    assert "hush-hush" not in json.dumps(told)
    assert [hook["name"] for hook in told["hooks"]] == ["pre_model_load", "on_log", "on_lgo"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("richt", "did you mean 'rich'"), ("broken", "RuntimeError: imported"), ("needy", "it requires longline>=99")],
)
def test_show_of_what_cannot_be_shown_exits_3(site, capsys, name, text):
    assert run_cli(["plugins", "show", name]) == 3
    assert text in capsys.readouterr().err


def test_help_tells_of_both_uses(capsys):
    assert run_cli(["plugins", "--help"]) == 0
    told = capsys.readouterr().out
    assert "[CONFIG] | show NAME" in told
    assert run_cli(["plugins", "show", "--help"]) == 0
    assert "Import plugin NAME" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "CONFIG"], ["plugins", "show", "rich"]])
def test_it_imports_no_heavy_library(site, config, arguments):
    arguments = [config("[rich]") if word == "CONFIG" else word for word in arguments]
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        f"from longline.cli import run_cli\nassert run_cli({arguments!r}) == 0\n"
        "print([n for n in ('torch', 'transformers', 'datasets', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
