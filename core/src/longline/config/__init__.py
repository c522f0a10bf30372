"""From YAML to a checked, frozen `Config`; torch-free.

    loaded = load_config("config.yaml", ["trainer.learning_rate=1e-4"])

The modules: `document` YAML with places, `sections` what may be written, `fields` what transformers and peft accept, `checks`
what must fit together, `explain` messages, `loader` all of them in order; `secrets`, `dump` and `schema` lead out again.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline.config.dump import dump_resolved
    from longline.config.loader import LoadedConfig, load_config
    from longline.config.schema import build_schema
    from longline.config.secrets import Secrets
    from longline.config.sections import Config

__all__ = ["Config", "LoadedConfig", "Secrets", "build_schema", "dump_resolved", "load_config"]

_HOMES = {
    "Config": "longline.config.sections",
    "LoadedConfig": "longline.config.loader",
    "Secrets": "longline.config.secrets",
    "build_schema": "longline.config.schema",
    "dump_resolved": "longline.config.dump",
    "load_config": "longline.config.loader",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'longline.config' has no attribute {name!r}")
