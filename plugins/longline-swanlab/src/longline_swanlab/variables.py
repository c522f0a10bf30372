"""What can be said before swanlab is imported: its variables, where it keeps a login, and whether the dashboard is installed."""

from __future__ import annotations

import difflib
import netrc
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from longline import LonglineError

if TYPE_CHECKING:
    from longline_swanlab.config import SwanLabConfig

# In swanlab's own order: the name after the field comes before the one of older versions.
PROJECT = ("SWANLAB_PROJECT_NAME", "SWANLAB_PROJ_NAME")
MODE = ("SWANLAB_MODE",)
API_KEY = ("SWANLAB_API_KEY",)
API_HOST = ("SWANLAB_API_HOST",)
PUBLIC_HOST = "https://api.swanlab.cn"
"""swanlab's own, where nothing else is said."""
MODES = ("online", "cloud", "local", "offline", "disabled")
EXTRA = "pip install 'longline-swanlab[dashboard]'"

NO_KEY = "mode online needs a key, and there is none: no option api_key, no SWANLAB_API_KEY, no stored login"
FOUR_REMEDIES = (
    "export SWANLAB_API_KEY=...; or write `api_key: ${SWANLAB_API_KEY}` under swanlab: with a variable of your own; or run "
    "`swanlab login` once on this machine; or track without an account: `mode: local`"
)
NO_DASHBOARD = "mode local writes for the dashboard of swanlab[dashboard], which is not installed"


def first_set(environ: Mapping[str, str], names: Iterable[str]) -> str | None:
    """The first of these variables that is set and not empty, without the quotes that some shells leave around it."""
    for name in names:
        value = environ.get(name, "").strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        if value:
            return value
    return None


def mode_of(config: SwanLabConfig, environ: Mapping[str, str]) -> str:
    """The mode that a run will have; raises LonglineError when the variable names none."""
    mode = config.mode or first_set(environ, MODE) or "online"
    if mode not in MODES:
        near = difflib.get_close_matches(mode.lower(), MODES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise LonglineError(f"SWANLAB_MODE is {mode!r}, which is not one of {', '.join(MODES)}", hint=hint)
    return "online" if mode == "cloud" else mode


def server_of(config: SwanLabConfig, environ: Mapping[str, str]) -> str:
    """The url of the API that a run would talk to; a login that was stored with another one is not read."""
    return config.api_host or first_set(environ, API_HOST) or PUBLIC_HOST


def refuse_what_cannot_start(config: SwanLabConfig, environ: Mapping[str, str]) -> None:
    """Raise LonglineError when it is certain, without importing swanlab, that the mode cannot work here."""
    mode = mode_of(config, environ)
    if mode == "local" and find_spec("swanboard") is None:
        raise LonglineError(NO_DASHBOARD, hint=f"{EXTRA}; or `mode: offline`")
    if mode == "online" and config.api_key is None and not first_set(environ, API_KEY) and not _may_know_a_key(environ):
        raise LonglineError(NO_KEY, hint=FOUR_REMEDIES)


def _may_know_a_key(environ: Mapping[str, str]) -> bool:
    """Whether one of the files in which swanlab looks for a key is there; what it says is swanlab's to judge."""
    home = Path(environ.get("SWANLAB_ROOT") or environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab")
    if any(_has_login(folder / ".netrc") for folder in (Path(".swanlab"), home)):
        return True
    settings = [folder / f"config.{ext}" for folder in (Path(".swanlab"), home) for ext in ("yaml", "yml")]
    settings += [Path("swanlab.yaml"), Path("swanlab.yml"), Path(".env")]
    if any(path.is_file() and "api_key" in _text(path).lower() for path in settings):
        return True
    secrets = environ.get("SWANLAB_SECRETS_DIR")
    shared = Path(environ.get("SWANLAB_CONFIG_DIR") or "/etc/swanlab")
    return bool(secrets) or any("api_key" in _text(path).lower() for path in sorted(shared.glob("*.y*ml")))


def _has_login(path: Path) -> bool:
    try:
        return path.is_file() and bool(netrc.netrc(path).hosts)
    except (OSError, netrc.NetrcParseError):
        return True  # swanlab says what is wrong with it


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
