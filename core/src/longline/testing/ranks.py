"""One plugin on several ranks: trained whole, interrupted and resumed in one process a rank, and watched beside the main one.

`python -m longline.testing.ranks CONFIG MODULE STEP` is what each rank runs: `whole/` and `parts/` beside the config are the runs,
and `seen-RANK.json` is what the plugin of that module did on a rank that is not the main one.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from longline.parallel.ranks import rank
from longline.testing.running import Folder

LIMIT = 240.0
"""Seconds that all of it may take."""
CONNECTS = {
    "socket.connect": "connects to a server",
    "subprocess.Popen": "starts a process",
    "os.posix_spawn": "starts a process",
}
"""Audit events of Python that are for the main rank alone, beside what is written into the run folder."""


class RunFolder(Folder):
    """The folder of a run in another process."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir


def run_ranks(
    config: Path, module: str, ranks: int, at: int, environment: Mapping[str, str]
) -> tuple[str, dict[int, list[str]]]:
    """Run this module on `ranks` processes; what they wrote, and what each rank but the main one did.

    The runs are beside `config`: `whole`, and `parts`, which is interrupted at step `at`. One process a rank makes both: what a
    plugin keeps in a module or a class is there in the second, and tells them apart.

    Raises AssertionError with what they wrote when one fails, or when they take too long; then all are ended.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shared = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "longline.testing.ranks", str(config), module, str(at)]
    said = config.with_suffix(".txt")
    with said.open("wb") as out:
        started = [
            subprocess.Popen(
                command,
                env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
                cwd=config.parent,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for number in range(ranks)
        ]
        failed = _wait(started)
    text = said.read_text(encoding="utf-8", errors="replace")
    if failed:
        raise AssertionError(f"{failed}:\n{_last(text)}")
    told = {number: config.with_name(f"seen-{number}.json") for number in range(1, ranks)}
    return text, {number: json.loads(path.read_text(encoding="utf-8")) for number, path in told.items()}


def _wait(started: list[subprocess.Popen[bytes]]) -> str:
    """Wait for all; what is wrong, or nothing. One that fails leaves the others in a collective, so they are ended."""
    end = time.monotonic() + LIMIT
    try:
        while any(process.poll() is None for process in started):
            if broken := [number for number, process in enumerate(started) if process.poll()]:
                time.sleep(1)  # for what the others have to say
                return f"rank {broken[0]} failed"
            if time.monotonic() > end:
                return f"the ranks had not ended after {LIMIT:g} seconds"
            time.sleep(0.05)
        return next((f"rank {number} failed" for number, process in enumerate(started) if process.returncode), "")
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def _last(text: str) -> str:
    """The end of what was written, from the first error on if there is one."""
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if line.startswith(("error:", "Traceback"))), len(lines) - 20)
    return "\n".join(lines[max(first, 0) :][:40])


class Watcher:
    """Writes down what a plugin does that only the main rank should: write into a run, connect, start processes, print."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder, self.seen = package, folder, list[str]()

    def watch(self) -> None:
        """From here on, as long as the process lives."""
        sys.addaudithook(self._audit)
        sys.stdout, sys.stderr = _Heard(sys.stdout, self), _Heard(sys.stderr, self)

    def note(self, what: str) -> None:
        """Something was done; it counts if the plugin's code is among those who did it."""
        frame = next((frame for frame in _callers() if _package(frame) == self.package), None)
        if frame is not None:
            told = f"{what} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
            self.seen += [] if told in self.seen else [told]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CONNECTS:
            self.note(CONNECTS[event])
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            path = Path() if isinstance(arguments[0], int) else Path(os.fsdecode(arguments[0])).absolute()
            if path.is_relative_to(self.folder):
                self.note(f"writes {path.relative_to(self.folder)}")


class _Heard:
    """A stream that tells a watcher of what passes."""

    def __init__(self, stream: Any, watcher: Watcher) -> None:
        self.stream, self.watcher = stream, watcher

    def write(self, text: str) -> int:
        if text.strip():
            self.watcher.note(f"prints {text.strip()[:80]!r}")
        written: int = self.stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    for _ in range(2):  # this function, and who asked
        frame = frame.f_back if frame is not None else None
    while frame is not None:
        yield frame
        frame = frame.f_back


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def main() -> None:
    """What one rank does."""
    from longline.config.loader import load_config
    from longline.errors import LonglineError
    from longline.run import train
    from longline.testing.faults import fail_at

    config, package = Path(sys.argv[1]), sys.argv[2].partition(".")[0]
    watcher = Watcher(package, config.parent)
    if rank():
        watcher.watch()
    whole, parts = (load_config(config, [f"output_dir={config.parent / name}"]) for name in ("whole", "parts"))
    try:
        train(whole)
        train(parts, plugins=[fail_at("on_step_end", int(sys.argv[3]), "SIGINT")])
        train(parts, resume="last")
    except LonglineError as error:
        sys.exit(f"error: {error}")
    if rank():
        config.with_name(f"seen-{rank()}.json").write_text(json.dumps(watcher.seen), encoding="utf-8")


if __name__ == "__main__":
    main()
