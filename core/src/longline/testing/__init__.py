"""The test kit for plugin authors: a pytest plugin that comes with Longline. It imports neither torch nor transformers.

Fixtures:

- `tiny_model_dir`: a folder with a random Llama of two layers and its tokenizer, made on the spot;
- `chat_rows`: a JSONL file of conversations; `preference_rows`: one of pairs of answers;
- `run_config`: writes a config that trains that model on those rows in seconds;
- `run_longline`: runs such a config in this process, with your plugin, and returns what happened.

A test of a plugin, complete:

    def test_my_plugin(run_longline):
        outcome = run_longline(plugins=[MyPlugin(MyConfig(every=2))], trainer={"max_steps": 4})
        assert outcome.result.status == "completed"
        assert outcome.hooks("on_alert") == ["on_alert(alert=warning: the loss is high)"]

`HookRecorder` is a plugin that writes down every hook; `assert_trace` compares what it wrote with a file.
`assert_constructor_is_idle` tries that a plugin is made without any work.
"""

from __future__ import annotations

from longline.testing.behaviour import assert_constructor_is_idle
from longline.testing.recorder import UPDATE_TRACES, HookRecorder, assert_trace, summarise
from longline.testing.running import Outcome, merged, run_config, run_longline
from longline.testing.tiny import (
    CHATML,
    chat,
    chat_rows,
    preference_rows,
    preferences,
    tiny_model_dir,
    tiny_tokenizer,
    write_tiny_model,
)

__all__ = [
    "CHATML",
    "UPDATE_TRACES",
    "HookRecorder",
    "Outcome",
    "assert_constructor_is_idle",
    "assert_trace",
    "chat",
    "chat_rows",
    "merged",
    "preference_rows",
    "preferences",
    "run_config",
    "run_longline",
    "summarise",
    "tiny_model_dir",
    "tiny_tokenizer",
    "write_tiny_model",
]
