"""Text of which some is learnt: what sft trains on, alone in a row or packed with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from longline.data.kinds.base import Kind
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longline.data.collate import Collator
    from longline.data.values import Longs


class SampleKind(Kind):
    """Samples to learn from.

    A batch has input_ids, labels, attention_mask, each int64 [rows, longest], padded at the end. Packed, it has position_ids, that
    restart at every sample, in place of the attention_mask: transformers isolates samples by position ids only without one, and
    without a key-value cache (`use_cache=False`). Packed `rows` are [rows, longest], and the padding of a row counts as one more
    sample; `flat` ones [1, total]: all samples one after another.
    """

    name: ClassVar[str] = "sample"
    rows: ClassVar[str] = "padded"
    packs: ClassVar[bool] = True

    def tensors(self, rows: Sequence[Mapping[str, Any]], ids: list[Longs], labels: list[Longs], collator: Collator) -> Any:
        """Samples, alone or packed."""
        columns = {"input_ids": (ids, collator.pad_token_id), "labels": (labels, IGNORED)}
        if collator.packing:
            positions = collator.stacked([_restarting(row) for row in rows], 0, counting=True)
        else:
            positions = collator.stacked([np.ones(len(row), dtype=np.int64) for row in ids], 0)
        made = {name: collator.stacked(parts, fill) for name, (parts, fill) in columns.items()}
        return {**made, "position_ids" if collator.packing else "attention_mask": positions}


def _restarting(row: Mapping[str, Any]) -> Longs:
    """Position ids of a row that restart at each of its samples."""
    lengths = row.get("seq_lengths")
    return np.concatenate(
        [np.arange(length, dtype=np.int64) for length in ([len(row["input_ids"])] if lengths is None else lengths)]
    )


SAMPLE = SampleKind()
