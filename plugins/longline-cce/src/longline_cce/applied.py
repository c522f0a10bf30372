"""The loss on one model: installed at its output head, tried out on a few tokens, and told of in a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from longline import LonglineError
from longline.loss.head import HeadTap, bare
from longline_cce.choice import Choice, Place, choose
from longline_cce.heads import read, refusal
from longline_cce.needs import REMOVE

if TYPE_CHECKING:
    from torch import nn

    from longline.events import Cell
    from longline.loss.head import Transform
    from longline_cce.config import CceConfig

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""How far, of the plain loss, ours may be from it on the trial's tokens; for other types:"""
ROUNDED = 0.02
TRIAL = 16
"""How many tokens are tried out."""
COLUMNS = ("what", "asked", "applied", "why")


class HeadLoss:
    """Computes the loss of the trained tokens from hidden states and head, for `provide_loss`."""

    def __init__(self, model: Any, options: CceConfig) -> None:
        """Install it on a bare or adapted model; an unfit one is a ModelError."""
        self.options = options
        self.tap = HeadTap(model, self._compute)
        self.choice: Choice | None = None
        self.kind = ""
        self.trial = ""

    def __call__(self, trainer: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        """The trainer's loss and outputs; an evaluation that wants logits gets the plain ones."""
        if trainer.wants_logits:
            return trainer.method_loss(model, inputs, num_items_in_batch)
        with self.tap.armed(inputs["labels"]):
            return trainer.method_loss(model, inputs, num_items_in_batch)

    def _compute(self, hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor, transform: Transform) -> torch.Tensor:
        product = read(head, hidden).scaled(transform.scale)
        return self.choice.loss(product, targets, transform.softcap)  # type: ignore[union-attr]

    # --- the start ----------------------------------------------------------------------------------------------------------------

    def settle(self, trainer: Any) -> None:
        """Choose the arithmetic for the trainer's device and types, and try it on the model.

        Raises:
            LonglineError: what was asked for cannot be applied, or the trial's loss is not the plain one.
        """
        for name, value in (
            ("label_smoothing_factor", trainer.label_smoother),
            ("compute_loss_func", trainer.compute_loss_func),
        ):
            if value is not None:
                raise refusal(f"{name} wants all logits", f"remove {name}, or {REMOVE}")
        if trainer.has_own_loss:
            name = type(trainer).__name__
            raise refusal(
                f"the trainer class {name} computes a loss of its own", f"leave out what provides {name}, or {REMOVE}"
            )
        model = bare(trainer.model)
        weight = model.get_output_embeddings().weight
        self.choice = self._choose(trainer, model)
        if weight.is_meta:
            self.trial = "made on the main rank, where the weights are"
        else:
            self._try(trainer, weight.device, self.choice)

    def _choose(self, trainer: Any, model: Any) -> Choice:
        head = model.get_output_embeddings()
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        device = trainer.args.device
        with torch.no_grad():
            product = read(head, torch.zeros(1, head.weight.shape[-1], device=head.weight.device, dtype=head.weight.dtype))
        tied = head.weight is model.get_input_embeddings().weight
        self.kind = f"{tuple(head.weight.shape)}, {product.kind}{', tied to the embedding' if tied else ''}"
        dtype = dtypes.get(trainer.accelerator.mixed_precision, head.weight.dtype)
        return choose(self.options, product, Place.of(device, dtype))

    def _try(self, trainer: Any, device: torch.device, chosen: Choice) -> None:
        """Compare plain loss and this one on a few tokens of the data."""
        tried = chosen
        if chosen.impl == "cce" and device.type != "cuda":
            self.choice = tried = Choice("chunked", f"the weights are still on {device.type}", {})
        ids = torch.tensor([trainer.train_dataset[0]["input_ids"][:TRIAL]], device=device)
        batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        model, training = trainer.model, trainer.model.training
        try:
            model.eval()
            with torch.no_grad(), trainer.accelerator.autocast():
                plain = float(model(**batch).loss)
                with self.tap.armed(ids):
                    ours = float(model(**batch).loss)
        finally:
            model.train(training)
            self.choice = chosen
        self._judge(plain, ours, trainer)
        if tried is not chosen:
            self.trial += f"; made with {tried.impl}, since {tried.why}"

    def _judge(self, plain: float, ours: float, trainer: Any) -> None:
        rounded = trainer.accelerator.mixed_precision != "no"
        dtype = bare(trainer.model).get_output_embeddings().weight.dtype
        allowed = ROUNDED if rounded else TOLERANCE.get(dtype, ROUNDED)
        off = abs(plain - ours) / max(abs(plain), 1e-6)
        self.trial = f"{plain:.6g} plain, {ours:.6g} here, off by {off:.1e} of {allowed:.0e} allowed"
        if not math.isfinite(off) or off > allowed:
            raise LonglineError(f"not applied: the loss of a few tokens differs: {self.trial}", hint=REMOVE)

    # --- the table ----------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[Cell, ...]]:
        """What was asked, what is applied, and why; by `COLUMNS`."""
        if self.choice is None:
            return []
        options, choice, seen = self.options, self.choice, self.tap.transform
        rows: list[tuple[Cell, ...]] = [
            ("loss", options.impl, choice.impl, choice.why),
            ("head", "", "yes", self.kind),
            ("softcapping", "by the model", _shown(seen.softcap if seen else None), "as a probe came out of the model"),
            (
                "scaling",
                "by the model",
                _shown(seen.scale if seen and seen.scale != 1 else None),
                "as a probe came out of the model",
            ),
        ]
        for option, name in (("filter_eps", "filter_eps"), ("chunk_tokens", "tokens")):
            asked = _shown(getattr(options, option)) if options.asks(option) else "default"
            used = _shown(choice.settings[name]) if name in choice.settings else "no"
            rows.append((option, asked, used, "" if name in choice.settings else f"not of impl: {choice.impl}"))
        return [*rows, ("trial", f"{TRIAL} tokens", "yes", self.trial)]


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def as_lines(rows: list[tuple[Cell, ...]]) -> list[str]:
    """The table as text."""
    table = [COLUMNS, *rows]
    widths = [max(len(str(row[column])) for row in table) for column in range(3)]
    return [
        "  ".join([*(str(cell).ljust(width) for cell, width in zip(row, widths, strict=False)), str(row[3])]).rstrip()
        for row in table
    ]
