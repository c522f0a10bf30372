"""Columns beside the tokens: how a value is checked, collected, and stored as Arrow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from longline.data.store.columns import Growing, forget, gather
from longline.data.values import Longs, RowError, refuse_halves

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from longline.events import Column

TEXT, JSON, INTERNED = "text", "json", "interned"
"""Types that numpy has not: texts, any JSON value as its text; for kinds of rows only, values of which few are different."""
TEXTS = (TEXT, JSON)
"""The types that are stored as text."""


# --- one value ------------------------------------------------------------------------------------


def checked(column: Column, value: Any) -> Any:
    """A value as it is stored: text, or an array of the column's type and shape. Raises RowError."""
    if column.dtype == JSON:
        return json.dumps(value, ensure_ascii=False, default=_listed)
    if column.dtype == TEXT:
        if not isinstance(value, str):
            raise RowError(f"the column {column.name!r} is to hold text, and here is a {type(value).__name__}")
        refuse_halves(value, f"the column {column.name!r}")
        return value
    found = numbers(column.name, value)
    _refuse_shape(column, found)
    return _as_type(column, found)


def _listed(value: Any) -> Any:
    """What readers of tables give in the place of lists and times."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def numbers(name: str, value: Any) -> NDArray[Any]:
    """Numbers, lists of them or lists of lists as an array. Raises RowError."""
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):
        raise RowError(f"the column {name!r} is ragged: its lists are not equally long") from None
    if found.size and found.dtype.kind not in "biuf":
        raise RowError(f"the column {name!r} holds something that is no number")
    return found


def _refuse_shape(column: Column, found: NDArray[Any]) -> None:
    """One value, or one a token; each a number, or `width` of them."""
    dims = (column.align == "token") + (column.width is not None)
    fits = found.ndim == dims and (column.width is None or found.shape[-1] == column.width)
    if fits or (not found.size and column.align == "token" and found.ndim == 1):
        return
    each = f"{column.width} numbers" if column.width else "one number"
    shape = f"a list of shape {list(found.shape)}" if found.ndim else "one number"
    raise RowError(f"the column {column.name!r} is to hold {each} for each {column.align}, and here is {shape}")


def _as_type(column: Column, found: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in the column's type, if it can hold them."""
    wanted = np.dtype(column.dtype)
    if not found.size:
        return np.zeros((0, column.width) if column.width else 0, dtype=wanted)
    with np.errstate(over="ignore", invalid="ignore"):
        made = found.astype(wanted)
    if wanted.kind == "f":
        lost = bool(found.dtype.kind == "b" or (np.isinf(made) & ~np.isinf(found)).any())
    else:
        lost = bool((found.dtype.kind == "b") != (wanted.kind == "b")) or bool((made != found).any())
    if lost:
        raise RowError(f"the column {column.name!r} holds a value that is no {column.dtype}")
    return made


# --- all values -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Values:
    """The values of a column: of row i values[i], or those of its tokens, end to end as the ids are.

    Texts are bytes in `values`, text i is values[offsets[i]:offsets[i + 1]]; of what is interned they are numbers in `known`.
    """

    values: NDArray[Any]
    mapped: mmap.mmap | None = None
    offsets: Longs | None = None
    known: list[Any] = field(default_factory=list)

    def taken(self, positions: Longs) -> Any:
        """The values at these positions: an array, or a list of texts or of what is interned."""
        if self.known:
            return [self.known[number] for number in self.values[positions].tolist()]
        if self.offsets is None:
            return gather(self.values, positions, self.mapped)
        bounds = zip(self.offsets[positions].tolist(), self.offsets[positions + 1].tolist(), strict=True)
        found = [self.values[start:end].tobytes().decode() for start, end in bounds]
        if self.mapped:
            forget(self.mapped)
        return found


class Collecting:
    """Collects the values of one column; in a file of `folder` what grows with tokens, texts and vectors."""

    def __init__(self, column: Column, folder: Path | None, name: str) -> None:
        self._column = column
        self._text, self._interned = column.dtype in TEXTS, dict[Any, int]() if column.dtype == INTERNED else None
        dtype = {TEXT: "uint8", JSON: "uint8", INTERNED: "int32"}.get(column.dtype, column.dtype)
        large = self._text or column.align == "token" or column.width is not None
        self._values = Growing(dtype, folder / f"{name}.column" if folder and large else None)
        self._sizes = Growing(np.int64)

    def extend(self, values: Sequence[Any]) -> None:
        """Append the values of some samples."""
        if self._text:
            encoded = [value.encode() for value in values]
            self._sizes.extend([len(value) for value in encoded])
            self._values.extend(np.frombuffer(b"".join(encoded), dtype=np.uint8))
        elif self._interned is not None:
            self._values.extend([self._interned.setdefault(value, len(self._interned)) for value in values])
        elif self._column.align == "token":
            self._values.extend(np.concatenate(values))
        else:
            self._values.extend(np.array(values))

    def close(self) -> None:
        """Let go of the file."""
        self._values.close()

    def whole(self) -> Values:
        """All of them; nothing may be appended any more."""
        values, mapped = self._values.whole()
        if self._column.width is not None:
            values = values.reshape(-1, self._column.width)
        sizes = self._sizes.whole()[0] if self._text else None
        offsets = None if sizes is None else np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        return Values(values, mapped, offsets, list(self._interned or ()))


# --- Arrow ----------------------------------------------------------------------------------------


def arrow_type(column: Column) -> pa.DataType:
    """The type of one value."""
    if column.dtype in TEXTS:
        return pa.large_string()
    inner = pa.bool_() if column.dtype == "bool" else pa.from_numpy_dtype(np.dtype(column.dtype))
    return inner if column.width is None else pa.list_(inner, column.width)


def stored_type(column: Column, *, packed: bool) -> pa.DataType:
    """The type of a row's values: a list where it has one for each token, or for each of the samples that share it."""
    one = arrow_type(column)
    return pa.list_(one) if packed or column.align == "token" else one


def arrow_array(column: Column, values: Any) -> pa.Array:
    """Values one after another."""
    if column.dtype in TEXTS:
        return pa.array(values, type=pa.large_string())
    flat = pa.array(values.ravel())
    return flat if column.width is None else pa.FixedSizeListArray.from_arrays(flat, column.width)


def beside_array(values: Values, column: Column, members: Longs) -> pa.Array:
    """The values of these samples."""
    return arrow_array(column, values.taken(members))


def lists(offsets: NDArray[np.int32], values: Any) -> pa.Array:
    """Lists of `values`, that lie between the offsets."""
    return pa.ListArray.from_arrays(pa.array(offsets), values if isinstance(values, pa.Array) else pa.array(values))


def size_of(columns: Sequence[Column], align: str) -> int:
    """About how many bytes the columns with this alignment take for each row or token; a text counts as 256."""
    aligned = [column for column in columns if column.align == align]
    return sum((256 if column.dtype in TEXTS else np.dtype(column.dtype).itemsize) * (column.width or 1) for column in aligned)
