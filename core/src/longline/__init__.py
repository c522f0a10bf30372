"""Longline fine-tunes causal language models from one config file; everything else is a plugin on its hooks.

A plugin author needs three names: `Plugin` and `PluginConfig`, the base classes, and `hookimpl`, the marker. They are imported
on first use, so that `import longline` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline.config.sections import Config
    from longline.errors import ConfigError, LonglineError, Problem
    from longline.events import Alert, Column, Completions, Finding, RewardFunction, Summary, Table, Timing
    from longline.hookspecs import hookimpl
    from longline.plan import Plan
    from longline.plugins import Plugin, PluginConfig
    from longline.plugins.run import Run

    __version__: str
__all__ = [
    "Alert",
    "Column",
    "Completions",
    "Config",
    "ConfigError",
    "Finding",
    "LonglineError",
    "Plan",
    "Plugin",
    "PluginConfig",
    "Problem",
    "RewardFunction",
    "Run",
    "Summary",
    "Table",
    "Timing",
    "__version__",
    "hookimpl",
]

_HOMES = {
    "Alert": "longline.events",
    "Column": "longline.events",
    "Completions": "longline.events",
    "Config": "longline.config.sections",
    "ConfigError": "longline.errors",
    "Finding": "longline.events",
    "LonglineError": "longline.errors",
    "Plan": "longline.plan",
    "Plugin": "longline.plugins",
    "PluginConfig": "longline.plugins",
    "Problem": "longline.errors",
    "RewardFunction": "longline.events",
    "Run": "longline.plugins.run",
    "Summary": "longline.events",
    "Table": "longline.events",
    "Timing": "longline.events",
    "hookimpl": "longline.hookspecs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":  # stands in pyproject.toml alone
        return import_module("importlib.metadata").version("longline")
    raise AttributeError(f"module 'longline' has no attribute {name!r}")
