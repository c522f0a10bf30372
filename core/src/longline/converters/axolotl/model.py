"""The model: where it is, its tokenizer and template, attention, numbers, quantisation, adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longline.config.attention import ATTENTION
from longline.config.checks import MADE_ELSEWHERE
from longline.config.fields import adapter_fields, quantization_fields
from longline.converters.axolotl.rules import Rule, none, nothing, same, together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.converters.draft import Draft

_OWN_CLASS = "the class that the model's own config names is taken"
_TOWERS = "models with towers for pictures or sound are trained on text; rows with pictures are not read"
RULES: dict[str, Rule] = {
    "base_model": same("model.path"),
    "base_model_config": together("", "the model's own config; another one goes into `model.overrides`"),
    "model_revision": same("model.revision"),
    "revision_of_model": same("model.revision"),
    "trust_remote_code": same("model.trust_remote_code"),
    "model_config": same("model.overrides"),
    "overrides_of_model_config": same("model.overrides"),
    "overrides_of_model_kwargs": none("`model.overrides`, for what is a field of the model's config"),
    "model_kwargs": none("`model.overrides`, for what is a field of the model's config"),
    "rope_scaling": none("`model.overrides: {rope_parameters: ...}`"),
    "model_type": nothing(_OWN_CLASS),
    "type_of_model": nothing(_OWN_CLASS),
    "cls_model_config": nothing(_OWN_CLASS),
    "tokenizer_type": nothing("the class that the tokenizer's own config names is taken"),
    "tokenizer_config": same("model.tokenizer.path"),
    "tokenizer_use_fast": nothing("fast tokenizers are taken"),
    "tokenizer_legacy": none("a tokenizer that was saved with it, as `model.tokenizer.path`"),
    "tokenizer_use_mistral_common": none("the model's tokenizer as transformers loads it"),
    "tokenizer_save_jinja_files": nothing("the template is saved with the tokenizer"),
    "hf_use_auth_token": nothing("the token of `hf auth login` or HF_TOKEN is used, or `model.token: ${HF_TOKEN}`"),
    "processor_type": none(_TOWERS),
    "processor_kwargs": none(_TOWERS),
    "image_size": none(_TOWERS),
    "image_resize_algorithm": none(_TOWERS),
    "role_boundaries": none(_TOWERS),
    "freeze_mm_modules": nothing("towers for pictures or sound take no part in training on text"),
    "special_tokens": together(
        "model.tokenizer", "pad_token, eos_token; additional ones to `add_tokens`; bos and unk stay the tokenizer's"
    ),
    "tokens": together("model.tokenizer.add_tokens"),
    "added_tokens_overrides": none("`model.tokenizer.add_tokens`, which grows the embedding instead"),
    "chat_template": together(
        "model.tokenizer.chat_template", "chatml and jinja are written out; else the tokenizer's own is used"
    ),
    "chat_template_jinja": together("model.tokenizer.chat_template"),
    "chat_template_kwargs": none("a template of your own in `model.tokenizer.chat_template` that has them set"),
    "default_system_message": together("model.tokenizer.chat_template", "with chatml, inside the template"),
    "eot_tokens": nothing(
        "the template shows where a turn ends; where it can't be seen, `model.tokenizer.end_of_turn` says it"
    ),
    "attn_implementation": together(
        "model.attn_implementation", "xformers becomes sdpa, a hub kernel the implementation that it is of"
    ),
    **dict.fromkeys(
        ("flash_attention", "sdp_attention", "flex_attention", "eager_attention", "xformers_attention", "sage_attention"),
        together("model.attn_implementation"),
    ),
    "s2_attention": none("sdpa, left out: full attention"),
    "bf16": together("model.dtype, trainer.bf16", "with all weights trained, these are bfloat16 too, as there"),
    "fp16": together("model.dtype, trainer.fp16"),
    **dict.fromkeys(("bfloat16", "float16", "float32", "torch_dtype"), together("model.dtype")),
    "load_in_4bit": together("model.quantization", "with axolotl's settings for nf4 written out"),
    "load_in_8bit": together("model.quantization"),
    "bnb_config_kwargs": together("model.quantization"),
    "adapter": together("adapter", "lora and qlora"),
    "lora_model_dir": none("merge it into its base (`longline merge`), and give the merged folder as `model.path`"),
    "lora_target_linear": together("adapter.target_modules: all-linear"),
    "lora_target_modules": together("adapter.target_modules"),
    "peft_use_dora": together("adapter.type: dora"),
    "peft_use_rslora": together("adapter.type: rslora"),
    "peft": together("", "LoftQ has no equal; `adapter.init_lora_weights` has pissa and olora"),
    **{
        key: together(f"adapter.{field}")
        for key, field in {
            "lora_r": "r",
            "lora_alpha": "lora_alpha",
            "lora_dropout": "lora_dropout",
            "lora_target_parameters": "target_parameters",
            "lora_modules_to_save": "modules_to_save",
            "lora_exclude_modules": "exclude_modules",
            "lora_fan_in_fan_out": "fan_in_fan_out",
            "lora_rank_pattern": "rank_pattern",
            "lora_alpha_pattern": "alpha_pattern",
            "peft_layers_to_transform": "layers_to_transform",
            "peft_layers_pattern": "layers_pattern",
            "peft_layer_replication": "layer_replication",
            "peft_init_lora_weights": "init_lora_weights",
            "peft_trainable_token_indices": "trainable_token_indices",
            "peft_ensure_weight_tying": "ensure_weight_tying",
        }.items()
    },
    "peft_autocast_adapter_dtype": nothing("an adapter's weights are float32, as peft has it"),
    "loraplus_lr_ratio": none("a plugin that answers `provide_optimizer`"),
    "loraplus_lr_embedding": none("a plugin that answers `provide_optimizer`"),
    "lora_on_cpu": none("nothing: `longline merge` works on the CPU"),
    "merge_lora": nothing("`longline merge RUN` does it"),
    "merge_method": nothing("`longline merge` reads and writes one file at a time"),
    "qlora_sharded_model_loading": none("`trainer.fsdp_config: {cpu_ram_efficient_loading: true}`"),
    **dict.fromkeys(("gptq", "gptq_disable_exllama"), none("QLoRA on the model that was not quantised")),
    **dict.fromkeys(("gptq_groupsize", "gptq_model_v1"), none("nothing")),
    **dict.fromkeys(
        ("model_quantization_config", "model_quantization_config_kwargs"), none("a checkpoint in bfloat16 as `model.path`")
    ),
    "quantize_moe_experts": none("`model.quantization`, which quantises linear layers alone"),
    "resize_token_embeddings_to_32x": none("`model.tokenizer.add_tokens` with fillers"),
    "mean_resizing_embeddings": none("transformers' own way of making new rows"),
    "shrink_embeddings": none("nothing: the embedding stays as it is"),
    "embeddings_skip_upcast": nothing("embeddings keep the model's dtype"),
    "reinit_weights": none("a folder with random weights of its config as `model.path`"),
    "fix_untrained_tokens": none("`adapter.trainable_token_indices` trains them"),
    "low_cpu_mem_usage": nothing("weights are read as they are needed"),
    "experimental_skip_move_to_device": nothing("weights go where they are trained"),
    "is_falcon_derived_model": nothing("the model's config says it"),
    "is_llama_derived_model": nothing("the model's config says it"),
    "is_mistral_derived_model": nothing("the model's config says it"),
    "is_qwen_derived_model": nothing("the model's config says it"),
}

CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""The ChatML template; jinja takes the line break behind a block away."""
_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n' + SYSTEM + '<|im_end|>\\n' }}{% endif %}\n"
_OWN_TEMPLATE = (
    "left to the model's tokenizer, which has such a template as a rule: `longline preview` shows it; a model without one is given "
    "one by model.tokenizer.chat_template"
)


