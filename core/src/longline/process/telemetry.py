"""The telemetry of the libraries underneath: off, unless the user turns it on."""

from __future__ import annotations

import os

VARIABLE = "HF_HUB_DISABLE_TELEMETRY"
"""Read by huggingface_hub, through which transformers, datasets and trl report."""


def off_by_default() -> None:
    """Turn it off for this process and those that it starts; what the user has set stays. Call it before any import of theirs."""
    os.environ.setdefault(VARIABLE, "1")


def wanted() -> bool:
    """Whether the user turned it on, with HF_HUB_DISABLE_TELEMETRY=0."""
    return os.environ.get(VARIABLE, "").lower() in ("0", "false", "no", "off")
