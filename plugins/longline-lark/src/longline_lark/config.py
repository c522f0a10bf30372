"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from longline import PluginConfig
from longline_lark.address import url_fault
from longline_lark.rules import parse

Event = Literal["start", "complete", "failed", "interrupted", "alert"]
Language = Literal["en", "zh"]


def _rule(text: str) -> str:
    """Refuse a rule that cannot be read, with the place in it."""
    parse(text)
    return text


def _some(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Refuse an empty list; pydantic's own check would also complain of one that holds only misspelled words."""
    if not events:
        raise ValueError("must not be empty; remove the plugin to hear nothing")
    return events


class LarkConfig(PluginConfig):
    """Where messages go, and which ones."""

    allow_any_host: bool = False
    """Permit a webhook that is neither https to a host of Lark or Feishu, nor on this machine."""
    webhook_url: SecretStr | None = None
    """The webhook of the group's custom bot. Left out: the environment variable LARK_WEBHOOK_URL."""
    secret: SecretStr | None = None
    """What the bot's signature verification shows. Left out: the environment variable LARK_SECRET."""
    language: Language = "en"
    """The language of messages."""
    events: Annotated[tuple[Event, ...], AfterValidator(_some)] = ("start", "complete", "failed", "interrupted", "alert")
    """What is told; `alert` stands for `rules` and for what the core and other plugins raise."""
    rules: tuple[Annotated[str, AfterValidator(_rule)], ...] = ()
    """When to raise an alert: `loss > 10`, `no improvement in eval_loss for 5 evaluations`, `nan`."""
    project: str | None = None
    """Shown in messages. Left out: the `project` of another plugin in the config, when one has it."""
    link: str | None = None
    """A url for the button of messages; {run} is the run's id, {name} the name of its folder."""
    timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Seconds that a request may take, and that the end of a run waits at most for messages on their way."""

    @field_validator("webhook_url", "secret")
    @classmethod
    def _usable(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if info.field_name == "webhook_url":
            fault = url_fault(text, allow_any_host=bool(info.data.get("allow_any_host")))
        else:
            fault = secret_fault(text)
        if fault:
            raise ValueError(fault)
        return value

    @field_validator("link")
    @classmethod
    def _link(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.match(r"https?://[^\s/]", value) or re.search(r"\s", value):
            raise ValueError("must be an http or https url")
        unknown = [name for name in re.findall(r"\{([^{}]*)\}", value) if name not in ("run", "name")]
        if unknown:
            raise ValueError(f"knows {{run}} and {{name}}, not {{{unknown[0]}}}")
        return value


def secret_fault(text: str) -> str | None:
    """Say why a text cannot be the bot's secret, or None."""
    if not text:
        return "is empty; leave it out, or copy it from the bot's signature verification"
    return "has white space in it; copy it again" if re.search(r"\s", text) else None
