"""The fields read from source are the fields of the real classes; wrong ones are told with the nearest right one."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest

from longline.config import fields
from longline.config.loader import load_config
from longline.errors import ConfigError
from longline.methods import find
from longline.methods.base import REFUSED

BASE = "model: {path: a/b}\ndata: {train: a/b}\noutput_dir: o\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trainer(line: str) -> dict[str, object]:
    Path("c.yaml").write_text(f"{BASE}trainer:\n  {line}\n", encoding="utf-8")
    return load_config(Path("c.yaml")).config.trainer


ARGUMENTS = "transformers.training_args:TrainingArguments"


def mistakes(text: str) -> list[str]:
    Path("c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(Path("c.yaml"))
    return [str(problem) for problem in caught.value.problems]


def _compare(read: dict[str, fields.LibraryField], real: type) -> None:
    own = {item.name: item for item in dataclasses.fields(real) if item.init and not item.name.startswith("_")}
    assert list(read) == list(own)
    for name, item in own.items():
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()  # type: ignore[misc]
        if not isinstance(read[name].default, fields.Unknown):
            assert read[name].default == default, name
            assert read[name].annotation.fit(default)[0], name
        assert read[name].help == item.metadata.get("help", ""), name


def test_trainer_fields_are_those_of_the_real_class() -> None:
    from transformers import TrainingArguments

    _compare(dict(find("sft").fields()), TrainingArguments)


def test_adapter_fields_are_those_of_the_real_class() -> None:
    from peft import LoraConfig

    _compare(dict(fields.adapter_fields()), LoraConfig)


def test_quantization_fields_are_those_of_the_real_constructor() -> None:
    from transformers import BitsAndBytesConfig

    real = inspect.signature(BitsAndBytesConfig.__init__).parameters
    expected = {name: item.default for name, item in real.items() if name not in {"self", "kwargs"}}
    assert {name: field.default for name, field in fields.quantization_fields().items()} == expected


def test_bases_are_followed_into_other_files_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a method of TRL needs: its class derives from one in another file, which derives from transformers'."""
    package = Path("pretend_trl")
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('never imported')\n", encoding="utf-8")
    (package / "base.py").write_text(
        "from dataclasses import dataclass, field\nfrom transformers import TrainingArguments\n"
        "@dataclass\nclass _Base(TrainingArguments):\n    logging_steps: float = field(default=10)\n",
        encoding="utf-8",
    )
    (package / "dpo.py").write_text(
        "from dataclasses import dataclass, field\nfrom typing import Optional\nfrom .base import _Base as Parent\n"
        "@dataclass\nclass DPOConfig(Parent):\n    beta: float = field(default=0.1, metadata={'help': 'How far.'})\n"
        "    names: Optional[list[str]] = None\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(".")
    read = fields.fields_of("pretend_trl.dpo:DPOConfig")
    assert [name for name in read if name not in find("sft").fields()] == ["beta", "names"]
    assert (read["beta"].default, read["beta"].help, read["logging_steps"].default) == (0.1, "How far.", 10)
    assert read["names"].annotation.fit(["a"])[0]
    assert not read["names"].annotation.fit([1])[0]


@pytest.mark.parametrize(
    ("head", "base", "has", "fields_of_base"),
    [
        ("from transformers import TrainingArguments as Parent", "Parent", "learning_rate", ARGUMENTS),
        ("import transformers", "transformers.TrainingArguments", "learning_rate", ARGUMENTS),
        ("import transformers as hf", "hf.TrainingArguments", "learning_rate", ARGUMENTS),
        ("from trl import DPOConfig", "DPOConfig", "beta", "trl.trainer.dpo_config:DPOConfig"),
        ("import trl", "trl.GRPOConfig", "num_generations", "trl.trainer.grpo_config:GRPOConfig"),
        ("from trl.experimental.cpo import CPOConfig", "CPOConfig", "cpo_alpha", "trl.experimental.cpo.cpo_config:CPOConfig"),
    ],
)
@pytest.mark.parametrize("body", ["pass", "own: int = 1"])
def test_a_class_of_a_plugin_has_the_fields_of_its_base(head, base, has, fields_of_base, body, monkeypatch, request) -> None:
    """However it is imported; trl and transformers themselves name their classes under TYPE_CHECKING alone."""
    name = f"own_{abs(hash(request.node.name))}"  # imports are looked up by name: every case has its own
    Path(f"{name}.py").write_text(f"{head}\nfrom dataclasses import dataclass\n@dataclass\nclass Own({base}):\n    {body}\n")
    monkeypatch.syspath_prepend(".")
    read = fields.fields_of(f"{name}:Own")
    assert has in read
    assert set(read) - {"own"} == set(fields.fields_of(fields_of_base))
    assert ("own" in read) is (body != "pass")


def test_every_refused_field_is_a_real_one() -> None:
    assert set(REFUSED) <= set(find("sft").fields())
    assert set(fields.REFUSED_ADAPTER_FIELDS) <= set(fields.adapter_fields())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from longline.config import fields; from longline.methods import find\n"
        "assert len(find('sft').fields()) > 50 and fields.adapter_fields() and fields.quantization_fields()\n"
        "assert find('sft').fields()['optim'].annotation.words()\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: '1e-4'", 1e-4),
        ("learning_rate: 1", 1),
        ("max_steps: 100.0", 100),
        ("max_steps: 1e2", 100),
        ("max_steps: '100'", 100),
        ("bf16: yes", True),
        ("bf16: 'False'", False),
        ("warmup_steps: 0.1", 0.1),
        ("eval_steps: null", None),
        ("save_strategy: no", "no"),
        ("lr_scheduler_type: cosine", "cosine"),
        ("lr_scheduler_kwargs: {num_cycles: 2}\n  lr_scheduler_type: cosine", {"num_cycles": 2}),
        ("include_for_metrics: [loss]", ["loss"]),
        ("optim_target_modules: [a]\n  optim: galore_adamw", ["a"]),
        ("optim_target_modules: a\n  optim: galore_adamw", "a"),
        ("run: 1", None),
    ],
)
def test_values_reach_the_library_in_its_own_type(line: str, expected: object) -> None:
    name = line.partition(":")[0]
    if name == "run":
        assert mistakes(f"{BASE}trainer:\n  {line}\n")
        return
    value = trainer(line)[name]
    assert value == expected
    assert type(deepcopy(value)) is type(expected)  # libraries are handed a copy of what is frozen


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: fast", '5:18: trainer.learning_rate: expected a number, got "fast"'),
        ("learning_rate:", "5:17: trainer.learning_rate: expected a number, got nothing"),
        ("learning_rate: -1", "5:18: trainer.learning_rate: must be at least 0, got -1"),
        ("learning_rate: .nan", "5:18: trainer.learning_rate: must be a finite number, got nan"),
        ("learning_rate: [1]", "5:18: trainer.learning_rate: expected a number, got a list"),
        ("max_steps: 1.5", "5:14: trainer.max_steps: expected a whole number, got 1.5"),
        ("max_steps: true", "5:14: trainer.max_steps: expected a whole number, got true"),
        ("bf16: maybe", '5:9: trainer.bf16: expected true or false, got "maybe"'),
        ("bf16: 2", "5:9: trainer.bf16: expected true or false, got 2"),
        ("seed: 99999999999", "5:9: trainer.seed: must be at most 4294967295, got 99999999999"),
        ("max_steps: 0", "5:14: trainer.max_steps: must be at least 1, or -1 for whole epochs, got 0"),
        ("adam_beta2: 1.0", "5:15: trainer.adam_beta2: must be less than 1, got 1.0"),
        (
            "per_device_train_batch_size: 1e30",
            "5:32: trainer.per_device_train_batch_size: must be at most 9223372036854775807, got 1000000000000000019884624838656",
        ),
        ("num_train_epochs: 0", "5:21: trainer.num_train_epochs: must be greater than 0, got 0"),
        ("save_total_limit: no", '5:21: trainer.save_total_limit: expected a whole number or nothing, got "no"'),
        (
            "save_strategy: epochs",
            '5:18: trainer.save_strategy: "epochs" is not one of no, steps, epoch, best (did you mean `epoch`?)',
        ),
        ("include_for_metrics: [1]", "5:24: trainer.include_for_metrics: expected a list (each item text), got a list"),
        ("lerning_rate: 1", "5:3: trainer.lerning_rate: unknown field (did you mean `learning_rate`?)"),
        ("learning-rate: 1", "5:3: trainer.learning-rate: unknown field (did you mean `learning_rate`?)"),
        (
            "group_by_length: true",
            "5:3: trainer.group_by_length: unknown field (write `train_sampling_strategy: group_by_length`)",
        ),
        ("warmup_ratio: 0.1", "5:3: trainer.warmup_ratio: unknown field (write `warmup_steps: 0.1` for a share of all steps)"),
        ("max_length: 5", "5:3: trainer.max_length: unknown field (use `data.max_length`)"),
        ("output_dir: o", "5:3: trainer.output_dir: is not set here (set `output_dir` at the top of the config)"),
        ("report_to: wandb", "5:3: trainer.report_to: is not set here (Longline's own log is log.jsonl; trackers are plugins)"),
        (
            "resume_from_checkpoint: x",
            "5:3: trainer.resume_from_checkpoint: is not set here (use `longline train CONFIG --resume`)",
        ),
        (
            "train_sampling_strategy: grouped",
            (
                '5:28: trainer.train_sampling_strategy: "grouped" is not one of '
                "random, sequential, group_by_length, batch_rebalance"
            ),
        ),
        (
            "parallelism_config: {tp_size: 2}",
            (
                "5:23: trainer.parallelism_config: expected an object of the class ParallelismConfig "
                "(which a config cannot hold) or nothing, got keys with values"
            ),
        ),
    ],
)
def test_a_wrong_trainer_field(line: str, expected: str) -> None:
    assert mistakes(f"{BASE}trainer:\n  {line}\n") == [f"c.yaml:{expected}"]


