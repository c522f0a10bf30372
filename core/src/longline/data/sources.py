"""Finds the files of a source, local or remote, and gives their rows with file and line and a fingerprint of their content."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

from longline import upstream
from longline.config.paths import looks_local
from longline.data.readers import APPLY, READERS, YAML, Reading, is_padded, kind_of, read_file
from longline.data.values import Origin
from longline.errors import DataError, remedy_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from datasets import Dataset

    from longline.config.sections import SourceSection

BLOCK = 1 << 20
_USERINFO = re.compile(r"//[^/@\s]*@")


class Source(Protocol):
    """Rows of one source."""

    @property
    def files(self) -> list[str]:
        """The names that messages use; `Origin.file` counts in them."""

    @property
    def padded(self) -> bool:
        """Whether keys that a mapping lacks come as null."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content."""

    @property
    def notes(self) -> Collection[str]:
        """What was seen of how its files are to be read, once they were."""

    def rows(self) -> Iterator[tuple[Origin, Mapping[str, Any] | str]]:
        """Every row with its place; a text instead of a mapping says what is wrong with it. Raises DataError."""


@dataclass
class FileSource:
    """Files on this machine. `paths` are read, `files` are what they are called (a URL for a downloaded one); `how` has no name."""

    paths: list[Path]
    files: list[str]
    how: Reading
    keep: Any = field(default=None, repr=False)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def padded(self) -> bool:
        """Whether any file is Arrow or Parquet."""
        return any(is_padded(name) for name in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """xxh3 over the bytes of all files, and their kinds; not over their names and dates."""
        digest = xxhash.xxh3_128("\n".join(str(kind_of(name)) for name in self.files).encode())
        return _content(digest, self.paths)

    def rows(self) -> Iterator[tuple[Origin, Mapping[str, Any] | str]]:
        """Every row of every file, in the order of the names."""
        for number, (path, name) in enumerate(zip(self.paths, self.files, strict=True)):
            how = replace(self.how, name=name, tell=lambda seen: self.notes.update({seen: None} if seen else {}))
            for line, row in read_file(path, how):
                yield Origin(number, line), row


@dataclass
class DatasetSource:
    """A `datasets.Dataset`: from the hub, or saved with save_to_disk in `folder`. A row's line is its number."""

    dataset: Dataset
    name: str
    folder: Path | None = None
    padded: bool = True
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The one name that messages use."""
        return [self.name]

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint that `datasets` keeps of a revision; of a folder, a hash of its files."""
        digest = xxhash.xxh3_128(upstream.datasets.fingerprint(self.dataset).encode())
        return _content(digest, sorted(self.folder.rglob("*.arrow"))) if self.folder else digest.hexdigest()

    def rows(self) -> Iterator[tuple[Origin, Mapping[str, Any] | str]]:
        """Every row."""
        for number, row in enumerate(self.dataset, start=1):
            yield Origin(0, number), row


def _content(digest: Any, paths: list[Path]) -> str:
    """Add the bytes of files to a hash, each with its length before it: else two files would pass for one, cut elsewhere."""
    for path in paths:
        digest.update(f"{path.stat().st_size}\n".encode())
        add_bytes(digest, path)
    return str(digest.hexdigest())


def add_bytes(digest: Any, path: Path) -> None:
    """Add the content of a file to a hash, block by block."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)


def open_source(section: SourceSection) -> Source:
    """Find what `section.path` names. Raises DataError that says what was looked for and what is there instead."""
    path = section.path
    if "://" in path:
        return _remote(path, section)
    local = Path(path).expanduser()
    if local.is_dir():
        return _folder(local, section)
    if local.is_file():
        return _files([local], section)
    if glob.has_magic(path):
        found = sorted(Path(name) for name in glob.glob(str(local), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        return _files(_data_files(found), section)
    if not looks_local(path):
        _reading(section, [])
        return _hub(section)
    raise DataError(f"{path}: no such file or folder{_near(local)}", hint="paths are relative to the working directory")


def _near(path: Path) -> str:
    """The files beside a missing one that look like it."""
    import difflib

    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist)"
    names = difflib.get_close_matches(path.name, [item.name for item in path.parent.iterdir()], n=3)
    return f" (near it: {', '.join(names)})" if names else ""


def _data_files(found: Iterable[Path]) -> list[Path]:
    """The files that hold rows. YAML beside others is what describes them, such as a card or a config."""
    files = [path for path in found if path.is_file() and kind_of(path.name)]
    return [path for path in files if (kind_of(path.name) or ("",))[0] not in YAML] or files


def _reading(section: SourceSection, names: Sequence[str]) -> Reading:
    """What the source says of its files. Raises DataError for what applies to none of them."""
    kinds = {kind[0] for kind in map(kind_of, names) if kind}
    for option, endings in APPLY.items():
        if getattr(section, option) != type(section).model_fields[option].default and not kinds & endings:
            raise DataError(
                f"{section.path}: `{option}` is about {' '.join(sorted(endings))} files, and here are none", hint="remove it"
            )
    return Reading("", section.encoding, section.delimiter, section.field, section.document)


def _files(paths: list[Path], section: SourceSection) -> FileSource:
    asked = section.path
    if not paths:
        raise DataError(f"{asked}: no data file fits", hint=f"known endings: {' '.join(READERS)}, also with .gz .bz2 .xz .zst")
    for path in paths:
        if kind_of(path.name) is None:
            raise DataError(f"{path}: can't tell what kind of file this is", hint=f"known endings: {' '.join(READERS)}")
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: not allowed to read it")
    names = [str(path) for path in paths]
    return FileSource(paths, names, _reading(section, names))


def _folder(path: Path, section: SourceSection) -> Source:
    """All data files under a folder, sorted by name, or what `datasets` saved there."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import DatasetDict, load_from_disk

        _reading(section, [])
        loaded = load_from_disk(str(path))
        if isinstance(loaded, DatasetDict):
            if section.split not in loaded:
                raise DataError(f"{path}: no split {section.split!r}; there are: {', '.join(loaded)}")
            loaded = loaded[section.split]
        return DatasetSource(loaded, str(path), path)
    hidden = (".", "_")
    inside = (item for item in path.rglob("*") if not any(part.startswith(hidden) for part in item.relative_to(path).parts))
    # Sorted, since the order of a folder differs between file systems, and rows are numbered in it.
    return _files(sorted(_data_files(inside)), section)


# --- elsewhere ------------------------------------------------------------------------------------


def shown(url: str) -> str:
    """A URL without the user and password that it may hold."""
    return _USERINFO.sub("//", url).partition("?")[0]


def _remote(url: str, section: SourceSection) -> FileSource:
    """Fetch the files of an fsspec URL into a temporary folder that lives as long as the source."""
    import fsspec

    try:
        filesystem, inside = fsspec.url_to_fs(url)
        names = _remote_names(filesystem, inside)
        if not names:
            raise DataError(  # noqa: TRY301 - raised where the names are known
                f"{shown(url)}: no data file fits", hint=f"known endings: {' '.join(READERS)}"
            )
        folder = tempfile.TemporaryDirectory(prefix="longline-")
        paths = []
        for number, name in enumerate(names):
            paths.append(Path(folder.name) / f"{number}-{Path(name).name}")
            filesystem.get_file(name, str(paths[-1]))
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{shown(url)}: {error}", hint="install the package that fsspec asks for") from error
    except Exception as error:
        # The error may quote the URL with its password, so it is neither shown whole nor chained.
        text = _USERINFO.sub("//", str(error))
        raise DataError(f"{shown(url)}: can't be read: {type(error).__name__}: {text}") from None
    scheme = url.partition("://")[0]
    files = [shown(f"{scheme}://{name.removeprefix('/')}") for name in names]
    return FileSource(paths, files, _reading(section, files), keep=folder)


def _remote_names(filesystem: Any, inside: str) -> list[str]:
    """The data files that a path on a file system means: one file, those of a folder, or those of a glob."""
    if glob.has_magic(inside):
        found = filesystem.glob(inside)
    elif filesystem.isdir(inside):
        found = filesystem.find(inside)
    else:
        return [inside] if filesystem.exists(inside) else []
    return sorted(str(name) for name in found if kind_of(str(name)))


def _hub(section: SourceSection) -> DatasetSource:
    """A data set of the hub, through `datasets`."""
    from datasets import load_dataset

    where = f"{section.path} (taken for a hub id: there is no such file)"
    try:
        loaded = load_dataset(section.path, section.name, split=section.split, revision=section.revision)
    # By this `datasets` says which splits and configurations there are: no fault of the network.
    except ValueError as error:
        raise DataError(f"{section.path}: {error}") from error
    except Exception as error:
        raise DataError(f"{where}: {type(error).__name__}: {error}", hint=remedy_of(error, "this source's ")) from error
    return DatasetSource(loaded, f"{section.path}[{section.split}]")
