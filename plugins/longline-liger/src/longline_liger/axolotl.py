"""What a config of axolotl says of Liger's kernels: `longline convert axolotl` calls `convert` for those keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longline.converters import Draft

MODULE = "axolotl.integrations.liger."
KERNELS = {
    "liger_rope": "rope",
    "liger_rms_norm": "rms_norm",
    "liger_glu_activation": "glu_activation",
    "liger_swiglu": "glu_activation",
    "liger_cross_entropy": "cross_entropy",
    "liger_fused_linear_cross_entropy": "fused_linear_cross_entropy",
    "liger_use_token_scaling": "use_token_scaling",
}
"""axolotl's keys to the options of this plugin."""
ONLY_WHERE = "liger_layer_norm"
"""axolotl applies it where the model has LayerNorm, and says nothing elsewhere; here what is named and not applied ends the run."""
OTHERS = ("liger_rms_norm_gated", "liger_kernel_impl")


def convert(draft: Draft) -> None:
    """The plugin with the kernels that are on."""
    listed = [keys for keys, name in draft.items("plugins") if str(name).startswith(MODULE)]
    on = [key for key in KERNELS if draft.get(key) is True]
    for keys in listed:
        if on:
            draft.put("plugins.liger", {}, keys)
        else:
            draft.accept(keys, "no kernel is asked for")
    for key in KERNELS:
        if draft.get(key) is False:
            draft.accept(key, "not asked for, so not applied")
    for key in on:
        draft.put(f"plugins.liger.{KERNELS[key]}", True, key)
    for keys in listed:
        draft.put("plugins.liger", draft.config["plugins"]["liger"], keys) if on else draft.accept(
            keys, "no kernel is asked for"
        )
    if draft.get(ONLY_WHERE) is not None:
        why = "left out: add `layer_norm: true` under liger for a model that has LayerNorm, as few do"
        draft.accept(
            ONLY_WHERE, why if draft.get(ONLY_WHERE) else "not asked for, so not applied", mind=bool(draft.get(ONLY_WHERE))
        )
    for key in OTHERS:
        if draft.get(key) is not None:
            draft.refuse(key, "the kernels that `longline plugins show liger` lists")
