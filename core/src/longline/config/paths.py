"""What a text in a config is: a name on this machine, a hub id, or a template written out."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_FILE_ENDING = re.compile(
    r"(?i:\.(?:jsonl|ndjson|json|csv|tsv|parquet|arrow|ipc|feather|txt|text|md|gz|bz2|xz|zst|zip|jinja2?|ya?ml))$|\.gguf$"
)  # no hub id ends with these; with .GGUF some may


def looks_local(text: str) -> bool:
    """Whether a path names something on this machine rather than a url or a hub id (`name` or `owner/name`).

    Whatever has the name of a hub id and exists here is meant to be that.
    """
    if "://" in text:
        return False
    return not _HUB_ID.fullmatch(text) or bool(_FILE_ENDING.search(text)) or Path(text).expanduser().exists()


def absolute(text: str) -> str:
    """A path from the root, so that it means the same in any working directory."""
    return str(Path(text).expanduser().absolute())


def is_unicode(path: Path) -> bool:
    """Whether the bytes of a path are UTF-8: libraries written in Rust open no others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def names_something_here(text: str) -> bool:
    """Whether a text, of which nobody said what it is, can only be a relative path: one of a file or of a model's folder."""
    path = Path(text)
    if path.is_absolute() or not (path.suffix or "/" in text):
        return False
    try:
        return path.expanduser().is_file() or (path.expanduser() / "config.json").is_file()
    except (OSError, RuntimeError):  # too long for a name, or of no user's home
        return False


def holds_module(folder: Path, module: str) -> bool:
    """Whether a Python module, or package, lies in a folder; it is not imported."""
    path = folder.joinpath(*module.split("."))
    return path.with_name(f"{path.name}.py").is_file() or path.is_dir()


def is_template(text: str) -> bool:
    """Whether a text is a Jinja template itself, and not the path of one."""
    return "{%" in text or "{{" in text


def cache_folder(name: str) -> Path:
    """Where `name` is kept for later runs: below LONGLINE_CACHE, else in the user's cache folder. It need not be there yet."""
    own = os.environ.get("LONGLINE_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longline"
    return base / name
