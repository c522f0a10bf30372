"""GRPO (Shao et al. 2024) and RLOO (Ahmadian et al. 2024): the policy answers prompts, and reward functions score the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from longline.config.going_on import GROUPED
from longline.methods.base import CompletionColumns, Fact, Starter
from longline.methods.trl import TrlMethod

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.config.going_on import OnResume
    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config
    from longline.errors import Problem
    from longline.plan import Machine, Plan


class AnsweringMethod(TrlMethod):
    """A method whose policy answers each prompt several times, and learns from how the answers compare.

    Attributes:
        generations: how many answers trl draws for each prompt unless `trainer.num_generations` says otherwise.
    """

    generations: int
    kind = "longline.data.kinds.prompt:PROMPT"
    draws_answers = True
    completions = CompletionColumns(texts=("prompt", "completion"), numbers=("reward", "advantage"), score="reward")
    refused: ClassVar[Mapping[str, str]] = {
        **TrlMethod.refused,
        "train_sampling_strategy": "prompts come in groups; `data.shuffle` decides about their order",
    }
    on_resume: ClassVar[Mapping[str, OnResume]] = {
        **TrlMethod.on_resume,
        **dict.fromkeys(("num_generations", "steps_per_generation", "generation_batch_size", "num_iterations"), GROUPED),
    }
    unkept: ClassVar[Mapping[str, str]] = {
        **TrlMethod.unkept,
        "use_adaptive_entropy": "the weight of the entropy, as it has been adapted",
    }
    starter = Starter(
        "prompts: prompt, and columns for the reward functions",
        before="rewards:                           # installed ones, or package.module:function\n  - reasoning_gym",
        learning_rate="1.0e-5",
        more="  num_generations: 4               # answers to each prompt\n  max_completion_length: 256",
    )

    def settle(self, args: dict[str, Any], config: Config, machine: Machine) -> list[Fact]:
        """Let trl shuffle the groups of prompts as `data.shuffle` says."""
        args["shuffle_dataset"] = config.data.shuffle
        return super().settle(args, config, machine)

    def orders_by_batch(self, trainer: Mapping[str, Any]) -> bool:
        """Prompts come in groups of as many as make a batch."""
        return True

    def sampling(self, config: Config) -> tuple[str, str] | None:
        """Leave the order to trl: prompts come in groups."""
        return None

    def fits_rewards(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """Answers need something that scores them; a plugin may give it."""
        config = loaded.config
        if not config.rewards and not config.plugins:
            hint = "rewards: [reasoning_gym], or package.module:function"
            yield loaded.problem(f"{self.name} needs at least one reward function", "method", hint=hint)
        names = [reward.name or reward.function.rpartition(":")[2] for reward in config.rewards]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield loaded.problem(f"there are two rewards called {name}", "rewards", index, hint="give one of them a `name`")

    def has_reference(self, args: TrainingArguments) -> bool:
        """With `beta` 0 the distance to the reference costs nothing."""
        return bool(cast("Any", args).beta)

    def batches(self, rows: int, plan: Plan) -> int:
        """A group of prompts is answered at once and trained on `steps_per_generation` times as many batches; prompts that
        fill no group are left for another epoch's order.

        Raises:
            ValueError: there is less than one group.
        """
        args, size = plan.trainer_args, plan.per_device_batch * plan.world_size
        answers = args.get("generation_batch_size") or 0
        accumulated = args.get("steps_per_generation") or plan.accumulation
        repeats = answers // size if answers else accumulated
        answers = answers or size * repeats
        group = answers // (args.get("num_generations") or self.generations)
        if rows < group:
            raise ValueError(f"{rows} prompts, but {group} are answered at once ({answers} answers for each generation)")
        return (rows // group if group else 0) * repeats * int(args.get("num_iterations", 1))

    def repeated(self, rows: int, plan: Plan) -> int:
        """None: groups that are not whole are left out."""
        return 0


class Grpo(AnsweringMethod):
    """An answer's advantage is its reward beside the mean of its group's, in units of their spread."""

    name = "grpo"
    summary = "the policy answers, reward functions score"
    arguments = "trl.trainer.grpo_config:GRPOConfig"
    trainer = "longline.trainers.grpo:GRPOTrainer"
    generations = 8


class Rloo(AnsweringMethod):
    """An answer's advantage is its reward less the mean of the others' in its group."""

    name = "rloo"
    summary = "the policy answers, reward functions score"
    arguments = "trl.trainer.rloo_config:RLOOConfig"
    trainer = "longline.trainers.rloo:RLOOTrainer"
    generations = 2


GRPO, RLOO = Grpo(), Rloo()
