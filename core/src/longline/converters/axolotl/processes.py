"""Several processes: FSDP in both of its spellings, DeepSpeed, sizes of meshes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.converters.axolotl.rules import Rule, none, nothing, together, trainer

if TYPE_CHECKING:
    from longline.config.document import Keys
    from longline.converters.draft import Draft

_SIZES = "`--nproc` or torchrun say how many processes there are; FSDP shards over all of them"
MESHES = ("dp_shard_size", "dp_replicate_size", "tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree")
RULES: dict[str, Rule] = {
    "ddp_timeout": trainer("ddp_timeout"),
    "ddp_bucket_cap_mb": trainer("ddp_bucket_cap_mb"),
    "ddp_broadcast_buffers": trainer("ddp_broadcast_buffers"),
    "ddp_find_unused_parameters": trainer("ddp_find_unused_parameters"),
    "ddp": nothing("several processes are DDP, unless FSDP or DeepSpeed is asked for"),
    **dict.fromkeys(("device", "device_map", "world_size", "local_rank"), nothing("the launcher says it")),
    "max_memory": none("`trainer.fsdp`, or quantisation"),
    "gpu_memory_limit": none("`trainer.fsdp`, or quantisation"),
    "fsdp": together("trainer.fsdp", "FSDP2"),
    "fsdp_config": together("trainer.fsdp_config", "with and without `fsdp_` before each name"),
    "fsdp_version": together("", "FSDP2"),
    "fsdp_final_state_dict_type": together("", "the final model is always gathered"),
    "deepspeed": trainer("deepspeed", "axolotl's own deepspeed_configs/ must be there; Longline's tests do not run DeepSpeed"),
    "deepcompile": none("`trainer.torch_compile`"),
    "fp32_norms": none("`trainer.fsdp` with float32 weights: `model.dtype: float32`"),
    "fp32_norm_classes": none("`trainer.fsdp` with float32 weights: `model.dtype: float32`"),
    **dict.fromkeys(MESHES, together("", _SIZES)),
    **dict.fromkeys(("heads_k_stride", "ring_attn_func"), none(_SIZES)),
}


def translate(draft: Draft) -> None:
    """FSDP, and sizes of meshes."""
    _fsdp(draft)
    for key in MESHES:
        if draft.get(key) in (1, False):
            draft.accept(key, "1: as it is here")
        elif draft.get(key) is not None:
            draft.refuse(key, _SIZES)


FSDP = {
    "offload_params": "cpu_offload",
    "auto_wrap_policy": "auto_wrap_policy",
    "transformer_layer_cls_to_wrap": "transformer_layer_cls_to_wrap",
    "min_num_params": "min_num_params",
    "cpu_ram_efficient_loading": "cpu_ram_efficient_loading",
    "state_dict_type": "state_dict_type",
    "activation_checkpointing": "activation_checkpointing",
    "reshard_after_forward": "reshard_after_forward",
}
"""What axolotl says of FSDP, with `fsdp_` before it or without, to transformers' names."""
FSDP1 = frozenset({"sync_module_states", "use_orig_params", "limit_all_gathers", "forward_prefetch", "backward_prefetch"})
"""Switches of FSDP1 that FSDP2 has not."""
SHARDING = {"FULL_SHARD": True, "1": True, "SHARD_GRAD_OP": False, "2": False}


def _fsdp(draft: Draft) -> None:
    parts, version = draft.get("fsdp"), draft.get("fsdp_version")
    settings = draft.mapping("fsdp_config")
    if not parts and not any(value is not None for value in settings.values()):
        for key in ("fsdp", "fsdp_version", "fsdp_final_state_dict_type"):
            if draft.get(key) is not None:
                draft.accept(key, "FSDP is not asked for")
        return
    if parts:
        draft.put("trainer.fsdp", True, "fsdp", note="FSDP2: weights, gradients and optimizer are sharded")
    else:
        draft.add("trainer.fsdp", True, "what `fsdp_config` means")
    if version is not None:
        draft.accept("fsdp_version", "FSDP2" if str(version) == "2" else "FSDP1 is gone from transformers: FSDP2")
    if draft.get("fsdp_final_state_dict_type") is not None:
        draft.accept("fsdp_final_state_dict_type", "the final model is always gathered")
    words = [str(word) for word in (parts if isinstance(parts, list) else str(parts or "").split())]
    for word, field, value in (("offload", "cpu_offload", True), ("shard_grad_op", "reshard_after_forward", False)):
        if word in words:
            draft.put(f"trainer.fsdp_config.{field}", value, "fsdp")
    for keys, value in draft.items("fsdp_config"):
        if value is not None:
            _fsdp_setting(draft, keys, str(keys[-1]).removeprefix("fsdp_"), value)


def _fsdp_setting(draft: Draft, keys: Keys, name: str, value: Any) -> None:
    if name in FSDP:
        value = (
            [part.strip() for part in value.split(",")] if name.endswith("cls_to_wrap") and isinstance(value, str) else value
        )
        draft.put(f"trainer.fsdp_config.{FSDP[name]}", value, keys)
    elif name == "sharding_strategy" and str(value) in SHARDING:
        draft.put("trainer.fsdp_config.reshard_after_forward", SHARDING[str(value)], keys, note="what FSDP2 calls it")
    elif name in FSDP1:
        draft.accept(keys, "a switch of FSDP1; FSDP2 has none such")
    elif name in ("fsdp_version", "version"):
        draft.accept(keys, "FSDP2" if str(value) == "2" else "FSDP1 is gone from transformers: FSDP2")
    elif name == "final_state_dict_type":
        draft.accept(keys, "the final model is always gathered")
    elif name == "mixed_precision_policy":
        draft.refuse(keys, "`trainer.bf16`, which FSDP follows")
    else:
        draft.refuse(keys, "the fields of `trainer.fsdp_config` in transformers' documentation")
