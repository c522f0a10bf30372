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
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from longline.events import Alert, Completions, Table, Timing
from longline.hookspecs import HookFacts, hook_facts, hookimpl
from longline.plugins import LoadedPlugin, Plugin, PluginConfig

if TYPE_CHECKING:
    from longline.run import RunResult

UPDATE_TRACES = "LONGLINE_UPDATE_TRACES"
"""Set this environment variable to 1 to write golden traces instead of comparing with them."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of the tiny model: ChatML, without generation marks."""


# --- recording hooks ----------------------------------------------------------------------------------------------------------


class HookRecorder(Plugin):
    """A plugin that answers every hook, changes nothing, and writes down each call as one line in `calls`.

    A line is `hook(argument=value, ...)` without `run`. Values are summarised so that lines are the same in every run: numbers
    of steps, names and statuses as they are, a path by its name, a mapping of numbers by its sorted keys, an alert by level and
    title, completions and tables by what they are and how many, a timing by its name, everything else by its class.
    """

    def __init__(self, config: PluginConfig | None = None) -> None:
        super().__init__(config or PluginConfig())
        self.calls: list[str] = []

    def hooks(self, *names: str) -> list[str]:
        """Return the lines of some hooks, in the order of calls."""
        return [line for line in self.calls if line.partition("(")[0] in names]


def _recording(hook: str, facts: HookFacts) -> Callable[..., None]:
    """Make the method of HookRecorder for one hook; its signature names every argument of the specification."""

    def record(self: HookRecorder, **kwargs: Any) -> None:
        shown = [f"{name}={summarise(value)}" for name, value in kwargs.items() if name != "run"]
        self.calls.append(f"{hook}({', '.join(shown)})")

    record.__name__ = hook
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in facts.arguments]
    record.__signature__ = inspect.Signature([itself, *wanted])  # type: ignore[attr-defined]
    return hookimpl(record)


for _name, _facts in hook_facts().items():
    setattr(HookRecorder, _name, _recording(_name, _facts))


def summarise(value: object) -> str:
    """Return what a recorded line says of an argument; see HookRecorder."""
    if value is None or isinstance(value, (bool, int, str)):
        return str(value)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Alert):
        return f"{value.level}: {value.title}"
    if isinstance(value, Completions):
        return f"{len(value.rows)} {value.method} rows"
    if isinstance(value, Table):
        return f"{value.name}, {len(value.rows)} rows, step {value.step}"
    if isinstance(value, Timing):
        return value.name
    if isinstance(value, Mapping) and value and all(isinstance(item, (int, float)) for item in value.values()):
        return f"[{' '.join(sorted(map(str, value)))}]"
    if isinstance(value, type):
        return value.__name__
    return type(value).__name__


def assert_trace(actual: Sequence[str], golden: Path) -> None:
    """Compare recorded lines with the file `golden`, line by line; fails with the difference.

    With LONGLINE_UPDATE_TRACES=1 in the environment the file is written instead.
    """
    text = "".join(f"{line}\n" for line in actual)
    if os.environ.get(UPDATE_TRACES) == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
        return
    if not golden.exists():
        pytest.fail(f"there is no {golden}; {UPDATE_TRACES}=1 writes it")
    expected = golden.read_text(encoding="utf-8")
    if text != expected:
        lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), str(golden), "this run", lineterm="", n=2)
        pytest.fail("\n".join([*lines, f"{UPDATE_TRACES}=1 accepts this run"]), pytrace=False)


# --- a model and rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a random float32 Llama (2 layers, hidden size 32) and a byte-level BPE tokenizer of about 300 tokens.

    The tokenizer has a ChatML template; `<|im_end|>` ends turns and texts, `<|pad|>` pads. Weights are always the same.
    """
    folder = tmp_path_factory.mktemp("longline") / "tiny-llama"
    write_tiny_model(folder)
    return folder


def write_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write the model and tokenizer of `tiny_model_dir` into `folder`; the random state outside is left as it was."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of about 300 tokens that was trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([message["content"] for row in chat(40) for message in row["messages"]], trainer)
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "additional_special_tokens": ["<|im_start|>"]}
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=tokenizer, model_max_length=1024, **special)
    made.chat_template = CHATML
    return made


def chat(count: int) -> list[dict[str, Any]]:
    """Return `count` different short conversations in OpenAI's form; every third has a system message."""
    fish = ["cod", "tuna", "hake", "ling", "eel", "bream", "sole", "perch"]
    rows = []
    for index in range(count):
        name = fish[index % len(fish)]
        messages = [
            {"role": "user", "content": f"How many hooks for {index} {name}?"},
            {"role": "assistant", "content": f"Take {2 * index + 1} hooks for the {name}."},
        ]
        if index % 3 == 0:
            messages.insert(0, {"role": "system", "content": "You know fishing lines."})
        rows.append({"messages": messages})
    return rows


