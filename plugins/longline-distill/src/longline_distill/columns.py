"""A teacher whose answers stand in the data: from the rows of a batch to what is known of its learnt tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from longline.loss.head import Targets
from longline_distill.aligned import IDS, LOGS
from longline_distill.divergence import Known

Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Held:
    """Ids int64 [N, k] and log probabilities float32 [N, k] of the learnt tokens of a batch."""

    ids: torch.Tensor
    logs: torch.Tensor

    def rows(self, start: int, stop: int) -> Known:
        """Of tokens `start` to `stop`; beyond N nothing is known."""
        ids, logs = self.ids[start:stop], self.logs[start:stop]
        missing = stop - start - len(ids)
        return Known(pad(ids, (0, 0, 0, missing), value=-1), pad(logs, (0, 0, 0, missing)))


@dataclass(frozen=True, slots=True)
class Collator:
    """The core's collator, with the teacher's answers as further columns: all learnt tokens of the batch, [N, k]."""

    inner: Collate
    k: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows of the data set that `Aligner` made."""
        batch = self.inner(rows)
        values = {
            name: torch.from_numpy(
                np.concatenate([np.asarray(row.get(name, ()), dtype=dtype).reshape(-1, self.k) for row in rows])
            )
            for name, dtype in ((IDS, np.int64), (LOGS, np.float32))
        }
        return {**batch, "columns": {**batch.get("columns", {}), **values}}


@dataclass(frozen=True, slots=True)
class ColumnTeacher:
    """Reads what the collator, or the core's further columns of recorded data, put beside the batch."""

    trainer: Any
    recorded: tuple[str, str] | None = None

    def ask(self, inputs: dict[str, Any], logits: int) -> Held:
        """The answers to the learnt tokens of the batch at hand."""
        columns = self.trainer.columns
        if self.recorded is None:
            return Held(columns[IDS], columns[LOGS])
        # A label stands behind the position that predicts it; the columns stand at the label.
        targets = Targets.of(inputs["labels"])
        if not (inputs["labels"] != -100).any():
            targets = Targets(targets.shape, targets.positions[:0], targets.tokens[:0])
        ids, logs = (columns[name].flatten(0, 1)[targets.positions + 1] for name in self.recorded)
        return Held(ids.long(), logs.float())

    def end(self) -> None:
        """There is nothing to let go of."""
