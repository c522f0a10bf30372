"""From sums to the metrics of a log event: mean times, tokens and steps a second, MFU, over the stretch since the last event."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from longline_profiling.flops import squared_lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from longline_profiling.flops import ModelFlops
    from longline_profiling.peak import Peak
    from longline_profiling.recorder import Key, Recorder, Snapshot

TIME_TAKEN = "profiling/Time taken: "
SLOWEST = " (slowest rank)"
LAST_EVENT = "train_runtime"
"""The metric by which the trainer's last log event is known."""

Sums = dict[str, tuple[int, float, float]]
"""By name: calls, seconds and the longest one in seconds."""


@dataclass(slots=True)
class Totals:
    """What was trained in all stretches together; seconds are those of training, without evaluations and saving."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0


@dataclass(slots=True)
class Meter:
    """Measures stretches between log events.

    `gather` hands one object of every rank to all; it is called at the same events on every rank. `pauses` are the names of
    spans that are no training: evaluation, saving. `ranks` holds the sums of each rank, filled where they are gathered.
    """

    recorder: Recorder
    interval: int
    gather: Callable[[Any], list[Any]]
    pauses: frozenset[str]
    flops: ModelFlops | None = None
    peak: Peak | None = None
    ranks: list[Sums] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    _squares: Any = 0.0
    _time: float = 0.0
    _step: int = 0
    _tokens: int | None = None
    _before: Snapshot | None = None

    def begin(self, step: int, history: list[dict[str, Any]]) -> None:
        """Training begins at `step`; the log of a resumed run tells where its count of tokens goes on."""
        tokens = next((event["num_tokens"] for event in reversed(history) if "num_tokens" in event), 0)
        self._squares = 0.0
        self._start(step, int(tokens))

    def _start(self, step: int, tokens: int | None) -> None:
        self._time, self._step, self._before = perf_counter(), step, self.recorder.snapshot()
        if tokens is not None:
            self._tokens = tokens

    def on_batch(self, inputs: Mapping[str, Any]) -> None:
        """Remember how long the sequences of a batch are; attention depends on it."""
        if self.flops is not None:
            self._squares = self._squares + squared_lengths(inputs)

    def metrics(self, logs: Mapping[str, Any], step: int) -> dict[str, float]:
        """Return what to add to a log event: nothing for evaluations and when the last time was less than `interval` steps ago.

        A collective when there are several ranks.
        """
        before = self._before
        if before is None or any(name.startswith("eval_") for name in logs):
            return {}
        if LAST_EVENT not in logs and step - self._step < self.interval:
            return {}
        after = self.recorder.snapshot()
        added = after.since(before)
        mine = self._by_name(added)
        parts = self.gather((mine, float(self._squares)))
        self._keep([sums for sums, _ in parts])
        found = _means([sums for sums, _ in parts])
        if step > self._step:
            paused = sum(seconds for (name, parent), (_, seconds) in added.items() if parent is None and name in self.pauses)
            seconds = perf_counter() - self._time - paused
            found |= self._rates(logs.get("num_tokens"), step - self._step, seconds, sum(squares for _, squares in parts))
        self._squares = 0.0
        self._start(step, logs.get("num_tokens"))
        return found

    def _by_name(self, added: Mapping[Key, tuple[int, float]]) -> Sums:
        """Spans of one name together, whatever they were measured inside of."""
        stats = self.recorder.stats()
        sums: Sums = {}
        for key, (calls, seconds) in added.items():
            before = sums.get(key[0], (0, 0.0, 0.0))
            sums[key[0]] = (before[0] + calls, before[1] + seconds, max(before[2], stats[key].longest))
        return sums

    def _keep(self, parts: list[Sums]) -> None:
        """Add to what is known of each rank."""
        self.ranks = self.ranks or [{} for _ in parts]
        for rank, sums in zip(self.ranks, parts, strict=True):
            for name, (calls, seconds, longest) in sums.items():
                before = rank.get(name, (0, 0.0, 0.0))
                rank[name] = (before[0] + calls, before[1] + seconds, max(before[2], longest))

    def _rates(self, tokens: Any, steps: int, seconds: float, squares: float) -> dict[str, float]:
        if seconds <= 0:
            return {}
        totals = self.totals
        totals.seconds += seconds
        totals.steps += steps
        found = {"profiling/steps_per_second": steps / seconds}
        if tokens is None or self._tokens is None:
            return found
        trained = int(tokens) - self._tokens
        totals.tokens += trained
        found["profiling/tokens_per_second"] = trained / seconds
        if self.flops is not None and self.peak is not None:
            flops = self.flops.total(trained, squares)
            totals.flops += flops
            found["profiling/mfu_percent"] = self.mfu_percent(flops, seconds)
        return found

    def mfu_percent(self, flops: float, seconds: float) -> float:
        """The share of all ranks' peak that `flops` operations in `seconds` come to."""
        assert self.peak is not None  # noqa: S101 - the caller looked
        return 100 * flops / seconds / (self.peak.flops * max(1, len(self.ranks)))


def _means(parts: list[Sums]) -> dict[str, float]:
    """Mean seconds by name over the calls of all ranks, and of several ranks the greatest mean."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for sums in parts for name in sums):
        there = [sums[name] for sums in parts if name in sums]
        found[TIME_TAKEN + name] = sum(seconds for _, seconds, _ in there) / sum(calls for calls, _, _ in there)
        if len(parts) > 1:
            found[TIME_TAKEN + name + SLOWEST] = max(seconds / calls for calls, seconds, _ in there)
    return found


def gather_ranks(part: Any) -> list[Any]:
    """Hand one object of every rank to all of them; a collective when there are several."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [part]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts
