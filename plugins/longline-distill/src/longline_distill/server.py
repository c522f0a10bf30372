"""A teacher behind a server: asked about each batch as soon as it is collated, which is one step before it is trained on."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from longline import ConfigError
from longline.events import IGNORED
from longline_distill.client import Client
from longline_distill.columns import Collate, Held

if TYPE_CHECKING:
    from longline_distill.client import Told
    from longline_distill.config import ServerConfig

TEXTS = 4
"""How many texts are in one request: servers batch requests themselves, and a small one is soon tried again."""
KEPT = 256 * 1024 * 1024
"""Bytes of answers that are kept in memory."""
PROBE = tuple(range(3, 11))
"""Tokens about which the server is asked at the start: another model behind the same name answers otherwise."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The tokens of a sample of a batch, and at which of them something is learnt."""

    ids: tuple[int, ...]
    learnt: list[int]


def samples(inputs: Mapping[str, torch.Tensor]) -> list[Sample]:
    """The samples of a batch in its order, packed or padded; those of which nothing is learnt are left out."""
    found = []
    for row, (ids, labels) in enumerate(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)):
        if "position_ids" in inputs:
            starts = [at for at, place in enumerate(inputs["position_ids"][row].tolist()) if place == 0]
        else:
            starts = [0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            learnt = [at - start for at in range(start + 1, end) if labels[at] != IGNORED]
            if learnt:  # nothing that stands behind the last learnt token has an effect on it
                found.append(Sample(tuple(ids[start : start + learnt[-1] + 1]), learnt))
    return found


@dataclass
class Answers:
    """What was answered before: in memory, the oldest forgotten first, and in a folder if there is one."""

    folder: Path | None
    known: OrderedDict[str, Told] = field(default_factory=OrderedDict)
    size: int = 0

    def get(self, key: str) -> Told | None:
        """The answer, if it is known."""
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path) as found:
                told = found["ids"], found["logs"]
        except (OSError, ValueError, KeyError):  # cut off by a crash: asked anew
            return None
        self._keep(key, told)
        return told

    def put(self, key: str, told: Told) -> None:
        """Keep an answer. Raises OSError when the folder cannot be written."""
        self._keep(key, told)
        if (path := self._path(key)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
            np.savez(temporary, ids=told[0], logs=told[1])
            temporary.replace(path)

    def _keep(self, key: str, told: Told) -> None:
        self.known[key] = told
        self.size += sum(part.nbytes for part in told)
        while self.size > KEPT and len(self.known) > 1:
            self.size -= sum(part.nbytes for part in self.known.popitem(last=False)[1])

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.npz"


class ServerTeacher:
    """Asks a server about the learnt tokens of batches."""

    def __init__(self, options: ServerConfig, k: int) -> None:
        """Find the model and try it. Raises ServerError."""
        self._ended = False
        self._client = Client(options, k, lambda: self._ended)
        self.model = self._client.model()
        [probed] = self._client.ask(self.model, [PROBE])
        self.probe = [float(log) for log in probed[1][1:, 0]]
        self._answers = Answers(options.cache)
        self._pool = ThreadPoolExecutor(options.concurrency, "teacher")
        self._asked: dict[str, Future[dict[str, Told]]] = {}

    def same_as(self, before: Mapping[str, Any]) -> None:
        """Raise ConfigError where a checkpoint was made with another teacher."""
        if before["model"] != self.model:
            what = f"is {self.model} now, and was {before['model']}"
        elif np.abs(np.array(before["probe"]) - np.array(self.probe)).max() > 0.05:
            what = f"answers otherwise under the name {self.model}"
        else:
            return
        hint = "serve the same model, or start a new run"
        raise ConfigError(f"the teacher of the checkpoint {what}", hint=hint)

    def state(self) -> dict[str, Any]:
        """What tells it from another teacher."""
        return {"model": self.model, "probe": self.probe}

    def expect(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Begin to ask about a batch."""
        missing: dict[str, Sample] = {}
        for sample in samples(batch):
            key = self._key(sample)
            if key not in self._asked and self._answers.get(key) is None:
                missing[key] = sample
        keys = list(missing)
        for start in range(0, len(keys), TEXTS):
            part = {key: missing[key] for key in keys[start : start + TEXTS]}
            future = self._pool.submit(self._fetch, part)
            self._asked.update(dict.fromkeys(part, future))

    def ask(self, inputs: dict[str, Any], logits: int) -> Held:
        """Wait for the answers to the batch at hand. Raises ServerError."""
        self.expect(inputs)
        parts = [self._answer(sample) for sample in samples(inputs)]
        k = self._client.k
        ids = np.concatenate([part[0] for part in parts] or [np.zeros((0, k))]).astype(np.int64)
        logs = np.concatenate([part[1] for part in parts] or [np.zeros((0, k))]).astype(np.float32)
        device = inputs["input_ids"].device
        return Held(torch.from_numpy(ids).to(device), torch.from_numpy(logs).to(device))

    def _answer(self, sample: Sample) -> Told:
        key = self._key(sample)
        told = self._answers.get(key)
        if told is None:
            future = self._asked[key]
            told = future.result()[key]
        self._asked.pop(key, None)
        return told

    def _fetch(self, part: Mapping[str, Sample]) -> dict[str, Told]:
        told = self._client.ask(self.model, [sample.ids for sample in part.values()])
        made = {
            key: (ids[sample.learnt], logs[sample.learnt])
            for (key, sample), (ids, logs) in zip(part.items(), told, strict=True)
        }
        for key, answer in made.items():
            self._answers.put(key, answer)
        return made

    def _key(self, sample: Sample) -> str:
        text = f"{self.model} {self._client.k} {self.probe} {sample.ids} {sample.learnt}"
        return hashlib.sha256(text.encode()).hexdigest()

    def end(self) -> None:
        """Ask no more, and wait for nobody."""
        self._ended = True
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Prefetching:
    """The core's collator, which lets the teacher begin with a batch as soon as it is there: a step ahead of the training."""

    inner: Collate
    teachers: list[ServerTeacher]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows."""
        batch = self.inner(rows)
        if self.teachers and get_worker_info() is None:  # a worker process has no teacher; then it is asked in the step
            self.teachers[0].expect(batch)
        return batch
