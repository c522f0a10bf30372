"""A teacher in this process: asked about every batch, its logits made beside the student's, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.functional import pad

from longline import ConfigError
from longline.loss.head import HeadTap
from longline_distill.divergence import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline import Run
    from longline.loss.head import Transform
    from longline_distill.config import DistillConfig, TeacherConfig
    from longline_distill.objective import View


class LocalTeacher:
    """A frozen model with the student's vocabulary."""

    def __init__(self, model: Any, options: DistillConfig, vocabulary: int) -> None:
        """`vocabulary`: how many ids the tokenizer has; both heads may have more rows, which are padding."""
        self.model, self.vocabulary = model, vocabulary
        self._temperature, self._k = options.temperature, options.top_k
        self._kept: Any = None
        self._tap = HeadTap(model, self._keep)
        self._sharded = any(isinstance(weight, DTensor) for weight in self._tap.head.parameters())

    def _keep(self, hidden: torch.Tensor, head: Any, _: torch.Tensor, transform: Transform) -> torch.Tensor:
        if self._sharded:  # the weight is whole as long as this forward lasts
            weights = {name: weight.detach().clone() for name, weight in head.named_parameters()}
            self._kept = (hidden, partial(functional_call, head, weights), transform)
        else:
            self._kept = (hidden, head, transform)
        return hidden.new_zeros(())

    @torch.no_grad()
    def ask(self, inputs: dict[str, Any], logits: int) -> View:
        """About the learnt tokens of a batch; the student has so many `logits`."""
        with self._tap.armed(inputs["labels"]):
            self.model(**inputs, use_cache=False)
        (hidden, head, transform), self._kept = self._kept, None
        return _Asked(hidden, head, transform, self, logits)

    def end(self) -> None:
        """Leave the model as it was."""
        self._tap.remove()

    def known(self, logits: torch.Tensor, size: int) -> Known:
        """What logits [n, own vocabulary] say; `size` of the student's."""
        if logits.shape[1] != size:  # rows that pad an embedding have no token
            logits = logits[:, : min(self.vocabulary, size)]
        logs = torch.log_softmax(logits / self._temperature, 1)
        if self._k is None or self._k >= logs.shape[1]:
            return Known(None, logs)
        found = logs.topk(self._k, 1)
        return Known(found.indices, found.values)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the teacher's head will make of the learnt tokens of a batch."""

    hidden: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor]
    transform: Transform
    teacher: LocalTeacher
    size: int

    @torch.no_grad()
    def rows(self, start: int, stop: int) -> Known:
        hidden = self.hidden[start:stop]
        hidden = pad(hidden, (0, 0, 0, stop - start - len(hidden)))  # rounded up for one model and not for the other
        return self.teacher.known(self.transform(self.head(hidden)).float(), self.size)


def load(run: Run, given: TeacherConfig, options: DistillConfig, tokenizer: Any) -> LocalTeacher:
    """Load the teacher. Raises LonglineError when it cannot be loaded, or its head cannot be seen."""
    model = run.load_model(given.path, role="teacher", **given.model_dump(exclude={"path"}, exclude_none=True))
    return LocalTeacher(model, options, len(tokenizer))


def refuse_other_vocabulary(run: Run, path: str, tokenizer: Any) -> None:
    """Raise ConfigError unless the teacher's tokenizer gives every token of the student's the same id."""
    own, other = tokenizer.get_vocab(), run.load_tokenizer(path).get_vocab()
    apart = sorted(token for token, number in own.items() if other.get(token) != number)
    if apart:
        text = (
            f"plugins.distill.teacher: the tokenizer of {path} is another one: {len(apart):,} of {len(own):,} tokens have no or"
        )
        raise ConfigError(f"{text} another id there, such as {apart[0]!r}", hint="take a teacher of the student's family")
