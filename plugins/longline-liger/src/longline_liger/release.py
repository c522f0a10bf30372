"""What the installed release of liger-kernel offers, read from its source: neither it nor torch is imported.

Liger has one function for each family of models, `apply_liger_kernel_to_llama(rope: bool = True, ...)`. Its parameters are the
kernels that the family can have, its defaults are Liger's own advice.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from longline_liger.upstream import PATCHES

DISTRIBUTION = "liger-kernel"
_SIGNATURE = re.compile(r"^def apply_liger_kernel_to_\w+\(.*?\)(?: -> None)?:$", re.MULTILINE | re.DOTALL)


def installed_version() -> str | None:
    """The version of liger-kernel, or None when it is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None


@cache
def offered() -> tuple[str, ...]:
    """The name of every kernel that some model type can have, in the order of the source; empty without liger-kernel."""
    spec = find_spec("liger_kernel")  # finds the folder, and runs nothing in it
    found: dict[str, None] = {}
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / PATCHES
        for signature in _SIGNATURE.findall(path.read_text(encoding="utf-8") if path.is_file() else ""):
            found |= dict.fromkeys(_kernels(signature))
    return tuple(found)


def _kernels(signature: str) -> list[str]:
    """The parameters of one signature that are true or false."""
    function = ast.parse(f"{signature}\n    pass").body[0]
    assert isinstance(function, ast.FunctionDef)  # noqa: S101 - what the pattern found begins with `def`
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return [item.arg for item in arguments if isinstance(item.annotation, ast.Name) and item.annotation.id == "bool"]
