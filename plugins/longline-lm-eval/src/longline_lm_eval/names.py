"""The names of tasks, groups and tags, found without the harness: importing it, and parsing its 14,000 files, takes ten seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from longline.errors import nearest

_KEY = re.compile(rb"^[\"']?(?:task|group|tag)[\"']?:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", re.MULTILINE)
_INCLUDE = re.compile(rb"^[\"']?include[\"']?:[ \t]*[\"']?([^\s\"'\[]+)", re.MULTILINE)
PATTERN = frozenset("*?[")
"""What makes a name a pattern."""


def builtin() -> Path:
    """The folder with the harness's own tasks."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("lm_eval")
    return Path(spec.origin).parent / "tasks"


@cache
def known(folders: tuple[Path, ...], *, defaults: bool) -> frozenset[str]:
    """What the YAML files in these folders call themselves, and those of the harness with `defaults`.

    Read line by line, with what they include. A name in a shape that is unusual is missed; of the harness's own a test finds none.
    """
    places = [*folders, *([builtin()] if defaults else [])]
    contents = {path: path.read_bytes() for place in places for path in place.glob("**/*.yaml")}
    included = {path.parent / found[1].decode() for path, text in contents.items() for found in _INCLUDE.finditer(text)}
    texts = [*contents.values(), *(path.read_bytes() for path in included - contents.keys() if path.is_file())]
    return frozenset(name for text in texts for name in _in(text))


def _in(text: bytes) -> Iterator[str]:
    for found in _KEY.finditer(text):
        for line in found[1].strip(b"[] \t").replace(b",", b"\n").split(b"\n"):
            name = line.split(b" #")[0].strip().removeprefix(b"-").strip().strip(b"\"'")
            if name and b": " not in name:
                yield name.decode(errors="replace")


def unknown(names: Iterable[str], folders: Iterable[Path]) -> dict[str, str | None]:
    """Names that no task, group or tag has, each with the nearest that there is."""
    places = tuple(folders)
    own = known(places, defaults=False)
    left = [name for name in names if not _found(name, own) and not is_file(name)]
    every = own | known((), defaults=True) if left else own
    left = [name for name in left if not _found(name, every)]
    every |= _thoroughly(places) if left and places else frozenset()
    return {name: nearest(name, every) for name in left if not _found(name, every)}


def is_file(name: str) -> bool:
    """Whether it is the path of a task of its own."""
    return Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()


def _found(name: str, known: Iterable[str]) -> bool:
    if PATTERN & set(name):
        return any(fnmatchcase(item, name) for item in known)
    return name in known


@cache
def _thoroughly(folders: tuple[Path, ...]) -> frozenset[str]:
    """One's own as the harness itself reads them: before a name is refused it has been asked."""
    from lm_eval.tasks import TaskManager

    return frozenset(TaskManager(include_path=list(folders), include_defaults=False).all_tasks)
