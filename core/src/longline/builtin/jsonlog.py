"""log.jsonl: every log event as one JSON object a line, so that a run can be read without any tracker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.artifacts import not_written, now, write_atomically
from longline.hookspecs import hookimpl
from longline.plugins.metrics import OWN
from longline.text import json_line

if TYPE_CHECKING:
    from longline.plugins.run import Run


class JsonLog:
    """Appends to the file at every event; a line is flushed before training goes on."""

    @hookimpl
    def on_train_begin(self, run: Run, trainer: Any) -> None:
        """After a resume, drop what was logged after the checkpoint: those steps are made again."""
        if run.is_main and run.plan.log_path.exists():
            forget_after(run.plan.log_path, trainer.state.global_step)

    @hookimpl
    def on_log(self, run: Run, logs: Mapping[str, Any], step: int) -> None:
        """Append one line: step, time and the metrics. Numbers that JSON cannot hold are the strings NaN and Infinity.

        A trainer's own metric that is called `step` or `time` is `step_` or `time_` here.
        """
        metrics = {f"{name}_" if name in OWN else name: _plain(value) for name, value in logs.items()}
        event = {"step": step, "time": now(), **metrics}
        line = json_line(event) + "\n"
        try:
            with run.plan.log_path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise not_written(error, run.plan.log_path) from error


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def forget_after(path: Path, step: int) -> None:
    """Keep only the lines of `path` up to `step`; a last line that a crash cut short goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(line + "\n" for line in kept))
