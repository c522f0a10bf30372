"""What is refused before any work, with the place, the reason and the ways out; and what else holds without a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longline.cli import run_cli
from longline.testing import assert_import_is_light
from longline_swanlab.config import SwanLabConfig
from longline_swanlab.plugin import SwanLabPlugin

KEY = "k3y-of-the-account-0123456789"


@pytest.fixture
def check(tmp_path, capsys):
    """Return a function that checks a config with such options, and gives exit status and output."""

    def run(*lines: str) -> tuple[int, str]:
        (tmp_path / "rows.jsonl").write_text("{}\n")
        head = f"model: {{path: owner/name}}\ndata: {{train: {tmp_path}/rows.jsonl}}\noutput_dir: {tmp_path}/run\n"
        body = "".join(f"    {line}\n" for line in lines)
        path = tmp_path / "c.yaml"
        path.write_text(f"{head}plugins:\n  swanlab:\n{body}" if lines else f"{head}plugins: [swanlab]\n")
        code = run_cli(["check", str(path)])
        output = capsys.readouterr()
        return code, (output.out + output.err).replace(f"{path}:", "c.yaml:")

    return run


# --- options --------------------------------------------------------------------------------------------------------------------


def test_a_good_config(check):
    code, told = check("project: fish", "mode: local", "tags: [a, b]", "resume: true")
    assert code == 0, told
    assert "plugins swanlab" in told


@pytest.mark.parametrize(
    "lines", [(), ("mode: local",), ("project:", "mode: local"), ("project: ''", "mode: local"), ("project: ' '",)]
)
def test_a_project_is_required_and_the_ways_out_are_told(check, lines):
    code, told = check(*lines)
    assert code == 2
    for way in ("`project` is required", "project: NAME", "export SWANLAB_PROJ_NAME=NAME", "remove 'swanlab' from plugins:"):
        assert way in told
    assert "c.yaml:" in told


@pytest.mark.parametrize("name", ["SWANLAB_PROJ_NAME", "SWANLAB_PROJECT_NAME"])
def test_the_variable_is_enough(check, monkeypatch, name):
    monkeypatch.setenv(name, "'pond'")
    assert check("mode: local")[0] == 0
    assert SwanLabConfig(mode="local").project == "pond"
    assert SwanLabConfig(project="fish", mode="local").project == "fish"  # an option comes first


def test_an_invalid_mode_lists_the_valid_ones(check):
    code, told = check("project: fish", "mode: locl")
    assert code == 2
    assert 'c.yaml:7:11: plugins.swanlab.mode: "locl" is not one of online, cloud, local, offline, disabled' in told
    assert "did you mean `local`?" in told


def test_an_invalid_mode_in_the_variable_too(check, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "offlin")
    code, told = check("project: fish")
    assert code == 3
    assert "SWANLAB_MODE is 'offlin', which is not one of online, cloud, local, offline, disabled" in told
    assert "did you mean 'offline'?" in told


def test_every_mistake_at_once(check):
    code, told = check(
        "project: two words",
        "mode: local",
        "api_host: localhost:80",
        "web_host: https://me:word@example.org",
        "api_key: ''",
        "workspace: a/b",
        "log_model: true",
        "timeout: 0",
        "tags: [good, '']",
        "lgo_dir: x",
    )
    assert code == 2
    assert told.count("c.yaml:") == 9
    assert "'two words' has not" in told
    assert "must be an http or https url" in told
    assert "must not hold a user or password" in told
    assert "log_model uploads the final model, and mode local sends nothing" in told
    assert "did you mean `log_dir`?" in told


@pytest.mark.parametrize("name", ["", "a" * 101, "a b", "fish!", "fish_1-2.x+", "Fisch"])
def test_project_names_are_judged_as_swanlab_does(name):
    """The rule stands in both packages; this keeps them equal."""
    from pydantic import ValidationError
    from swanlab.sdk.internal.pkg.constraints import ta_project

    def accepted(make) -> bool:
        try:
            make()
        except ValidationError:
            return False
        return True

    assert accepted(lambda: SwanLabConfig(project=name, mode="local")) == accepted(lambda: ta_project.validate_python(name))


def test_cloud_is_online():
    assert SwanLabConfig(project="fish", mode="cloud").mode == "online"


# --- what a mode needs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["mode: online", "mode: cloud", "tags: [default]"])
def test_online_without_a_key_is_refused_with_four_remedies(check, mode):
    code, told = check("project: fish", mode)
    assert code == 3
    assert "mode online needs a key, and there is none" in told
    for remedy in ("export SWANLAB_API_KEY=", "api_key: ${SWANLAB_API_KEY}", "`swanlab login`", "mode: local"):
        assert remedy in told


def test_no_prompt_in_a_batch_job_or_a_terminal(tmp_path, run_config):
    """The real command with a terminal's worth of input: it ends at once and asks nothing."""
    path = run_config(plugins=[{"swanlab": {"project": "fish"}}])
    command = [sys.executable, "-m", "longline", "train", str(path)]
    done = subprocess.run(command, input="1\nkey\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "mode online needs a key" in done.stdout + done.stderr
    assert "Enter your choice" not in done.stdout


def test_a_file_without_a_key_does_not_count(check, tmp_path):
    (tmp_path / ".env").write_text("OTHER=1\n")
    assert check("project: fish")[0] == 3
    (tmp_path / ".env").write_text(f"SWANLAB_API_KEY={KEY}\n")
    assert check("project: fish")[0] == 0


def test_a_key_of_the_environment_or_a_login_is_enough(check, monkeypatch, tmp_path):
    monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    assert check("project: fish")[0] == 0
    monkeypatch.delenv("SWANLAB_API_KEY")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text(f"machine https://api.swanlab.cn\n login https://swanlab.cn\n password {KEY}\n")
    code, told = check("project: fish")
    assert code == 0
    assert KEY not in told


def test_another_rank_needs_no_key(check, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert check("project: fish")[0] == 0


def test_local_without_the_dashboard_names_the_command(check, monkeypatch):
    monkeypatch.setitem(sys.modules, "swanboard", None)  # how Python says that a module is not there
    code, told = check("project: fish", "mode: local")
    assert code == 3
    assert "pip install 'longline-swanlab[dashboard]'" in told
    assert check("project: fish", "mode: offline")[0] == 0


def test_another_version_of_the_dashboard_is_refused(run_longline, tmp_path, monkeypatch):
    """swanlab itself would only log it, and the dashboard would stay empty."""
    from longline_swanlab.plugin import SwanLabPlugin

    folder = tmp_path / "site" / "swanboard-9.9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: swanboard\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(folder.parent), prepend=":")
    with pytest.raises(Exception, match=r"swanlab needs swanboard==0\.1\.10b2, and 9\.9 is installed") as caught:
        run_longline(plugins=[SwanLabPlugin(SwanLabConfig(project="fish", mode="local"))])
    assert "pip install 'longline-swanlab[dashboard]'" in str(caught.value)


# --- what it costs to import ----------------------------------------------------------------------------------------------------


def test_swanlab_is_not_imported_with_the_plugin():
    assert_import_is_light("longline_swanlab.plugin", "swanlab", "requests", "psutil", "swanboard")


# --- the README -----------------------------------------------------------------------------------------------------------------


def test_the_readme_tells_every_option_and_mode():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    options = text.partition("## Options")[2].partition("\n\nAn option")[0]
    assert {line.split("`")[1] for line in options.splitlines() if line.startswith("| `")} == set(SwanLabConfig.model_fields)
    modes = text.partition("## Modes")[2].partition("\n\n##")[0]
    assert [line.split("`")[1] for line in modes.splitlines() if line.startswith("| `")] == [
        "online",
        "local",
        "offline",
        "disabled",
    ]


def test_it_is_well_behaved(assert_well_behaved, tmp_path):
    assert_well_behaved(SwanLabPlugin, {"project": "fish", "mode": "local", "log_dir": str(tmp_path / "swanlog")})
