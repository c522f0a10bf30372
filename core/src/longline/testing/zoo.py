"""Tiny random models of many types, to compare what a plugin does to a model, such as its loss, with the model's own.

`build("gemma2")` makes a model on the CPU in a few milliseconds: float32, two layers or as many as it has kinds of layers, hidden
size 64, 256 tokens. `batches(model)` makes a padded and a packed batch for it, as the core's collator would. Both are the same
in every process. Text only: towers for pictures and sound are there, as small as they can be, and see nothing.

What is small is decided by the names of a config's fields, at any depth; `EXCEPTIONS` holds what the names don't tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline import upstream
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from transformers import PretrainedConfig, PreTrainedModel

VOCABULARY = 256
"""How many tokens a model of the zoo knows; the last 32 stand for pictures and the like, and are in no batch."""

TYPES: tuple[str, ...] = tuple(
    """
    afmoe apertus arcee cohere cohere2 deepseek_v2 deepseek_v3 deepseek_v4 exaone4 falcon_h1 gemma gemma2 gemma3 gemma3_text
    gemma3n gemma3n_text gemma4 gemma4_text glm glm4 glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glm_image glm_moe_dsa
    gpt_oss granite granitemoe granitemoehybrid granitemoeshared hunyuan_v1_dense hunyuan_v1_moe internvl kimi_linear lfm2
    lfm2_moe lfm2_vl llama llama4 llama4_text llava ministral ministral3 mistral mistral3 mistral4 mixtral mllama
    mllama_text_model muse_glimmer nemotron nemotron_h olmo olmo2 olmo3 olmoe paligemma phi phi3 phi4_multimodal pixtral
    qwen2 qwen2_5_vl qwen2_5_vl_text qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text
    qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe qwen3_vl_moe_text qwen3_vl_text seed_oss smollm3 smolvlm step3p5
    voxtral
    """.split()  # noqa: SIM905
)
"""The model types that the core's loss at the output head is tested with; more can be built, as far as `SIZES` knows them."""

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "vision_vocab_size", "vision_output_dim"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "out_hidden_size", "projector_hidden_size", "projector_input_dim", "projector_output_dim", "embed_dim"),
        64,
    ),
    "mamba_d_ssm": 128,
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "share_expert_dim", "latent_channels"), 32),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "conf_num_attention_heads"), 4),
    **dict.fromkeys(("num_sliding_attention_heads", "linear_num_heads", "linear_num_value_heads", "index_n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads", "o_groups"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "index_head_dim", "linear_head_dim", "laurel_rank"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim", "o_lora_rank"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "mamba_d_state", "ssm_state_size", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "qk_rope_head_dim", "qk_nope_head_dim", "index_topk"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "n_groups", "mamba_n_groups"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), 6),
    **dict.fromkeys(("max_position_embeddings", "original_max_position_embeddings", "block_multiple_of"), 64),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "decoder_sparse_step", "num_shared_experts"), 1),
    **dict.fromkeys(("depth", "conf_num_hidden_layers", "num_global_layers", "num_blocks"), 1),
    **dict.fromkeys(("num_kv_shared_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("patch_size", "spatial_patch_size"), 4),
    **dict.fromkeys(
        ("image_size", "crop_size", "num_mel_bins", "projection_dim", "num_patches", "num_position_embeddings"), 16
    ),
    **dict.fromkeys(("num_embeddings", "max_source_positions", "ext_pw_out_channel", "nemo_conv_channels"), 16),
    "depthwise_separable_out_channel": 64,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What a field of that name is set to, in a model's config and in the configs below it."""
ZEROES = ("dropout", "jitter", "pdrop", "layerdrop")
"""A field whose name has one of these becomes 0."""
KINDS = ("layer_types", "mlp_layer_types", "indexer_types", "layers_block_type")
"""Fields that name each layer's kind: the tiny model has every kind once."""

EXCEPTIONS: dict[str, dict[str, Any]] = {
    # rotary positions in three directions: the sections must count the pairs of numbers that are turned in a head of 16
    **{
        name: {"rope_parameters": {"mrope_section": [2, 3, 3]}}
        for name in ("qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm_image_text")
    },
    "glm4v_moe_text": {"rope_parameters": {"mrope_section": [1, 1, 2]}},
    # no list of kinds of layers by default, or one with a single kind
    **{name: {"layer_types": ["conv", "full_attention"]} for name in ("lfm2", "lfm2_moe")},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    # a size that is no field: layers with full attention have larger heads
    "gemma4_text": {"global_head_dim": 16},
    # layers that look at pictures are left out where there are none
    "mllama_text_model": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
}
"""What a config class needs beside `SIZES`, by its model type; a mapping is merged into the default one."""

STAND_INS = {"gemma3n_vision": "siglip_vision_model"}
"""Towers that need a library which nothing else does (timm), and the one that is built instead: it sees nothing either way."""
WHOLES = {"step3p5": "step3p7"}
"""Types that transformers has only as the text part of another, which is built instead."""
NOT_TEXT = {
    "pixtral": "a tower for pictures: it has no loss",
}
"""Types that no text is learnt with."""


def missing(types: Iterable[str] = TYPES) -> dict[str, str]:
    """Those of some types that the installed transformers cannot build a text loss for, with the reason."""
    return {name: why for name in types if (why := _lack(name))}


def build(model_type: str, *, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Build the tiny model of a type, in training mode.

    `settings` change its config, or the text part where it has several: `tie_word_embeddings=True`. Every weight is random, also
    biases and norms, so that nothing is right only because it is zero.

    Raises:
        ValueError: the installed transformers has no such type, or it has no loss.
    """
    import torch

    why = _lack(model_type)
    if why:
        raise ValueError(f"{model_type}: {why}")
    model_type = WHOLES.get(model_type, model_type)
    config = tiny_config(model_type, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = upstream.transformers.from_config(model_class(model_type), config, torch.float32)
        with torch.no_grad():
            for parameter in dict.fromkeys(model.parameters()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.train()
    return model


def tiny_config(model_type: str, **settings: Any) -> PretrainedConfig:
    """The config that `build` uses."""
    from transformers import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], settings)


def batches(model: PreTrainedModel, *, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Two batches of int64 tensors [2, 16]: `padded` with attention_mask, `packed` with position_ids that restart and no mask.

    About a third of the labels is -100: a prompt at the start of each sample, a token in between, and what is padding.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 32, (2, 16), generator=generator)
    labels = ids.clone()
    labels[:, [0, 1, 2, 7]] = IGNORED
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    padded = {
        "input_ids": ids.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "labels": labels.masked_fill(mask == 0, IGNORED),
    }
    lengths = ((9, 7), (4, 8, 4))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    packed = {"input_ids": ids, "position_ids": positions, "labels": labels.masked_fill(positions == 0, IGNORED)}
    return {"padded": padded, "packed": packed}


def model_class(model_type: str) -> Any:
    """The class of transformers that has the text loss of a type, or None.

    A config with parts is one of a model for pictures or sound with text; the others are causal language models.
    """
    import transformers
    from transformers import CONFIG_MAPPING

    model_type = WHOLES.get(model_type, model_type)
    if model_type in CLASSES:
        return getattr(transformers, CLASSES[model_type], None)
    text, towers = upstream.transformers.text_classes()
    composite = bool(getattr(CONFIG_MAPPING[model_type], "sub_configs", None))
    for mapping in (*towers, text) if composite else (text, *towers):
        if model_type in mapping:
            return getattr(transformers, mapping[model_type])
    return None


CLASSES = {
    "glm_image": "GlmImageForConditionalGeneration",
    "mllama_text_model": "MllamaForCausalLM",
}
"""Classes that no auto class of transformers finds by the type."""


def _lack(model_type: str) -> str | None:
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return "the installed transformers has no such type"
    if model_type in NOT_TEXT:
        return NOT_TEXT[model_type]
    return None if model_class(model_type) else "transformers has no class with a text loss for this part of a model"


def _shrunk(config_class: Any, settings: dict[str, Any]) -> PretrainedConfig:
    """A config of that class in which everything of a known name is tiny."""
    full = vars(config_class())
    parts = {name: full[name] for name in config_class.sub_configs if full.get(name) is not None}
    wanted: dict[str, Any] = {name: value for name, value in SIZES.items() if name in full}
    wanted |= {name: 0.0 for name in full if any(zero in name for zero in ZEROES) and isinstance(full[name], float)}
    wanted |= _layers(full)
    wanted |= _marks(full)
    if "kv_lora_rank" in full:  # latent attention makes as many keys as there are heads
        wanted["num_key_value_heads"] = wanted["num_attention_heads"]
        wanted.pop("head_dim", None)  # and a head is of two parts with sizes of their own
    wanted |= {name: _shrunk(type(part), settings if name == "text_config" else {}) for name, part in parts.items()}
    for name, value in EXCEPTIONS.get(config_class.model_type, {}).items():
        wanted[name] = {**full[name], **value} if isinstance(value, dict) else value
    own = settings if "text_config" not in parts else {name: settings[name] for name in settings if name in full}
    config: PretrainedConfig = config_class(**{**wanted, **own})
    # the class would refuse them
    vars(config).update({name: _stand_in(part) for name, part in parts.items() if part.model_type in STAND_INS})
    return config


def _stand_in(part: PretrainedConfig) -> PretrainedConfig:
    """The tiny config of another tower, with what it lacks taken from the one that it stands for."""
    from transformers import CONFIG_MAPPING

    config = _shrunk(CONFIG_MAPPING[STAND_INS[part.model_type]], {})
    vars(config).update({name: value for name, value in vars(part).items() if not hasattr(config, name)})
    return config


def _layers(full: dict[str, Any]) -> dict[str, Any]:
    """Two layers, or as many as it takes to have one of each kind."""
    kinds = {name: list(dict.fromkeys(full[name])) for name in KINDS if isinstance(full.get(name), list)}
    count = max([2, *map(len, kinds.values())])
    lists = {name: (found + found[-1:] * count)[:count] for name, found in kinds.items()}
    return {**({"num_hidden_layers": count} if "num_hidden_layers" in full else {}), **lists}


def _marks(full: dict[str, Any]) -> dict[str, int]:
    """Numbers of tokens that stand for pictures and the like: different ones at the end of the vocabulary."""
    names = [name for name in full if name.endswith(("_token_id", "_token_index")) and name not in SIZES]
    return {name: VOCABULARY - 1 - place for place, name in enumerate(names) if isinstance(full[name], int)}
