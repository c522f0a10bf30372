"""What a text in a config is: a name on this machine, a hub id, or a template written out."""

from __future__ import annotations

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


def is_template(text: str) -> bool:
    """Whether a text is a Jinja template itself, and not the path of one."""
    return "{%" in text or "{{" in text
