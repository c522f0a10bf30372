"""The method: all that Longline needs to know of it, in an object that imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from longline.methods.base import REFUSED, Check, CompletionColumns, Method, Starter

if TYPE_CHECKING:
    from longline import Config, Problem
    from longline.config.loader import LoadedConfig


class Ranked(Method):
    """Answers to one question, the best first: likelier ones shall be the better ones."""

    name = "ranked"
    summary = "answers in order of quality"
    kind = "longline_toy.kind:RANKING"
    arguments = "longline_toy.arguments:RankedArguments"
    requirement = "longline-toy"
    trainer = "longline_toy.trainer:RankedTrainer"
    counts_flops = True
    completions = CompletionColumns(
        texts=("prompt", "best", "worst"), numbers=("score_best", "score_worst", "pairs_right"), score="pairs_right"
    )
    evaluation = "longline_toy.measure:measure_ranking"
    refused: ClassVar[Mapping[str, str]] = {**REFUSED, "label_smoothing_factor": "a ranking has no labels to smooth"}
    starter = Starter("ranking: question, answers", learning_rate="2.0e-5", more="  beta: 1.0")

    def checks(self) -> Iterator[Check]:
        """What holds for every method, and that the best answer is to be the likeliest."""
        yield from super().checks()
        yield Check(self.beta_is_positive, ("trainer.beta",))

    def beta_is_positive(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """With a beta of 0 nothing is learnt, below it the worst answer."""
        beta = loaded.config.trainer.get("beta", 1.0)
        if beta <= 0:
            yield loaded.problem(f"must be above 0, and is {beta:g}", "trainer", "beta", hint="1.0 is the default")

    def sampling(self, config: Config) -> tuple[str, str] | None:
        """Group rows by their length unless they shall keep their order."""
        return super().sampling(config) or ("group_by_length", "answers of like lengths need less padding")


RANKED = Ranked()
