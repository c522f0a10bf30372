"""A run that is told to stop: by real signals, at every stage, once and twice."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from longline import Plugin, hookimpl
from longline.plugins import PluginConfig
from longline.process.signals import StopRequest

LONGLINE = [sys.executable, "-m", "longline"]


class SignalIn(Plugin):
    """Sends this process a real signal from a hook."""

    def __init__(self, hook: str, signum: int = signal.SIGINT, times: int = 1) -> None:
        super().__init__(PluginConfig())
        self.hook, self.signum, self.times = hook, signum, times

    def _here(self, hook: str) -> None:
        if hook == self.hook:
            for _ in range(self.times):
                signal.raise_signal(self.signum)

    @hookimpl
    def on_run_start(self):
        self._here("on_run_start")

    @hookimpl
    def pre_tokenizer_load(self):
        self._here("pre_tokenizer_load")

    @hookimpl
    def post_data_load(self):
        self._here("post_data_load")

    @hookimpl
    def post_model_load(self):
        self._here("post_model_load")

    @hookimpl
    def post_trainer_create(self):
        self._here("post_trainer_create")

    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            self._here("on_step_end")

    @hookimpl
    def on_train_end(self):
        self._here("on_train_end")

    @hookimpl
    def on_save(self):
        self._here("on_save")

    @hookimpl
    def on_run_end(self):
        self._here("on_run_end")


class AddCallback(Plugin):
    """Hands the trainer a callback of its own."""

    def __init__(self, callback) -> None:
        super().__init__(PluginConfig())
        self.callback = callback

    @hookimpl
    def post_trainer_create(self, trainer):
        trainer.add_callback(self.callback)


def whole(checkpoint: Path) -> bool:
    """Whether weights, trainer state and optimizer of a checkpoint can be read, and tell of the same step."""
    import torch

    state = json.loads((checkpoint / "trainer_state.json").read_text())
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    steps = {int(entry["step"]) for entry in optimizer["state"].values()}
    return bool(load_file(checkpoint / "model.safetensors")) and steps == {state["global_step"]} == {int(checkpoint.name[11:])}


# --- before, between and after the steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "signum"),
    [
        ("on_run_start", signal.SIGINT),
        ("pre_tokenizer_load", signal.SIGTERM),
        ("post_data_load", signal.SIGINT),
        ("post_model_load", signal.SIGTERM),
        ("post_trainer_create", signal.SIGINT),
    ],
)
def test_a_signal_before_training_ends_the_run_where_it_is(run_longline, hook, signum):
    outcome = run_longline(plugins=[SignalIn(hook, signum)])
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 128 + signum)
    assert outcome.manifest["status"] == "interrupted"
    assert outcome.manifest["exit_code"] == 128 + signum
    assert outcome.hooks("on_train_begin", "on_error") == []
    assert outcome.hooks("on_run_end") == ["on_run_end(status=interrupted, summary=Summary)"]
    assert not list(outcome.output_dir.glob("checkpoint-*"))
    assert not (outcome.output_dir / "model").exists()


def test_a_signal_that_a_library_swallows_stops_before_the_first_step(run_longline):
    class Careless(Plugin):
        @hookimpl
        def post_model_load(self):
            try:
                signal.raise_signal(signal.SIGINT)
            except Exception:
                return

    outcome = run_longline(plugins=[Careless(PluginConfig())])
    assert outcome.result.exit_code == 130
    assert outcome.hooks("on_train_begin") == []


@pytest.mark.parametrize(("signum", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 3)])
def test_a_signal_finishes_the_step_and_saves_it(run_longline, signum, times):
    """Three at once are one: a terminal and a launcher both pass on the same Ctrl-C."""
    outcome = run_longline(plugins=[SignalIn("on_step_end", signum, times)], trainer={"max_steps": 6})
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 128 + signum)
    assert outcome.manifest["summary"]["steps"] == 2
    assert [path.name for path in outcome.output_dir.glob("checkpoint-*")] == ["checkpoint-2"]
    assert whole(outcome.output_dir / "checkpoint-2")
    assert not (outcome.output_dir / "model").exists()
    assert not (outcome.output_dir / ".saving").exists()
    end = ["on_checkpoint(path=checkpoint-2, step=2)", "on_train_end(trainer=SFTTrainer)"]
    assert [call for call in outcome.calls[-5:] if "_log(" not in call][:2] == end
    assert outcome.calls[-1] == "on_run_end(status=interrupted, summary=Summary)"
    assert len(outcome.hooks("on_run_end")) == len(outcome.hooks("on_train_end")) == 1


@pytest.mark.parametrize("hook", ["on_train_end", "on_save", "on_run_end"])
def test_a_signal_after_the_last_step_comes_too_late(run_longline, hook):
    outcome = run_longline(plugins=[SignalIn(hook)], trainer={"max_steps": 2})
    assert (outcome.result.status, outcome.result.exit_code) == ("completed", 0)
    assert outcome.manifest["status"] == "completed"
    assert load_file(outcome.output_dir / "model" / "model.safetensors")


def test_a_signal_in_the_last_step_leaves_the_model_too(run_longline):
    outcome = run_longline(plugins=[SignalIn("on_step_end")], trainer={"max_steps": 2})
    assert outcome.result.status == "completed"
    assert whole(outcome.output_dir / "checkpoint-2")
    assert (outcome.output_dir / "model" / "model.safetensors").is_file()


def test_a_signal_in_the_middle_of_the_final_save_lets_it_finish(run_longline):
    from longline.trainers.sft import SFTTrainer

    class Interrupted(SFTTrainer):
        def save_final(self, folder):
            signal.raise_signal(signal.SIGINT)
            super().save_final(folder)

    class Own(Plugin):
        @hookimpl
        def provide_trainer_class(self):
            return Interrupted

    outcome = run_longline(plugins=[Own(PluginConfig())], trainer={"max_steps": 2})
    assert outcome.result.status == "completed"
    assert load_file(outcome.output_dir / "model" / "model.safetensors")


class Long(Plugin):
    """What a run does when its model is saved, and how far it came."""

    came = "nowhere"

    def __init__(self, before: str | None = None) -> None:
        super().__init__(PluginConfig())
        self.before = before

    @hookimpl
    def post_save(self):
        if self.before == "post_save":
            signal.raise_signal(signal.SIGINT)

    @hookimpl
    def on_trained(self, trainer):
        self.came = f"step {trainer.state.global_step}"
        signal.raise_signal(signal.SIGINT)
        self.came = "to the end"


def test_a_signal_in_what_takes_long_ends_it_at_once_and_the_model_is_there(run_longline):
    long = Long()
    outcome = run_longline(plugins=[long], trainer={"max_steps": 2})
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 130)
    assert long.came == "step 2"
    assert load_file(outcome.output_dir / "model" / "model.safetensors")


def test_who_stopped_a_run_while_it_was_saved_waits_for_nothing_more(run_longline):
    long = Long("post_save")
    outcome = run_longline(plugins=[long], trainer={"max_steps": 2})
    assert (outcome.result.status, long.came) == ("completed", "nowhere")


def test_a_signal_after_early_stopping_keeps_the_model(run_longline):
    """Training is over then, though not all steps were made: nothing is left to interrupt."""
    outcome = run_longline(
        plugins=[SignalIn("on_train_end")],
        data={"eval_fraction": 0.25},
        early_stopping={"patience": 1},
        trainer={"max_steps": 30, "learning_rate": 0.5, "eval_strategy": "steps", "eval_steps": 1},
    )
    assert outcome.manifest["summary"]["steps"] < 30
    assert outcome.result.status == "completed"
    assert (outcome.output_dir / "model").is_dir()


# --- evaluation ---------------------------------------------------------------------------------------------------------------


def counting(stop_at: int):
    """A callback that counts batches of evaluation and sends a signal in one of them."""
    from transformers import TrainerCallback

    class Count(TrainerCallback):
        batches = 0

        def on_prediction_step(self, args, state, control, **kwargs):
            self.batches += 1
            if self.batches == stop_at:
                signal.raise_signal(signal.SIGINT)

    return Count()


def test_a_signal_ends_an_evaluation_and_saves_what_was_trained(run_longline):
    counter = counting(stop_at=2)
    outcome = run_longline(
        plugins=[AddCallback(counter)],
        data={"eval_fraction": 0.5},
        trainer={"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 1, "max_steps": 9},
    )
    assert counter.batches == 2, "16 rows were left out"
    assert outcome.result.exit_code == 130
    assert outcome.hooks("on_evaluate") == []
    assert outcome.hooks("on_checkpoint") == ["on_checkpoint(path=checkpoint-3, step=3)"]
    assert whole(outcome.output_dir / "checkpoint-3")
    assert not [event for event in outcome.log if "eval_loss" in event]


def test_a_signal_in_the_evaluation_before_the_first_step_has_nothing_to_save(run_longline):
    outcome = run_longline(
        plugins=[AddCallback(counting(stop_at=1))],
        data={"eval_fraction": 0.5},
        trainer={"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True},
    )
    assert (outcome.result.status, outcome.result.exit_code) == ("interrupted", 130)
    assert not list(outcome.output_dir.glob("checkpoint-*"))
    assert outcome.hooks("on_error") == []


# --- nothing is left behind in the process ------------------------------------------------------------------------------------


def test_runs_after_each_other_share_nothing(run_longline, tmp_path):
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    threads = threading.active_count()
    stopped = run_longline(plugins=[SignalIn("on_step_end")], output_dir=str(tmp_path / "stopped"))
    first = run_longline(output_dir=str(tmp_path / "a"))
    calls = list(first.calls)
    second = run_longline(output_dir=str(tmp_path / "b"))
    assert stopped.result.status == "interrupted"
    assert first.calls == calls == second.calls
    assert first.manifest["id"] != second.manifest["id"]
    assert "signalin" not in second.manifest["hooks"]["plugins"]
    assert second.manifest["hooks"]["plugins"]["hookrecorder"]["on_step_end"]["calls"] == 5
    model = "model/model.safetensors"
    assert (first.output_dir / model).read_bytes() == (second.output_dir / model).read_bytes()
    assert {signum: signal.getsignal(signum) for signum in before} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_a_run_in_another_thread_leaves_signals_alone(run_longline):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run_longline(trainer={"max_steps": 2})))
    thread.start()
    thread.join()
    assert outcomes[0].result.status == "completed"


# --- real processes -----------------------------------------------------------------------------------------------------------


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.02)


def logged(folder: Path, step: int) -> bool:
    path = folder / "log.jsonl"
    return path.is_file() and f'"step": {step},' in path.read_text()


def test_ctrl_c_and_sigterm_stop_the_command_and_it_goes_on_where_it_was(run_config, tmp_path):
    config, folder = run_config(trainer={"max_steps": 100_000}), tmp_path / "run"
    for signum, extra in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        process = subprocess.Popen(
            [*LONGLINE, "train", str(config), *extra], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        reached = max([int(path.name[11:]) for path in folder.glob("checkpoint-*")], default=0)
        wait_for(lambda step=reached + 5: logged(folder, step), process)
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signum, err
        assert f"{signal.Signals(signum).name}: finishing this step and saving a checkpoint" in err
        assert "Traceback" not in err
        assert "go on with the same command and --resume" in out
        manifest = json.loads((folder / "run.json").read_text())
        assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 128 + signum)
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
        assert all(whole(path) for path in checkpoints)
        assert manifest["summary"]["steps"] == int(checkpoints[-1].name[11:]) >= reached + 5
        assert not (folder / "model").exists()
    assert len(checkpoints) == 2
    steps = [event["step"] for event in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "loss" in event]
    assert steps == list(range(1, steps[-1] + 1)), "each step is in the log once, over both runs"


STUCK = """
import sys, torch
from pathlib import Path
from longline import Plugin, hookimpl
from longline.config.loader import load_config
from longline.plugins import LoadedPlugin, PluginConfig
from longline.run import train

