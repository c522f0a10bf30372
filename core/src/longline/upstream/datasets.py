"""Undocumented names of datasets."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from longline.upstream.assumption import Assumption, of


def fingerprint(dataset: Any) -> str:
    """What `datasets` keeps to know a revision of a data set by."""
    return str(dataset._fingerprint)


def _fingerprints_tell_data_apart() -> bool:
    made = resolve_name("datasets:Dataset.from_dict")
    one, same, other = (fingerprint(made({"a": [value]})) for value in (1, 1, 2))
    return one == same != other


_assume = of("datasets", "5.2.0")

ASSUMPTIONS: tuple[Assumption, ...] = (
    _assume(
        "Dataset._fingerprint",
        "it is the same for the same data, and another for other data",
        _fingerprints_tell_data_apart,
    ),
)
