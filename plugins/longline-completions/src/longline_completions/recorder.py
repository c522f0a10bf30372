"""What the plugin does in one run: collect rows, make tables of them, keep those on disk, and tell what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import Table
from longline_completions.buffer import Buffer
from longline_completions.cells import readable
from longline_completions.needs import STEP
from longline_completions.store import FOLDER, Facts, Store, first_line, read

if TYPE_CHECKING:
    from longline import Completions, Run
    from longline.events import Cell
    from longline_completions.config import CompletionsConfig


class Recorder:
    """The state of one run on its main rank."""

    def __init__(self, run: Run, config: CompletionsConfig) -> None:
        self.run, self.config = run, config
        columns = tuple(name for name in config.columns if name != STEP) if config.columns else None
        self.buffer = Buffer(config.max_rows, config.max_bytes, config.sample, columns, run.plan.seed)
        self.store = Store(run.output_dir / FOLDER)
        self.step = 0
        self.score = self.method = ""
        self.came = self.told = self.finished = False
        self.steps = self.cut = self.lost = self.written = self.unwritten = 0

    # --- events, in the order of time -------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """Training starts after `step`: forget what later steps left, and show what is left of it.

        Nobody was shown what was pending; and a tracker replaces the table that a row stood in when its step is made again.
        """
        self.step = step
        rewound = self.store.rewind(step)
        for text in rewound.unreadable:
            self.run.alert("a table of completions is lost", f"{text}; it was made after the checkpoint and is made again")
        for path in rewound.kept:
            columns, rows = read(path)
            self._raise(Table(FOLDER, columns, tuple(tuple(row.values()) for row in rows), step))

    def add(self, completions: Completions, step: int) -> None:
        """Take in the rows of a step."""
        if not completions.rows:
            return
        self.came = True
        self.step = max(self.step, step)
        self.score, self.method = completions.score, completions.method
        self.buffer.add(step, completions.rows, completions.score)

    def step_end(self, step: int) -> None:
        """Make a table when it is time for one."""
        self.step = step
        self.steps += 1
        if step % self.config.every == 0:
            self.flush()

    def checkpoint(self) -> None:
        """Keep the rows that no table has yet: a run that is killed goes on from here and would lack them."""
        if not self.buffer:
            return
        try:
            self.store.write_pending(self._table(), self._facts())
        except Exception as error:
            self._not_written(error)

    def finish(self) -> None:
        """Make the last table and tell what is not in the tables; once, but may be called again."""
        self.flush()
        if self.finished:
            return
        self.finished = True
        if self.unwritten > 1:
            total = self.unwritten + self.written
            self.run.alert("completions are missing on disk", f"{self.unwritten} of {total} tables were not written")
        if self.cut or self.lost:
            text = f"{self.cut} were cut and {self.lost} left out, as each took more than max_bytes ({self.config.max_bytes})"
            self.run.alert("completions too long for a table", text, "info")
        if self.steps and not self.came:
            text = f"method {self.run.method.name} raised no on_completions in {self.steps} steps, so there is no table"
            self.run.alert("no completions came", text)

    # --- tables -----------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make a table of what there is and start the next one. The file comes first: a tracker may take its time."""
        if not self.buffer:
            return
        table, facts = self._table(), self._facts()
        self.cut += self.buffer.cut
        self.lost += self.buffer.lost
        self.buffer.clear()
        try:
            self.store.write(table, facts)
            self.written += 1
        except Exception as error:
            self.unwritten += 1
            self._not_written(error)
        self._raise(table)

    def _raise(self, table: Table) -> None:
        self.run.hook.on_table(run=self.run, table=table)

    def _table(self) -> Table:
        """The rows as a table: every column that some row has, in the order of their first appearance."""
        kept = self.buffer.rows()
        names = self.buffer.columns or tuple(dict.fromkeys(name for row in kept for name in row.names))
        rows = []
        for row in kept:
            values: dict[str, Cell] = dict(zip(row.names, row.values, strict=True))
            rows.append((row.step, *(readable(values.get(name)) for name in names)))
        return Table(FOLDER, (STEP, *map(_column, names)), tuple(rows), self.step)

    def _facts(self) -> Facts:
        return Facts(self.run.id, self.method, _column(self.score), self.config.sample, self.buffer.seen)

    def _not_written(self, error: Exception) -> None:
        """Tell the first failure; a disk that is full fails every time."""
        if not self.told:
            self.told = True
            text = f"cannot write into {self.store.folder}: {first_line(error)}"
            tail = "tables are still raised for trackers, and training goes on; free space, or check the folder"
            self.run.alert("completions are not kept on disk", f"{text}; {tail}")


def _column(name: Any) -> str:
    """A column's name in tables: readable, and never that of our own column."""
    text = str(readable(str(name)))
    return f"{text}_" if text == STEP else text
