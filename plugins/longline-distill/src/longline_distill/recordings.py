"""What a recorded file says of itself, and whether that is what a config wants to learn. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline import Problem

if TYPE_CHECKING:
    from longline import Config
    from longline_distill.config import DistillConfig

META = b"longline_distill"
"""The key of a Parquet file's metadata that says how it was recorded."""


def how(path: Path) -> dict[str, Any] | None:
    """How a file was recorded; None for one that was not, or is no Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
        return dict(json.loads(found[META])) if META in found else None
    except (OSError, ValueError, pa.ArrowInvalid):
        return None


def problems(config: Config, options: DistillConfig) -> Iterator[Problem]:
    """Files that were recorded with another number of tokens, or at another temperature."""
    for split, sources in (("train", config.data.train), ("eval", config.data.eval)):
        for at, source in enumerate(sources):
            made = how(Path(source.path)) if Path(source.path).is_file() else None
            for name, wanted in (("top_k", options.top_k), ("temperature", options.temperature)):
                if made is not None and made.get(name) != wanted:
                    text = f"was recorded with {name} {made.get(name)}, and plugins.distill.{name} is {wanted:g}"
                    yield Problem(text, path=f"data.{split}.{at}.path", hint=f"{name}: {made.get(name)}")
