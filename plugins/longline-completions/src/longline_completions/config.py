"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field, field_validator

from longline import PluginConfig

Sample = Literal["last", "first", "worst", "best", "random"]

LEAST_BYTES = 4096
"""Below this not even one short row with a handful of columns would fit."""


class CompletionsConfig(PluginConfig):
    """How often a table is made, how large it may get, and which rows and columns it shows."""

    every: Annotated[int, Field(ge=1)] = 100
    """Optimizer steps from one table to the next; one more is made when training ends, however it ends."""
    max_rows: Annotated[int, Field(ge=1)] = 128
    """How many rows a table has at most."""
    max_bytes: ByteSize = ByteSize(16 * 2**20)
    """How much memory the rows of a table take at most: a number of bytes, or a text such as 512KiB or 16MiB."""
    columns: tuple[str, ...] | None = None
    """Which columns to keep, in this order; `step` always comes first. Left out: all of them."""
    sample: Sample = "last"
    """Which rows to keep when there are more than fit: the last, the first, those with the worst or the best score, or random
    ones."""

    @field_validator("max_bytes")
    @classmethod
    def _enough(cls, value: ByteSize) -> ByteSize:
        if value < LEAST_BYTES:
            raise ValueError(f"must be at least {LEAST_BYTES}")
        return value

    @field_validator("columns")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("must not be empty; leave it out to keep all columns")
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice")
        return value
