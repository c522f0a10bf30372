"""What 10,000 steps of completions cost: memory and microseconds, for each way of sampling.

    python plugins/longline-completions/bench/memory.py [STEPS]

The steps are events on a real bus, with rows as DPO has them: new texts of 2 KB each time, 8 rows a step. `held` is what Python
holds for the plugin at the end of every step, at most over all steps, measured by tracemalloc; `peak` adds what making a table
takes for a moment. `RSS` is the process after 1,000 steps and after all of them. `inside` is the plugin's own time in
on_completions, and `table` its time for one table with its file, both from the run's account, in a second pass without
tracemalloc, which makes everything slower.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import yaml

from longline import Completions, Plugin, PluginConfig, Run, Table, hookimpl
from longline.config.loader import load_config
from longline.plan import Machine, build_plan
from longline.plugins import LoadedPlugin
from longline.plugins.run import State
from longline_completions.config import CompletionsConfig
from longline_completions.plugin import CompletionsPlugin

ROWS = 8
EVERY = 100
TEXT = "How many hooks does a longline need, and how deep should they hang? " * 30


class Taker(Plugin):
    """Takes tables as a tracker does, and keeps none."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.rows = 0

    @hookimpl
    def on_table(self, table: Table) -> None:
        """Count the rows."""
        self.rows += len(table.rows)


def completions(step: int) -> Completions:
    """The rows of one step; every text is a new object, as if just decoded."""
    rows = tuple(
        {
            "prompt": f"{step}.{index} {TEXT}",
            "chosen": f"{TEXT} {step}.{index}",
            "rejected": f"{index}.{step} {TEXT}",
            "reward_chosen": step / 7,
            "reward_rejected": index / 7,
            "margin": (step * 7919 + index * 104729) % 1000 / 1000,
        }
        for index in range(ROWS)
    )
    return Completions("dpo", rows, "margin")


def make(folder: Path, name: str, options: dict[str, Any]) -> Run:
    """A real run that trains nothing, with the plugin on its bus."""
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {"model": {"path": "a/b"}, "data": {"train": str(folder / "rows.jsonl")}, "output_dir": str(folder / name)}
        )
    )
    loaded = load_config(folder / "config.yaml")
    plugin = CompletionsPlugin(CompletionsConfig.model_validate(options))
    plugins = [LoadedPlugin.of(plugin), LoadedPlugin.of(Taker(), "taker")]
    run = State(loaded, build_plan(loaded.config, Machine()), plugins).view
    run.output_dir.mkdir()
    return run


def drive(run: Run, steps: int, trace: bool) -> tuple[float, float, float, float]:
    """Raise the events of `steps` steps; return held and peak bytes, and RSS after a tenth and at the end, all in MiB."""
    process, early, held, base = psutil.Process(), 0.0, 0, 0
    for step in range(1, steps + 1):
        if step == 2 * EVERY and trace:
            gc.collect()  # pyarrow is imported by now
            tracemalloc.start()
        run.hook.on_completions(run=run, completions=completions(step), step=step)
        run.hook.on_step_end(run=run, step=step)
        if step == steps // 10:
            early = process.memory_info().rss
        if tracemalloc.is_tracing():
            held = max(held, tracemalloc.get_traced_memory()[0] - base)
    peak = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else 0
    tracemalloc.stop()
    run.hook.on_run_end(run=run, status="completed", summary=run.summary)
    return tuple(value / 2**20 for value in (held, peak, early, process.memory_info().rss))  # type: ignore[return-value]


def main() -> None:
    """Measure each way of sampling and print one line."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    sys.stdout.write(f"{steps} steps of {ROWS} rows of {3 * len(TEXT)} bytes, a table every {EVERY}\n")
    kinds = [{"sample": sample} for sample in ("last", "first", "worst", "best", "random")]
    kinds.append({"sample": "last", "max_bytes": 2**18})
    with tempfile.TemporaryDirectory() as name:
        for number, kind in enumerate(kinds):
            options = {"every": EVERY, **kind}
            with contextlib.redirect_stdout(io.StringIO()):
                held, peak, early, late = drive(make(Path(name), f"traced{number}", options), steps, trace=True)
                run = make(Path(name), f"timed{number}", options)
                drive(run, steps, trace=False)
            costs = run.account.plugins["completions"]
            inside = 1e6 * costs["on_completions"].seconds / costs["on_completions"].calls
            table = 1e3 * costs["on_step_end"].seconds * EVERY / steps
            told = f"held {held:.2f} MiB, peak {peak:.2f} MiB, RSS {early:.1f} -> {late:.1f} MiB"
            label = f"{kind['sample']}, max_bytes {kind.get('max_bytes', 2**24) / 2**20:g} MiB"
            sys.stdout.write(f"{label:25} {told}; inside {inside:.0f} us a step, table {table:.1f} ms\n")


if __name__ == "__main__":
    main()
