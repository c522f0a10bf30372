"""The test kit that plugin authors get."""

from __future__ import annotations

from pathlib import Path

import pytest

from longline import Alert
from longline.hookspecs import hook_facts
from longline.plugins import Bus, LoadedPlugin
from longline.testing import (
    UPDATE_TRACES,
    HookRecorder,
    assert_constructor_is_idle,
    assert_trace,
    chat,
    merged,
    summarise,
    write_tiny_model,
)


class BareRun:
    """All that a bus looks at in a run."""

    is_main = True


def test_the_recorder_answers_every_hook_and_writes_each_call_down():
    recorder = HookRecorder()
    bus = Bus([LoadedPlugin.of(recorder)])
    assert all(names == ["hookrecorder"] for names in bus.listeners().values())
    bus.hook.on_log(run=BareRun(), logs={"loss": 2.5, "epoch": 1.0}, step=3)
    bus.hook.on_checkpoint(run=BareRun(), path=Path("/somewhere/checkpoint-3"), step=3)
    bus.hook.on_alert(run=BareRun(), alert=Alert("too high", "a text"))
    assert bus.hook.provide_trainer_class(run=BareRun()) is None
    assert recorder.calls == [
        "on_log(logs=[epoch loss], step=3)",
        "on_checkpoint(path=checkpoint-3, step=3)",
        "on_alert(alert=warning: too high)",
        "provide_trainer_class()",
    ]
    assert recorder.hooks("on_alert", "on_save") == ["on_alert(alert=warning: too high)"]
    assert len(bus.listeners()) == len(hook_facts())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (4, "4"),
        ("policy", "policy"),
        (1.25, "float"),
        ({}, "dict"),
        ({"a": "b"}, "dict"),
        (Path, "Path"),
    ],
)
def test_values_are_summarised_so_that_runs_can_be_compared(value, text):
    assert summarise(value) == text


def test_a_trace_is_compared_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    golden = tmp_path / "traces" / "sft.txt"
    monkeypatch.delenv(UPDATE_TRACES, raising=False)
    with pytest.raises(pytest.fail.Exception, match="LONGLINE_UPDATE_TRACES=1 writes it"):
        assert_trace(["a()", "b()"], golden)
    monkeypatch.setenv(UPDATE_TRACES, "1")
    assert_trace(["a()", "b()"], golden)
    monkeypatch.delenv(UPDATE_TRACES)
    assert golden.read_text() == "a()\nb()\n"
    assert_trace(["a()", "b()"], golden)
    with pytest.raises(pytest.fail.Exception, match=r"\+c\(\)"):
        assert_trace(["a()", "b()", "c()"], golden)
    with pytest.raises(pytest.fail.Exception, match=r"-b\(\)"):
        assert_trace(["a()"], golden)


def test_overrides_are_merged_mapping_by_mapping():
    base = {"trainer": {"a": 1, "b": 2}, "data": [1]}
    assert merged(base, {"trainer": {"b": 3, "a": None}, "data": [2], "new": {}}) == {
        "trainer": {"b": 3},
        "data": [2],
        "new": {},
    }
    assert base == {"trainer": {"a": 1, "b": 2}, "data": [1]}


def test_the_tiny_model_is_always_the_same_and_whole(tiny_model_dir: Path, tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    state = torch.get_rng_state()
    write_tiny_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert (tmp_path / "model.safetensors").read_bytes() == (tiny_model_dir / "model.safetensors").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert "{% generation" not in tokenizer.chat_template
    messages = chat(3)[1]["messages"]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    turns = ["user\nHow many hooks for 1 tuna?", "assistant\nTake 3 hooks for the tuna."]
    assert text == "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(tokenizer("grüße 你好 🎣")["input_ids"]) == "grüße 你好 🎣"


def test_a_run_gives_its_log_manifest_and_hooks(run_longline):
    outcome = run_longline(trainer={"max_steps": 2})
    assert [event["step"] for event in outcome.log if "loss" in event] == [1, 2]
    assert outcome.manifest["status"] == outcome.result.status == "completed"
    assert outcome.hooks("on_step_end") == ["on_step_end(step=1)", "on_step_end(step=2)"]
    assert outcome.calls[0] == "on_run_start()"
    assert outcome.calls[-1] == "on_run_end(status=completed, summary=Summary)"
    stages = outcome.manifest["stages"]
    assert list(stages) == ["arguments", "tokenizer", "data", "model", "optimizer", "train", "save"]
    assert 0 < stages["optimizer"] <= stages["train"]


# --- a constructor does no work -------------------------------------------------------------------------------------------------

BUSY = {
    "file": ("open(__file__ + '.txt', 'w').close()", r"opens the file .*angler_file.py.txt$"),
    "socket": ("import socket; socket.socket().close()", "makes a socket"),
    "thread": ("import threading; threading.Thread(target=print, args=(chr(10),)).start()", "starts a thread"),
    "process": ("import subprocess; subprocess.run(['true'])", "starts the process true"),
    "heavy": ("import numpy", "imports numpy"),
    "slow": ("import time; time.sleep(0.06)", r"takes \d+ ms"),
}


def plugin_module(folder: Path, name: str, work: str, monkeypatch: pytest.MonkeyPatch):
    """A plugin class in a module of its own, whose constructor does some work."""
    lines = ["from longline import Plugin", "class Angler(Plugin):", "    def __init__(self, config):"]
    lines += ["        super().__init__(config)", f"        {work}"]
    (folder / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(folder)
    return __import__(name).Angler


@pytest.mark.parametrize("kind", BUSY)
def test_a_constructor_that_does_something_is_found(kind, tmp_path, monkeypatch):
    work, told = BUSY[kind]
    angler = plugin_module(tmp_path, f"angler_{kind}", work, monkeypatch)
    with pytest.raises(AssertionError, match=f"the constructor of angler_{kind}:Angler {told}"):
        assert_constructor_is_idle(angler, {})


def test_a_constructor_that_does_nothing_passes_and_wrong_options_do_not(tmp_path, monkeypatch):
    angler = plugin_module(tmp_path, "angler_idle", "import json, decimal; self.rod = json, decimal", monkeypatch)
    assert_constructor_is_idle(angler, {})
    with pytest.raises(AssertionError, match="cannot be made"):
        assert_constructor_is_idle(angler, {"bait": "worms"})
