"""The tensors of a GGUF file, under the names that transformers has for them.

Its header is read here: the reader of the library keeps an object for each of 100,000 words, which a scan has no use for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from longline.errors import ModelError
from longline_spectrum import upstream
from longline_spectrum.weights import Bytes, Floats, Stored, Tensor

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_AGAIN = "it is damaged or not whole: fetch it again"
_EXPERTS = re.compile(r"(\.experts)\.")


def tensors(path: Path) -> tuple[tuple[Tensor, ...], tuple[str, int]]:
    """Its tensors, and the architecture with the number of layers. Raises ModelError."""
    try:
        with path.open("rb") as stream:
            return _read(stream, path)
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ModelError(f"the header of {path} cannot be read", hint=_AGAIN) from error


def _read(stream: BufferedReader, path: Path) -> tuple[tuple[Tensor, ...], tuple[str, int]]:
    if stream.read(4) != b"GGUF":
        raise ModelError(f"{path} is no GGUF file", hint=_AGAIN)
    version = _number(stream, "I")
    if version not in (2, 3):
        raise ModelError(f"{path} is GGUF of version {version}, and 2 and 3 can be read", hint="convert the model again")
    count, fields = _number(stream, "Q"), _number(stream, "Q")
    facts = {_text(stream): _value(stream, _number(stream, "I")) for _ in range(fields)}
    entries = [_entry(stream) for _ in range(count)]
    alignment = int(facts.get("general.alignment", 32))
    begin = -(-stream.tell() // alignment) * alignment
    arch = str(facts["general.architecture"])
    layers = int(facts[f"{arch}.block_count"])
    names = canonical(arch, layers)
    size = path.stat().st_size
    found = []
    for name, shape, kind, offset in entries:
        tensor = Tensor(names(name, len(shape)), path, begin + offset, shape, _stored(kind))
        if tensor.offset + tensor.size > size:
            raise ModelError(f"{name} in {path} is cut off", hint=_AGAIN)
        found.append(tensor)
    return tuple(found), (arch, layers)


def canonical(arch: str, layers: int) -> Callable[[str, int], str]:
    """A function from the name of a tensor in GGUF, and how many dimensions it has, to what models of transformers call it.

    Several architectures share a name; that of models like Llama comes first. Unknown ones keep theirs.
    """
    back: dict[str, str] = {}
    listed = upstream.names_in_gguf(arch, layers)
    for theirs, ours in sorted(listed.items(), key=lambda item: not item[0].startswith("model.layers.")):
        back.setdefault(ours, theirs)

    def name(text: str, dimensions: int) -> str:
        base, dot, ending = text.rpartition(".")
        if ending not in ("weight", "bias"):
            return text
        found = back.get(base, base)
        # A stack of experts is one tensor here, and one for each expert where transformers' models are published.
        return (_EXPERTS.sub(r"\1.*.", found) if dimensions == 3 else found) + dot + ending

    return name


def _entry(stream: BufferedReader) -> tuple[str, tuple[int, ...], int, int]:
    name = _text(stream)
    dimensions = [_number(stream, "Q") for _ in range(_number(stream, "I"))]
    return name, tuple(reversed(dimensions)), _number(stream, "I"), _number(stream, "Q")


def _stored(kind: int) -> Stored:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    named = GGMLQuantizationType(kind) if kind in set(GGMLQuantizationType) else None
    if named is None:
        return Stored(f"type {kind}", 1, 1, None)
    block, size = GGML_QUANT_SIZES[named]

    def decode(kind: Any, raw: Bytes) -> Floats:
        plain = {"F16": "<f2", "F32": "<f4"}.get(kind.name)
        return raw.view(plain) if plain else np.asarray(dequantize(raw, kind))

    return Stored(named.name, block, size, partial(decode, named))


# --- numbers and texts ------------------------------------------------------------------------------------------------------------


def _number(stream: BufferedReader, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(code)))[0]


def _text(stream: BufferedReader) -> str:
    return stream.read(_number(stream, "Q")).decode("utf-8", "replace")


def _value(stream: BufferedReader, kind: int) -> Any:
    """A value of the metadata; of an array, which is a list of words or their scores, nothing is kept."""
    if kind == _STRING:
        return _text(stream)
    if kind != _ARRAY:
        return _number(stream, _NUMBERS[kind])
    inner, count = _number(stream, "I"), _number(stream, "Q")
    if inner in (_STRING, _ARRAY):
        for _ in range(count):
            _value(stream, inner)
    else:
        stream.seek(count * struct.calcsize(_NUMBERS[inner]), 1)
    return None