class Stuck(Plugin):
    @hookimpl
    def on_step_end(self, run):
        print("stuck", flush=True)
        torch.linalg.svd(torch.randn(6000, 6000))  # a minute or more in which Python runs no signal handler

train(load_config(Path(sys.argv[1])), plugins=[LoadedPlugin.of(Stuck(PluginConfig()))])
"""


def test_a_second_signal_stops_at_once_even_within_a_long_call(run_config, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(run_config())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline() != "stuck\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first one waits for the step"
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begin < 3
    process.communicate()
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 130)


def test_ctrl_c_while_libraries_are_imported(run_config, tmp_path):
    process = subprocess.Popen(
        [*LONGLINE, "train", str(run_config())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        time.sleep(2)
    else:
        wait_for(lambda: "libtorch" in maps.read_text(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == "stopped"
    assert not (tmp_path / "run" / "model").exists()


def test_a_ctrl_c_that_comes_twice_leaves_no_traceback(run_config):
    """Wherever the two fall: while libraries are imported, in the exit handlers, between both."""
    for delay in (0, 0.4):
        process = subprocess.Popen(
            [*LONGLINE, "train", str(run_config())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)  # the command has begun, however busy the machine is
        time.sleep(delay)
        for _ in range(6):
            process.send_signal(signal.SIGINT)
            time.sleep(0.03)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert err.strip().splitlines()[-1] == "stopped"


def test_a_ctrl_c_while_a_dataclass_is_made_ends_with_130(tmp_path):
    (tmp_path / "caught.py").write_text(
        "from longline.process import signals\n"
        "try:\n    exec('raise KeyboardInterrupt')\n"
        "except KeyboardInterrupt:\n    signals.leave(130)\nraise SystemExit(130)\n"
    )
    assert subprocess.run([sys.executable, "-m", "caught"], cwd=tmp_path, check=False).returncode == 130


def in_terminal(command: list[str]) -> tuple[int, int]:
    """Start a command in a terminal of its own; returns its number and the terminal, which closes when it is closed."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvp(command[0], command)

    def read() -> None:
        with suppress(OSError, ValueError):
            while True:  # a read that waits would keep it open
                if select.select([terminal], [], [], 0.1)[0]:
                    os.read(terminal, 65536)

    threading.Thread(target=read, daemon=True).start()
    return pid, terminal


