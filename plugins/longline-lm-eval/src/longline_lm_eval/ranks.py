"""The ranks of an evaluation: how they share a task, and how one that fails takes the others out of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline import Run

LONG = timedelta(days=30)
"""How long a rank waits for another; the others have nothing to do while the main one evaluates alone."""


class OtherRankFailedError(Exception):
    """Another rank failed in the same task; never leaves the plugin."""


@dataclass(slots=True)
class Team:
    """`shares`: each of the `size` ranks has rows of its own; otherwise each does all of them, in step with the others."""

    rank: int = 0
    size: int = 1
    shares: bool = False
    group: Any = None
    apart: bool = False
    """Whether this rank has told of a failure, or heard of one: the others are out of the task too, and wait for nothing."""

    @classmethod
    def of(cls, run: Run, *, shares: bool) -> Team:
        """All ranks of a run; a collective."""
        if run.world_size == 1:
            return cls()
        import torch.distributed as dist

        # Of its own: it can wait for long, and objects need no way over a GPU.
        return cls(run.rank, run.world_size, shares, dist.new_group(backend="gloo", timeout=LONG))

    def exchange(self, what: str, value: Any = None) -> list[Any]:
        """The `value` of every rank. Raises OtherRankFailedError where one has called `fail`, or is elsewhere."""
        if self.size == 1:
            return [value]
        told = self._gather(("ok", what, value))
        failed = [f"rank {rank}: {text}" for rank, (state, text, _) in enumerate(told) if state == "failed"]
        places = {text for _, text, _ in told}
        if failed or len(places) > 1:
            self.apart = True
            raise OtherRankFailedError("; ".join(failed) or f"ranks are at different places: {', '.join(sorted(places))}")
        return [item for _, _, item in told]

    def fail(self, why: str) -> None:
        """Tell the others, wherever they are in the task: their next exchange raises."""
        if self.size > 1 and not self.apart:
            self.apart = True
            self._gather(("failed", why, None))

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        """End the group."""
        if self.group is not None:
            import torch.distributed as dist

            dist.destroy_process_group(self.group)

    def _gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, value, group=self.group)
        return told


def in_order(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ranks have of each task, in the order that one process has it in: rank r has the rows r, r + size ...

    The harness puts one rank's behind the other's, and a bootstrapped error depends on the order. `parts` are, by task, samples, or
    values by metric; what is returned the harness joins to the same, and the first has it all.
    """
    first = {task: _joined([part[task] for part in parts]) for task in parts[0]}
    nothing = {task: {key: [] for key in found} if isinstance(found, dict) else [] for task, found in first.items()}
    return [first, *[nothing] * (len(parts) - 1)]


def _joined(parts: list[Any]) -> Any:
    """Lists of values, or of samples, which know their filter and row; or such lists by metric."""
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    whole = [item for part in parts for item in part]
    if whole and isinstance(whole[0], dict) and "doc_id" in whole[0]:
        filters = list(dict.fromkeys(sample["filter"] for sample in whole))
        return sorted(whole, key=lambda sample: (filters.index(sample["filter"]), sample["doc_id"]))
    size, rows = len(parts), len(whole)
    if [len(part) for part in parts] != [len(range(rank, rows, size)) for rank in range(size)]:
        return whole  # a metric that leaves rows out tells nobody which
    return [parts[row % size][row // size] for row in range(rows)]