def translate(draft: Draft) -> None:
    """Everything of the model that is translated together."""
    base = draft.get("base_model_config")
    if base is not None and base == draft.get("base_model"):
        draft.accept("base_model_config", "the model's own")
    elif base is not None:
        draft.refuse("base_model_config", "`model.overrides`, for the fields that differ")
    attention(draft)
    precision(draft)
    tokens(draft)
    template(draft)
    quantization(draft)
    adapter(draft)


# --- attention ----------------------------------------------------------------------------------------------------------------

FLAGS = {
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "xformers_attention": "xformers",
    "sage_attention": "sage",
}


def attention(draft: Draft) -> None:
    """The name, or the first of the older flags that is on."""
    given = [key for key in ("attn_implementation", *FLAGS) if draft.get(key) not in (None, False)]
    for key in FLAGS:
        if draft.get(key) is False:
            draft.accept(key, "off, as it is here")
    for key in given[1:]:
        draft.accept(key, f"not used: `{given[0]}` holds")
    for key in given[:1]:
        asked = str(draft.get(key)) if key not in FLAGS else FLAGS[key]
        taken, note = _taken(asked, packs=draft.get("sample_packing") is True)
        if taken is None:
            draft.refuse(key, note)
        else:
            draft.put("model.attn_implementation", taken, key, note=note)


