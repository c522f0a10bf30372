"""A model for use, not for training: what a config, a run folder or a model path stands for, answers, and measures of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longline import artifacts, distributed
from longline import model as models
from longline.config.loader import LoadedConfig, load_config
from longline.config.sections import ModelSection
from longline.errors import ConfigError, DataError, ModelError
from longline.plan import METHODS, Head, build_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longline.config.sections import Dtype


@dataclass(frozen=True, slots=True)
class Target:
    """What a person named on the command line. `weights` are a run's own; None means the model as it came."""

    section: ModelSection
    loaded: LoadedConfig | None = None
    run_dir: Path | None = None
    weights: Path | None = None

    @property
    def head(self) -> Head:
        """What the model puts out: tokens, or one score after a reward run."""
        return METHODS[self.loaded.config.method].head if self.loaded and self.run_dir else "tokens"

    @property
    def name(self) -> str:
        """What to call it in messages and files."""
        return str(self.weights or self.section.path)


def find_target(text: str, overrides: Sequence[str] = (), *, base: bool = False, checkpoint: str | None = None) -> Target:
    """Tell apart a config file, a run folder, and anything that `model.path` may be.

    `base` asks for the untuned model of a run, `checkpoint` for one of its checkpoints (a name or a path).

    Raises:
        ConfigError: a run has no such weights, or options that belong to a run are given without one.
    """
    path = Path(text).expanduser()
    if path.is_dir() and (path / "run.json").is_file():
        loaded = load_config(path / "config.yaml", overrides, data_files=False)
        weights = None if base else _weights(path, checkpoint)
        return Target(loaded.config.model, loaded, path, weights)
    if checkpoint:
        raise ConfigError(f"--checkpoint: {text} is not a run folder")
    if path.suffix in (".yaml", ".yml"):
        loaded = load_config(path, overrides, data_files=False)
        return Target(loaded.config.model, loaded)
    if overrides:
        raise ConfigError("--set changes a config, and the target is none")
    return Target(ModelSection(path=text))


def _weights(run_dir: Path, checkpoint: str | None) -> Path:
    if checkpoint is None:
        if not (run_dir / "model").is_dir():
            found = artifacts.checkpoints(run_dir)
            hint = f"--checkpoint {found[-1].name}" if found else "train it first"
            raise ConfigError(
                f"{run_dir} has no final model: the run is {artifacts.read_manifest(run_dir)['status']}", hint=hint
            )
        return run_dir / "model"
    for path in (run_dir / checkpoint, Path(checkpoint)):
        if (path / "trainer_state.json").is_file():
            return path
    names = ", ".join(path.name for path in artifacts.checkpoints(run_dir)) or "none"
    raise ConfigError(f"--checkpoint: {checkpoint} is none of the run's checkpoints: {names}")


def load(target: Target, dtype: Dtype = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer in evaluation mode, an adapter on top of its base, on the best device of this machine.

    `auto` is what a run used, so that its numbers come out again; without a run it is bfloat16 where the device computes in it
    and float32 elsewhere, since nothing is trained here.
    """
    section = target.section
    tokenizer = models.load_tokenizer(_tuned(section, target.weights) if target.weights else section)
    machine = distributed.machine(use_cpu=_use_cpu(target))
    chosen = dtype if dtype != "auto" else section.dtype
    if chosen == "auto" and target.run_dir:
        chosen = artifacts.read_manifest(target.run_dir)["plan"]["dtype"]
    if chosen == "auto":
        chosen = "bfloat16" if machine.bfloat16 else "float32"
    adapter = target.weights is not None and (target.weights / "adapter_config.json").is_file()
    source = section if adapter or target.weights is None else _tuned(section, target.weights)
    model = models.load_model(source, models.model_kwargs(source, chosen, target.head), target.head)
    models.resize_embeddings(model, tokenizer)
    if adapter:
        model = _put_on(model, target)
    ready: PreTrainedModel = cast("Any", model).to(machine.device).eval()
    return ready, tokenizer


def _use_cpu(target: Target) -> bool:
    return bool(target.loaded and target.loaded.config.trainer.get("use_cpu"))


def _tuned(section: ModelSection, weights: Path) -> ModelSection:
    """The section for a folder that a run saved: everything the config changed is in the folder already."""
    keep = {"attn_implementation": section.attn_implementation, "trust_remote_code": section.trust_remote_code}
    return ModelSection(path=str(weights.absolute()), dtype=section.dtype, **keep)


def _put_on(model: PreTrainedModel, target: Target) -> PreTrainedModel:
    from peft import PeftModel

    try:
        adapted: PreTrainedModel = PeftModel.from_pretrained(model, str(target.weights))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot put the adapter {target.weights} on {target.section.path}: {first}") from error
    return adapted


# --- answers --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn: temperature 0 takes the likeliest token each time."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0

    def kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of `model.generate`."""
        if self.temperature <= 0:
            # None, since models ship sampling defaults that greedy decoding would complain about
            return {
                "max_new_tokens": self.max_new_tokens,
                "do_sample": False,
                "temperature": None,
                "top_p": None,
                "top_k": None,
            }
        return {"max_new_tokens": self.max_new_tokens, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_size: int = 16,
) -> Iterator[tuple[int, list[int]]]:
    """Answer prompts of token ids in left-padded batches of like length; yields (index of the prompt, new token ids)."""
    import torch

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    ends = end_tokens(model, tokenizer)
    pad = int(tokenizer.pad_token_id)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in batch)
        rows = [[pad] * (width - len(prompts[index])) + list(prompts[index]) for index in batch]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in batch]
        with torch.inference_mode():
            out = cast("Any", model).generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                eos_token_id=ends,
                pad_token_id=pad,
                **sampling.kwargs(),
            )
        for index, row in zip(batch, out[:, width:].tolist(), strict=True):
            cut = next((place for place, token in enumerate(row) if token in ends), len(row))
            yield index, row[:cut]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer: the tokenizer's and those of the model's own generation config."""
    own = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None})


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Return the ids of a conversation up to where the assistant's answer begins.

    Raises:
        ModelError: the model has no chat template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ModelError("this model has no chat template", hint="use --raw, or set model.tokenizer.chat_template")
    try:
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    except Exception as error:
        raise ModelError(f"the chat template refuses these messages: {error}") from error
    return cast("list[int]", ids)


# --- measures -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out answer: the prompt's ids and the text that is right."""

    prompt: list[int]
    reference: str


