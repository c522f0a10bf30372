"""The test kit for plugin authors: a pytest plugin that comes with Longline. It imports neither torch nor transformers.

Fixtures:

- `tiny_model_dir`: a folder with a random Llama of two layers and its tokenizer, made on the spot;
- `chat_rows`: a JSONL file of conversations; `preference_rows`: one of pairs of answers;
- `run_config`: writes a config that trains that model on those rows in seconds;
- `run_longline`: runs such a config in this process, with your plugin, and returns what happened;
- `run_process`: the same in a process of its own, or with `ranks=2` in two;
- `run_command`: any command of Longline, with your plugin's class by name as if it was installed;
- `assert_resume_equal`: fails unless a run with your plugin, interrupted and resumed, is the run without an interruption;
- `assert_well_behaved`: tries all that a plugin has to be, and fails with a checklist;
- `webhook` and `openai_server`: servers on this machine that answer as a test scripts it;
- `convert_axolotl`: what `longline convert axolotl` makes of some lines, for a plugin that translates keys of its own.

A test of a plugin, complete:

    def test_my_plugin(run_longline):
        outcome = run_longline(plugins=[MyPlugin(MyConfig(every=2))], trainer={"max_steps": 4})
        assert outcome.result.status == "completed"
        assert outcome.hooks("on_alert") == ["on_alert(alert=warning: the loss is high)"]

`fail_at(hook, n, how)` is a plugin that raises, exits, hangs or gets a signal at the n-th call of a hook. `MemoryTracker` keeps all
events of a run, `assert_no_secret` looks for a planted secret in files, logs and requests,
`HookRecorder` is a plugin that writes down every hook; `assert_trace` compares what it wrote with a file.
`assert_constructor_is_idle` tries that a plugin is made without any work, `assert_import_is_light` that importing it costs little.
"""

from __future__ import annotations

from longline.testing.behaviour import assert_constructor_is_idle, assert_import_is_light
from longline.testing.converting import convert_axolotl
from longline.testing.faults import at_step, fail_at
from longline.testing.process import Ended, run_command, run_process
from longline.testing.recorder import UPDATE_TRACES, HookRecorder, MemoryTracker, assert_trace, summarise
from longline.testing.resume import assert_resume_equal
from longline.testing.running import Outcome, merged, run_config, run_longline
from longline.testing.secrets import assert_no_secret
from longline.testing.servers import (
    BROKEN,
    GARBAGE,
    SILENCE,
    TOO_MANY,
    Answer,
    OpenAIServer,
    Request,
    Server,
    openai_server,
    serve,
    webhook,
)
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
from longline.testing.well_behaved import assert_well_behaved

__all__ = [
    "BROKEN",
    "CHATML",
    "GARBAGE",
    "SILENCE",
    "TOO_MANY",
    "UPDATE_TRACES",
    "Answer",
    "Ended",
    "HookRecorder",
    "MemoryTracker",
    "OpenAIServer",
    "Outcome",
    "Request",
    "Server",
    "assert_constructor_is_idle",
    "assert_import_is_light",
    "assert_no_secret",
    "assert_resume_equal",
    "assert_trace",
    "assert_well_behaved",
    "at_step",
    "chat",
    "chat_rows",
    "convert_axolotl",
    "fail_at",
    "merged",
    "openai_server",
    "preference_rows",
    "preferences",
    "run_command",
    "run_config",
    "run_longline",
    "run_process",
    "serve",
    "summarise",
    "tiny_model_dir",
    "tiny_tokenizer",
    "webhook",
    "write_tiny_model",
]
