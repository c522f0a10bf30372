"""Rows become tokens: sources, formats, masks, packing and the cache, behind one function.

`prepare(section, tokenizer, kind=..., seed=...)` reads what the config names and returns a `Prepared`.
"""

from __future__ import annotations

from longline.data.prepare import prepare
from longline.data.prepared import Prepared
from longline.data.report import BadRow, DataReport, SourceReport, SplitReport

__all__ = ["BadRow", "DataReport", "Prepared", "SourceReport", "SplitReport", "prepare"]
