"""What a teacher in this process says of a config's data, written beside its tokens: to be learnt from again and again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from longline import ConfigError
from longline.events import IGNORED
from longline_distill.config import DistillConfig, TeacherConfig, recorded
from longline_distill.local import LocalTeacher
from longline_distill.recordings import META

if TYPE_CHECKING:
    from datasets import Dataset

PART = 512
"""Rows of a part: what a recording that was cut off has to make again at most."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a recording is made: parts of another are not gone on with."""

    teacher: str
    rows: str
    top_k: int
    temperature: float
    dtype: str


def record(
    dataset: Dataset, model: Any, vocabulary: int, made: Made, path: Path, tokens: int, part: int = PART
) -> Iterator[int]:
    """Write a Parquet file of `dataset`'s rows with the teacher's top k; yields the number of rows that are done.

    Columns: input_ids, labels (list<int32>), teacher_ids (list<list<int32>[k]>, -1 where nothing is learnt), teacher_logprobs (the
    same of float16): of each token as the teacher saw it coming. Parts of a recording that was cut off are gone on with. Raises
    ConfigError when the parts beside the file are of another recording.
    """
    parts = path.with_name(f"{path.name}.parts")
    done = _begun(parts, made)
    options = DistillConfig(teacher=TeacherConfig(path=made.teacher), top_k=made.top_k, temperature=made.temperature)
    teacher = LocalTeacher(model, options, vocabulary)
    try:
        yield done
        while done < len(dataset):
            rows = dataset.select(range(done, min(done + part, len(dataset)))).with_format(None)
            table = pa.table(_columns(list(rows), teacher, made.top_k, tokens), schema=schema(made))
            temporary = parts / ".part"
            pq.write_table(table, temporary)
            temporary.replace(parts / f"{done:09d}.parquet")
            done += len(table)
            yield done
    finally:
        teacher.end()
    with pq.ParquetWriter(temporary := parts / ".whole", schema(made)) as writer:
        for written in sorted(parts.glob("*.parquet")):
            writer.write_table(pq.read_table(written, use_threads=False))
    temporary.replace(path)
    shutil.rmtree(parts)


def schema(made: Made) -> pa.Schema:
    """The columns of a recording, with how it was made."""
    ids, logs = recorded("teacher")
    fields = [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))]
    fields += [(ids, pa.list_(pa.list_(pa.int32(), made.top_k))), (logs, pa.list_(pa.list_(pa.float16(), made.top_k)))]
    return pa.schema(fields, metadata={META: json.dumps(asdict(made)).encode()})


def _begun(parts: Path, made: Made) -> int:
    """How many rows are there already. Raises ConfigError."""
    parts.mkdir(parents=True, exist_ok=True)
    note = parts / "made.json"
    if note.is_file() and (before := json.loads(note.read_text())) != asdict(made):
        other = ", ".join(f"{name} {before.get(name)!r}" for name, value in asdict(made).items() if before.get(name) != value)
        raise ConfigError(f"{parts} holds parts of another recording: {other}", hint="remove it, or choose another file")
    note.write_text(json.dumps(asdict(made)))
    return sum(pq.read_metadata(part).num_rows for part in parts.glob("*.parquet"))


def _columns(rows: Sequence[Mapping[str, Any]], teacher: LocalTeacher, k: int, tokens: int) -> dict[str, pa.Array]:
    """The columns of some rows."""
    ids, logs = [], []
    for batch in _batches(rows, tokens):
        for own_ids, own_logs in _asked(batch, teacher, k):
            ids.append(own_ids)
            logs.append(own_logs)
    inputs, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
    names = recorded("teacher")
    vectors = (_vectors(ids, k, pa.int32()), _vectors(logs, k, pa.float16()))
    return {
        "input_ids": pa.array(inputs, pa.list_(pa.int32())),
        "labels": pa.array(labels, pa.list_(pa.int32())),
        **dict(zip(names, vectors, strict=True)),
    }


def _vectors(parts: Sequence[np.ndarray[Any, Any]], k: int, inner: pa.DataType) -> pa.Array:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(parts).ravel(), inner), k)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _batches(rows: Sequence[Mapping[str, Any]], tokens: int) -> Iterator[list[Mapping[str, Any]]]:
    """Rows in their order, as many as have so many tokens when they are padded."""
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        longest = max(len(other["input_ids"]) for other in [*batch, row])
        if batch and longest * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _asked(rows: Sequence[Mapping[str, Any]], teacher: LocalTeacher, k: int) -> Iterator[tuple[Any, Any]]:
    """(ids int32, log probabilities float16), each [tokens, k], of each row."""
    device = next(teacher.model.parameters()).device
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*row[name], *[fill] * (width - len(row[name]))] for row in rows], device=device)

    labels = padded("labels", IGNORED)
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows], device=device)
    view = teacher.ask({"input_ids": padded("input_ids", 0), "attention_mask": mask, "labels": labels}, teacher.vocabulary)
    where = (labels[:, 1:] != IGNORED).nonzero().tolist()
    ids, logs = np.full((len(rows), width, k), -1, np.int32), np.zeros((len(rows), width, k), np.float16)
    for start in range(0, len(where), 256):
        part = where[start : start + 256]
        known = view.rows(start, start + len(part))
        at = [row for row, _ in part], [place + 1 for _, place in part]
        ids[at], logs[at] = known.ids.cpu().numpy(), known.logs.cpu().numpy().astype(np.float16)  # type: ignore[union-attr]
    for number, row in enumerate(rows):
        yield ids[number, : len(row["input_ids"])], logs[number, : len(row["input_ids"])]
