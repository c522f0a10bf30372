"""What GRPO and RLOO share: the policy answers prompts, rewards score the answers, and the reference is loaded by the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from trl import SyncRefModelCallback

from longline import upstream
from longline.methods.rewards import guarded
from longline.trainers.compact import compact_fused_head
from longline.trainers.evaluating import GREATEST, LEAST, Batches
from longline.trainers.trl import TrlTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from longline.events import Cell
    from longline.trainers import Parts


class AnsweredBatches(Batches):
    """One rank's batches of prompts, each as often as it is answered: the ranks' parts of a batch are equally long, and together
    they hold whole groups. What does not spread evenly is filled up with prompts from the front: `repeated` says with how many.
    """

    def __init__(self, prompts: int, answers: int, size: int, rank: int, ranks: int) -> None:
        unit = math.lcm(answers, ranks)
        filled = -(-prompts * answers // unit) * unit
        self.repeated = filled // answers - prompts
        order = [number % prompts for number in range(filled // answers) for _ in range(answers)]
        most = max(size * ranks // unit, 1) * unit
        rounds = [order[start : start + most] for start in range(0, filled, most)]
        self.batches = [part[len(part) // ranks * rank : len(part) // ranks * (rank + 1)] for part in rounds]


class AnsweringTrainer(TrlTrainer):
    """Mixin before trl's GRPOTrainer or RLOOTrainer.

    Scores and row ids go with the answers through trl's shuffling and splitting, so that every step tells of its own rows.
    """

    counted_by: ClassVar[Mapping[str, str]] = {
        **{f"completions/min{of}_length": LEAST for of in ("", "_terminated")},
        **{f"completions/max{of}_length": GREATEST for of in ("", "_terminated")},
        "clip_ratio/low_min": LEAST,
        "clip_ratio/high_max": GREATEST,
    }

    @classmethod
    def build(cls, parts: Parts, args: TrainingArguments) -> Self:
        """Build the trainer of prepared prompts.

        trl would load the reference itself; with `beta` 0 it leaves that out, so it is told so until it has ours.

        Raises:
            ConfigError: trl refuses something.
        """
        options = cast("Any", args)
        beta, sync = options.beta, options.sync_ref_model
        options.reward_weights = [reward.weight for reward in parts.rewards]
        if parts.reference is not None:
            options.beta, options.sync_ref_model = 0.0, False
        functions = [guarded(reward, parts.describe_rows) for reward in parts.rewards]
        trainer = cls.construct(parts, args, reward_funcs=functions)
        options.sync_ref_model = sync
        options.beta = cast("Any", trainer).beta = beta
        # trl's constructor takes none: its own hands on rows as they are, and does not know which sample they are.
        trainer.data_collator = parts.collator
        if parts.reference is not None:
            trainer.adopt_reference(parts.reference)
        return trainer

    def evaluation_batches(self, rows: Any) -> AnsweredBatches:
        """Answers of one prompt are compared, so they are drawn at the same time, if by several ranks."""
        args, answers = self.args, self.num_generations_eval  # type: ignore[attr-defined]
        batches = AnsweredBatches(len(rows), answers, args.eval_batch_size, args.process_index, args.world_size)
        if batches.repeated and not self._told:
            self._told = True
            spread = f"{answers} answers to each don't spread evenly over {args.world_size} ranks"
            text = f"{batches.repeated} of {len(rows)}, since {spread}"
            self.run.alert("an evaluation answers some prompts twice", text)
        return batches

    _told = False

    def noted(self) -> dict[str, float]:
        """Leave out NaN, which trl notes for a function that scored none of a batch's answers."""
        return {name: value for name, value in super().noted().items() if not math.isnan(value)}

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keep the scores [answers of all ranks, functions]."""
        scores: torch.Tensor = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self._scores = scores
        return scores

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer and score, and add this rank's scores and row ids to what trl hands on."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        # trl gathers the scores of all ranks, rank by rank.
        start = self.accelerator.process_index * len(inputs)
        output["scores"] = self._scores[start : start + len(inputs)]
        output["row_ids"] = torch.tensor([row["row_ids"] for row in inputs])
        # by row, since trl shuffles and splits what comes of a generation
        self._kept = {row["row_ids"]: {name: row[name] for name in self._cells} for row in inputs} if self._cells else {}
        return output

    def between_steps(self) -> dict[str, Any]:
        """Keep the answers that are not used up, too."""
        return {**super().between_steps(), **upstream.trl.answers_left(self), "cells": getattr(self, "_kept", {})}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Learn on from them."""
        super().take_up(kept)
        upstream.trl.answer_from(self, kept)
        self._kept = kept["cells"]

    def kept_cells(self) -> list[dict[str, Cell]]:
        """What the rows had that the answers at hand were drawn for."""
        return [self._kept[row] for row in self._answered] if self._kept else []

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """Let trl answer the prompts, and remember which rows they are and how many tokens."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        self._answered = prepared["row_ids"].tolist()
        self._row_ids = sorted(set(self._answered))
        self._batch_tokens = prepared["prompt_mask"].sum() + prepared["completion_mask"].sum()
        return prepared

    def method_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Return trl's loss, and note the batch if anybody wants to know."""
        result = super().method_loss(model, inputs, num_items_in_batch)
        if self.noting:
            self.note(lambda: self._answer_rows(inputs))
        return result

    def _answer_rows(self, inputs: dict[str, Any]) -> Iterator[dict[str, Cell]]:
        scores = inputs["scores"].float()
        weights = self.reward_weights.to(scores.device)  # type: ignore[attr-defined]
        total = (scores * weights).nansum(1).masked_fill(scores.isnan().all(1), torch.nan).tolist()
        columns = zip(
            self.decode(inputs["prompt_ids"], inputs["prompt_mask"]),
            self.decode(inputs["completion_ids"], inputs["completion_mask"]),
            [[None if value != value else value for value in row] for row in scores.tolist()],
            [None if value != value else value for value in total],
            inputs["advantages"].float().tolist(),
            strict=True,
        )
        names: list[str] = self.reward_func_names  # type: ignore[attr-defined]
        for prompt, completion, row, reward, advantage in columns:
            own = dict(zip(names, row, strict=True))
            yield {"prompt": prompt, "completion": completion, **own, "reward": reward, "advantage": advantage}

    def adopt_reference(self, model: Any) -> None:
        """Compare with `model` as trl does with the reference that it would have loaded itself."""
        args = cast("Any", self.args)
        if args.disable_dropout:
            for layer in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
                layer.p = 0.0
        upstream.trl.fuse_head(model, args)
        compact_fused_head(model)
        prepared = self.ref_model = self.place(model)
        if args.sync_ref_model:
            self.add_callback(SyncRefModelCallback(ref_model=prepared, accelerator=self.accelerator))
