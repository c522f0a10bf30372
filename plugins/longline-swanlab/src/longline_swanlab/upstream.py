"""All that this plugin needs of swanlab and its dashboard, swanboard, beyond their documentation: no other file touches that.

Importing this module imports neither of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from longline.upstream import Assumption, every, reads

TESTED: dict[str, str] = {"swanboard": ">=0.1.10b2,<0.2", "swanlab": ">=0.10.3,<0.11"}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""


def continued(folder: str) -> Any:
    """Return the callback that writes to the experiment in `folder` again: its charts go on, steps made again are replaced."""
    from swanlab.deprecated.local import LocalCallbacker

    class Continued(LocalCallbacker):  # type: ignore[misc, unused-ignore]
        def on_run_initialized(self, run_dir: Path, path: str, settings: Any, *args: Any, **kwargs: Any) -> None:
            self._open(Path(run_dir))

        def _open(self, run_dir: Path) -> None:
            from swanboard.db.models import Tag

            home = Path(folder)
            self._run_dir, self._swanlog_dir, self._console_dir = home, home / "logs", home / "console"
            self._media_dir = run_dir / "media"  # where the new part of the run puts its texts
            self.exp = experiment_in(home)
            self.exp.status, self.exp.finish_time = 0, None
            self.exp.save()
            for tag in Tag.select().where(Tag.experiment_id == self.exp.id):
                self._metrics[tag.name] = _read(self._swanlog_dir, tag)
                self._created_columns.add(tag.name)
            self._next_kid = 1 + max((int(metric.kid) for metric in self._metrics.values()), default=0)
            self._dashboard_ready = True

    return Continued()


def _read(logs: Path, tag: Any) -> Any:
    """What swanlab would remember of a metric if it had logged it in this process."""
    from swanlab.deprecated.local import _MetricContext

    metric = _MetricContext(tag.name, tag.folder, scalar=tag.type == "line")
    files = sorted((logs / tag.folder).glob("*.log"), key=lambda path: int(path.stem))
    for line in (line for path in files for line in path.read_text(encoding="utf-8").splitlines()):
        entry = json.loads(line)
        metric.add(entry["index"], entry["data"], entry["create_time"], entry.get("more"))
    return metric


def experiment_in(folder: Path) -> Any:
    """The dashboard's experiment whose files are in `folder`; raises an error of swanboard when there is none."""
    from swanboard.db import connect
    from swanboard.db.models import Experiment

    os.environ["SWANLAB_LOG_DIR"] = str(folder.parent)
    connect(autocreate=True, path=str(folder.parent))
    return Experiment.get(run_id=folder.name)


def uploads(run: Any) -> tuple[int, int]:
    """How many records, of values, tables and files, are still to be uploaded, and how many bytes of files are uploaded.

    Both are 0 when swanlab doesn't tell.
    """
    core = getattr(run, "_core", None)
    told = core.get_operation_stats() if core is not None else None
    if told is None or not told.success:
        return 0, 0
    return max(0, int(told.stats.total_records - told.stats.uploaded_records)), int(told.stats.uploaded_size)


class _Told:
    """A writer whose errors are told, and kept from whoever goes on to send what it should have written."""

    def __init__(self, writer: Any, see: Callable[[str], None]) -> None:
        self._writer, self._see = writer, see

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._writer, name)

        def call(*args: Any, **options: Any) -> Any:
            try:
                return found(*args, **options)
            except OSError as error:
                self._see(f"its copy on this machine: {type(error).__name__}: {error}")
                return None

        return call if callable(found) else found


def send_without_a_copy(run: Any, see: Callable[[str], None]) -> None:
    """Let an online run go on and end where its copy on this machine cannot be written; `see(reason)` is told of every error.

    swanlab writes each record before it sends it, the end of the run too, and so would send nothing more.
    """
    core = getattr(run, "_core", None)
    if getattr(core, "_store", None) is not None:
        core._store = _Told(core._store, see)


def watch_answers(see: Callable[..., None]) -> None:
    """Have `see(response)` called with every answer that swanlab's session gets, as a hook of requests."""
    from swanlab.sdk.internal.core_python import client

    with contextlib.suppress(AttributeError):  # then only the count is missing
        client._get_client()._session.hooks["response"].append(see)


def watch_failures(see: Callable[[str], None]) -> None:
    """Have `see(reason)` called with every error, and with all that is left out, which swanlab only writes into its own log.

    What a server refuses or cannot take now is not among them: `watch_answers` and `uploads` count that. Nor is what it cannot
    measure of the machine.
    """
    import requests

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error, told = sys.exc_info()[1], record.getMessage()
            seen = "".join(traceback.format_exception(error)) if error else told
            failed = record.levelno >= logging.ERROR or _LEFT_OUT.search(told)
            if failed and not (isinstance(error, requests.RequestException) or _REQUEST in told or "probe" in seen):
                see(_reason(told, error))

    logging.getLogger(_LOGGER).addHandler(Watch(logging.WARNING))


