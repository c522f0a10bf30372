"""Which further columns are kept, of what type, and their values in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from longline.data.mapped import near
from longline.data.store.further import TEXT, checked, numbers
from longline.data.values import RowError, TokenRow
from longline.errors import DataError
from longline.events import Column

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longline.config.sections import KeepSection
    from longline.data.kinds import Kind
    from longline.data.values import Packing, Row, Sample

Seen = tuple["Row", "Sample | None"]
"""A row, and the sample that its format makes of it."""


@dataclass(slots=True)
class Keeping:
    """The further columns of all splits. Of `unknown` ones the type is learnt from the first source's first rows."""

    columns: list[Column] = field(default_factory=list)
    unknown: dict[str, KeepSection] = field(default_factory=dict)

    @classmethod
    def of(cls, wanted: Sequence[KeepSection], asked: Sequence[Column], kind: Kind, packing: Packing | None) -> Keeping:
        """What the config keeps and what methods and plugins ask for. Raises DataError where two want different things."""
        keeping = cls()
        for column in asked:
            keeping._add(column)
        # What methods and plugins ask for has a type, so the config may name the same column without one.
        for section in wanted:
            known = next((column for column in keeping.columns if column.name == section.name), None)
            if section.dtype is not None:
                keeping._add(Column(section.name, section.align or "row", section.dtype, section.width, section.fill))
            elif known is None:
                keeping.unknown[section.name] = section
        taken = [name for name in (*keeping._names(), *keeping.unknown) if name in {*kind.schema(packing).names, "labels"}]
        if taken:
            text = f"the column {taken[0]!r} can't be kept: prepared data has one of this name"
            raise DataError(text, hint="rename it in the data")
        return keeping

    def _names(self) -> list[str]:
        return [column.name for column in self.columns]

    def _add(self, column: Column) -> None:
        known = next((known for known in self.columns if known.name == column.name), None)
        if known is not None and known != column:
            raise DataError(f"the column {column.name!r} is asked for twice, as {described(known)} and as {described(column)}")
        if known is None:
            self.columns.append(column)

    def learn(self, rows: Sequence[Seen], source: str) -> None:
        """Decide the type of what is unknown. Raises DataError where no row has a value that could be kept."""
        readable = any(sample is not None for _, sample in rows)
        for name in (*self._names(), *self.unknown):
            seen = [(_value(name, row, sample), sample) for row, sample in rows]
            values = [(value, sample) for value, sample in seen if value is not None]
            if not values and (readable or name in self.unknown):
                what = near(name, dict.fromkeys(str(key) for row, _ in rows for key in row if key != name))
                raise DataError(f"{source}: the column {name!r} is to be kept and is not there ({what})")
            if name in self.unknown:
                self._add(_learnt(self.unknown[name], values, source))
        self.unknown.clear()

    def values(self, row: Row, sample: Sample) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The values of a row, and those of the tokens of each part. Raises RowError for what can't be kept."""
        kept: dict[str, Any] = {}
        aligned: list[dict[str, Any]] = [{} for _ in sample.parts] if self.columns else []
        for column in self.columns:
            value = _value(column.name, row, sample)
            if value is None:
                state = "null" if column.name in row else f"missing (found: {', '.join(map(str, row)) or 'none'})"
                raise RowError(f"the column {column.name!r} is to be kept and is {state}")
            if column.align == "row":
                kept[column.name] = checked(column, value)
                continue
            for part, own in zip(aligned, _of_parts(column.name, value, len(aligned)), strict=True):
                part[column.name] = checked(column, own)
        return kept, aligned


def _value(name: str, row: Row, sample: Sample | None) -> Any:
    """What the format gives, else what the row has; None where there is neither."""
    return sample.columns[name] if sample is not None and name in sample.columns else row.get(name)


def _of_parts(name: str, value: Any, parts: int) -> Sequence[Any]:
    """The values of each part. Raises RowError."""
    if parts == 1:
        return [value]
    if not isinstance(value, (list, tuple)) or len(value) != parts:
        raise RowError(f"the column {name!r} is to hold {parts} lists, one for each answer")
    return value


def _learnt(section: KeepSection, values: Sequence[tuple[Any, Sample | None]], source: str) -> Column:
    """The type that values have. Raises DataError for values that can't be kept."""
    name, first = section.name, values[0][0]
    if isinstance(first, str):
        return Column(name, "row", TEXT)
    arrays = []
    for value, sample in values:
        try:
            arrays.append((numbers(name, value), sample))
        except RowError as error:
            wrong = error
    if not arrays:
        raise DataError(f"{source}: {wrong}", hint="say its type: `keep: [{name: ..., align: ..., dtype: ...}]`")
    align = section.align or ("token" if all(_is_aligned(array, sample) for array, sample in arrays) else "row")
    shape = max((array.shape for array, _ in arrays), key=len)
    vector = len(shape) > (align == "token")
    return Column(name, align, _dtype([array for array, _ in arrays]), shape[-1] if vector else None, section.fill)


def _is_aligned(array: np.ndarray[Any, Any], sample: Sample | None) -> bool:
    """Whether values are as many as the token ids that a row came with."""
    parts = sample.parts if sample else ()
    if array.ndim == 0 or len(parts) != 1 or not isinstance(parts[0], TokenRow):
        return False
    return len(parts[0].ids) + sum(parts[0].padding) == len(array)


def _dtype(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    """bool, int64 or float32, what holds all of them; float16 stays what it is."""
    types = {array.dtype for array in arrays if array.size}
    # Numbers from JSON are float64, of which float32 keeps enough; what came as float16 was chosen to be small.
    if types == {np.dtype("float16")}:
        return "float16"
    kinds = {dtype.kind for dtype in types}
    return "bool" if kinds == {"b"} else "int64" if kinds and kinds <= {"i", "u"} else "float32"


def described(column: Column | Mapping[str, Any]) -> str:
    """A column's type for people."""
    facts = column if isinstance(column, Mapping) else asdict(column)
    width = f", {facts['width']} wide" if facts["width"] else ""
    return f"{facts['dtype']}{width}, one for each {facts['align']}"
