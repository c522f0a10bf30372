"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longline import PluginConfig


class GradAverageConfig(PluginConfig):
    """How gradients are averaged, and how much of the average is added."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of the average stays at each step."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """How much of the average is added to a gradient."""
