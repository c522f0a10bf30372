"""What plugins keep between steps: whole in every checkpoint, restored where it belongs, refused where it cannot be."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from longline import Plugin, PluginConfig, hookimpl
from longline.errors import PluginError, TrainingError
from longline.plugins import LoadedPlugin


class Counter(Plugin):
    """Keeps a number and a tensor."""

    def __init__(self, value: object = None) -> None:
        super().__init__(PluginConfig())
        self.steps, self.sums, self.value = 0, torch.zeros(2), value
        self.began_with: tuple[int, list[float]] | None = None

    @hookimpl
    def on_train_begin(self):
        self.began_with = (self.steps, self.sums.tolist())

    @hookimpl
    def post_optimizer_step(self, step):
        self.steps += 1
        self.sums += torch.tensor([1.0, step])

    def state(self):
        return {"steps": self.steps, "sums": self.sums[:2], "further": [None, "text", {"deep": 0.5}], "value": self.value}

    def restore(self, state):
        self.steps, self.sums = state["steps"], state["sums"]


class Stop(Plugin):
    @hookimpl
    def on_step_end(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def stopped(run_longline, run_config):
    """A run of four steps that was stopped after two, with a counter."""

    def run(counter: Plugin | None = None, name: str = "counter"):
        config = run_config(trainer={"max_steps": 4})
        plugins = [LoadedPlugin.of(counter, name, "continue")] if counter else []
        outcome = run_longline(config, plugins=[*plugins, Stop(PluginConfig())])
        assert outcome.result.status == "interrupted"
        return config, outcome.output_dir / "checkpoint-2"

    return run


def test_a_resumed_run_goes_on_with_what_the_plugin_kept(run_longline, stopped):
    config, checkpoint = stopped(Counter())
    assert [path.name for path in (checkpoint / "plugins").iterdir()] == ["counter.rank0.pt"]
    listed = json.loads((checkpoint / "plugins.json").read_text())
    assert [plugin["name"] for plugin in listed["plugins"]] == ["counter", "stop", "hookrecorder"]
    resumed = Counter()
    outcome = run_longline(config, plugins=[resumed], resume="last")
    assert resumed.began_with == (2, [2.0, 3.0])
    assert (resumed.steps, resumed.sums.tolist()) == (4, [4.0, 10.0])
    assert outcome.manifest["resumed_from"] == str(checkpoint)


def test_resumed_from_names_the_checkpoint(run_longline, stopped):
    class Reader(Plugin):
        @hookimpl
        def on_run_start(self, run):
            self.path = run.resumed_from

    config, checkpoint = stopped()
    reader = Reader(PluginConfig())
    run_longline(config, plugins=[reader], resume="last")
    assert reader.path == checkpoint


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_state_that_cannot_be_read_stops_before_any_work(run_longline, stopped, content):
    config, checkpoint = stopped(Counter())
    (checkpoint / "plugins" / "counter.rank0.pt").write_bytes(content)
    with pytest.raises(PluginError, match=r"the state of plugin 'counter' cannot be read: .*counter.rank0.pt"):
        run_longline(config, plugins=[Counter()], resume="last")


def test_a_state_from_elsewhere_runs_no_code(run_longline, stopped, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    config, checkpoint = stopped(Counter())
    torch.save({"steps": Evil()}, checkpoint / "plugins" / "counter.rank0.pt")
    with pytest.raises(PluginError, match="cannot be read"):
        run_longline(config, plugins=[Counter()], resume="last")
    assert not (tmp_path / "was-here").exists()


def test_a_plugin_that_cannot_take_its_state_back_is_named(run_longline, stopped):
    class Other(Counter):
        def restore(self, state):
            raise KeyError("another name")

    config, _ = stopped(Counter())
    with pytest.raises(PluginError, match="plugin 'counter' cannot take back its state: KeyError: 'another name'"):
        run_longline(config, plugins=[LoadedPlugin.of(Other(), "counter")], resume="last")


def test_what_could_not_be_read_again_is_refused_when_it_is_kept(run_longline):
    with pytest.raises(
        PluginError, match=r"plugin 'counter' cannot give its state: TypeError: state\(\)\['value'\] is a object"
    ):
        run_longline(plugins=[Counter(object())], trainer={"max_steps": 1, "save_strategy": "steps", "save_steps": 1})


def test_a_state_that_fails_leaves_no_half_checkpoint(run_longline, run_config):
    class Broken(Counter):
        def state(self):
            if self.steps > 1:
                raise OSError(28, "No space left on device")
            return super().state()

    config = run_config(trainer={"max_steps": 3, "save_strategy": "steps", "save_steps": 1})
    with pytest.raises((PluginError, TrainingError), match="No space left"):
        run_longline(config, plugins=[LoadedPlugin.of(Broken(), "counter")])
    folder = config.parent / "run"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (folder / ".saving").exists()


def test_a_plugin_that_was_added_or_removed_is_told(run_longline, stopped, capsys):
    config, _ = stopped(Counter())
    run_longline(config, plugins=[LoadedPlugin.of(Counter(), "newcomer")], resume="last")
    out = capsys.readouterr().out
    assert "plugin 'newcomer' was not enabled when the checkpoint was made, and starts without a state" in out
    assert "plugin 'counter' was enabled and is not now: the state that it kept is left out" in out
    assert "plugin 'stop' was enabled and is not now" in out


def test_a_plugin_of_another_version_is_told_and_gets_its_state(run_longline, stopped, capsys):
    config, checkpoint = stopped(Counter())
    path = checkpoint / "plugins.json"
    path.write_text(path.read_text().replace('"version": ""', '"version": "0.0.9"', 1))
    newer = Counter()
    run_longline(config, plugins=[newer], resume="last")
    assert "plugin 'counter' was 0.0.9 when the checkpoint was made; it is handed the state that the other version kept" in (
        capsys.readouterr().out
    )
    assert newer.began_with == (2, [2.0, 3.0])


def test_an_older_checkpoint_without_a_list_goes_on(run_longline, stopped):
    config, checkpoint = stopped()
    (checkpoint / "plugins.json").unlink()
    counter = Counter()
    assert run_longline(config, plugins=[counter], resume="last").result.status == "completed"
    assert counter.began_with == (0, [0.0, 0.0])
