"""Prepared data on disk, under a key of everything that decides it. An entry is complete and intact, or it is made again.

A run that is resumed on another day must see the same tokens, so the date that some chat templates print is no part of the key.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

from longline.config import doors
from longline.config.doors import distribution
from longline.config.paths import cache_folder
from longline.data import formats
from longline.data.prepared import Origins, Table
from longline.data.report import DataReport
from longline.data.sources import add_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from importlib_metadata import EntryPoint
    from transformers import PreTrainedTokenizerBase

    from longline.config.sections import DataSection
    from longline.data.kinds import Kind
    from longline.data.prepare import Wanted
    from longline.data.sources import Source

MANIFEST = "manifest.json"
# Another release of these may render or tokenise otherwise.
_LIBRARIES = ("transformers", "tokenizers", "jinja2")
# Where prepared data lies, and whether it is kept, changes nothing in it.
_NOT_IN_KEY = {"cache", "cache_dir"}


class CacheBroken(Exception):  # noqa: N818 - it is no error for anyone but the cache
    """An entry is not what its manifest says."""


def cache_root(chosen: Path | None) -> Path:
    """`data.cache_dir`, else `prepared` in the cache folder of Longline."""
    return cache_folder("prepared") if chosen is None else chosen.expanduser()


def fingerprint(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, opened: Mapping[str, list[Source]], wanted: Wanted
) -> str:
    """A hash of content, options, tokenizer, and of the code that prepares: 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    options = section.model_dump(mode="json", exclude=_NOT_IN_KEY)
    # Content and not dates: a file that was copied or touched is known again.
    sources = {split: [[source.fingerprint, source.files] for source in several] for split, several in opened.items()}
    libraries = {name: version(name) for name in _LIBRARIES}
    facts = {"options": options, "sources": sources, "libraries": libraries, "seed": wanted.seed, "packing": wanted.packing}
    facts |= {"kind": _class_of(wanted.kind), "columns": [asdict(column) for column in wanted.columns]}
    foreign = _foreign_formats(section, wanted.brought_by)
    facts["formats"] = [[entry.name, entry.value, distribution(entry)] for entry in foreign]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    modules = {type(wanted.kind).__module__, *(entry.module for entry in foreign)}
    for part in (_tokenizer_state(tokenizer), _code(), _foreign_code(modules)):
        digest.update(part)
    return digest.hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """All of a tokenizer that changes what it makes of a text."""
    backend: str = tokenizer.backend_tokenizer.to_str()
    facts = {"special": tokenizer.special_tokens_map, "template": tokenizer.chat_template, "class": type(tokenizer).__name__}
    # What stands before the tokens is truncation and padding, which any call may have left there.
    return (json.dumps(facts, sort_keys=True, default=str) + backend[backend.index('"added_tokens"') :]).encode()


def _class_of(kind: Kind) -> str:
    return f"{type(kind).__module__}:{type(kind).__qualname__}"


def _foreign_formats(section: DataSection, brought_by: str) -> list[EntryPoint]:
    """The formats of other distributions that may read a row."""
    named = {source.format for source in (*section.train, *section.eval)}
    own = doors.own(formats.GROUP)
    found = [doors.find(formats.GROUP, name, "format") for name in sorted(named - own.keys() - {"auto"})]
    if "auto" in named:
        found += [entry for entry in formats.entries(brought_by) if entry.name not in own and entry not in found]
    return found


def _code() -> bytes:
    """The source of the data package: a changed line may change what is prepared."""
    digest = xxhash.xxh3_128()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _foreign_code(modules: Iterable[str]) -> bytes:
    """The source of what other distributions bring: its version alone says nothing while it is being written."""
    digest = xxhash.xxh3_128()
    for name in sorted(modules):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            digest.update(Path(spec.origin).read_bytes())
    return digest.digest()


class Entry:
    """One place in the cache. All methods are called under `locked`."""

    def __init__(self, root: Path, key: str) -> None:
        self.root, self.key, self.path = root, key, root / key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; others wait and then find the entry. Raises OSError where nothing can be written."""
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        # The system lets go of the lock when a process dies, however that happens.
        with FileLock(str(self.root / f"{self.key}.lock")):
            yield

    def read(self) -> tuple[dict[str, pa.Table], dict[str, Origins], DataReport] | None:
        """The entry with its tables mapped from disk, or None when there is none. Raises CacheBroken when it is damaged."""
        if not (self.path / MANIFEST).is_file():
            return None
        try:
            manifest = json.loads((self.path / MANIFEST).read_bytes())
            for name, expected in manifest["files"].items():
                # Looked at each time: a run on other tokens than it was asked for would say nothing.
                if _hash(self.path / name) != expected:
                    raise CacheBroken(f"{name} has changed")
            names = manifest["names"]
            tables = {split: _mapped(self.path / _names(split)[0]) for split in names}
            origins = {split: _read_origins(self.path / _names(split)[1], names[split]) for split in names}
            return tables, origins, DataReport.from_dict(manifest["report"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise CacheBroken(f"{type(error).__name__}: {error}") from error

    @contextmanager
    def partial(self) -> Iterator[Path]:
        """A folder for what is being made, which `publish` moves to the entry's place; nothing else is left of it."""
        self.remove()
        folder = self.root / f".partial-{self.key}-{os.getpid()}"
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, names: Mapping[str, list[str]], report: DataReport) -> None:
        """Make the entry of a folder with the files of `write`; what else is in it goes. `names` are the files of each split."""
        wanted = {file for split in names for file in _names(split)}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
        files = {name: _hash(folder / name) for name in sorted(wanted)}
        manifest = {"files": files, "names": names, "report": report.to_dict()}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        folder.rename(self.path)

    def remove(self) -> None:
        """Drop the entry and what a killed process left of one."""
        for path in (self.path, *self.root.glob(f".partial-{self.key}-*")):
            shutil.rmtree(path, ignore_errors=True)


def write(folder: Path, split: str, table: Table) -> None:
    """Write one split, going through its batches. Raises OSError when it can't be."""
    rows, places = _names(split)
    _write_stream(folder / rows, table.schema, table.batches)
    origins = pa.RecordBatch.from_pydict({"files": table.origins.files, "lines": table.origins.lines})
    _write_stream(folder / places, origins.schema, [origins])


def _names(split: str) -> tuple[str, str]:
    """The files of a split: its rows, and where they came from."""
    return f"{split}.arrow", f"{split}-origins.arrow"


def _write_stream(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Arrow's stream format, which `datasets` maps into memory."""
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def _mapped(path: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(path)).data


def _read_origins(path: Path, names: list[str]) -> Origins:
    """The places of all samples, mapped from disk: there is one record batch."""
    files, lines = (column.chunk(0).to_numpy() for column in _mapped(path).columns)
    return Origins(names, files, lines)


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    add_bytes(digest, path)
    return digest.hexdigest()
