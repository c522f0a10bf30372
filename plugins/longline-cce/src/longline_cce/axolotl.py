"""What a config of axolotl says of cut cross entropy: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.cut_cross_entropy."
SWITCH = "cut_cross_entropy"
OF_ITS_FORK = ("cut_cross_entropy_accum_c_fp32", "cut_cross_entropy_c_grad_chunk_size")
NOT_OF_THE_RELEASE = "the release of cut-cross-entropy, which has no such setting; `impl: chunked` is exact"


def convert(draft: Draft) -> None:
    """The plugin; its arithmetic is chosen by the machine."""
    on = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    switch = draft.get(SWITCH)
    on += [SWITCH] if switch is not None else []
    compares = draft.get("rl") is not None or draft.get("reward_model") is True
    for keys in on:
        if switch is False:
            draft.accept(keys, "off, as it is here")
        elif compares:
            draft.refuse(keys, "the trainer's own loss: this one is for sft")
        else:
            draft.put("plugins.cce", {}, keys)
    for key in OF_ITS_FORK:
        if draft.get(key) is False:
            draft.accept(key, "off, as it is here")
        elif draft.get(key) is not None:
            draft.refuse(key, NOT_OF_THE_RELEASE)
