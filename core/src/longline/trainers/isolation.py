"""Whether a model keeps packed samples apart: seen on the model, as the trainer has it and feeds it.

Neither a config's names of layers nor the attention tells: classes leave out the positions where they make their masks, count
positions of their own, or carry a state along.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from longline import upstream
from longline.config.attention import ATTENTION
from longline.errors import ModelError
from longline.loss.head import bare
from longline.parallel.ranks import most

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.events import Column
    from longline.trainers.trainer import LonglineTrainer

SAMPLES = 3
SHORTEST, LONGEST = 8, 512
"""Tokens of a sample: more than a window of attention has, as far as PRODUCTS allow it."""
PRODUCTS = {"cpu": 1.5e10}
"""How many products of two numbers the probe may take: about a fifth of a second; ELSEWHERE on other devices."""
ELSEWHERE = 1e13


@dataclass(frozen=True, slots=True)
class Seen:
    """How far logits are off, in standard deviations of a token's logits: the mean over tokens.

    `first`: the first sample of a packed row from itself alone; nothing stands before it, so it shows what rounding does, unless
    what stands behind leaks. `others`: the others from themselves. `context`: a sample's end from itself behind another start.
    """

    first: float
    others: float
    context: float

    @property
    def leaks(self) -> bool:
        """Whether samples have an effect on each other; a NaN is one."""
        # Over 150 types leaks are 0.09 to 1 times what a context does. Rounding is 1e-6 of it, in bfloat16 up to 0.03, and never a
        # quarter of the logits themselves.
        return not (self.first <= 0.25 and self.others <= max(4 * self.first, 0.06 * self.context))

    @property
    def blind(self) -> bool:
        """Whether a context has no effect that could be told from rounding: weights that are zero, or nearly so."""
        return self.context <= max(4 * self.first, 1e-6)


def require_isolation(trainer: LonglineTrainer) -> None:
    """Compare a packed row of short samples with each alone, once, in well under a second; every rank must call it.

    Raises:
        ModelError: they differ.
    """
    model: Any = bare(trainer.model)
    name, taken = model.config.model_type, upstream.transformers.attention_of(model)
    try:
        seen = _look(trainer)
    except TypeError as error:
        raise ModelError(f"data.packing: {name} takes no packed samples: {error}", hint="set data.packing: false") from error
    if most(int(seen.leaks)):
        works = [other for other in _others(trainer, model, taken) if not most(int(_leaks_with(trainer, model, other)))]
        text = f"data.packing: with {taken} attention {name} does not keep packed samples apart: their logits differ from alone"
        instead = f", or model.attn_implementation: {' or '.join(works)}" if works else ""
        raise ModelError(f"{text} by {seen.others:.0%} of their spread", hint=f"set data.packing: false{instead}")
    if seen.blind and trainer.run.is_main:
        text = f"in {name} as it is loaded a token has no effect on those behind it, so it cannot be seen"
        trainer.run.alert("are packed samples kept apart?", text)


def _others(trainer: LonglineTrainer, model: Any, taken: str | None) -> list[str]:
    """The attentions that could be tried instead."""
    able = upstream.transformers.attentions_of(type(model), ATTENTION)
    return [name for name in able if name != taken and trainer.args.device.type in ATTENTION[name].devices]


def _leaks_with(trainer: LonglineTrainer, model: Any, attention: str) -> bool:
    try:
        model.set_attn_implementation(attention)
        return _look(trainer).leaks
    except (ImportError, ValueError, RuntimeError):  # its library is not there, or does not run here
        return True


def _look(trainer: LonglineTrainer) -> Seen:
    """Two forward passes: of a packed row, and of its samples as rows, with one more that starts otherwise."""
    length = _length(trainer)
    alone = _samples(trainer, length).to(trainer.args.device)
    packed = _packed(trainer, alone[:SAMPLES].tolist())
    with _still(trainer.model), torch.no_grad():
        together = trainer.packed_logits(packed)[:, : SAMPLES * length].float()
        expected = trainer.packed_logits({"input_ids": alone}).float()
    spread = expected.std(-1) + torch.finfo(torch.float32).tiny

    def off(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).pow(2).mean(-1).sqrt()

    differing = off(together.reshape(SAMPLES, length, -1), expected[:SAMPLES]) / spread[:SAMPLES]
    context = off(expected[SAMPLES], expected[1])[length // 2 :] / spread[1, length // 2 :]
    return Seen(*(float(part.mean()) for part in (differing[0], differing[1:], context)))


def _length(trainer: LonglineTrainer) -> int:
    """How long samples are."""
    model: Any = bare(trainer.model)
    numbers = vars(model.config.get_text_config()).items()
    windows = [value for name, value in numbers if ("window" in name or "chunk" in name) and type(value) is int]
    products = PRODUCTS.get(trainer.args.device.type, ELSEWHERE)
    affordable = int(products / (2 * SAMPLES + 1) / max(1, sum(part.numel() for part in model.parameters())))
    most_tokens = max(SHORTEST, min(LONGEST, affordable))
    return max(2, min(max([SHORTEST, *(window + 2 for window in windows)]), most_tokens, trainer.run.config.data.max_length))


def _samples(trainer: LonglineTrainer, length: int) -> torch.Tensor:
    """Token ids [SAMPLES + 1, length] at random, the last row the second one with another first half; ordinary tokens alone."""
    tokenizer: Any = trainer.processing_class
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    known = torch.tensor([token for token in range(len(tokenizer)) if token not in marks] or [0])
    # The same on all ranks, and the run's own random numbers stay as they are.
    drawn = torch.randint(len(known), (SAMPLES + 1, length), generator=torch.Generator().manual_seed(0))
    drawn[SAMPLES, length // 2 :] = drawn[1, length // 2 :]
    return known[drawn]


def _packed(trainer: LonglineTrainer, samples: list[list[int]]) -> dict[str, Any]:
    """What the model is fed for a row of these samples: through the run's collator, and as the trainer prepares a batch."""
    ids = [token for sample in samples for token in sample]
    lengths = [len(sample) for sample in samples]
    row = {"input_ids": ids, "labels": ids, "length": len(ids), "row_ids": list(range(len(samples))), "seq_lengths": lengths}
    row |= {column.name: _filled(column, len(samples), len(ids)) for column in trainer.run.columns}
    return trainer.fed([row])


def _filled(column: Column, samples: int, tokens: int) -> list[Any]:
    """A further column in which nothing is said."""
    value: Any = "" if column.dtype in ("text", "json") else column.fill
    return [value if column.width is None else [value] * column.width] * (tokens if column.align == "token" else samples)


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """Without dropout and other chance."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
