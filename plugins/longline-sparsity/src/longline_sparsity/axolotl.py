"""What a config of axolotl says of pruned models: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.llm_compressor."
KEY = "llmcompressor"
COMPRESSED = "whole weights with their zeros: what compresses them for transformers to load is no longer in compressed-tensors"


def convert(draft: Draft) -> None:
    """The plugin with the recipe."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    if not listed:
        return
    given = draft.mapping(KEY)
    for keys in listed:
        draft.put("plugins.sparsity", {}, keys)
    if given.get("recipe") is not None:
        draft.put("plugins.sparsity.recipe", given["recipe"], (KEY, "recipe"))
    if given.get("save_compressed") is True:
        draft.refuse((KEY, "save_compressed"), COMPRESSED)
    elif "save_compressed" in given:
        draft.accept((KEY, "save_compressed"), "off, as it is here")
