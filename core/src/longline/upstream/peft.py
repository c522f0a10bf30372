"""Undocumented names of peft."""

from __future__ import annotations

from longline.upstream.assumption import Assumption, of, stands_in

SOURCES = {"peft.LoraConfig": "peft/tuners/lora/config.py"}
"""Classes whose fields are read from their source, without importing them: where that is."""

_assume = of("peft", "0.21.2")

ASSUMPTIONS: tuple[Assumption, ...] = tuple(
    _assume(name.partition(".")[2], f"its fields stand in {file}", stands_in(name, file)) for name, file in SOURCES.items()
)
