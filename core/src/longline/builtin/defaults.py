"""The core's own answers to the provide hooks, asked after every plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from longline.events import RewardFunction
    from longline.hookspecs import LossFunction
    from longline.plugins.run import Run


class Defaults:
    """What a run does when no plugin answers."""

    @hookimpl
    def provide_reward_functions(self, run: Run) -> list[RewardFunction] | None:
        """Answer with what the config's `rewards` name."""
        from longline.methods.rewards import load_rewards

        return load_rewards(run.config.rewards, run.config_path.parent) or None

    @hookimpl
    def provide_dataset(self, dataset: Dataset) -> Dataset:
        """Answer with the split as it was prepared."""
        return dataset

    @hookimpl
    def provide_model(self, run: Run, model_kwargs: dict[str, Any]) -> PreTrainedModel:
        """Answer with what `from_pretrained` loads."""
        from longline.model import load_model

        return load_model(run.config.model, model_kwargs, run.output)

    @hookimpl
    def provide_trainer_class(self, run: Run) -> type[Trainer]:
        """Answer with the method's trainer."""
        return run.method.trainer_class()

    @hookimpl
    def provide_collator(
        self, run: Run, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Answer with the collator of the method's kind of row."""
        from longline.data.collate import Collator
        from longline.data.kinds import load

        return Collator(
            pad_token_id=int(tokenizer.pad_token_id),
            kind=load(run.method.kind),
            packing=run.plan.packing,
            pad_to_multiple_of=run.plan.pad_to_multiple_of,
            max_length=run.config.data.max_length,
            columns=run.columns,
        )

    @hookimpl
    def provide_loss(self, run: Run, model: PreTrainedModel) -> LossFunction:
        """Answer with the loss of the method's trainer; for a cross entropy of labels, with logits of the trained tokens alone."""
        if not run.method.cross_entropy:
            return _method_loss  # trl's trainers look after their logits themselves
        from longline.loss.head import trained_tokens_loss

        return trained_tokens_loss(model)

    @hookimpl
    def provide_optimizer(self, trainer: Any, model: PreTrainedModel) -> torch.optim.Optimizer:
        """Answer with what `trainer.optim` names."""
        optimizer: torch.optim.Optimizer = trainer.method_optimizer(model)
        return optimizer

    @hookimpl
    def provide_scheduler(
        self, trainer: Any, optimizer: torch.optim.Optimizer, num_training_steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Answer with what `trainer.lr_scheduler_type` names."""
        scheduler: torch.optim.lr_scheduler.LRScheduler = trainer.method_scheduler(optimizer, num_training_steps)
        return scheduler


def _method_loss(trainer: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
    return trainer.method_loss(model, inputs, num_items_in_batch)
