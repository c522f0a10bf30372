"""From what a person calls a model to the tensors of its files: their headers alone are read here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longline.config.paths import looks_local
from longline.errors import ModelError
from longline_spectrum import gguf_file
from longline_spectrum.weights import Bytes, Floats, Stored, Tensor

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
AGAIN = "it is damaged or not whole: fetch it again"
_HEADER = 100_000_000
"""No header of safetensors is longer, by its own definition."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a model: what people call it, its tensors, of GGUF the architecture with the number of its layers, and the
    method by which it was quantised.
    """

    name: str
    tensors: tuple[Tensor, ...]
    gguf: tuple[str, int] | None = None
    quantised: str = ""


def opened(path: str, *, revision: str | None = None, gguf: str | None = None) -> Checkpoint:
    """Open a folder, a file, or a hub id that is on this machine: nothing is downloaded.

    Raises:
        ModelError: there are no weights that can be read; the message says what to do.
    """
    local = Path(path).expanduser()
    if looks_local(path):
        if not local.exists():
            raise ModelError(f"no such file or folder: {path}", hint="give a folder, a .safetensors or .gguf file, or a hub id")
        where = local / gguf if gguf and local.is_dir() else local
    else:
        where = _cached(path, revision, gguf)
    try:
        if where.is_dir():
            return _folder(path, where)
        if where.suffix.lower() == ".gguf":
            tensors, facts = gguf_file.tensors(where)
            return Checkpoint(where.name, tensors, facts)
        if where.suffix == ".safetensors":
            return Checkpoint(path, tuple(_tensors(where)))
    except OSError as error:
        raise ModelError(f"cannot read {where}: {error.strerror or error}", hint=AGAIN) from error
    raise ModelError(f"{where} is neither .safetensors nor .gguf", hint="give the folder of the model, or one of such files")


def _cached(name: str, revision: str | None, gguf: str | None) -> Path:
    """The folder, or GGUF file, of a hub id in the hub's own cache."""
    from huggingface_hub import try_to_load_from_cache

    for wanted in (gguf,) if gguf else (INDEX, WHOLE):
        try:
            found = try_to_load_from_cache(name, wanted, revision=revision)
        except ValueError as error:  # no name of a repository
            raise ModelError(f"{name} is no folder, no file and no hub id", hint="check the spelling") from error
        if isinstance(found, str):
            return Path(found) if gguf else Path(found).parent
    at = f" --revision {revision}" if revision else ""
    text = f"the weights of {name} are not on this machine, and nothing is downloaded for a scan"
    raise ModelError(text, hint=f"hf download {name}{at} fetches them")


def _folder(name: str, folder: Path) -> Checkpoint:
    quantised = ""
    if (folder / "config.json").is_file():
        config = _json(folder / "config.json")
        quantised = str(config["quantization_config"].get("quant_method", "yes")) if config.get("quantization_config") else ""
    if (folder / WHOLE).is_file():
        found = tuple(_tensors(folder / WHOLE))
    elif (folder / INDEX).is_file():
        found = tuple(_shards(folder))
    else:
        raise ModelError(f"there is neither {WHOLE} nor {INDEX} in {folder}", hint=_instead(folder))
    return Checkpoint(name, found, quantised=quantised)


def _instead(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "it holds .gguf files: name one of them"
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter alone: name the model that it was trained on, or merge it"
    if any(folder.glob("pytorch_model*.bin")):
        return "pickled weights cannot be read in part: load the model with transformers and save it again"
    return "is it the folder of a model?"


def _shards(folder: Path) -> Iterator[Tensor]:
    """The tensors that the index lists, of the files that it names for them."""
    listed = _json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map", hint=AGAIN)
    for shard in sorted(set(listed.values())):
        if not (folder / shard).is_file():
            raise ModelError(f"{shard} is not in {folder}, and {INDEX} names it", hint="the model is not whole: fetch it again")
        yield from (tensor for tensor in _tensors(folder / shard) if listed.get(tensor.name) == shard)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON", hint=AGAIN) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object", hint=AGAIN)
    return content


# --- safetensors ----------------------------------------------------------------------------------------------------------------


def _bfloat16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_STORED = {
    "BF16": Stored("BF16", 1, 2, _bfloat16),
    **{
        name: Stored(name, 1, int(code[-1]), lambda raw, code=code: raw.view(code))
        for name, code in {"F16": "<f2", "F32": "<f4", "F64": "<f8"}.items()
    },
    **{
        name: Stored(name, 1, int(name.lstrip("IU")) // 8, None)
        for name in ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
    },
    **{name: Stored(name, 1, 1, None) for name in ("BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0")},
}


def _tensors(path: Path) -> Iterator[Tensor]:
    """The tensors of one file. Its definition: 8 bytes with the length of the header, the header as JSON, and the numbers."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_HEADER, size - 8):
            raise ModelError(f"{path} is no file of safetensors", hint=AGAIN)
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            for name, entry in entries.items():
                begin, end = entry["data_offsets"]
                stored = _STORED.get(entry["dtype"]) or Stored(str(entry["dtype"]), 1, 1, None)
                tensor = Tensor(name, path, 8 + length + begin, tuple(entry["shape"]), stored)
                if 8 + length + end > size or (stored.decode and end - begin != tensor.size):
                    raise ModelError(f"{name} in {path} is cut off", hint=AGAIN)
                yield tensor
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"the header of {path} cannot be read", hint=AGAIN) from error
