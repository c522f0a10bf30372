"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longline import PluginConfig


class DenseMixerConfig(PluginConfig):
    """How the backward pass runs all experts. Which models and layers there are, it finds by itself."""

    pairs: Annotated[int, Field(ge=1)] = 4096
    """How many pairs of a token and an expert are computed at once in the backward pass. Fewer need less memory, and the
    numbers are the same."""
    metrics: bool = True
    """Adds `densemixer/unselected` to every log event: which share of the gradient of the routing weights, as a sum of squares,
    belongs to experts that were not picked, and is lost without this plugin."""
