"""Shows where the time of a run goes. As a plugin of Longline it times the trainer by itself; for your own code there are

- `@profiled`, a decorator, and `with profile("name"):`, a block: both cost next to nothing while nobody records;
- `recording(trainer)`, which records without a Longline run;
- `carry(function)`, which takes the recording along into another thread.

Neither torch nor transformers is imported until a trainer is watched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longline_profiling.spans import carry, profile, profiled

if TYPE_CHECKING:
    from longline_profiling.config import ProfilingConfig
    from longline_profiling.standalone import recording

__all__ = ["ProfilingConfig", "carry", "profile", "profiled", "recording"]

_HOMES = {"ProfilingConfig": "longline_profiling.config", "recording": "longline_profiling.standalone"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'longline_profiling' has no attribute {name!r}")
