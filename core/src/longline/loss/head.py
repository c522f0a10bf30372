"""The output head: the one place where hidden states become logits, and logits a loss.

Most memory and much time of a step with a large vocabulary go into logits that nobody learns from. `HeadTap` lets a loss see the
hidden states of the trained tokens alone, on one model instance, without a patch of its class: the model's own forward still
runs, so adapters, DDP, FSDP2 and whatever the model adds to the loss itself (the balance of experts) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from longline import upstream
from longline.errors import ModelError
from longline.events import IGNORED
from longline.loss.cross_entropy import can_overwrite, overwriting_loss
from longline.plan import MULTIPLE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Transform:
    """What a model makes of the head's output x before the loss: softcap * tanh(scale * x / softcap), or scale * x."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to a tensor of any shape."""
        scaled = x if self.scale == 1.0 else x * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


LinearLoss = Callable[[torch.Tensor, nn.Module, torch.Tensor, Transform], torch.Tensor]
"""`(hidden [N, size], head, targets [N] int64, transform) -> loss`: the sum of the cross entropies of N tokens, a float32 scalar.

It runs inside the model's forward, where FSDP2 has gathered the head's weight. A target may be -100, which counts nothing.
"""


@dataclass(frozen=True, slots=True)
class Targets:
    """Which positions of a batch predict a token that is learnt: `positions` [N] into the flattened batch, `tokens` [N], int64.

    A batch in which nothing is learnt has one position with the target -100, so that its loss is a zero with a gradient.
    """

    shape: torch.Size
    positions: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor) -> Targets:
        """Read them from labels [rows, length], in which the token at i is predicted at i - 1."""
        following = nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].reshape(-1)
        positions = (following != IGNORED).nonzero().squeeze(1)
        if not len(positions):
            positions = positions.new_zeros(1)
        return cls(labels.shape, positions, following[positions])

    def rounded(self, factor: torch.Tensor) -> Targets:
        """With targets of -100 up to a multiple of MULTIPLE, where products with `factor` are made in half precision on a CPU."""
        half = factor.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
        missing = -len(self.positions) % MULTIPLE
        if factor.device.type != "cpu" or not half or not missing:
            return self
        pad = nn.functional.pad
        return Targets(self.shape, pad(self.positions, (0, missing)), pad(self.tokens, (0, missing), value=IGNORED))


