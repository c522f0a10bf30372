"""The plots of the page: one function for each benchmark that has one. Needs matplotlib, which only benchmarks need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]
COLOURS = ("#00695c", "#f9a825", "#5c6bc0", "#ad1457", "#8d6e63", "#78909c")


def _figure(width: float, count: int = 1) -> Any:
    """A figure with so many axes in a row, drawn without a display; the same rows give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "longline", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    mpl.rcParams |= {"axes.spines.right": False, "axes.prop_cycle": mpl.cycler(color=COLOURS), "figure.facecolor": "white"}
    from matplotlib import pyplot as plt

    return plt.subplots(1, count, figsize=(width, 3.4), layout="constrained", squeeze=False)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _bars(rows: Rows, path: Path) -> None:
    """Tokens a second of every side, one group of bars for each work, with the spread."""
    raced = [row for row in rows if "s/step" in row]
    works = list(dict.fromkeys(row["work"] for row in raced))
    sides = list(dict.fromkeys(row["side"] for row in raced))
    figure, axes = _figure(2.2 * len(works) + 2, len(works))
    for axis, work in zip(axes[0], works, strict=True):
        for row in (row for row in raced if row["work"] == work):
            rate, place = row["tokens/s"], sides.index(row["side"])
            ends = [[rate["median"] - rate["low"]], [rate["high"] - rate["median"]]]
            axis.bar(place, rate["median"], yerr=ends, color=COLOURS[place % len(COLOURS)], capsize=3, label=row["side"])
        axis.set_title(work)
        axis.set_xticks([])
    axes[0][0].set_ylabel("tokens a second, padding left out")
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(works)), frameon=False)
    _save(figure, path)


def _line(axis: Any, rows: Rows, x: str, y: str, label: str | None = None) -> None:
    """One value over another; a spread as a band."""
    places = [row[x] for row in rows]
    values = [row[y] if isinstance(row[y], dict) else {"median": row[y], "low": row[y], "high": row[y]} for row in rows]
    axis.plot(places, [value["median"] for value in values], marker="o", label=label)
    axis.fill_between(places, [value["low"] for value in values], [value["high"] for value in values], alpha=0.2)
    if axis.get_yscale() == "linear":
        axis.set_ylim(0, 1.1 * axis.dataLim.y1)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def _growth(rows: Rows, path: Path) -> None:
    """Step time and memory over the sequence length; what plugins cost; time and memory of a long run."""
    figure, axes = _figure(16, 5)
    length, memory, plugins, steps, held = axes[0]
    for side in ("longline", "bare"):
        chosen = [row for row in rows if row["grows"] == "sequence length" and row["side"] == side]
        for axis, y in ((length, "s/step"), (memory, "peak MB")):
            if chosen:
                axis.set_xscale("log", base=2)
                _line(axis, chosen, "at", y, side)
                axis.set_xlabel("sequence length, tokens")
                axis.legend(frameon=False)
    runs = [name for name in dict.fromkeys(row["grows"] for row in rows) if name.startswith("run length")]
    lines = [(plugins, "plugins", "hooks, % of training", "plugins")]
    lines += [(axis, name, y, "steps") for name in runs for axis, y in ((steps, "s/step"), (held, "memory MB"))]
    for axis, grows, y, x in lines:
        chosen = [row for row in rows if row["grows"] == grows]
        if chosen:
            _line(axis, chosen, "at", y, None if x == "plugins" else grows)
            axis.set_xlabel(x)
            if x == "steps":
                axis.legend(frameon=False)
    _save(figure, path)


def _data(rows: Rows, path: Path) -> None:
    """Seconds, processor time for each row, and memory over the number of rows."""
    figure, axes = _figure(10, 3)
    for axis, y in zip(axes[0], ("seconds", "processor us/row", "peak MB"), strict=True):
        axis.set_xscale("log")
        if y == "seconds":
            axis.set_yscale("log")
        _line(axis, rows, "rows", y)
    _save(figure, path)


PLOTS: dict[str, Callable[[Rows, Path], None]] = {"train": _bars, "dpo": _bars, "growth": _growth, "data_growth": _data}
