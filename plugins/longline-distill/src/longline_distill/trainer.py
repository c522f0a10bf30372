"""The trainer: that of sft, which for some batches draws the answers from the student itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from longline.events import IGNORED
from longline.inference.answers import Sampling, answer_all
from longline.trainers.sft import SFTTrainer

if TYPE_CHECKING:
    from longline_distill.config import OnPolicyConfig

DRAWN = "distill_drawn"
"""The further column of a batch whose answers the student has drawn."""


class DistillTrainer(SFTTrainer):
    """What is evaluated is the mean over learnt tokens, as in training: cross entropy and divergence as `alpha` mixes them."""

    on_policy: OnPolicyConfig | None = None
    """Set by the plugin: for how many batches answers are drawn, and how."""

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, some with answers of the student's own; their learnt tokens are counted as they are then."""
        if self.on_policy is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        return super().get_batch_samples(self._some_drawn(epoch_iterator, self.on_policy), num_batches, device)

    def _some_drawn(self, batches: Iterator[Any], options: OnPolicyConfig) -> Iterator[Any]:
        # The same on all ranks, and after a resume: seed and step alone decide.
        chance = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        for batch in batches:
            yield self._drawn(batch, options) if torch.rand((), generator=chance).item() < options.share else batch

    def _drawn(self, batch: dict[str, Any], options: OnPolicyConfig) -> dict[str, Any]:
        """The batch with other answers: to the same prompts, which end where the first learnt token stands."""
        rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
        learnt = [(ids, [at for at, label in enumerate(labels) if label != IGNORED]) for ids, labels in rows]
        prompts = [ids[: places[0]] for ids, places in learnt if places]
        if not prompts:
            return batch
        ends = [ids[places[-1]] for ids, places in learnt if places]
        model: Any = self.accelerator.unwrap_model(self.model)
        sampling = Sampling(options.max_new_tokens, options.temperature)
        model.eval()
        try:
            answers = dict(answer_all(model, self._tokenizer(), prompts, sampling, batch_size=len(prompts)))
        finally:
            model.train()
        # The token that ended it is cut off; what ends the row's own answer takes its place.
        whole = [
            (prompt, answers[at] + [end] * (len(answers[at]) < options.max_new_tokens))
            for at, (prompt, end) in enumerate(zip(prompts, ends, strict=True))
        ]
        return self._batch(whole, batch)

    def _batch(self, rows: list[tuple[list[int], list[int]]], like: dict[str, Any]) -> dict[str, Any]:
        """Prompts with answers, padded at the end, as the core's collator has them."""
        device, pad = like["input_ids"].device, int(self._tokenizer().pad_token_id)
        width = max(len(prompt) + len(answer) for prompt, answer in rows)

        def filled(parts: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([part + [fill] * (width - len(part)) for part in parts], device=device)

        made = {
            "input_ids": filled([prompt + answer for prompt, answer in rows], pad),
            "labels": filled([[IGNORED] * len(prompt) + answer for prompt, answer in rows], IGNORED),
            "attention_mask": filled([[1] * (len(prompt) + len(answer)) for prompt, answer in rows], 0),
            "token_count": torch.tensor([sum(len(prompt) + len(answer) for prompt, answer in rows)], device=device),
        }
        return {**like, **made, "columns": {**like.get("columns", {}), DRAWN: True}}

    def _tokenizer(self) -> Any:
        return self.processing_class
