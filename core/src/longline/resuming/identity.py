"""What a run learns from, in a few digits: its rows and its models, to see when it goes on that they are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedModel

SAMPLES = 64
"""Values looked at in each tensor: what trains or replaces a model moves nearly all of them."""
_BATCH = 4096


def of_rows(dataset: Dataset) -> str:
    """A hash of all rows in their order, however they lie in memory; row ids, which number the sources, left out."""
    names = sorted(set(dataset.column_names) - {"row_ids"})
    digests = {name: xxhash.xxh3_128() for name in names}
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH):
        for name in names:
            for chunk in table[name].chunks:
                _add(digests[name], chunk)
    whole = xxhash.xxh3_128()
    for name, digest in digests.items():
        whole.update(name.encode() + digest.digest())
    return whole.hexdigest()


def _add(digest: Any, values: pa.Array) -> None:
    import numpy as np
    import pyarrow.compute as pc
    from pyarrow import types

    kind = values.type
    if types.is_list(kind) or types.is_large_list(kind):
        _add(digest, pc.list_value_length(values))
        _add(digest, values.flatten())
    elif types.is_fixed_size_list(kind):
        _add(digest, values.flatten())
    elif types.is_integer(kind) or types.is_floating(kind):
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)))
    else:
        digest.update(repr(values.to_pylist()).encode("utf-8", "backslashreplace"))


def of_model(model: PreTrainedModel) -> dict[str, str]:
    """The `shape` of a model (names and sizes of all its weights), a hash of `weights`, of some values of each, and their `dtype`.

    Where weights have no values yet, on ranks that are handed theirs, `weights` is empty.
    """
    import torch

    shape, weights = xxhash.xxh3_128(), xxhash.xxh3_128()
    known = True
    for name, tensor in sorted(model.named_parameters()):
        shape.update(f"{name} {tuple(tensor.shape)};".encode())
        known = known and not tensor.is_meta
        if known:
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES]
            weights.update(some.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return {"shape": shape.hexdigest(), "weights": weights.hexdigest() if known else "", "dtype": str(model.dtype)}


def of_trained(model: PreTrainedModel) -> dict[str, Any]:
    """Which weights are trained: how many, and a hash of their names in the order in which the optimizer has them."""
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {"count": len(names), "names": xxhash.xxh3_128_hexdigest("\n".join(names).encode())}
