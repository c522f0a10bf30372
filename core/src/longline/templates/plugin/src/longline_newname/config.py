"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

from typing import Annotated

from longline import PluginConfig
from pydantic import Field


class NewNameConfig(PluginConfig):
    """When to warn."""

    patience: Annotated[int, Field(ge=1)] = 100
    """How many log events in a row may pass without a new lowest loss before the plugin warns."""
