"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longline import PluginConfig


class LossLimitConfig(PluginConfig):
    """When to raise the alarm."""

    limit: Annotated[float, Field(gt=0)]
    """The loss that should not be passed."""
    patience: Annotated[int, Field(ge=1)] = 1
    """How many log events in a row may pass it before the alert."""