def _taken(asked: str, *, packs: bool) -> tuple[str | None, str]:
    """The implementation that is meant, and what differs; None where there is no equal."""
    if asked in ATTENTION:
        return asked, ""
    kernel = asked.lower().replace("_", "-")
    for mark, name in (
        ("flash-attn4", "flash_attention_4"),
        ("flash-attn3", "flash_attention_3"),
        ("flash-attn", "flash_attention_2"),
    ):
        if "/" in asked and mark in kernel:
            return name, f"the same attention from its own distribution instead of the hub's kernel {asked}"
    if "/" in asked and not packs:
        return asked, ""
    if asked in ("xformers", "flash_attention_torch"):
        return "sdpa", f"{asked} is not here; sdpa computes the same, and keeps packed samples apart too"
    return None, "the best of sdpa and eager that the model has is taken"


# --- numbers ------------------------------------------------------------------------------------------------------------------


def precision(draft: Draft) -> None:
    """The type of the weights and mixed precision, as axolotl settles them from five keys; without any, `bf16` is `auto`."""
    keys = ("bf16", "bfloat16", "fp16", "float16", "float32", "torch_dtype")
    given = [key for key in keys if draft.get(key) is not None]
    bf16, fp16, bfloat16, float16 = (draft.get(key) for key in ("bf16", "fp16", "bfloat16", "float16"))
    whole = not draft.get("adapter")
    if bf16 not in (None, False, "auto") or bfloat16 is True:
        _set_precision(draft, given, "bf16", *_bfloat16(whole=whole, auto=False))
    elif bf16 is not False and fp16 is not True:
        _set_precision(draft, given, "bf16", *_bfloat16(whole=whole, auto=True))
    elif fp16 is True or float16 is True:
        note = "weights stay float32: gradients of float16 weights cannot be scaled" if whole else ""
        _set_precision(draft, given, "fp16" if fp16 is True else "", "float32" if whole else "float16", note)
    else:
        _set_precision(draft, given, "", "float32", "")


def _bfloat16(*, whole: bool, auto: bool) -> tuple[str, str]:
    note = "auto: bfloat16 where the device computes in it" if auto else ""
    if whole:
        keeps = "the weights themselves are bfloat16, as there; `dtype: float32` keeps small updates, at twice the memory"
        return "bfloat16", f"{note}; {keeps}" if note else keeps
    return ("auto" if auto else "bfloat16"), note


def _set_precision(draft: Draft, given: list[str], mixed: str, dtype: str, note: str) -> None:
    of = [key for key in given if draft.get(key) is not False] or given
    if dtype == "auto" and not of:
        return  # an adapter on a base in bfloat16 is what both do when nobody says anything
    fields: list[tuple[str, str | bool]] = [("model.dtype", dtype)]
    if dtype != "auto":
        fields += [(f"trainer.{mixed}", True)] if mixed else [("trainer.bf16", False)]
    for place, value in fields:
        if of:
            draft.put(place, value, *of, note=note)
        else:
            draft.add(place, value, "axolotl's default: all weights are trained in bfloat16")
    for key in given:
        if key not in of:
            draft.accept(key, "off, as it is here")


# --- tokenizer ----------------------------------------------------------------------------------------------------------------


def tokens(draft: Draft) -> None:
    """Tokens with a meaning, and further ones; `tokens` was once a mapping too."""
    further: list[Any] = []
    for keys, value in _special(draft):
        name = str(keys[-1])
        if value is None:
            continue
        if name in ("pad_token", "eos_token"):
            draft.put(f"model.tokenizer.{name}", value, keys)
        elif name == "additional_special_tokens":
            further += value if isinstance(value, list) else [value]
            draft.put("model.tokenizer.add_tokens", list(further), keys)
        else:
            draft.refuse(keys, "the tokenizer keeps its own; one that has another is given by `model.tokenizer.path`")
    own = draft.get("tokens")
    if isinstance(own, (list, str)) and own:
        further += [token for token in (own if isinstance(own, list) else [own]) if token not in further]
        draft.put("model.tokenizer.add_tokens", list(further), "tokens")


def _special(draft: Draft) -> Iterator[tuple[Any, Any]]:
    draft.mapping("special_tokens")
    yield from draft.items("special_tokens")
    if isinstance(draft.get("tokens"), dict):
        yield from draft.items("tokens")


def template(draft: Draft) -> None:
    """The chat template: written out where the file or ChatML says it, else the tokenizer's own."""
    name, text, system = (draft.get(key) for key in ("chat_template", "chat_template_jinja", "default_system_message"))
    keys = [key for key in ("chat_template", "chat_template_jinja") if draft.get(key) is not None]
    if text is not None:
        draft.put("model.tokenizer.chat_template", text, *keys)
    elif name == "chatml":
        begin = _SYSTEM.replace("SYSTEM", repr(str(system))) if system is not None else ""
        used = [*keys, "default_system_message"] if begin else keys
        draft.put(
            "model.tokenizer.chat_template", begin + CHATML, *used, note="written out; its tokens must be in the vocabulary"
        )
        return
    elif name is not None:
        plain = str(name) == "tokenizer_default"
        draft.accept("chat_template", "the tokenizer's own is used" if plain else _OWN_TEMPLATE, mind=not plain)
    if system is not None:
        draft.refuse("default_system_message", "a `system` column of the rows, or a template that has it")


