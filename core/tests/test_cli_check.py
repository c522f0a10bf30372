"""`longline check` and `longline new`, through the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longline.cli import run_cli

GOOD = """\
model: {path: owner/name}
adapter: {r: 4, lora_alpha: 8}
data: {train: rows.jsonl, eval_fraction: 0.1}
trainer: {learning_rate: 1e-4, bf16: true}
output_dir: runs/x
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one data file and one good config."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    Path("good.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def test_a_good_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["check", "good.yaml"]) == 0
    assert capsys.readouterr().out == (
        "ok: good.yaml: method sft, model owner/name with lora r=4, data rows.jsonl (0.1 of the rows for evaluation), "
        "2 trainer fields, no plugins\n"
    )


def test_every_problem_is_one_line_that_an_editor_can_open(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(GOOD.replace("r: 4", "r: many").replace("1e-4", "fast"), encoding="utf-8")
    assert run_cli(["check", "bad.yaml", "--set", "data.max_length=0"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        'bad.yaml:2:14: adapter.r: expected a whole number, got "many"',
        'bad.yaml:4:26: trainer.learning_rate: expected a number, got "fast"',
        "--set data.max_length: must be at least 2, got 0",
        "3 problems in bad.yaml",
    ]


def test_overrides_are_checked_with_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["check", "good.yaml", "--set", "data.eval=rows.jsonl", "--set", "data.eval_fraction=null"]) == 0
    assert "rows.jsonl for evaluation" in capsys.readouterr().out


def test_a_run_folder_stands_for_the_config_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(GOOD, encoding="utf-8")
    assert run_cli(["check", "run"]) == 0
    assert capsys.readouterr().out.startswith("ok: run/config.yaml: ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["check", "missing.yaml"], "missing.yaml: no such file"),
        (["check", "."], ".: is a folder, not a config file"),
        (["check"], "Missing argument 'CONFIG'"),
        (["check", "good.yaml", "--set"], "Option '--set' requires an argument"),
    ],
)
def test_usage_mistakes(args: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(args) == 2
    assert expected in capsys.readouterr().err


def test_a_plugin_that_is_not_installed_has_its_own_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["check", "good.yaml", "--set", "plugins=[nowhere_to_be_found]"]) == 3
    assert "nowhere_to_be_found" in capsys.readouterr().err


def test_config_problems_are_told_even_when_a_plugin_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["check", "good.yaml", "--set", "plugins=[nowhere_to_be_found]", "--set", "trainer.sed=1"]) == 2
    error = capsys.readouterr().err
    assert "--set trainer.sed: unknown field (did you mean `seed`?)" in error
    assert "nowhere_to_be_found" in error


def test_options_of_a_plugin_are_checked_in_the_same_report(folder: Path) -> None:
    """A plugin as it is installed: a package with metadata, found through its entry point."""
    (folder / "site").mkdir()
    (folder / "site/checked_plugin.py").write_text(
        "from longline.plugins import Plugin, PluginConfig\n"
        "from pydantic import Field\n"
        "class Options(PluginConfig):\n    every: int = Field(default=50, gt=0)\n    project: str\n"
        "class CheckedPlugin(Plugin):\n    Config = Options\n",
        encoding="utf-8",
    )
    info = folder / "site/longline_checked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longline-checked\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[longline]\nchecked = checked_plugin:CheckedPlugin\n", encoding="utf-8")
    text = GOOD.replace("bf16: true", "bf16: perhaps") + "plugins:\n  - checked: {every: 0, projekt: demo}\n"
    Path("plugged.yaml").write_text(text, encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(folder / 'site')!r})\n"
        "from longline.cli import run_cli; sys.exit(run_cli(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, "check", "plugged.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'plugged.yaml:4:38: trainer.bf16: expected true or false, got "perhaps"',
        "plugged.yaml:7:5: plugins.checked.project: is missing",
        "plugged.yaml:7:22: plugins.checked.every: must be greater than 0, got 0",
        "plugged.yaml:7:25: plugins.checked.projekt: unknown key (did you mean `project`?)",
        "4 problems in plugged.yaml",
    ]


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from longline.cli import run_cli; assert run_cli(['check', 'good.yaml']) == 0\n"
        "assert run_cli(['schema']) == 0\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# --- new ----------------------------------------------------------------------------------------------------------------------


def test_a_new_config_passes_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["new", "configs/first.yaml", "--data", "rows.jsonl"]) == 0
    assert run_cli(["check", "configs/first.yaml"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("wrote configs/first.yaml; next: longline check configs/first.yaml\n")
    assert "data rows.jsonl" in output


def test_a_new_config_holds_what_it_was_given() -> None:
    from longline.config.loader import load_config

    Path("my model: v1").mkdir()
    Path("${odd} rows.jsonl").write_text("{}\n", encoding="utf-8")
    assert run_cli(["new", "c.yaml", "--data", "${odd} rows.jsonl", "--model", "./my model: v1"]) == 0
    config = load_config(Path("c.yaml")).config
    assert (config.model.path, config.data.train[0].path, str(config.output_dir)) == (
        "./my model: v1",
        "${odd} rows.jsonl",
        "runs/c",
    )


def test_a_new_config_never_overwrites(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["new", "good.yaml"]) == 2
    assert run_cli(["new", "."]) == 2
    assert Path("good.yaml").read_text(encoding="utf-8") == GOOD
    assert "error: good.yaml exists; `new` never overwrites" in capsys.readouterr().err


def test_a_new_config_for_data_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["new", "c.yaml", "--data", "row.jsonl"]) == 2
    assert not Path("c.yaml").exists()
    assert "--data: no such file: row.jsonl (did you mean `rows.jsonl`?)" in capsys.readouterr().err


def test_a_working_directory_that_was_deleted_is_said(folder: Path) -> None:
    """Of itself torch would end the process, with the words of a numerical library."""
    command = f"mkdir gone && cd gone && rmdir ../gone && exec '{sys.executable}' -m longline train '{folder}/good.yaml'"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the working directory was deleted\n  hint: cd to one that is there\n"


# --- a distribution to start from (tests/test_examples.py builds, installs and tries what is written) -----------------------------


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("plugin", "Foo Bar", "small letters, digits and single hyphens"),
        ("plugin", "../away", "small letters, digits and single hyphens"),
        ("format", "class", "that is a word of Python"),
        ("method", "sft", "longline 0.1.0 has a method called 'sft'"),
        ("format", "chat", "has a format called 'chat'"),
        ("plugin", "longline-swanlab", "has a plugin called 'swanlab'"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch, kind, name, told):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert run_cli(["new", kind, name]) == 2
    assert told in capsys.readouterr().err
    assert not list(empty.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kept.txt").write_text("mine")
    assert run_cli(["new", "plugin", "eel", "--path", str(folder)]) == 2
    assert "`new` never overwrites" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]


def test_names_are_written_as_each_place_has_them(tmp_path, capsys):
    assert run_cli(["new", "plugin", "longline-tide_watch", "--path", str(tmp_path / "new")]) == 0
    assert "plugins: [tide_watch]" in capsys.readouterr().out
    project = (tmp_path / "new" / "pyproject.toml").read_text()
    assert 'name = "longline-tide-watch"' in project
    assert 'tide_watch = "longline_tide_watch.plugin:TideWatchPlugin"' in project
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file() and "newname" in path.read_text().lower()]
