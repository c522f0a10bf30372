"""The method: rows as sft has them, and a loss towards a teacher. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from longline.methods.base import REFUSED, Check, Method, Starter

if TYPE_CHECKING:
    from longline import Problem
    from longline.config.loader import LoadedConfig


class Distill(Method):
    """Knowledge distillation (Hinton et al. 2015), and towards answers of the student's own (Agarwal et al. 2024)."""

    name = "distill"
    summary = "learning from a teacher's distribution"
    requirement = "longline-distill"
    trainer = "longline_distill.trainer:DistillTrainer"
    packs = True
    chooses_trained = True
    counts_flops = True
    refused: ClassVar[Mapping[str, str]] = {
        **REFUSED,
        "label_smoothing_factor": "the teacher's distribution takes the place of smoothed labels",
        "torch_compile": "the loss computes its gradients chunk by chunk, which a compiler does not follow",
        "fp16": "gradients of the distillation loss are made before a loss scale could lift them; use bf16",
    }
    starter = Starter(
        "chat, alpaca, prompt_completion, completion, segments, tokenized",
        plugins="plugins:\n  distill: {teacher: ./teacher}    # or server: {url: ...}, or column: NAME",
    )

    def checks(self) -> Iterator[Check]:
        """What holds for every method, and that there is a teacher."""
        yield from super().checks()
        yield Check(self.has_teacher, ("plugins",))

    def has_teacher(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """The plugin of the same name says who teaches."""
        if all(entry.name != self.name for entry in loaded.config.plugins):
            hint = "plugins: {distill: {teacher: PATH}}, or {server: {url: ...}}, or {column: NAME}"
            yield loaded.problem("distill needs a teacher, and the plugin distill is not enabled", "method", hint=hint)


DISTILL = Distill()
