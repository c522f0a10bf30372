"""What the hooks cost: calls, seconds and failures of every plugin and hook, and the time of the bus itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from longline.hookspecs import hook_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


@dataclass(slots=True)
class HookCost:
    """One plugin in one hook. `seconds` leaves out hooks that it raised itself; they are entered under those who answered."""

    calls: int = 0
    seconds: float = 0.0
    failures: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class PluginCost:
    """A row of the account: the sum of one plugin over its hooks; `repeated` are the seconds in hooks that fire again and again.

    The rest of `seconds` was paid once: starting, loading, ending.
    """

    plugin: str
    calls: int
    seconds: float
    repeated: float
    failures: int
    last_error: str | None
    core: bool


@dataclass(slots=True)
class Account:
    """The account of one bus. Entries are plain additions, which the interpreter doesn't split between threads."""

    plugins: dict[str, dict[str, HookCost]] = field(default_factory=dict)
    core: dict[str, dict[str, HookCost]] = field(default_factory=dict)
    bus_seconds: float = 0.0

    def open(self, name: str, hook: str, *, core: bool) -> HookCost:
        """The entry of `name` in `hook`, made on first use."""
        side = self.core if core else self.plugins
        return side.setdefault(name, {}).setdefault(hook, HookCost())

    def rows(self) -> list[PluginCost]:
        """One row for each plugin in the config's order, then those of the core."""
        return [_row(name, hooks, core=False) for name, hooks in self.plugins.items()] + [
            _row(name, hooks, core=True) for name, hooks in self.core.items()
        ]

    @property
    def plugin_seconds(self) -> float:
        """What all plugins took together; the core's own objects and the bus are left out."""
        return sum(row.seconds for row in self.rows() if not row.core)

    @property
    def step_seconds(self) -> float:
        """What all plugins took in hooks that fire again and again while a run trains."""
        return sum(row.repeated for row in self.rows() if not row.core)

    @property
    def failures(self) -> int:
        """How many calls of plugins failed."""
        return sum(row.failures for row in self.rows())

    def failed(self) -> dict[str, dict[str, tuple[int, str | None]]]:
        """What failed on this rank, by plugin and hook: how often, and the last error."""
        return {
            name: {hook: (cost.failures, cost.last_error) for hook, cost in hooks.items() if cost.failures}
            for name, hooks in self.plugins.items()
        }

    def add_failures(self, rank: int, failures: Mapping[str, Mapping[str, tuple[int, str | None]]]) -> None:
        """Count what failed on another rank, whose calls and seconds are its own."""
        for name, hooks in failures.items():
            for hook, (count, error) in hooks.items():
                cost = self.open(name, hook, core=False)
                cost.failures += count
                cost.last_error = f"{error} (rank {rank})"

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: `plugins` and `core` as name -> hook -> calls, seconds, failures, last_error; and `bus_seconds`.

        Hooks that were never called are left out. `last_error` is a message of foreign code: mask secrets before writing it.
        """
        return {"plugins": _called(self.plugins), "core": _called(self.core), "bus_seconds": round(self.bus_seconds, 6)}

    def table(self, train_seconds: float) -> Table:
        """The account as a table; the last lines are all plugins and the bus itself.

        Shares are of `train_seconds`, and of those hooks that fire again and again: what starts a tracker would be another share
        in a longer run.
        """
        from rich.table import Table

        table = Table(title="hook account", title_justify="left")
        table.add_column("plugin")
        for column in ("calls", "seconds", "in steps", "of training", "failures"):
            table.add_column(column, justify="right")
        for row in self.rows():
            failures = str(row.failures) if row.failures else ""
            times = (f"{row.seconds:.3f}", f"{row.repeated:.3f}", share(row.repeated, train_seconds))
            table.add_row(row.plugin, str(row.calls), *times, failures)
        table.add_section()
        times = (f"{self.plugin_seconds:.3f}", f"{self.step_seconds:.3f}", share(self.step_seconds, train_seconds))
        table.add_row("all plugins", "", *times, "")
        table.add_row("the bus itself", "", f"{self.bus_seconds:.3f}", "", share(self.bus_seconds, train_seconds), "")
        return table


def share(seconds: float, train_seconds: float) -> str:
    """`seconds` in percent of `train_seconds`, to two digits that count; a dash when nothing was trained."""
    if train_seconds <= 0:
        return "-"
    percent = 100 * seconds / train_seconds
    return f"{percent:.2f} %" if percent >= 0.1 or percent == 0 else f"{percent:.4f} %"


def _row(name: str, hooks: dict[str, HookCost], *, core: bool) -> PluginCost:
    costs, facts = list(hooks.values()), hook_facts()
    errors = [cost.last_error for cost in costs if cost.last_error]
    return PluginCost(
        plugin=name,
        calls=sum(cost.calls for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        repeated=sum(cost.seconds for name, cost in hooks.items() if (fact := facts.get(name)) and fact.repeated),
        failures=sum(cost.failures for cost in costs),
        last_error=errors[-1] if errors else None,
        core=core,
    )


def _called(side: dict[str, dict[str, HookCost]]) -> dict[str, dict[str, dict[str, Any]]]:
    def told(hooks: dict[str, HookCost]) -> dict[str, dict[str, Any]]:
        there = {hook: cost for hook, cost in hooks.items() if cost.calls or cost.failures}
        return {hook: {**asdict(cost), "seconds": round(cost.seconds, 6)} for hook, cost in there.items()}

    return {name: told(hooks) for name, hooks in side.items()}
