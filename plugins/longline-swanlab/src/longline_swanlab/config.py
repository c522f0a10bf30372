"""The options of the plugin, as they stand under its name in a config."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from longline import PluginConfig
from longline_swanlab.variables import MODE, PROJECT, first_set

Mode = Literal["online", "cloud", "local", "offline", "disabled"]
Resume = Literal["allow", "must", "never"]

NO_PROJECT = (
    "`project` is required and must not be empty: write `project: NAME` under swanlab:, or export SWANLAB_PROJ_NAME=NAME, or "
    "remove 'swanlab' from plugins:"
)
NO_UPLOAD = "log_model uploads the final model, and mode local sends nothing: leave it out, or choose mode online or offline"


def _one_line(text: str) -> str:
    """Refuse white space alone, and line breaks, which SwanLab would show as something else."""
    if not text.strip() or "\n" in text or len(text) > 512:
        raise ValueError("must be one line of text, not empty and of 512 characters at most")
    return text.strip()


def _host(url: str) -> str:
    """Refuse what is no address of a server, and credentials inside of it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https url, such as https://swanlab.example")
    if parts.username or parts.password:
        raise ValueError("must not hold a user or password; the key goes into api_key")
    return url.rstrip("/")


class SwanLabConfig(PluginConfig):
    """Where a run is shown, and under which name.

    An option that is left out is taken from the variable that swanlab itself reads for it.
    """

    project: str | None = None
    """The project that the run belongs to: letters, digits and `_ - + .`. Required, here or as SWANLAB_PROJ_NAME."""
    mode: Mode | None = None
    """online (also called cloud), local (a dashboard on this machine), offline (kept for `swanlab sync`), disabled."""
    experiment_name: str | None = Field(default=None, max_length=512)
    """The name of the run in SwanLab. Left out: SWANLAB_EXP_NAME, else the name of the run folder."""
    description: str | None = Field(default=None, min_length=1, max_length=1024)
    """A text about the run. Left out: SWANLAB_DESCRIPTION."""
    workspace: str | None = Field(default=None, max_length=25, pattern=r"^[0-9a-zA-Z\-_]+$")
    """Whose project it is: a user or an organisation. Left out: SWANLAB_WORKSPACE, else that of the key."""
    api_key: SecretStr | None = None
    """The key for mode online. Left out: SWANLAB_API_KEY, else what `swanlab login` stored."""
    web_host: str | None = None
    """The address of the web pages of a server of your own. Left out: SWANLAB_WEB_HOST."""
    api_host: str | None = None
    """The address of the API of a server of your own. Left out: SWANLAB_API_HOST."""
    log_dir: Path | None = None
    """The folder for SwanLab's files, shared by many runs. Left out: SWANLAB_LOG_DIR, else `swanlog`."""
    tags: tuple[str, ...] | None = Field(default=None, max_length=30)
    """Labels of the run, 30 at most. Left out: SWANLAB_TAGS, separated by commas."""
    group: str | None = Field(default=None, max_length=512)
    """A name that runs which belong together share. Left out: SWANLAB_GROUP."""
    job_type: str | None = Field(default=None, max_length=512)
    """What the run does, such as train. Left out: SWANLAB_JOB_TYPE."""
    public: bool | None = None
    """Whether everybody may see the project, if this run creates it. Left out: SWANLAB_PUBLIC, else false."""
    id: str | None = Field(default=None, max_length=512, pattern=r'^[^<>:"/\\|?*#%\x00-\x1f\x7f]+$')
    """The id of the run in SwanLab. Left out: SWANLAB_RUN_ID, else a new one."""
    resume: Resume | None = None
    """What `longline train --resume` does: allow goes on with the same experiment if there is one, must insists, never begins a new
    one. Left out: SWANLAB_RESUME, else allow."""
    log_model: bool = False
    """Upload the files of the final model."""
    monitor: bool = True
    """Record CPU, memory and accelerators every ten seconds; modes online and offline."""
    environment: bool = True
    """Record the machine's hardware and host name, the command, installed packages and the git commit."""
    timeout: float = Field(default=20.0, gt=0, le=600)
    """Seconds that the start of a run waits for SwanLab, and that its end waits without any progress of uploads."""

    @field_validator("project", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """The option, else the variable; what neither gives is said here, where the file and line are known."""
        if value is None:
            value = first_set(os.environ, PROJECT)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(NO_PROJECT)
        if isinstance(value, str) and not re.fullmatch(r"[0-9a-zA-Z_\-+.]{1,100}", value):
            raise ValueError(f"a project's name has letters, digits and _ - + . only, 100 at most; {value!r} has not")
        return value

    @field_validator("mode", mode="after")
    @classmethod
    def _today(cls, value: Mode | None) -> Mode | None:
        """Since 0.8, swanlab's word for cloud is online."""
        return "online" if value == "cloud" else value

    @field_validator("experiment_name", "group", "job_type", "tags")
    @classmethod
    def _lines(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple):
            return tuple(_one_line(item) for item in value)
        return _one_line(value) if value is not None else None

    @field_validator("web_host", "api_host")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return _host(value) if value is not None else None

    @field_validator("resume", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """Take true and false too, as swanlab does."""
        return {True: "allow", False: "never"}[value] if isinstance(value, bool) else value

    @field_validator("api_key")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"\S+", value.get_secret_value()):
            raise ValueError("is empty or has white space in it; leave it out, or copy it from the settings of your account")
        return value

    @field_validator("log_model")
    @classmethod
    def _has_a_place(cls, value: bool, info: ValidationInfo) -> bool:
        mode = info.data.get("mode")
        if value and (mode or first_set(os.environ, MODE)) == "local":
            raise ValueError(NO_UPLOAD)
        return value
