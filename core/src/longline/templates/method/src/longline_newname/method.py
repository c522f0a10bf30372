"""The method: all that Longline needs to know of it, in an object that imports neither torch nor transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.methods.base import Check, Method, Starter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline import Problem
    from longline.config.loader import LoadedConfig


class NewName(Method):
    """What is the method's own; everything else is as in the base class."""

    name = "newname"
    summary = "supervised, with a penalty on confidence"
    # The kind of row, by its place: the samples of sft. There are prompts, pairs and labelled answers, too.
    kind = "longline.data.kinds.sample:SAMPLE"
    chooses_trained = True
    arguments = "longline_newname.arguments:NewNameArguments"
    requirement = "longline-newname"
    trainer = "longline_newname.trainer:NewNameTrainer"
    counts_flops = True
    starter = Starter("chat, alpaca, prompt_completion", more="  beta: 0.1")

    def checks(self) -> Iterator[Check]:
        """What holds for every method, and for this one; `longline check` tells it with the config's line."""
        yield from super().checks()
        yield Check(self.beta_is_no_reward, ("trainer.beta",))

    def beta_is_no_reward(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """Below 0 confidence is rewarded."""
        beta = loaded.config.trainer.get("beta", 0.1)
        if beta < 0:
            yield loaded.problem(f"must be 0 or more, and is {beta:g}", "trainer", "beta", hint="0.1 is the default")


NEWNAME = NewName()
