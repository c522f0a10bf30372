"""Recording without a Longline run: around a plain trainer, or around any code."""

from __future__ import annotations

import functools
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline_profiling.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("longline_profiling")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@contextmanager
def recording(trainer: Any = None, **options: Any) -> Iterator[Session]:
    """Record the block: `with recording(trainer) as timings: trainer.train()`, then `print(timings.summary())`.

    `trainer` is a transformers.Trainer, or of a class derived from it; without one only decorated functions and `profile` blocks
    are timed. The options are those of the plugin: `enabled`, `min_duration_ms`, `log_interval`, `steps` and so on; wrong ones
    raise pydantic's ValidationError. Metrics go into the trainer's own log, traces into `<trainer.args.output_dir>/profile`.
    """
    from longline_profiling.config import ProfilingConfig

    session = Session(ProfilingConfig.model_validate(options), tell=_say)
    if not session.options.enabled:
        yield session
        return
    undo = None
    if trainer is not None:
        session.watch(trainer, Path(str(trainer.args.output_dir)) / "profile")
        undo = _log_with_metrics(session, trainer)
    session.open()
    try:
        yield session
    finally:
        session.close()
        if undo is not None:
            undo()


def _log_with_metrics(session: Session, trainer: Any) -> Callable[[], None]:
    """Let a plain trainer log our metrics with its own; returns what undoes it."""
    log = trainer.log

    @functools.wraps(log)
    def with_metrics(logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        logs.update(session.metrics(logs, trainer.state.global_step))
        return log(logs, *args, **kwargs)

    trainer.log = with_metrics

    def undo() -> None:
        if vars(trainer).get("log") is with_metrics:
            del trainer.log

    return undo


def _say(title: str, text: str, level: str) -> None:
    """Where there is no run that alerts go to, the log takes them."""
    logger.log(LEVELS[level], "%s: %s", title, text)
