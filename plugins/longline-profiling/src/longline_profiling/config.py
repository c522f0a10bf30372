"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from longline import PluginConfig


class StepsConfig(PluginConfig):
    """A window of optimizer steps that torch.profiler records."""

    start: Annotated[int, Field(ge=1)]
    """The first step that is recorded; the first step of a run is 1."""
    count: Annotated[int, Field(ge=1)] = 3
    """How many steps are recorded."""
    ranks: Literal["main", "all"] = "main"
    """Which ranks write a trace."""
    record_shapes: bool = False
    """Record the shapes of the operators' inputs; makes steps slower and the trace larger."""
    with_stack: bool = False
    """Record the line of Python that called each operator; makes steps a lot slower and the trace a lot larger."""
    profile_memory: bool = False
    """Record what each operator allocates."""
    memory_snapshot: bool = True
    """On CUDA, also write who holds which memory, for pytorch.org/memory_viz."""

    @property
    def last(self) -> int:
        """The last step that is recorded."""
        return self.start + self.count - 1


class ProfilingConfig(PluginConfig):
    """What is timed and what becomes of it."""

    enabled: bool = True
    """False: nothing is timed, wrapped, logged or written."""
    min_duration_ms: Annotated[float, Field(ge=0)] = 0.0
    """Shorter spans are only counted: they appear in no event, metric or table."""
    log_interval: Annotated[int, Field(ge=1)] = 1
    """Metrics are added to a log event when this many optimizer steps were made since the last time."""
    steps: StepsConfig | None = None
    """Record these steps with torch.profiler: {start: 3, count: 5}."""
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ...] = ()
    """More methods of the trainer to time, by their names."""
    synchronize: bool = False
    """Wait for the GPU at both ends of each span: exact times of parts, for slower training."""
    mfu: bool = True
    """Log how much of the device's peak the model's arithmetic uses, where that can be known."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """The peak of one device, in 10^12 operations a second. Left out: known for many GPUs, measured on a CPU."""
