"""Several ranks on this machine: started through torchrun, told of signals, and asked how they ended."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from longline.errors import EXIT_DONE, EXIT_TRAINING
from longline.parallel.ranks import rank
from longline.process import parent, signals, threads

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

LAUNCHED = "LONGLINE_LAUNCHED"
"""Set for ranks that `launch` started: the folder in which they report how they ended."""


def launch(arguments: Sequence[str], nproc: int) -> int:
    """Run `longline ARGUMENTS` as `nproc` ranks on this machine under torchrun and return the run's exit status.

    Signals go straight to the ranks, since torchrun would kill them 30 seconds later, in the middle of a save. The exit status
    is what the ranks reported, since torchrun knows only success and failure.
    """
    command = [
        *(sys.executable, "-m", "longline.parallel.launch", "--standalone", "--nproc-per-node", str(nproc)),
        *("-m", "longline", *arguments),
    ]
    with TemporaryDirectory(prefix="longline-") as folder:
        own = {LAUNCHED: folder, parent.VARIABLE: str(os.getpid())}
        environment = {threads.VARIABLE: str(threads.share(nproc)), **os.environ, **own}
        # In its own session, so that a Ctrl-C in the terminal reaches only us and the ranks get it once.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        with _forwarding_to(child) as forwarded:
            code = child.wait()
            _wait_for_ranks(Path(folder))
        if code < 0 and not forwarded:
            sys.stderr.write(f"error: torchrun was ended by {signal.Signals(-code).name}; the ranks stopped with it\n")
            return EXIT_TRAINING
        if reported := _reported(Path(folder)):
            return reported
        # Without a report they were stopped before they could handle a signal, or killed.
        return EXIT_DONE if code == 0 else 128 + forwarded[0] if forwarded else EXIT_TRAINING


@contextmanager
def _forwarding_to(launcher: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass every signal that would end us on to the ranks for the block; yields a list that receives their numbers."""
    forwarded: list[int] = []

    def forward(signum: int, _frame: FrameType | None) -> None:
        forwarded.append(signum)
        if not _pass_on(signum, launcher.pid):
            launcher.terminate()

    with signals.handlers(signals.ENDING, forward):
        yield forwarded


def _pass_on(signum: int, launcher: int) -> bool:
    """Send a signal to all ranks; returns whether there are any."""
    ranks = _ranks_of(launcher)
    for process in ranks:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)
    return bool(ranks)


def _ranks_of(launcher: int) -> list[psutil.Process]:
    """The processes that torchrun started as ranks; none before it did."""
    try:
        return [child for child in psutil.Process(launcher).children() if "longline" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def join() -> None:
    """What a rank of any torchrun does first: it ends with its torchrun, and says to `launch` that it is there."""
    parent.follow()
    if LAUNCHED in os.environ:
        with suppress(OSError):
            (Path(os.environ[LAUNCHED]) / f"{os.getpid()}.rank").touch()


def _wait_for_ranks(folder: Path) -> None:
    """Ranks of a torchrun that was killed end a little later than it: until then, they hold the run folder."""
    found = []
    for path in folder.glob("*.rank"):
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(path.stem)))
    _, left = psutil.wait_procs(found, timeout=parent.GRACE_SECONDS + 5)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def report(code: int) -> int:
    """Tell `launch` how this rank ended, and return what torchrun is to be told: it prints all but 0 as a crash."""
    folder = Path(os.environ[LAUNCHED])
    with suppress(OSError):
        (folder / f"{time.time_ns()}-{rank()}").write_text(str(code))
    return EXIT_DONE if code in signals.STOPPED else code


def says_first(text: str) -> bool:
    """Whether no other rank of `launch` has said so: what is wrong with a config, every rank finds."""
    try:
        (Path(os.environ[LAUNCHED]) / hashlib.sha256(text.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # a full disk: better twice than never
    return True


def _reported(folder: Path) -> int:
    """The first status other than 0 that a rank reported: the others may have failed because of that one."""
    codes = [int(path.read_text() or EXIT_TRAINING) for path in sorted(folder.glob("*-*"))]
    return next((code for code in codes if code), EXIT_DONE)


def torchrun() -> None:
    """Run torchrun with this process's arguments, without its own account of a rank that failed: the rank has told why."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    parent.follow(_let_ranks_finish)
    os.environ[parent.VARIABLE] = str(os.getpid())
    try:
        main()
    except ChildFailedError as error:
        _tell_of_killed(error)
        sys.exit(EXIT_TRAINING)
    except SignalException as error:
        sys.exit(128 + error.sigval)


def _let_ranks_finish() -> None:
    """Whoever started this torchrun is gone: the ranks save what they have, and it ends when they do."""
    if not _pass_on(signal.SIGTERM, os.getpid()):
        os.kill(os.getpid(), signal.SIGTERM)


def _tell_of_killed(error: ChildFailedError) -> None:
    """A rank that a signal killed could not say so itself."""
    number, failure = error.get_first_failure()
    if failure.exitcode < 0 and -failure.exitcode not in (*signals.SIGNALS, signal.SIGQUIT):
        name = signal.Signals(-failure.exitcode).name
        hint = "\n  hint: the system kills what takes too much memory; look into its log" if name == "SIGKILL" else ""
        sys.stderr.write(f"error: rank {number} was ended by {name}{hint}\n")


if __name__ == "__main__":
    torchrun()
