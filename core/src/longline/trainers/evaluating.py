"""Evaluation: every row once, on one rank, and each number a mean over all of what it is about, however rows fall into batches.

accelerate fills the last batches of ranks with rows from the front, and transformers and trl average what batches have: a short
answer's token, a short batch's row and a rank with little to do then count for more than others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from longline.errors import ConfigError, did_you_mean
from longline.parallel.ranks import gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers.trainer_utils import EvalLoopOutput

LEAST, GREATEST = "least", "greatest"
"""How a number counts that is no mean."""


class Batches(Sampler[list[int]]):
    """One rank's batches, as numbers of rows."""

    batches: Sequence[list[int]]

    def __len__(self) -> int:
        """Return how many batches a rank computes."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Give the numbers of the rows of each batch."""
        yield from self.batches


class EvaluationBatches(Batches):
    """One rank's batches: those of a single process are dealt out in turn, so that each is computed once and as one would.

    Every rank has as many, since a forward pass may need all of them: behind its `own` a rank may get one row that does not count.
    """

    def __init__(self, order: Sequence[int], size: int, rank: int, ranks: int) -> None:
        """Take the numbers of all rows in their order."""
        batches = [list(map(int, order[start : start + size])) for start in range(0, len(order), size)]
        self.batches = batches[rank::ranks]
        self.own = len(self.batches)
        self.batches += [batches[0][:1]] * (math.ceil(len(batches) / ranks) - self.own)


class Tally:
    """What the first `left` batches of an evaluation came to on this rank: sums with their weights, extremes, and further rows."""

    def __init__(self, left: float) -> None:
        self.left = left
        self.sums: dict[str, tuple[float, float]] = {}
        self.extremes: dict[str, tuple[str, float]] = {}
        self.rows: list[Any] = []

    def add(self, name: str, value: float, weight: float) -> None:
        """Add a batch's mean that counts by a weight; what nothing stands behind may be NaN, and is left out."""
        if weight:
            total, weights = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = total + value * weight, weights + weight

    def compare(self, name: str, value: float, how: str) -> None:
        """Keep the least or the greatest value."""
        found = self.extremes.get(name, (how, value))[1]
        self.extremes[name] = how, (min if how == LEAST else max)(found, value)

    def whole(self) -> Tally:
        """What all ranks came to; a collective."""
        total = Tally(0)
        for sums, extremes, rows in gathered((self.sums, self.extremes, self.rows)):
            for name, (value, weight) in sums.items():
                total.add(name, value / weight, weight)
            for name, (how, value) in extremes.items():
                total.compare(name, value, how)
            total.rows += rows
        return total

    def numbers(self) -> dict[str, float]:
        """Each number by its name."""
        means = {name: value / weight for name, (value, weight) in self.sums.items()}
        return means | {name: value for name, (_, value) in self.extremes.items()}


class EvaluatingTrainer(Trainer):
    """Mixin before a Trainer class. What a subclass says is how its numbers count."""

    counted_by: ClassVar[Mapping[str, str]] = {}
    """By which of `counts` a number of an evaluation counts: `loss`, or one that the class adds to its log; others by `rows`."""
    _tally: Tally | None = None

    def counts(self, inputs: Any) -> dict[str, float]:
        """How much there is in a batch of what numbers are means over."""
        return {"rows": len(inputs["input_ids"] if isinstance(inputs, Mapping) else inputs)}

    def evaluation_batches(self, rows: Any) -> Batches:
        """Which rows of a data set are in each of this rank's batches; the longest come first where like lengths are grouped."""
        args, order = self.args, np.arange(len(rows))
        if args.train_sampling_strategy == "group_by_length" and args.length_column_name in getattr(rows, "column_names", ()):
            order = np.argsort(-rows.with_format("numpy")[args.length_column_name][:], kind="stable")
        return EvaluationBatches(order.tolist(), args.eval_batch_size, args.process_index, args.world_size)

    def evaluation_collator(self, rows: Any) -> Callable[[list[Any]], Any]:
        """What makes batches of the rows of a data set."""
        collator: Callable[[list[Any]], Any] = self.data_collator
        return collator

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Deal out the rows to ranks, each to one; where predictions are wanted, accelerate does, which gathers them."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows  # type: ignore[index]
        args = self.args
        if self.compute_metrics is not None or not hasattr(rows, "__len__"):
            return super().get_eval_dataloader(eval_dataset)
        return DataLoader(
            rows,
            batch_sampler=self.evaluation_batches(rows),
            collate_fn=self.evaluation_collator(rows),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the class does.

        Raises:
            ConfigError: nothing that it gives is called as `trainer.metric_for_best_model`, which the best model is chosen by.
        """
        metrics = super().evaluate(*args, **kwargs)
        wanted = self.args.metric_for_best_model
        # one of several data sets has a prefix of its own
        if (
            wanted
            and not args[2:]
            and "metric_key_prefix" not in kwargs
            and f"eval_{wanted.removeprefix('eval_')}" not in metrics
        ):
            names = {name.removeprefix("eval_") for name in metrics}
            hint = did_you_mean(wanted.removeprefix("eval_"), names, f"it gives {', '.join(sorted(names))}")
            raise ConfigError(f"trainer.metric_for_best_model: the evaluation gives no {wanted!r}", hint=hint)
        return metrics

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run the class's own loop, and put what all batches came to in the place of its averages."""
        self._tally = Tally(getattr(getattr(dataloader, "batch_sampler", None), "own", math.inf))
        try:
            output = super().evaluation_loop(dataloader, *args, **kwargs)
            whole = self._tally.whole()
        finally:
            self._tally = None
        numbers = whole.numbers()
        self.conclude(numbers, whole.rows)
        prefix = f"{kwargs.get('metric_key_prefix', 'eval')}_"
        if output.metrics is not None:
            output.metrics.update({f"{prefix}{name.removeprefix('eval_')}": value for name, value in numbers.items()})
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch, and count it."""
        counts = self.counts(inputs)
        result = super().prediction_step(model, inputs, *args, **kwargs)
        metrics = self.noted()
        if self._tally is not None and self._tally.left > 0:
            self._tally.left -= 1
            numbers = metrics if result[0] is None else {**metrics, "loss": result[0].item()}
            self.tally(self._tally, numbers, counts)
        return result

    def noted(self) -> dict[str, float]:
        """Take what the class has noted of the batch that it evaluated last, beside the loss."""
        return {}

    def tally(self, tally: Tally, numbers: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Count the numbers of one batch."""
        for name, value in numbers.items():
            how = self.counted_by.get(name, "rows")
            if how in (LEAST, GREATEST):
                tally.compare(name, value, how)
            else:
                tally.add(name, value, counts[how])

    def conclude(self, numbers: dict[str, float], rows: list[Any]) -> None:
        """Change the numbers of an evaluation in place that are made of others, or of the rows that `tally` kept on all ranks."""


class Alone:
    """An accelerator that gathers nothing: what it is asked to gather stays this rank's. Else it is the one that it stands for."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, values: Any) -> Any:
        """Return the values of this rank."""
        return values

    gather_for_metrics = gather