class HeadTap:
    """Makes a model's loss see the trained tokens alone while it is `armed`; otherwise the model is as it was.

    Without `loss` the head makes logits [1, N, vocabulary] of them, and the loss is the model's usual one, in training computed in
    the logits' own memory where that can be: then the model puts out logits [1, 0, vocabulary]. With `loss` the head makes no
    logits at all: hidden states and head are handed to it, and the `transform` that the model was seen to apply to a probe;
    one that its config does not explain is an error.

    Install it on the bare or adapted model, before DDP, FSDP2 or torch.compile wrap it.
    """

    def __init__(self, model: PreTrainedModel, loss: LinearLoss | None = None, *, overwrite: bool = True) -> None:
        """Install the tap; without `overwrite` a model's usual loss is always its own function, which leaves the logits alone.

        Raises:
            ModelError: `unfit` has a reason against it.
        """
        why = unfit(model)
        if why:
            raise ModelError(why)
        # The one model and not its class: adapters, DDP, FSDP2, the losses of experts and what a new model does before its
        # head need no code of ours, and no table of model types.
        self._model: Any = bare(model)
        self.head: nn.Module = self._model.get_output_embeddings()
        self.transform: Transform | None = None
        self._loss = loss
        self._overwrite = overwrite
        self._targets: Targets | None = None
        self._hidden: torch.Tensor | None = None
        self._native = self._model.loss_function
        self._model.loss_function = self._loss_function
        self._hooks = [self.head.register_forward_pre_hook(self._enter), self.head.register_forward_hook(self._leave)]

    def remove(self) -> None:
        """Make the model as it was."""
        for hook in self._hooks:
            hook.remove()
        upstream.transformers.restore_loss(self._model)

    @contextmanager
    def armed(self, labels: torch.Tensor) -> Iterator[None]:
        """While it lasts, the model's next forward, which must get the same `labels` [rows, length], is of trained tokens alone.

        Raises:
            ModelError: with a `loss`, when the model did not ask its head or its loss function for it.
        """
        self._targets = Targets.of(labels)
        self._hidden = None
        try:
            yield
            if self._loss is not None and self._targets is not None:
                raise self._not_applied("its forward did not call the loss function with labels")
        finally:
            self._targets = self._hidden = None

    def _enter(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the head: keep the trained positions of hidden states [rows, length, size]."""
        if self._targets is None:
            return None
        hidden = args[0]
        if hidden.shape[:-1] != self._targets.shape:
            if self._loss is not None:
                raise self._not_applied(f"its head got {tuple(hidden.shape)} for labels {tuple(self._targets.shape)}")
            self._targets = None  # the model's usual loss works for every model
            return None
        self._targets = self._targets.rounded(hidden)
        kept = hidden.reshape(-1, hidden.shape[-1])[self._targets.positions]
        if self._loss is None:
            return (kept[None], *args[1:])
        if self._hidden is not None:
            raise self._not_applied("its head is called more than once")
        self._hidden = kept
        # One position goes on, so that the head itself runs: FSDP2 gathers its weight there, and the probe takes its shape
        # from it.
        return (kept[None, :1].detach(), *args[1:])

    def _leave(self, _: nn.Module, args: tuple[Any, ...], logits: torch.Tensor) -> torch.Tensor | None:
        """After the head: what the model goes on with where a loss takes hidden states."""
        return None if self._hidden is None else probe(logits.shape[-1], logits.device)

    def _loss_function(self, logits: torch.Tensor, labels: Any, vocab_size: int, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the model's loss function."""
        if self._targets is None:
            return self._native(logits, labels, vocab_size, *args, **kwargs)
        targets, self._targets = self._targets, None
        # The trainer counts over all accumulated batches; without it the loss is the mean of this batch.
        count = kwargs.get("num_items_in_batch")
        if count is None:
            count = (targets.tokens != IGNORED).sum()
        count = torch.as_tensor(count, device=logits.device)
        tokens = targets.tokens.to(logits.device)
        if self._loss is None:
            # A loss in chunks needs less memory still, but has to know what the model does to logits. A plugin may refuse a
            # model of which it cannot tell that; the core must take every one.
            if self._overwrite and can_overwrite(logits):
                return overwriting_loss(logits, tokens, count)
            return self._native(logits, None, vocab_size, *args, **{**kwargs, "shift_labels": tokens})
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise self._not_applied("its forward did not call the head")
        if self.transform is None:
            self.transform = self._seen(logits)
        return self._loss(hidden, self.head, tokens, self.transform) / count

    def _seen(self, logits: torch.Tensor) -> Transform:
        """What the model has made of the probe."""
        # Configs name scaling and softcapping, but not every class does what its config says; a probe shows it.
        given, found = probe(logits.shape[-1], logits.device), logits.detach().float()
        made = {guess: guess(given) for guess in transforms(self._model.config)}
        errors = {guess: float(((x - found).abs() / (1 + x.abs())).max()) for guess, x in made.items()}
        best = min(errors, key=lambda guess: errors[guess])
        # Models that round logits to bfloat16 are off by 0.004 of them; a scale or a cap that nobody knows of by far more.
        if not errors[best] <= 0.01:
            raise self._not_applied("between head and loss it does to logits what its config does not explain")
        return best

    def _not_applied(self, why: str) -> ModelError:
        return ModelError(f"{self._model.config.model_type}: the loss at the output head cannot be applied: {why}")


def bare(model: Any) -> Any:
    """The model under its adapter, or the model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unfit(model: PreTrainedModel) -> str | None:
    """Why a tap cannot be installed on a model, or None."""
    inner = bare(model)
    name = inner.config.model_type
    if inner.get_output_embeddings() is None:
        return f"{name} has no output head"
    if not upstream.transformers.has_common_loss(inner):
        return f"{name} has a loss of its own"
    return None


def probe(size: int, device: torch.device) -> torch.Tensor:
    """Numbers [1, 1, size], float32, that show what a model does to logits: from -100 to 100, denser around zero."""
    return (torch.linspace(-1, 1, size, device=device) ** 3 * 100).reshape(1, 1, size)


def transforms(config: Any) -> list[Transform]:
    """What a model may do to logits by the numbers in its config, as Cohere, Granite, Falcon-H1, Gemma and others name them.

    Not every class of a family does it: Gemma 3 caps its logits without a vision tower, and does not with one.
    """
    text = config.get_text_config()
    factors = [
        getattr(text, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    ]
    scales = [1.0, *(float(factor) for factor in factors if factor), *(1 / factor for factor in factors if factor)]
    caps = [None, getattr(text, "final_logit_softcapping", None)]
    return [Transform(scale, cap) for scale in dict.fromkeys(scales) for cap in dict.fromkeys(caps)]


def trained_tokens_loss(model: PreTrainedModel, *, overwrite: bool = True) -> Callable[[Any, Any, dict[str, Any], Any], Any]:
    """A loss function for `provide_loss` that makes logits of the trained tokens alone; the loss is the model's own.

    Models that `unfit` names, label smoothing, trainer classes with a loss of their own, and an evaluation that wants logits get
    all of them. Otherwise `outputs.logits` is [1, N, vocabulary], or [1, 0, vocabulary] in training: see HeadTap.

    A plugin that put a kernel in the place of `nn.functional.cross_entropy` answers `provide_loss` with it and `overwrite=False`:
    then that function is called, and nothing is computed in the logits' memory instead.
    """
    tap = None if unfit(model) else HeadTap(model, overwrite=overwrite)

    def loss(trainer: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        if tap is None or wants_all_logits(trainer):
            return trainer.method_loss(model, inputs, num_items_in_batch)
        with tap.armed(inputs["labels"]):
            return trainer.method_loss(model, inputs, num_items_in_batch)

    return loss


def wants_all_logits(trainer: Any) -> bool:
    """Whether the trainer computes something else of logits than the model's loss."""
    functions = (trainer.label_smoother, trainer.compute_loss_func)
    return trainer.wants_logits or trainer.has_own_loss or any(function is not None for function in functions)
