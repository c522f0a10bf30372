"""How a run begins in SwanLab: settings, a look whether the server lets us in, `swanlab.init`; or why it cannot."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from typing import Any

from longline_swanlab.text import flat

REFUSALS = (401, 403)


class RefusedError(Exception):
    """Mode, key, project or folder: nothing that could come right by waiting; `about` is no key, key, dashboard or empty."""

    def __init__(self, reason: str, about: str = "") -> None:
        super().__init__(reason)
        self.about = about


class UnreachableError(Exception):
    """The server does not answer now, or answers that it is not well."""


def resolved(hello: Mapping[str, Any]) -> Any:
    """What swanlab itself makes of its variables, its files and the options, which win; raises RefusedError."""
    from pydantic import ValidationError
    from swanlab import Settings

    try:
        # Not merged into what swanlab finds alone: a key that was stored for one server must not go to another.
        settings = Settings(**hello["settings"])
        if settings.experiment.name is None:
            settings.merge_settings({"experiment": {"name": hello["default_name"]}})
        if settings.mode == "local":
            settings.merge_settings({"probe": {"monitor": False}})
    except ValidationError as error:
        told = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors(include_input=False))
        raise RefusedError(f"swanlab refuses its settings: {'; '.join(told)}") from None
    if settings.mode == "online" and not settings.api_key:
        raise RefusedError("there is no key", "no key")
    if settings.mode == "local":
        _require_dashboard()
    if settings.probe.git and _git_tells_a_secret():
        settings.merge_settings({"probe": {"git": False}})
    return settings


def _require_dashboard() -> None:
    """swanlab only logs that the dashboard's package is missing or another version, and then writes nothing for it."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        found = version("swanboard")
    except PackageNotFoundError:
        raise RefusedError("mode local needs swanboard, which is not installed", "dashboard") from None
    for line in requires("swanlab") or ():
        wanted = Requirement(line)
        if wanted.name == "swanboard" and not wanted.specifier.contains(found, prereleases=True):
            raise RefusedError(f"swanlab needs swanboard{wanted.specifier}, and {found} is installed", "dashboard")


def _git_tells_a_secret() -> bool:
    """Whether the remote's url has a user or token in it; swanlab would send it as it is."""
    try:
        command = ["git", "config", "--get", "remote.origin.url"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(re.search(r"://[^/\s]*@", done.stdout))


def ask_for_entry(settings: Any, seconds: float) -> None:
    """Log in once with one attempt: swanlab's own login tries for a long time, and doesn't tell a wrong key from a dead server."""
    import requests

    try:
        answer = requests.post(
            f"{settings.api_host}/api/login/api_key", headers={"authorization": settings.api_key}, timeout=seconds
        )
    except requests.RequestException as error:
        raise UnreachableError(f"{settings.api_host}: {_short(error)}") from None
    if answer.status_code in REFUSALS:
        raise RefusedError(f"{settings.api_host} refuses the key: HTTP {answer.status_code} {answer.reason}", "key")
    _judge(answer.status_code, f"{settings.api_host}: HTTP {answer.status_code} {answer.reason}")
    try:
        answer.json()["sid"]
    except (ValueError, KeyError, TypeError):
        raise RefusedError(f"{settings.api_host} is not the API of SwanLab: its answer to a login is something else") from None


def _judge(status: int, text: str) -> None:
    """Raise what an answer that is no success comes to."""
    if status >= 500 or status in (408, 429):
        raise UnreachableError(text)
    if status >= 400:
        raise RefusedError(text)


def _short(error: BaseException) -> str:
    """The innermost reason of a failed request, without the names of objects."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return re.sub(r"<[^<>]*>: ?", "", str(error)).strip() or type(error).__name__


def count_the_trainer(pid: int) -> None:
    """Have swanlab record memory and threads of the process that trains; it asks `psutil.Process()`, the one that it lives in."""
    import psutil

    class Trainer(psutil.Process):
        def __init__(self, this: int | None = None) -> None:
            super().__init__(pid if this is None else this)

    psutil.Process = Trainer  # type: ignore[assignment, misc]


def begin(settings: Any, hello: Mapping[str, Any], count: Any) -> Any:
    """Call swanlab.init with the callback `count`; raises RefusedError or UnreachableError instead of its many errors."""
    import requests
    import swanlab
    from swanlab.exceptions import ApiError, AuthenticationError

    config = flat(hello["config"]) if settings.mode == "local" else hello["config"]
    arguments: dict[str, Any] = {"settings": settings, "config": config, "callbacks": [count]}
    if hello["continues"]:
        from longline_swanlab.upstream import continued

        # With mode local swanlab would add its own callback, which always makes a new experiment.
        arguments |= {"mode": "offline", "callbacks": [continued(hello["continues"]), count]}
    try:
        run = swanlab.init(**arguments)
    except ApiError as error:
        _judge(error.response.status_code if error.response is not None else 500, str(error))
        raise
    except (requests.RequestException, AuthenticationError) as error:  # the key was good a moment ago
        raise UnreachableError(f"{settings.api_host}: {_short(error)}") from None
    except Exception as error:
        raise RefusedError(f"swanlab.init: {type(error).__name__}: {error}") from error
    if settings.mode == "local":
        from longline_swanlab.local import require_shown, show_environment

        try:
            require_shown(hello["continues"] or str(run.dir))
            show_environment(run.dir)
        except Exception as error:
            raise RefusedError(str(error)) from error
    return run