# --- quantisation and adapter -------------------------------------------------------------------------------------------------


def quantization(draft: Draft) -> None:
    """bitsandbytes, with what axolotl sets of it for QLoRA."""
    kind = str(draft.get("adapter")).lower()
    four = draft.get("load_in_4bit") is True or kind == "qlora"
    for key in ("load_in_4bit", "load_in_8bit"):
        if draft.get(key) is True:
            draft.put(f"model.quantization.{key}", True, key)
        elif draft.get(key) is False:
            draft.accept(key, "off, as it is here")
    if kind == "qlora" and draft.get("load_in_4bit") is not True:
        draft.add("model.quantization.load_in_4bit", True, "what `adapter: qlora` means there")
    if kind == "qlora":
        compute = draft.config.get("model", {}).get("dtype", "auto")
        settings = {
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16" if compute == "auto" else compute,
            "bnb_4bit_quant_storage": "bfloat16",
        }
        for name, value in settings.items():
            if draft.get("bnb_config_kwargs", name) is None:
                draft.add(f"model.quantization.{name}", value, "axolotl's setting for QLoRA")
    draft.mapping("bnb_config_kwargs")
    for keys, value in draft.items("bnb_config_kwargs"):
        if value is None:
            continue
        if four and keys[-1] in quantization_fields():
            draft.put(f"model.quantization.{keys[-1]}", value, keys)
        else:
            draft.refuse(keys, "`model.quantization`, with the fields of BitsAndBytesConfig")


SIMPLE = {
    key: rule.to.removeprefix("adapter.")
    for key, rule in RULES.items()
    if key.startswith(("lora_", "peft_")) and rule.act is None
}


def adapter(draft: Draft) -> None:
    """LoRA with what peft calls its settings. Without an adapter axolotl reads none of them."""
    kind = draft.get("adapter")
    if not kind:
        for key in (*SIMPLE, "peft"):
            if draft.get(key) is not None:
                draft.accept(key, "not used: there is no `adapter`")
        return
    _type(draft, str(kind).lower())
    _targets(draft)
    for key, field in SIMPLE.items():
        if draft.get(key) is None or draft.spoken(key):
            continue
        if (why := MADE_ELSEWHERE.get(str(draft.get(key)))) is not None:
            draft.refuse(key, f"pissa or olora: {draft.get(key)} {why}")
        elif field in adapter_fields():
            draft.put(f"adapter.{field}", draft.get(key), key)
        else:
            draft.refuse(key, "peft.LoraConfig has no such field")
    if draft.get("peft") is not None:
        draft.refuse("peft", f"pissa or olora as `adapter.init_lora_weights`: loftq {MADE_ELSEWHERE['loftq']}")


def _type(draft: Draft, kind: str) -> None:
    asked = [key for key in ("peft_use_dora", "peft_use_rslora") if draft.get(key) is True]
    name = asked[0].removeprefix("peft_use_") if asked else "lora"
    if kind in ("lora", "qlora"):
        draft.put("adapter.type", name, "adapter", *asked[:1])
    else:
        draft.refuse("adapter", f"lora, which is written in place of {kind}")
        draft.add("adapter.type", name, f"nearest to {kind}")
    for key in asked[1:]:
        draft.put(f"adapter.{key.removeprefix('peft_')}", True, key)
    for key in ("peft_use_dora", "peft_use_rslora"):
        if draft.get(key) is False:
            draft.accept(key, "off, as it is here")


def _targets(draft: Draft) -> None:
    modules, linear = draft.get("lora_target_modules"), draft.get("lora_target_linear")
    if linear is True:
        draft.put("adapter.target_modules", "all-linear", "lora_target_linear")
        if modules is not None:
            note = "`all-linear` has every linear layer but the head; what is none must be named instead"
            draft.put("adapter.target_modules", "all-linear", "lora_target_modules", note=note)
        return
    if linear is not None:
        draft.accept("lora_target_linear", "off, as it is here")
    if modules:
        draft.put("adapter.target_modules", modules, "lora_target_modules")
    elif draft.get("lora_target_parameters") is not None:
        draft.add("adapter.target_modules", [], "only `lora_target_parameters` are adapted there")
    else:
        draft.add("adapter.target_modules", "all-linear", "axolotl names none and leaves them to peft's table of model types")
