"""What a person sees of a run: on real terminals of several widths, in a pipe, after a resume, and while something takes long."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import struct
import sys
import time
from collections.abc import Iterator
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
import torch
from rich.console import Console as RichConsole
from safetensors.torch import load_file, save_file

from longline import Plugin, PluginConfig, hookimpl
from longline.builtin.console import Console
from longline.builtin.pace import Pace, Wait, duration
from longline.cli import run_cli
from longline.events import Summary
from longline.testing import chat

LONGLINE = [sys.executable, "-m", "longline"]
LINE = re.compile(r"^\d+/\d+ ")
"""How the live line begins."""


def in_terminal(columns: int, command: list[str], *, keys: bytes = b"", after: str = "") -> tuple[int, str]:
    """Run a command in a terminal; returns status and output. `keys` are pressed when the output first matches `after`."""
    pid, terminal = pty.fork()
    if not pid:
        time.sleep(0.1)  # until the terminal has its size
        os.execvp(command[0], command)
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    out = b""
    while True:
        try:
            out += os.read(terminal, 65536)
        except OSError:  # what Linux says at the end
            break
        if keys and re.search(after, out.decode(errors="replace")):
            os.write(terminal, keys)
            keys = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def frames(output: str) -> Iterator[str]:
    """Every text that stood in a line of the terminal, in the order of time."""
    plain = re.sub(r"\x1b\[\??[0-9;]*[A-JL-Za-z]", "", output)  # all but K, which clears a line
    yield from (text for text in re.split(r"\r|\n|\x1b\[2?K", plain) if text)


def screen(output: str) -> list[str]:
    """What the terminal shows at the end, by lines."""
    plain = re.sub(r"\x1b\[\??[0-9;]*[A-JL-Za-z]", "", output)
    lines = []
    for line in plain.split("\n"):
        shown = ""
        for part in re.split(r"(\r|\x1b\[2?K)", line):
            if part.endswith("K"):
                shown = ""
            elif part != "\r":
                shown = part + shown[len(part) :]
        lines.append(shown)
    return lines


# --- the live line ------------------------------------------------------------------------------------------------------------


def test_a_run_at_80_columns_shows_all_of_its_line_and_the_evaluation(run_config, tmp_path):
    rows = tmp_path / "many.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chat(600)))
    config = run_config(
        data={"eval": [{"path": str(rows), "format": "chat"}]},
        trainer={"max_steps": 40, "eval_strategy": "steps", "eval_steps": 20, "per_device_eval_batch_size": 1},
    )
    status, output = in_terminal(80, [*LONGLINE, "train", str(config)])
    assert status == 0
    lines = [text for text in frames(output) if LINE.match(text)]
    assert lines
    assert all(len(text) <= 80 for text in lines)
    assert any(re.search(r"^20/40 evaluating \d+/600 loss ", text) for text in lines)
    last = [text for text in screen(output) if LINE.match(text)]
    assert len(last) == 1
    evaluated = float(re.findall(r"eval_loss ([\d.]+)", output)[-1])
    assert re.fullmatch(rf"40/40 .*loss [\d.]+ eval {evaluated:.3f} lr \S+ [\d,]+ tok/s 0:00:\d\d 0:00:00 left", last[0])


def test_ctrl_c_leaves_the_line_once(run_config):
    config = run_config(trainer={"max_steps": 100_000})
    status, output = in_terminal(80, [*LONGLINE, "train", str(config)], keys=b"\x03", after=r"loss [\d.]+ lr")
    assert status == 128 + signal.SIGINT
    shown = screen(output)
    assert len([text for text in shown if LINE.match(text)]) == 1
    assert [text for text in shown if "SIGINT" in text] == [
        "SIGINT: finishing this step and saving a checkpoint; once more stops at once"
    ]
    assert not any("^C" in text for text in shown)


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120])
def test_the_line_fits_whatever_the_numbers(width):
    console = Console()
    console.console = RichConsole(width=width, force_terminal=True, file=StringIO())
    console.step, console.max_steps = 123_456, 1_000_000
    console.pace.tokens = 12_345_678.0
    console.pace._first = (1, console.pace.begun - 1e6)
    console.last = {"loss": 12345.678, "eval_loss": 12.345, "rewards/margins": -12.34, "reward": 1.0, "learning_rate": 1e-5}
    line = console._line().plain
    assert len(line) <= width
    assert line.startswith("123456/1000000")
    assert (" left" in line) == (width > 30)
    console.last = {"loss": 5.731, "eval_loss": 2.877, "learning_rate": 1e-3}
    console.step, console.max_steps, console.pace.tokens = 1_234, 10_000, 12_263.0
    wanted = r"loss 5.731 eval 2.877 .*12,263 tok/s \d:\d\d:\d\d \S+ left"
    assert bool(re.search(wanted, console._line().plain)) == (width >= 80)


# --- how fast, and how long -----------------------------------------------------------------------------------------------------


class Slow(Plugin):
    @hookimpl
    def pre_optimizer_step(self):
        time.sleep(0.2)


def test_a_resumed_run_tells_of_its_own_part(run_longline, run_config, capsys):
    config = run_config(trainer={"max_steps": 8, "save_strategy": "steps", "save_steps": 4})
    run_longline(config)
    first = run_longline(config, overwrite=True)
    shutil.rmtree(first.output_dir / "checkpoint-8")
    capsys.readouterr()
    resumed = run_longline(config, resume="last", plugins=[Slow(PluginConfig())])
    tokens = {event["step"]: event["num_tokens"] for event in resumed.log if "num_tokens" in event}
    part = tokens[8] - tokens[4]
    out = capsys.readouterr().out
    told = f"completed: 8 steps, {tokens[8]:,} tokens; of these 4 steps, {part:,} tokens in "
    assert told in out
    assert resumed.manifest["summary"]["from_step"] == 4
    assert resumed.manifest["summary"]["from_tokens"] == tokens[4]
    rates = [int(rate.replace(",", "")) for rate in re.findall(r"step \d/8 .*  ([\d,]+) tokens/s", out)]
    assert rates[0] <= (tokens[5] - tokens[4]) / 0.2
    assert "step 5/8" in out
    assert "left" not in next(line for line in out.splitlines() if line.startswith("step 5/8"))


def test_the_pace_begins_where_the_run_does_and_leaves_out_what_is_no_training():
    pace = Pace(step=1000, tokens=1_000_000)
    assert pace.left(1000, 2000) is None
    for step in (1001, 1002):
        time.sleep(0.05)
        pace.stepped(step)
    pace.logged(1002, 1_000_300)
    assert 300 / 0.3 < pace.tokens < 300 / 0.1
    time.sleep(0.4)
    pace.paused()
    time.sleep(0.05)
    pace.stepped(1003)
    pace.logged(1003, 1_000_400)
    assert pace.tokens > 100 / 0.2, "the evaluation does not count"
    left = pace.left(1003, 2003)
    assert left is not None
    assert left > 1000 * 0.2, "it does for the time that is left"


def test_a_long_evaluation_is_told_in_a_pipe_twice_a_minute():
    out = StringIO()
    console = Console()
    console.console = RichConsole(width=200, file=out)
    console.step, console.max_steps = 100, 200
    console.evaluated(1, 300)
    console.evaluated(2, 300)
    assert out.getvalue() == ""
    console._told -= 31
    console._evaluation_begun -= 31
    console.evaluated(32, 300)
    assert re.fullmatch(r"step 100/200  evaluating 32/300  4 min \d+ s left\n", out.getvalue())


def test_a_long_wait_is_told_and_a_short_one_is_not(capsys):
    wait = Wait("answered", 40)
    wait.at(10)
    assert capsys.readouterr().err == ""
    wait._begun -= 31
    wait._told -= 31
    wait.at(20)
    assert re.fullmatch(r"answered 20/40, 31\.\d s left\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (3599.6, "1 h 0 min"), (90, "1 min 30 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_a_run_that_was_not_resumed_took():
    from longline.builtin.console import _took

    assert _took(Summary(steps=3, tokens=1200, train_seconds=2)) == "3 steps, 1,200 tokens in 2.0 s"


# --- loading --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(tiny_model_dir, tmp_path) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(tiny_model_dir, folder)
    return folder


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    save_file(
        {name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors", {"format": "pt"}
    )


def test_weights_that_are_missing_are_named(changed, run_config, capfd, caplog):
    rewrite(changed, **{"model.norm.weight": None, "model.layers.0.mlp.up_proj.weight": None})
    assert run_cli(["train", str(run_config(model={"path": str(changed)}))]) == 0
    told = f"warning: 2 weights of LlamaForCausalLM are not in {changed}, and start from random numbers: model.layers.0.mlp.up_proj"
    out, err = capfd.readouterr()
    assert [told in message for message in caplog.messages] == [True]
    assert "LOAD REPORT" not in out + err


def test_weights_of_another_size_are_named(changed, run_config, capfd):
    rewrite(changed, **{"model.norm.weight": torch.ones(7)})
    assert run_cli(["train", str(run_config(model={"path": str(changed)}))]) == 2
    err = capfd.readouterr().err
    assert "have other sizes than LlamaForCausalLM by its config: model.norm.weight is [7], not [32]" in err
    assert "report" not in err


def test_new_heads_and_new_tokens_are_no_news(run_config, preference_rows, capfd):
    pairs = {"train": [{"path": str(preference_rows), "format": "preference"}]}
    assert run_cli(["train", str(run_config(method="reward", data=pairs))]) == 0
    assert run_cli(["train", str(run_config(model={"tokenizer": {"add_tokens": ["<x>"]}})), "--overwrite"]) == 0
    out, err = capfd.readouterr()
    for word in ("LOAD REPORT", "MISSING", "multivariate", "mean_resizing", "random numbers"):
        assert word not in out + err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "this config has no evaluation data"),
        ({"eval": [{"path": "{folder}/none.jsonl"}]}, "none.jsonl"),
        ({"eval": [{"path": "{folder}/bad.jsonl", "format": "chat"}]}, "bad.jsonl:1"),
    ],
)
def test_evaluate_refuses_before_it_loads_a_model(changed, run_config, tmp_path, changes, message, capsys):
    (changed / "model.safetensors").unlink()
    (tmp_path / "bad.jsonl").write_text('{"messages": 3}\n')
    sources = {
        name: [{**item, "path": item["path"].format(folder=tmp_path)} for item in items] for name, items in changes.items()
    }
    assert run_cli(["evaluate", str(run_config(model={"path": str(changed)}, data=sources))]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "cannot load the model" not in err
