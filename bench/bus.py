"""What a hook call costs, with 0 and 6 implementations, beside pluggy's own call of the same ones.

    python bench/bus.py [--json FILE]

Every figure is the median of many short rounds that alternate between the two, so that a busy machine slows both alike.
"""

from __future__ import annotations

import statistics
import sys
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy
from common import Result, finish, options, spread

from longline import Plugin, hookimpl, hookspecs
from longline.plugins import Bus, LoadedPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, CALLS = 200, 500


class Counter(Plugin):
    """The cheapest useful plugin."""

    steps = 0

    @hookimpl
    def on_step_end(self, run: object, step: int) -> None:
        """Count."""
        self.steps += 1


def raw(plugins: list[Counter]) -> Callable[..., object]:
    """pluggy's own call: no containment, no account."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        manager.register(plugin)
    return manager.hook.on_step_end


def seconds(call: Callable[..., object], run: object) -> float:
    """Seconds of one call, measured over a round."""
    begin = perf_counter()
    for step in range(CALLS):
        call(run=run, step=step)
    return (perf_counter() - begin) / CALLS


def measure(implementations: int) -> dict[str, Any]:
    """Microseconds of a call of either, and the ratio of the medians."""
    run = SimpleNamespace(is_main=True)
    bus = Bus([LoadedPlugin.of(Counter(None), f"counter{index}") for index in range(implementations)]).hook.on_step_end
    peer = raw([Counter(None) for _ in range(implementations)])
    pairs = [(seconds(bus, run), seconds(peer, run)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
    return {
        "implementations": implementations,
        "bus, microseconds": spread(1e6 * pair[0] for pair in pairs),
        "pluggy, microseconds": spread(1e6 * pair[1] for pair in pairs),
        "times pluggy": round(ours / theirs, 2),
    }


def main() -> int:
    """Measure both cases."""
    chosen = options(__doc__)
    rows = [measure(count) for count in (0, 6)]
    return finish(Result("bus", "A hook call", rows), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