def _reason(text: str, error: BaseException | None) -> str:
    """What an entry of the log says, without time and place, and with the error instead of its traceback."""
    what = text.split(" - ", 1)[-1].split(": Traceback", 1)[0].split("\n", 1)[0]
    return f"{what}: {type(error).__name__}: {error}" if error else what


_LOGGER = "swanlab.internal"
_LEFT_OUT = re.compile(r"\b(skipp(ing|ed)|dropped|refusing)\b")
"""What a warning holds that is of something which is not written or sent."""
_REQUEST = "[HTTP] "
"""What an entry of the log holds that tells of a request which a server answered with an error."""
_CORE = "swanlab.sdk.internal.core_python.core:CorePython"
_LOCAL = "swanlab.deprecated.local"
_CALLBACK = f"{_LOCAL}:LocalCallbacker"
_KEPT = (
    "_run_dir",
    "_swanlog_dir",
    "_console_dir",
    "_media_dir",
    "_metrics",
    "_created_columns",
    "_next_kid",
    "_dashboard_ready",
)


def _keeps_all() -> bool:
    return set(_KEPT) <= set(vars(resolve_name(_CALLBACK)()))


def _models_have_what_is_asked() -> bool:
    models = resolve_name("swanboard.db.models")
    fields = {"run_id", "status", "finish_time"} <= set(models.Experiment._meta.fields)
    return fields and {"name", "folder", "type", "experiment_id"} <= set(models.Tag._meta.fields)


def _stats_have_what_is_asked() -> bool:
    fields = resolve_name("swanlab.proto.swanlab.operation.v1.operation_pb2:OperationStats").DESCRIPTOR.fields_by_name
    return {"total_records", "uploaded_records", "uploaded_size"} <= set(fields)


def _tells_its_errors() -> bool:
    """Try it: what its own `safe.block` keeps from the caller comes to the logger, and so does a warning."""
    safe, found = resolve_name("swanlab.sdk.internal.pkg.safe"), []
    logger = logging.getLogger(_LOGGER)
    before = list(logger.handlers)
    watch_failures(found.append)
    try:
        with safe.block(message="a try", write_to_tty=False):
            raise OSError("of nothing")
        resolve_name("swanlab.sdk.internal.pkg.console").warning("a file, skipping", write_to_tty=False)
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
    return found == ["a try: OSError: of nothing", "a file, skipping"]


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "swanlab.internal",
        "0.10.3",
        "the logger of this name gets every error that swanlab does not raise while it is handled, and tells of what is left out",
        _tells_its_errors,
    ),
    Assumption(
        "swanlab.deprecated.local.LocalCallbacker",
        "0.10.3",
        f"it opens an experiment in on_run_initialized, and keeps {', '.join(_KEPT)} and exp",
        every(
            _keeps_all,
            reads(f"{_CALLBACK}.on_run_initialized", takes=("run_dir", "path", "settings"), says=("self._media_dir =",)),
        ),
    ),
    Assumption(
        "swanlab.deprecated.local._MetricContext",
        "0.10.3",
        "it remembers the steps of one metric, which have index, data, create_time and more in its log",
        every(
            reads(f"{_LOCAL}:_MetricContext.__init__", takes=("key", "kid", "scalar")),
            reads(f"{_LOCAL}:_MetricContext.add", takes=("step", "data", "create_time", "more"), says=('"index": int(step)',)),
        ),
    ),
    Assumption(
        "swanboard.db",
        "0.1.10b2",
        "connect opens the database of a folder, whose tables have the experiments with their run_id and status, and their tags",
        every(reads("swanboard.db:connect", takes=("path", "autocreate")), _models_have_what_is_asked),
    ),
    Assumption(
        "swanlab.Run._core",
        "0.10.3",
        "its get_operation_stats tells how many records there are and how many are uploaded, and the bytes of files",
        every(
            reads("swanlab:Run.finish", says=("self._core",)),
            reads("swanlab.sdk.protocol.core:CoreProtocol.get_operation_stats"),
            _stats_have_what_is_asked,
        ),
    ),
    Assumption(
        "swanlab.sdk.internal.core_python.core.CorePython._store",
        "0.10.3",
        "all records are written by it before they are sent, and it is closed before the end of a run is sent",
        every(
            reads(f"{_CORE}._store_records", says=("self._store.write(",)),
            reads(f"{_CORE}._store_finish", says=("self._store_records([record])", "self._store.close()")),
            reads(f"{_CORE}._finish_when_online", says=("self._store_finish(", "self._pending_online_finish_record =")),
        ),
    ),
    Assumption(
        "swanlab.sdk.internal.core_python.client._get_client",
        "0.10.3",
        "it gives the one client, and all requests of that go through its _session, a session of requests",
        every(
            reads("swanlab.sdk.internal.core_python:client._get_client", says=("_default_client",)),
            reads("swanlab.sdk.internal.pkg.client:Client.__init__", says=("self._session",)),
        ),
    ),
)
"""Everything undocumented that is called, set or overridden here."""
