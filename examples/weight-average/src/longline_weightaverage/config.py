"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longline import PluginConfig


class WeightAverageConfig(PluginConfig):
    """How weights are averaged."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """How much of the average stays at each step."""
