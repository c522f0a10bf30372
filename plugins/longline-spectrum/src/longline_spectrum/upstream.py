"""All that this plugin needs of transformers and gguf beyond their documentation; no other file touches such a name.

Importing this module imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from longline.upstream import Assumption, every, reads

TESTED: dict[str, str] = {"gguf": ">=0.17.1,<0.20", "transformers": ">=5.23,<5.25"}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""


def renaming(model: Any) -> Callable[[str], str]:
    """A function from a name in a published checkpoint to the weight of the model that it becomes, or becomes a part of."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    listed = get_model_conversion_mapping(model)
    renamings = [item for item in listed if isinstance(item, WeightRenaming)]
    converters = [item for item in listed if isinstance(item, WeightConverter)]
    state = model.state_dict()

    def rename(name: str) -> str:
        found = str(rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0])
        if found not in state and name in state:
            return name
        return found if found in state else str(rename_source_key(name, [], [], model.base_model_prefix, state)[0])

    return rename


def names_in_gguf(arch: str, layers: int) -> dict[str, str]:
    """What models of transformers call a tensor, to what it is called in GGUF files of an architecture; empty for unknown ones."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known = next((key for key, value in MODEL_ARCH_NAMES.items() if value == arch), None)
    listed = {} if known is None else get_tensor_name_map(known, layers).mapping
    return {theirs: ours for theirs, (_, ours) in listed.items()}


ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "transformers.core_model_loading.rename_source_key",
        "5.23.0",
        "it makes of a name in a checkpoint the weight that it becomes, by renamings and converters, as loading does",
        every(
            reads(
                "transformers.core_model_loading:rename_source_key",
                takes=("source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict"),
            ),
            reads("transformers.conversion_mapping:get_model_conversion_mapping", takes=("model",)),
            reads(
                "transformers.core_model_loading:convert_and_load_state_dict_in_model",
                says=("renamed_key, source_pattern = rename_source_key(",),
            ),
        ),
    ),
    Assumption(
        "gguf.TensorNameMap.mapping",
        "0.19.0",
        "it has the names that models give to a tensor, without .weight, each with its name in GGUF",
        lambda: (
            names_in_gguf("llama", 2)["model.layers.1.self_attn.q_proj"] == "blk.1.attn_q"
            and callable(resolve_name("gguf:get_tensor_name_map"))
        ),
    ),
)
"""Everything undocumented that is called here."""