def test_the_nearest_optimizer_begins_alike() -> None:
    (text,) = mistakes(f"{BASE}trainer: {{optim: adam}}\n")
    assert text.endswith("(did you mean `adamw_torch`?)")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lora_alfa: 4", "4:11: adapter.lora_alfa: unknown field (did you mean `lora_alpha`?)"),
        ("rr: 4", "4:11: adapter.rr: unknown field (did you mean `r`?)"),
        ("lora_alpha: 0", "4:23: adapter.lora_alpha: must be greater than 0, got 0"),
        ("lora_dropout: 1.5", "4:25: adapter.lora_dropout: must be at most 1, got 1.5"),
        ("lora_dropout: high", '4:25: adapter.lora_dropout: expected a number, got "high"'),
        ("bias: everything", '4:17: adapter.bias: "everything" is not one of none, all, lora_only'),
        ("task_type: CAUSAL_LM", "4:11: adapter.task_type: is not set here (Longline sets it)"),
        ("init_lora_weights: pisa", None),
    ],
)
def test_a_wrong_adapter_field(line: str, expected: str | None) -> None:
    found = mistakes(f"{BASE}adapter: {{{line}}}\n")
    if expected is None:
        assert "is not one of gaussian, eva, olora, pissa" in found[0]
    else:
        assert found == [f"c.yaml:{expected}"]


def test_adapter_fields_that_are_right() -> None:
    fields_given = "r: 4, lora_alpha: 8.0, init_lora_weights: pissa_niter_16, rank_pattern: {q: 2}, layers_to_transform: [0, 1]"
    text = f"{BASE}adapter: {{{fields_given}}}\n"
    Path("c.yaml").write_text(text, encoding="utf-8")
    adapter = load_config(Path("c.yaml")).config.adapter
    assert adapter is not None
    assert adapter.model_extra == {
        "lora_alpha": 8,
        "init_lora_weights": "pissa_niter_16",
        "rank_pattern": {"q": 2},
        "layers_to_transform": [0, 1],
    }


def test_a_wrong_quantization_field() -> None:
    text = BASE.replace("a/b}\ndata", "a/b, quantization: {load_in_4bits: true, load_in_8bit: 3}}\ndata")
    assert mistakes(text) == [
        "c.yaml:1:35: model.quantization.load_in_4bits: unknown field (did you mean `load_in_4bit`?)",
        "c.yaml:1:70: model.quantization.load_in_8bit: expected true or false, got 3",
    ]
