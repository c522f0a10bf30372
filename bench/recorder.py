"""Takes the time of every optimizer step of a training process and counts its tokens, in the same way on every side.

The sides are other programs, some in an environment of their own, so this file needs nothing but the standard library, and
Longline where it is there: then it is also a plugin, which `sides.py` installs for `longline train` as any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLED = 20
"""In long runs memory is looked up every so many steps; the peak is that of the first ones."""


class Recorder:
    """When each step ended, and what each batch held: `tokens` that are no padding, `slots` with padding, `trained` ones."""

    def __init__(self, keep: str | None = None) -> None:
        self.keep = keep
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.slots: list[int] = []
        self.trained: list[int] = []
        self.losses: list[float] = []
        self.batches: list[Any] = []
        self.peak_mb = 0.0
        self.memory_mb: list[float] = []

    def counting(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The collator, whose batches are counted; one may be collated ahead of the step that trains on it."""

        def count(rows: Any) -> Any:
            batch = collate(rows)
            mask, learnt = batch.get("attention_mask"), batch.get("completion_mask")
            if mask is None or mask.dim() != 2:  # packed: rows are counted before they are collated
                self.tokens.append(sum(held(row) for row in rows))
            else:
                self.tokens.append(int((mask != 0).sum()))
            self.slots.append(batch["input_ids"].numel())
            self.trained.append(int((batch["labels"] != -100).sum() if learnt is None else learnt.sum()))
            if self.keep:
                self.batches.append({name: value.clone() for name, value in batch.items()})
            return batch

        return count

    def step(self) -> None:
        """A step ended."""
        self.times.append(time.perf_counter())
        if len(self.times) % SAMPLED == 0:
            self.memory_mb.append(status_mb("VmRSS"))
        elif len(self.times) < SAMPLED:
            self.peak_mb = status_mb("VmHWM")

    def write(self, path: str) -> None:
        """Write what was recorded, and keep the batches if that was asked for."""
        import torch

        if self.keep:
            torch.save(self.batches, self.keep)
        found = {name: value for name, value in vars(self).items() if name not in ("keep", "batches")}
        Path(path).write_text(json.dumps({**found, "threads": torch.get_num_threads()}), encoding="utf-8")


def held(row: Any) -> int:
    """The tokens of a packed row; LLaMA-Factory fills its packs up with padding, which its mask numbers 0."""
    mask = row.get("attention_mask")
    return len(row["input_ids"]) if mask is None else sum(map(bool, mask))


def status_mb(name: str) -> float:
    """The memory that this process has (VmRSS), or had at its peak (VmHWM), in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


try:
    from longline import Plugin, PluginConfig, hookimpl
except ImportError:
    pass
else:

    class Options(PluginConfig):
        """Where to write what was recorded, and the batches if they are to be kept."""

        out: str
        keep: str | None = None

    class RecorderPlugin(Plugin):
        """The recorder as a plugin of Longline."""

        Config = Options

        def __init__(self, config: Options) -> None:
            super().__init__(config)
            self.recorder = Recorder(config.keep)

        @hookimpl
        def post_trainer_create(self, trainer: Any) -> None:
            """Count what is collated."""
            trainer.data_collator = self.recorder.counting(trainer.data_collator)

        @hookimpl
        def on_step_end(self) -> None:
            """Take the time."""
            self.recorder.step()

        @hookimpl
        def on_log(self, logs: Any) -> None:
            """Keep the loss."""
            if "loss" in logs:
                self.recorder.losses.append(float(logs["loss"]))

        @hookimpl
        def on_train_end(self, run: Any) -> None:
            """Write it down before anything is saved."""
            if run.is_main:
                self.recorder.write(self.config.out)

    class IdlePlugin(Plugin):
        """Observes what happens, and counts it."""

        seen = 0

        @hookimpl
        def on_step_end(self, step: int) -> None:
            """Count a step."""
            self.seen += 1

        @hookimpl
        def on_log(self, logs: Any) -> None:
            """Count a log event."""
            self.seen += 1