def test_a_closed_terminal_stops_the_run_and_saves_it(run_config, tmp_path):
    pid, terminal = in_terminal([*LONGLINE, "train", str(run_config(trainer={"max_steps": 100_000}))])
    wait_for(lambda: logged(tmp_path / "run", 3))
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["status"], manifest["exit_code"]) == ("interrupted", 129)
    assert whole(tmp_path / "run" / f"checkpoint-{manifest['summary']['steps']}")


def test_under_nohup_a_closed_terminal_stops_nothing(run_config, tmp_path):
    config = str(run_config(trainer={"max_steps": 200}))
    pid, terminal = in_terminal(["sh", "-c", 'exec nohup "$@" >/dev/null 2>&1', "sh", *LONGLINE, "train", config])
    wait_for(lambda: logged(tmp_path / "run", 3))
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["summary"]["steps"] == 200


class LateRequest(StopRequest):
    """A signal arrives right after its flag was first read, where a real one can come while ranks agree on the step."""

    @property
    def signum(self) -> int | None:
        before, self.came = self.came, signal.SIGINT
        return before

    @signum.setter
    def signum(self, value: int | None) -> None:
        self.came = value


def test_a_signal_that_comes_while_the_flag_is_read_is_obeyed_at_the_next_step():
    from longline.trainers.bridge import HookBridge

    stop = LateRequest()
    bridge = HookBridge(SimpleNamespace(stop=stop, view=None), None)
    assert not bridge._asked_to_stop()
    assert bridge._asked_to_stop()
    assert stop.obeyed
