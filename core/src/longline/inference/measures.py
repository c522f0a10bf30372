"""Measures of a model on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline import stages
from longline.builtin.pace import Wait
from longline.errors import ConfigError, DataError
from longline.events import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longline.data.kinds import Kind
    from longline.inference.answers import Sampling
    from longline.inference.target import Target

Answering = Callable[..., Iterator[tuple[int, list[int]]]]


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out answer: the prompt's ids and the text that is right."""

    prompt: list[int]
    reference: str


class Awaited:
    """Rows that tell a person how many of them have been asked for."""

    def __init__(self, rows: Any) -> None:
        self._rows, self._wait = rows, Wait("measured", len(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int):
            self._wait.over() if index + 1 == len(self) else self._wait.at(index)
        return self._rows[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


def evaluation_rows(target: Target, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Prepare the evaluation data of a config, unpacked. Raises ConfigError when there is none."""
    section = target.state.loaded.config.data
    asked = section.eval or section.eval_fraction
    data = stages.data(target.state, tokenizer, alone=True).eval if asked else None
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

    collate = Collator(pad_token_id=int(tokenizer.pad_token_id))
    # Sums over all tokens, as in training: a mean of the means of batches would depend on the batch size.
    loss, right, count = 0.0, 0, 0
    for start in range(0, len(rows), batch_size):
        batch = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        labels = batch["labels"][:, 1:].to(model.device)
        with torch.inference_mode():
            logits = model(**inputs).logits[:, :-1].float()
        trained = labels != IGNORED
        loss += cross_entropy(logits[trained], labels[trained], reduction="sum").item()
        right += int((logits.argmax(-1) == labels)[trained].sum())
        count += int(trained.sum())
    if not count:
        raise DataError("the evaluation data has no trained token")
    mean = loss / count
    return {
        "eval_loss": mean,
        "eval_perplexity": math.exp(min(mean, 700.0)),  # beyond 709 a float overflows
        "eval_accuracy": right / count,
        "eval_tokens": count,
    }


def examples(rows: Any, tokenizer: PreTrainedTokenizerBase, kind: Kind) -> list[Example]:
    """The prompt and the right answer of each row that has one."""
    found = [kind.example(row) for row in rows]
    return [Example(list(prompt), _text(tokenizer, answer)) for prompt, answer in filter(None, found)]


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Any,
    sampling: Sampling,
    batch_size: int,
    answer: Answering,
    kind: Kind,
) -> list[dict[str, Any]]:
    """Answer every example of `rows` by `answer`; returns prompt, reference, answer and whether they are the same to the letter."""
    cut = examples(rows, tokenizer, kind)
    wait, answers = Wait("answered", len(cut)), {}
    for index, ids in answer(model, tokenizer, [example.prompt for example in cut], sampling, batch_size):
        answers[index] = ids
        wait.at(len(answers))
    wait.over()
    return [
        {
            "prompt": tokenizer.decode(example.prompt, skip_special_tokens=False),
            "reference": example.reference,
            "answer": (given := _text(tokenizer, answers[index])),
            "exact": given == example.reference,
        }
        for index, example in enumerate(cut)
    ]
