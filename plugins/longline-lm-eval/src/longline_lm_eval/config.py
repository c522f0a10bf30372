"""The options of the plugin, as they stand under its name in a config; the command has most of them too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from longline import PluginConfig


def _listed(value: Any) -> Any:
    """One in place of a list is a list of it."""
    return [value] if isinstance(value, (str, Path)) else value


def _names(value: Any) -> Any:
    """Names in one text are apart by commas, as the harness's command has them."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _size(value: Any) -> Any:
    """A number, which a command line has as text, or the harness's word for finding one."""
    number = int(value) if str(value).isdigit() and not isinstance(value, bool) else 0
    if number < 1 and not re.fullmatch(r"auto(:[1-9]\d*)?", str(value)):
        raise ValueError("is a number from 1, `auto`, or `auto:N`")
    return number or value


class LmEvalConfig(PluginConfig):
    """What is evaluated, when, and how."""

    tasks: Annotated[list[str], BeforeValidator(_names), Field(min_length=1)]
    """Tasks, groups and tags of the harness or of include_path, with * for many, or paths of YAML tasks."""
    include_path: Annotated[list[Path], BeforeValidator(_listed)] = Field(default_factory=list)
    """Folders with YAML tasks of your own."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """How many examples stand before a question; left out, as each task has it."""
    batch_size: Annotated[int | str, BeforeValidator(_size)] = "auto"
    """Requests at a time; auto: as many as the device has memory for, 8 on a CPU or with sharded weights."""
    limit: Annotated[float, Field(gt=0)] | None = None
    """Only the first rows of each task: how many, or below 1 which share of them."""
    apply_chat_template: bool | str = False
    """Ask in the model's chat template, or in that one of its templates; examples become turns."""
    gen_kwargs: dict[str, Any] | str | None = None
    """Arguments of generation over those of the tasks, such as {temperature: 0.7, do_sample: true}."""
    log_samples: bool = False
    """Keep every question with its answers beside the results, as samples_<task>.jsonl."""
    output: Path | None = None
    """The folder for results.json; left out, lm_eval in the run folder."""
    post_train: bool = True
    """Evaluate when the trained model is saved, in memory."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Evaluate at checkpoints too: at the first one after each so many steps."""
    model: str | None = None
    """Evaluate this model in place of the one that is trained: a folder, or an id on the hub."""
    merged: bool = False
    """Evaluate with the adapter added to the weights, which are put back bit for bit afterwards."""
    ranks: Literal["all", "main"] = "all"
    """Whether all ranks share the work, or the main one does it and the others wait."""
    strict: bool = False
    """A task that cannot be had without the network is an error before the run, and so is one that fails, after it; otherwise such
    a task is told and left out."""
    confirm_run_unsafe_code: bool = False
    """Run tasks that execute what the model writes."""

    @field_validator("limit")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and not float(value).is_integer():
            raise ValueError("is a number of rows, or a share below 1")
        return value if value is None or value < 1 else int(value)

    @field_validator("tasks")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        if any(not name.strip() for name in value):
            raise ValueError("holds an empty name")
        return list(dict.fromkeys(value))
