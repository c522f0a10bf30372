"""The four observing plugins with each other: alone and together they change nothing, and all end well when a signal comes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from longline import methods
from longline.testing import chat, serve

ROOT = Path(__file__).parents[1]
LONGLINE = [sys.executable, "-m", "longline"]
KEY = "k3y-0f-the-account-9876543210"


def kit(plugin: str) -> Any:
    """The servers that a plugin's own tests talk to."""
    path = ROOT / "plugins" / f"longline-{plugin}" / "tests" / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"kit_of_{plugin}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LARK, SWANLAB = kit("lark"), kit("swanlab")


@pytest.fixture
def lark() -> Iterator[Any]:
    """Verifies signatures as Lark does."""
    server = LARK.LarkServer()
    with serve(LARK.handler(server), server.release) as server.url:
        yield server


@pytest.fixture
def cloud() -> Iterator[Any]:
    """Plays SwanLab's server for the real client."""
    server = SWANLAB.Cloud()
    with serve(SWANLAB.handler(server), server.release) as server.url:
        yield server


@pytest.fixture(autouse=True)
def _no_account_of_a_person(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("SWANLAB_", "LARK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def webhook(lark: Any) -> str:
    return f"{lark.url}/open-apis/bot/v2/hook/{LARK.TOKEN}"


# --- alone and together ---------------------------------------------------------------------------------------------------------


def plugins(lark: Any, tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {
        "completions": {"every": 2},
        "profiling": {},
        "swanlab": {"project": "together", "mode": "local", "log_dir": str(tmp_path / "swanlog")},
        "lark": {"webhook_url": webhook(lark), "secret": LARK.SECRET},
    }


def results(outcome: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Weights, and the log without times and without what profiling adds."""
    weights = {name: value.tolist() for name, value in load_file(outcome.output_dir / "model" / "model.safetensors").items()}
    dull = ("time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    log = [
        {name: value for name, value in event.items() if name not in dull and not name.startswith("profiling/")}
        for event in outcome.log
    ]
    return weights, log


def test_alone_and_together_they_change_neither_weights_nor_log(run_longline, preference_rows, lark, tmp_path):
    def train(names: list[str], folder: str) -> Any:
        chosen = [{name: options} for name, options in plugins(lark, tmp_path).items() if name in names]
        data = {"train": [{"path": str(preference_rows)}]}
        return run_longline(method="dpo", data=data, plugins=chosen, output_dir=str(tmp_path / folder))

    plain = results(train([], "none"))
    for name in plugins(lark, tmp_path):
        outcome = train([name], name)
        assert results(outcome) == plain, name
        assert outcome.manifest["plugins"][0]["name"] == name
        hooks = outcome.manifest["hooks"]["plugins"][name]
        assert sum(cost["calls"] for cost in hooks.values()) > 0
        assert not any(cost["failures"] for cost in hooks.values())
    outcome = train(list(plugins(lark, tmp_path)), "all")
    assert results(outcome) == plain
    assert not any(cost["failures"] for hooks in outcome.manifest["hooks"]["plugins"].values() for cost in hooks.values())
    assert lark.codes == [0, 0, 0, 0]
    tables = outcome.hooks("on_table")
    assert [line for line in tables if "completions" in line] == [
        f"on_table(table=completions, {rows} rows, step {step})" for rows, step in ((4, 2), (4, 4), (2, 5))
    ]


# --- other commands than training -----------------------------------------------------------------------------------------------

ADAPTER = {"type": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
ANSWERS = ("generate", "{run}", "--prompt", "How many hooks?", "--max-new-tokens", "3")
COMMANDS = {
    "sft": [("evaluate", "{run}"), ("preview", "{config}"), ("preprocess", "{config}"), ANSWERS, ("merge", "{run}")],
    "dpo": [("preview", "{config}"), ANSWERS, ("merge", "{run}")],
}


@pytest.mark.parametrize("method", COMMANDS)
def test_a_finished_run_is_used_and_no_plugin_tells_or_writes(method, run_config, preference_rows, lark, tmp_path):
    """In processes of their own, without the secrets that the run had: the hooks up to the model fire there too."""
    pairs = methods.find(method).completions is not None
    others = tmp_path / "others.jsonl"  # none of them in both
    others.write_text("".join(json.dumps(row) + "\n" for row in chat(40)[32:]))
    data = {"train": [{"path": str(preference_rows)}]} if pairs else {"eval": [{"path": str(others), "format": "chat"}]}
    fitting = plugins(lark, tmp_path)
    fitting |= {"lark": {}, **({} if pairs else {"cce": {}})}
    secrets = {"LARK_WEBHOOK_URL": webhook(lark), "LARK_SECRET": LARK.SECRET}
    fitting = {name: options for name, options in fitting.items() if pairs or name != "completions"}
    trainer = {"max_steps": 1, "eval_strategy": "no"}
    config = run_config(method=method, data=data, adapter=ADAPTER, plugins=fitting, trainer=trainer)
    run = tmp_path / "run"

    def longline(*words: str, **more: str) -> str:
        command, environ = [*LONGLINE, *(word.format(run=run, config=config) for word in words)], {**os.environ, **more}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environ, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert ("cce, the loss" in longline("train", "{config}", **secrets)) == (not pairs)
    before, told = written(tmp_path), list(lark.titles)
    assert len(told) == 2
    for words in COMMANDS[method]:
        said = longline(*words)
        assert not any(word in said for word in ("cce, the loss", "warning", "SwanLab", "profiling", "lark")), said
        assert lark.titles == told, words
        assert written(tmp_path) == before, words
    assert (run / "merged" / "model.safetensors").is_file()


def written(folder: Path) -> dict[Path, bytes]:
    """Every file with its content, but for prepared data, measures and the merged model, which the commands are there for."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path: path.read_bytes() for path in files if not {"cache", "evaluation", "merged"} & set(path.relative_to(folder).parts)
    }


# --- a signal -------------------------------------------------------------------------------------------------------------------


def test_sigint_flushes_the_table_aborts_the_run_and_tells_the_group_once(run_config, preference_rows, lark, cloud, tmp_path):
    """One real process with all four; its secrets come from the environment."""
    config = run_config(
        method="dpo",
        data={"train": [{"path": str(preference_rows)}]},
        trainer={"max_steps": 5000, "save_strategy": "steps", "save_steps": 5000},
        plugins={
            "completions": {"every": 10_000, "max_rows": 1_000_000},
            "profiling": {},
            "swanlab": {
                "project": "together",
                "mode": "cloud",
                "api_key": "${SWANLAB_API_KEY}",
                "api_host": cloud.url,
                "log_dir": str(tmp_path / "swanlog"),
            },
            "lark": {"webhook_url": "${LARK_WEBHOOK_URL}", "secret": "${LARK_SECRET}", "rules": ["loss < 100"]},
        },
    )
    secrets = {"SWANLAB_API_KEY": KEY, "LARK_WEBHOOK_URL": webhook(lark), "LARK_SECRET": LARK.SECRET}
    folder = tmp_path / "run"
    with (tmp_path / "terminal.txt").open("w+") as terminal:
        command = [*LONGLINE, "train", str(config)]
        process = subprocess.Popen(command, env={**os.environ, **secrets}, stdout=terminal, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: '"step": 3,' in read(folder / "log.jsonl"), process, tmp_path / "terminal.txt")
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 130, read(tmp_path / "terminal.txt")
        finally:
            process.kill()

    manifest = json.loads(read(folder / "run.json"))
    steps = manifest["summary"]["steps"]
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 130)
    assert steps >= 3
    assert (folder / f"checkpoint-{steps}").is_dir()
    [table] = (folder / "completions").glob("step-*.parquet")
    assert sorted(pq.read_table(table).column("step").to_pylist()) == [step for step in range(1, steps + 1) for _ in range(2)]
    assert cloud.states == ["ABORTED"]
    assert [step for step, _ in cloud.series("loss")] == list(range(1, steps + 1))
    assert [step for step, _ in cloud.tables("completions")] == [steps]
    assert len(cloud.series("profiling/Time taken: DPOTrainer.training_step")) >= 3
    kinds = [title.partition(":")[0] for title in lark.titles]
    assert len([title for title in lark.titles if "interrupted" in title.lower()]) == 1, lark.titles
    assert lark.codes == [0] * len(lark.codes), "every message was signed, and taken once"
    assert len(kinds) == 3, lark.titles  # started, the rule, interrupted
    assert json.loads(read(folder / "profile" / "timings.json"))
    assert not any(cost["failures"] for hooks in manifest["hooks"]["plugins"].values() for cost in hooks.values())

    hidden = [value.encode() for value in (KEY, LARK.SECRET, LARK.TOKEN)]
    for body in (*cloud.bodies, *lark.bodies):
        assert not any(secret in body for secret in hidden)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if any(secret in path.read_bytes() for secret in hidden)] == []


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def wait_for(condition: Any, process: subprocess.Popen, terminal: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, read(terminal)
        assert time.monotonic() < end, read(terminal)
        time.sleep(0.01)


# --- a run that is killed -------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, time
from pathlib import Path
from longline import Plugin, PluginConfig, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin
from longline.run import train

class At(Plugin):
    @hookimpl
    def on_step_end(self, step):
        if step == 5:
            time.sleep(1.5)  # the tracker's queue is emptied
            os.kill(os.getpid(), signal.SIGKILL)

train(load_config(Path(sys.argv[1])), plugins=[LoadedPlugin.of(At(PluginConfig()))])
"""


def test_after_a_kill_the_dashboard_has_the_rows_that_the_files_have(run_config, preference_rows, tmp_path):
    """The table of step 4 reaches over the checkpoint of step 3: the dashboard replaces it when step 4 is made again."""
    config = run_config(
        method="dpo",
        data={"train": [{"path": str(preference_rows)}]},
        trainer={"max_steps": 8, "save_strategy": "steps", "save_steps": 3},
        plugins={
            "completions": {"every": 2},
            "swanlab": {"project": "together", "mode": "local", "log_dir": str(tmp_path / "swanlog")},
        },
    )
    done = subprocess.run([sys.executable, "-c", KILLED, str(config)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = [*LONGLINE, "train", str(config), "--resume"]
    done = subprocess.run(resumed, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for path in (tmp_path / "run" / "completions").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    dashboard = SWANLAB.Dashboard(tmp_path / "swanlog")
    try:
        dashboard.wait()
        shown = [int(re.search(r"\bstep (\d+)", caption)[1]) for _, caption, _ in dashboard.texts("completions")]
    finally:
        dashboard.stop()
    assert sorted(shown) == sorted(row["step"] for row in rows) == sorted([*range(1, 9)] * 2)


# --- the examples and their table -----------------------------------------------------------------------------------------------

EXAMPLES = ROOT / "examples" / "swanlab"


def matrix() -> tuple[list[str], dict[str, dict[str, bool]]]:
    """The table of the examples' README: files, and for each feature who has it."""
    lines = [line for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    files = [cell.partition("](")[2].rstrip(")") for cell in cells[0][1:]]
    assert all(value in ("yes", "-") for row in cells[2:] for value in row[1:])
    return files, {row[0]: {file: value == "yes" for file, value in zip(files, row[1:], strict=True)} for row in cells[2:]}


def test_the_examples_do_what_their_table_says(tiny_model_dir, lark, tmp_path, monkeypatch):
    """Each runs as it is, from the repository's folder, on the tiny model; the dashboard and the folders are asked."""
    files, features = matrix()
    assert sorted(files) == sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".yaml", ".py"))
    log_dir = tmp_path / "swanlog"
    environ = {**os.environ, "LARK_WEBHOOK_URL": webhook(lark), "LARK_SECRET": LARK.SECRET}
    found: dict[str, dict[str, bool]] = {}
    told: dict[str, list[str]] = {}
    for file in files:
        folder = tmp_path / Path(file).stem
        values = [f"model.path={tiny_model_dir}", f"output_dir={folder}", f"plugins.swanlab.log_dir={log_dir}"]
        if file.endswith(".py"):
            command = [sys.executable, str(EXAMPLES / file), *values]
        else:
            command = [*LONGLINE, "train", f"examples/swanlab/{file}", *(part for value in values for part in ("--set", value))]
        before = len(lark.titles)
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        told[file] = lark.titles[before:]
    dashboard = SWANLAB.Dashboard(log_dir)
    try:
        dashboard.wait()
        for number, file in enumerate(files, start=1):
            found[file] = seen(dashboard, number, tmp_path / Path(file).stem, told[file])
    finally:
        dashboard.stop()
    assert {feature: {file: found[file][feature] for file in files} for feature in features} == features


def seen(dashboard: Any, number: int, folder: Path, told: list[str]) -> dict[str, bool]:
    """What of the table's features one run has."""
    charts = dashboard.charts(number)
    log = [json.loads(line) for line in read(folder / "log.jsonl").splitlines()]

    def drawn(name: str) -> bool:
        values = [(event["step"], event[name]) for event in log if name in event]
        return (
            bool(values) and name in charts and [step for step, _ in dashboard.series(name, number)] == [s for s, _ in values]
        )

    parquet = sorted((folder / "completions").glob("step-*.parquet"))
    rows = [row for path in parquet for row in pq.read_table(path).to_pylist()]
    table = dashboard.texts("completions", number) if "completions" in charts else []
    texts = "\n".join(text for _, _, text in table)
    traces = list((folder / "profile").glob("trace-*.json.gz"))
    names = [name for event in log[:1] for name in event if name.startswith("profiling/Time taken: ")]
    return {
        "loss, learning rate and gradient norm as charts": all(map(drawn, ("loss", "learning_rate", "grad_norm"))),
        "reward margins as charts": drawn("rewards/margins"),
        "evaluation as charts": drawn("eval_loss"),
        "what was trained on, as a table in SwanLab": bool(rows) and all(row["chosen"] in texts for row in rows),
        "the same as Parquet files, and by `longline completions`": bool(rows) and answers("completions", folder),
        "time taken by each part of a step, as charts": len(names) >= 4 and all(map(drawn, names)),
        "time taken by parts of a trainer of your own": any("ZLossTrainer.z_loss" in name for name in names),
        "a Chrome trace, and `longline profile analyze`": bool(traces) and answers("profile", "analyze", folder),
        "messages to a Lark or Feishu group": len(told) >= 2,
    }


def answers(*command: object) -> bool:
    from longline.cli import run_cli

    return run_cli([str(part) for part in command]) == 0


def test_the_plan_tells_what_each_plugin_is_and_will_do(run_config, preference_rows, capsys):
    from longline.cli import run_cli

    plugins = {"completions": {"every": 7}, "profiling": {"steps": {"start": 2, "count": 2}}}
    source = {"train": [{"path": str(preference_rows), "format": "preference"}]}
    config = str(run_config(method="dpo", plugins=plugins, data=source))
    assert run_cli(["plan", config, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["plugins"]
    assert (first["name"], first["claims"], first["provides"]) == ("completions", [], [])
    assert first["distribution"].startswith("longline-completions ")
    assert "every 7 steps" in first["plan"][0]
    assert second["plan"][1] == "records steps 2 to 3 with torch.profiler"
    assert run_cli(["plan", str(run_config(plugins={"cce": {}}))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cce computes the loss at the output head" in out
    assert "claims loss" in out
    assert "provides loss" in out