def evaluation_rows(target: Target, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Prepare the evaluation data of a config, unpacked.

    Raises:
        ConfigError: the target has no config, or the config no evaluation data.
    """
    from longline.data import prepare

    if target.loaded is None:
        raise ConfigError("evaluate needs a config or a run folder: it says what the evaluation data is")
    config = target.loaded.config
    if config.method != "sft":
        raise ConfigError(
            f"evaluate measures answers that are known, and {config.method} has rows of another kind",
            hint="its own measures are in log.jsonl; an sft config with this model's path measures it on answers",
        )
    seed = build_plan(config, distributed.machine(use_cpu=True)).seed
    data = prepare(config.data, tokenizer, layout="padded", seed=seed).eval
    if data is None or not len(data):
        raise ConfigError("this config has no evaluation data", hint="set data.eval or data.eval_fraction")
    return data


def measure_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Any, batch_size: int = 8
) -> dict[str, float]:
    """Return the mean loss over all trained tokens of `rows`, its perplexity, and the share of tokens guessed right."""
    import torch
    from torch.nn.functional import cross_entropy

    from longline.data.collate import Collator

    collate = Collator(pad_token_id=int(tokenizer.pad_token_id), layout="padded")
    loss, right, count = 0.0, 0, 0
    for start in range(0, len(rows), batch_size):
        batch = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        labels = batch["labels"][:, 1:].to(model.device)
        with torch.inference_mode():
            logits = model(**inputs).logits[:, :-1].float()
        trained = labels != -100
        loss += cross_entropy(logits[trained], labels[trained], reduction="sum").item()
        right += int((logits.argmax(-1) == labels)[trained].sum())
        count += int(trained.sum())
    if not count:
        raise DataError("the evaluation data has no trained token")
    mean = loss / count
    return {
        "eval_loss": mean,
        "eval_perplexity": math.exp(min(mean, 700.0)),
        "eval_accuracy": right / count,
        "eval_tokens": count,
    }


def examples(rows: Any, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Cut each row at its last trained stretch: what comes before is the prompt, the stretch is the right answer."""
    found = []
    for row in rows:
        ids, labels = row["input_ids"], row["labels"]
        end = max((place for place, label in enumerate(labels) if label != -100), default=-1) + 1
        start = end
        while start > 0 and labels[start - 1] != -100:
            start -= 1
        if 0 < start < end:
            found.append(Example(list(ids[:start]), _text(tokenizer, ids[start:end])))
    return found


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Any, sampling: Sampling, batch_size: int
) -> list[dict[str, Any]]:
    """Answer every example of `rows`; returns prompt, reference, answer and whether they are the same to the letter."""
    cut = examples(rows, tokenizer)
    answers = dict(answer_all(model, tokenizer, [example.prompt for example in cut], sampling, batch_size))
    return [
        {
            "prompt": tokenizer.decode(example.prompt, skip_special_tokens=False),
            "reference": example.reference,
            "answer": (answer := _text(tokenizer, answers[index])),
            "exact": answer == example.reference,
        }
        for index, example in enumerate(cut)
    ]
