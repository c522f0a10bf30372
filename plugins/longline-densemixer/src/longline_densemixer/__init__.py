"""Trains the router of a mixture of experts with its exact gradient: the forward pass is the model's own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline_densemixer.config import DenseMixerConfig

__all__ = ["DenseMixerConfig"]


def __getattr__(name: str) -> Any:
    if name == "DenseMixerConfig":
        return import_module("longline_densemixer.config").DenseMixerConfig
    raise AttributeError(f"module 'longline_densemixer' has no attribute {name!r}")