def preferences(count: int) -> list[dict[str, Any]]:
    """Return `count` different pairs of answers: prompt, chosen and rejected as lists of messages."""
    rows = []
    for index, row in enumerate(chat(count)):
        *prompt, chosen = row["messages"]
        rejected = {"role": "assistant", "content": f"No idea about {index}, ask somebody else."}
        rows.append({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]})
    return rows


@pytest.fixture
def preference_rows(tmp_path: Path) -> Path:
    """Write a JSONL file of 32 pairs of answers, for `method: dpo` and its kind."""
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(32)), encoding="utf-8")
    return path


@pytest.fixture
def chat_rows(tmp_path: Path) -> Path:
    """Write a JSONL file of 32 conversations."""
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat(32)), encoding="utf-8")
    return path


# --- running ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_config(tmp_path: Path, tiny_model_dir: Path, chat_rows: Path) -> Callable[..., Path]:
    """Return a function that writes a config and returns its path.

    `run_config(trainer={"max_steps": 3}, plugins=["mine"])`: keywords are merged into a config that trains the tiny model on
    `chat_rows` in float32 for 5 steps of 2 rows on the CPU, logs every step and saves no checkpoints. None removes a key.
    """

    def write(**overrides: Any) -> Path:
        import yaml

        base: dict[str, Any] = {
            "method": "sft",
            "model": {"path": str(tiny_model_dir), "dtype": "float32"},
            "data": {
                "train": [{"path": str(chat_rows), "format": "chat"}],
                "max_length": 128,
                "cache_dir": str(tmp_path / "cache"),
            },
            "trainer": {
                "max_steps": 5,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
            },
            "output_dir": str(tmp_path / "run"),
        }
        number = len(list(tmp_path.glob("config*.yaml")))
        path = tmp_path / f"config{number or ''}.yaml"
        path.write_text(yaml.safe_dump(merged(base, overrides), sort_keys=False), encoding="utf-8")
        return path

    return write


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` put in, mapping by mapping; a None removes the key."""
    result = dict(base)
    for key, value in overrides.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


@dataclass(frozen=True)
class Outcome:
    """What a run in a test came to: its result, its folder, and every hook call in order."""

    result: RunResult
    output_dir: Path
    calls: list[str]

    def hooks(self, *names: str) -> list[str]:
        """Return the recorded lines of some hooks, in the order of calls."""
        return [line for line in self.calls if line.partition("(")[0] in names]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The events of log.jsonl."""
        text = (self.output_dir / "log.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads((self.output_dir / "run.json").read_text(encoding="utf-8"))
        return content


@pytest.fixture
def run_longline(run_config: Callable[..., Path]) -> Callable[..., Outcome]:
    """Return a function that trains in this process and returns an Outcome.

    `run_longline(plugins=[MyPlugin(options)], trainer={"max_steps": 3})`. `plugins` are instances, LoadedPlugin for a name
    or `on_error`, and what a config's `plugins` may list: names of installed ones, and mappings of names to options. `config`
    is the path of a config to use instead of writing one from the other keywords; `recorder` is a HookRecorder of yours, for a
    run that raises; `resume` and `overwrite` are those of `longline.run.train`. What the run raises comes through.
    """

    def run(
        config: Path | None = None,
        *,
        plugins: Sequence[Plugin | LoadedPlugin | str | Mapping[str, Any]] = (),
        recorder: HookRecorder | None = None,
        resume: str | None = None,
        overwrite: bool = False,
        **overrides: Any,
    ) -> Outcome:
        from longline.config.loader import load_config
        from longline.run import train

        recorder = recorder or HookRecorder()
        named = [plugin for plugin in plugins if isinstance(plugin, (str, Mapping))]
        made = [plugin for plugin in (*plugins, recorder) if not isinstance(plugin, (str, Mapping))]
        extra = [plugin if isinstance(plugin, LoadedPlugin) else LoadedPlugin.of(plugin) for plugin in made]
        if config is not None and (named or overrides):
            raise TypeError("a config of your own says all: give it the plugins' names and the other keywords")
        loaded = load_config(config or run_config(**overrides, **({"plugins": named} if named else {})))
        result = train(loaded, resume=resume, overwrite=overwrite, plugins=extra)
        return Outcome(result, result.output_dir, recorder.calls)

    return run
