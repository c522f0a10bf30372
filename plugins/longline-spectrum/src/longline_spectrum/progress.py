"""How far a scan is, for people: a bar on a terminal, two lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from longline_spectrum.files import Checkpoint
    from longline_spectrum.scan import Row


class Progress:
    """Is told of each row that a scan has measured, while it is entered."""

    def __init__(self, checkpoint: Checkpoint, *, quiet: bool = False) -> None:
        from longline_spectrum.units import units

        self._sizes = {unit: unit.weights for unit in units(checkpoint)[0]}
        self._name, self._quiet, self._begin = checkpoint.name, quiet, time.perf_counter()
        self._bar: Any = None
        self._told = False

    def __enter__(self) -> Progress:
        return self

    def __call__(self, row: Row, known: int) -> None:
        """A row is there; `known` were there before."""
        if self._quiet:
            return
        if not self._told:
            self._told = True
            before = f", {known} known from a scan that was interrupted" if known else ""
            click.echo(f"spectrum: scanning {self._name}, {len(self._sizes)} matrices{before}", err=True)
            if sys.stderr.isatty():
                self._bar = click.progressbar(length=sum(self._sizes.values()), file=sys.stderr, show_percent=True)
                self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(self._sizes.get(row.unit, 0))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
        if self._told and error is None:
            click.echo(f"spectrum: scanned in {time.perf_counter() - self._begin:.1f} s, kept for later runs", err=True)
