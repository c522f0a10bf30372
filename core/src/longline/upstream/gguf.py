"""Undocumented names of gguf, and of how transformers reads its files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from longline.upstream.assumption import Assumption, of, reads


@contextmanager
def reading_gguf() -> Iterator[None]:
    """Let transformers read GGUF files with a reader seven times as fast for the block; what it makes of them is the same.

    transformers reads all metadata for the config, once more for the tokenizer and again for the weights, and makes the same map of
    names anew for each of some hundred modules.
    """
    import gguf

    library: Any = gguf
    slow = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = _quick_reader(), cache(slow[1])
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = slow


@cache
def _quick_reader() -> Any:
    """A GGUFReader that takes an array of the metadata at once, and not an array of numpy for each of 100,000 words."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class QuickReader(GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)  # a slice of a memmap costs ten of these

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            head, begin = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)], orig_offs + 12
            kind, count = GGUFValueType(int(head[0][0])), int(head[1][0])
            if kind in self.gguf_scalar_to_np:
                numbers = self._get(begin, self.gguf_scalar_to_np[kind], count)
                items: Any = [(number,) for number in numbers.tolist()]
                end = begin + numbers.nbytes
            elif kind == GGUFValueType.STRING and self.byte_order == "I":
                items, end = _strings(memoryview(self._bytes), begin, count)
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            kinds = [GGUFValueType.ARRAY, *([kind] if count else [])]
            return end - orig_offs, [*head, *items], list(range(2, 2 + count)), kinds

    return QuickReader


def _strings(view: memoryview, offset: int, count: int) -> tuple[list[bytes], int]:
    """`count` strings, each behind its length, and where they end."""
    items, length = [], struct.Struct("=Q")
    for _ in range(count):
        begin = offset + 8
        offset = begin + length.unpack_from(view, offset)[0]
        items.append(view[begin:offset].tobytes())
    return items, offset


_GGUF = "transformers.modeling_gguf_pytorch_utils:"


_assume = of("gguf", "0.19.0")

ASSUMPTIONS: tuple[Assumption, ...] = (
    of("transformers", "5.23.0")(
        "modeling_gguf_pytorch_utils.load_gguf_checkpoint",
        "it takes GGUFReader and get_tensor_name_map from gguf at each call, and of a field only its types and the parts that its "
        "data counts",
        reads(f"{_GGUF}load_gguf_checkpoint", says=("from gguf import GGUFReader, dequantize",)),
        reads(f"{_GGUF}get_gguf_hf_weights_map", says=("import MODEL_ARCH_NAMES, get_tensor_name_map",)),
        reads(f"{_GGUF}load_gguf_checkpoint", says=("(field.parts[_data_index], field.types) for _data_index in field.data",)),
    ),
    _assume(
        "GGUFReader._get_field_parts",
        "it reads a value from data and returns its size, its parts, which of them hold the value, and its types",
        reads("gguf:GGUFReader._get_field_parts", says=("return offs - orig_offs, aparts, data_idxs, types",)),
        reads("gguf:GGUFReader._get", takes=("offset", "dtype", "count"), says=("self.data[offset:end_offs]",)),
        reads("gguf:GGUFReader._build_fields", says=("self._get_field_parts(offs, raw_kv_type[0])", "skip_sum = True")),
    ),
)
