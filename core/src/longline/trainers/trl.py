"""What the methods on trl's trainers share: what Longline keeps trl from doing, and the rows that `on_completions` tells of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from longline.methods.base import refusals as refusals
from longline.process import telemetry
from longline.trainers.compact import compact_fused_head
from longline.trainers.trainer import LonglineTrainer
from longline.upstream.trl import REFERENCE_ADAPTER, forget_metric, take_metrics

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts


class TrlTrainer(LonglineTrainer):
    """Mixin before a trainer of trl, whose data is ready and whose folder, log and network Longline looks after."""

    called: str
    """What messages call trl's own class."""

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared rows. Raises ConfigError for what trl refuses."""
        return cls.construct(parts, args, data_collator=parts.collator)

    @classmethod
    def construct(cls, parts: Parts, args: TrainingArguments, **more: Any) -> Self:
        """Call trl's constructor with the parts and with `more` arguments.

        Raises:
            ConfigError: the constructor refuses something.
        """
        common = {"train_dataset": parts.train, "eval_dataset": parts.eval, "processing_class": parts.tokenizer}
        with refusals(cls.called):
            trainer = cls(model=parts.model, args=args, **{**common, **more})
        drop_idle_reference(parts.model)
        for model in (parts.model, parts.reference):
            if model is not None:
                compact_fused_head(model)
        return trainer

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Leave the rows as they are: they are tokens already."""
        return dataset

    def _send_telemetry(self) -> None:
        """Tell nobody, unless the user turned the telemetry of Hugging Face's libraries on."""
        if telemetry.wanted():
            super()._send_telemetry()  # type: ignore[misc]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no README into the run folder; the final model gets Longline's card."""

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss. It puts out no logits: trl would make them with another forward pass."""
        loss = super(LonglineTrainer, self).compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss, None

    def noted(self) -> dict[str, float]:
        """Take what trl has noted of a batch of an evaluation."""
        return {name: value for name, value in take_metrics(self).items() if name != "num_tokens"}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Leave out trl's count of tokens: it starts anew after a resume, and Longline has its own."""
        forget_metric(self, "num_tokens")
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the tuned adapter alone: the frozen copy is made anew from the same seed."""
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(str(output_dir or self.args.output_dir)) / REFERENCE_ADAPTER, ignore_errors=True)

    # --- rows for on_completions ------------------------------------------------------------------------------------------------

    def decode(self, ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Decode the tokens [rows, length] where `mask` is set, without special tokens."""
        kept = [row[chosen.bool()].tolist() for row, chosen in zip(ids.cpu(), mask.cpu(), strict=True)]
        return [str(text) for text in self.processing_class.batch_decode(kept, skip_special_tokens=True)]  # type: ignore[union-attr]

    def prompts_and_completions(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
        """The texts of a batch before the first learnt token of each row, and from it to the last."""
        ids, learnt = inputs["input_ids"], inputs["completion_mask"]
        begun = learnt.cumsum(dim=1) > 0
        ended = learnt.flip(1).cumsum(dim=1).flip(1) == 0
        given = inputs["attention_mask"].bool()
        return self.decode(ids, given & ~begun), self.decode(ids, given & begun & ~ended)

    def note_pairs(self, inputs: Mapping[str, torch.Tensor], chosen: torch.Tensor, rejected: torch.Tensor, **more: Any) -> None:
        """Keep the pairs of a batch with the rewards [pairs] of both sides, and `more` columns of numbers [pairs]."""
        columns = {"reward_chosen": chosen, "reward_rejected": rejected, "margin": chosen - rejected, **more}
        kept = {name: values.detach() for name, values in columns.items()}
        batch = dict(inputs)

        def rows() -> Iterator[dict[str, Cell]]:
            prompts, completions = self.prompts_and_completions(batch)
            count = len(chosen)
            texts = zip(prompts[:count], completions[:count], completions[count:], strict=True)
            numbers = zip(*(values.float().cpu().tolist() for values in kept.values()), strict=True)
            for (prompt, better, worse), values in zip(texts, numbers, strict=True):
                yield {"prompt": prompt, "chosen": better, "rejected": worse, **dict(zip(kept, values, strict=True))}

        self.note(rows)

    @contextmanager
    def log_probabilities(self) -> Iterator[list[torch.Tensor]]:
        """Collect what the policy and the reference give while the loss is computed: log probabilities [rows, length - 1].

        Those of the policy have a gradient, those of the reference have none; tokens that are not learnt have 0.
        """
        seen: list[torch.Tensor] = []
        models = {id(model): model for model in (self.model, getattr(self, "ref_model", None)) if model is not None}
        # trl keeps these to itself; hooks see the forward passes that it makes anyway, so nothing is computed twice.
        hooks = [model.register_forward_hook(lambda _, __, out: seen.append(out.log_probs)) for model in models.values()]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def policy_and_reference(seen: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's and the reference's log probabilities among those of one loss; the reference comes last."""
    policy = next(values for values in reversed(seen) if values.requires_grad)
    reference = next(values for values in reversed(seen) if not values.requires_grad)
    return policy.detach(), reference


def drop_idle_reference(model: Any) -> None:
    """Remove trl's frozen copy of an adapter that changes nothing yet: switching the adapter off is the same reference.

    Adapters that start from something else than zero, as PiSSA and OLoRA do, keep it.
    """
    if REFERENCE_ADAPTER not in getattr(model, "peft_config", {}):
        return
    updates = [parameter for name, parameter in model.named_parameters() if f"lora_B.{REFERENCE_ADAPTER}" in name]
    embedded = [parameter for name, parameter in model.named_parameters() if f"lora_embedding_B.{REFERENCE_ADAPTER}" in name]
    if updates and not any(bool(parameter.any()) for parameter in updates + embedded):
        # It would take as much memory as the adapter, for the same numbers.
        model.delete_adapter(REFERENCE_ADAPTER)
