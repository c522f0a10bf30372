"""Applies Liger's Triton kernels to a model that Longline trains, verifies each on the instance, and shows what became of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline_liger.config import LigerConfig

__all__ = ["LigerConfig"]


def __getattr__(name: str) -> Any:
    if name == "LigerConfig":
        return import_module("longline_liger.config").LigerConfig
    raise AttributeError(f"module 'longline_liger' has no attribute {name!r}")
