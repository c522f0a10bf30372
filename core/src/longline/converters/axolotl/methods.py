"""Which method, and what belongs to methods: the arguments of trl's trainers, reward functions, vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longline.converters.axolotl.rules import RL, Rule, method_of, none, nothing, set_trainer, together, trainer, training_of

if TYPE_CHECKING:
    from longline.config.document import Keys
    from longline.converters.draft import Draft

RULES: dict[str, Rule] = {
    "rl": together("method", "ipo is dpo with `trainer.loss_type: ipo`, gdpo is grpo; ebft has no equal"),
    "reward_model": together("method: reward"),
    "process_reward_model": none("method reward, which scores whole answers and not their steps"),
    "rl_beta": together("trainer.beta"),
    "dpo_beta": together("trainer.beta"),
    "beta": together("trainer.beta"),
    "orpo_alpha": together("trainer.beta", "what trl calls it"),
    "simpo_gamma": trainer("simpo_gamma"),
    "cpo_alpha": trainer("cpo_alpha"),
    "kto_desirable_weight": trainer("desirable_weight"),
    "kto_undesirable_weight": trainer("undesirable_weight"),
    "dpo_label_smoothing": trainer("label_smoothing"),
    "dpo_use_weighting": trainer("use_weighting"),
    "dpo_loss_type": trainer("loss_type"),
    "dpo_loss_weights": trainer("loss_weights"),
    "rpo_alpha": none("`trainer.loss_type: [sigmoid, sft]` with `trainer.loss_weights: [1, ALPHA]`"),
    "dpo_use_liger_kernel": none("plugin liger, whose kernels are for sft and the model's own layers"),
    "dpo_padding_free": none("pairs are grouped by their length, which leaves little padding"),
    "dpo_norm_loss": none("trl has it no more"),
    "dpo_generate_during_eval": none("`longline generate RUN` after the run"),
    "dpo_use_logits_to_keep": nothing("trl decides itself"),
    "precompute_ref_log_probs": trainer("precompute_ref_log_probs"),
    "center_rewards_coefficient": trainer("center_rewards_coefficient"),
    "num_labels": together("", "a reward model has one score"),
    "trl": together(
        "trainer, rewards", "each key to the argument of its name; `reward_funcs` and `reward_weights` to `rewards`"
    ),
    "vllm": together("trainer.vllm_*", "what concerns the server alone is given to the server"),
    "max_prompt_len": together("data.max_length", "a prompt has no length of its own: it is `sequence_len`'s"),
    "ebft": none("method grpo with a reward function"),
}

LIMITS = "one score for each text"
VLLM = {
    "gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "tensor_parallel_size": "vllm_tensor_parallel_size",
    "max_model_len": "vllm_max_model_length",
}
RENAMED = {"vllm_guided_decoding_regex": "vllm_structured_outputs_regex"}


def translate(draft: Draft) -> None:
    """The method with its arguments."""
    _method(draft)
    _beta(draft)
    _trl(draft)
    for keys, value in draft.items("vllm"):
        field = VLLM.get(str(keys[-1]))
        if value is not None and field:
            set_trainer(draft, field, value, keys)
        elif value is not None:
            draft.refuse(keys, "an option of the server: give it to `trl vllm-serve`")
    if draft.get("num_labels") == 1:
        draft.accept("num_labels", LIMITS)
    elif draft.get("num_labels") is not None:
        draft.refuse("num_labels", f"method reward: {LIMITS}")
    if draft.get("max_prompt_len") is not None:
        draft.refuse("max_prompt_len", "data.max_length, which is the whole sample's, and a prompt's where answers are drawn")


def _method(draft: Draft) -> None:
    training, rl = training_of(draft), draft.get("rl")
    key = "reward_model" if draft.get("reward_model") is True else "rl"
    if draft.get("reward_model") is False:
        draft.accept("reward_model", "off, as it is here")
    if key == "rl" and rl is not None and str(rl).lower() not in RL:
        draft.refuse("rl", f"one of {', '.join(RL)}; the config written is one of method sft")
    elif draft.get(key) is not None:
        draft.put("method", training.method, key)
    for name, value in training.arguments:
        if name not in draft.mapping("trl") and draft.get(name) is None:
            draft.add(f"trainer.{name}", value, f"what `{key}: {draft.get(key)}` means there")


def _beta(draft: Draft) -> None:
    """Of the names for one number, the first that is given holds."""
    names: list[Keys] = [("trl", "beta"), ("beta",), ("rl_beta",), ("dpo_beta",), ("orpo_alpha",)]
    given = [keys for keys in names if draft.get(*keys) is not None]
    for keys in given[:1]:
        set_trainer(draft, "beta", draft.number(*keys), keys)
    for keys in given[1:]:
        draft.accept(keys, f"not used: `{'.'.join(map(str, given[0]))}` holds")


def _trl(draft: Draft) -> None:
    draft.mapping("trl")
    for keys, value in draft.items("trl"):
        name = str(keys[-1])
        if value is None or draft.spoken(keys) or name == "reward_weights":
            continue
        if name == "reward_funcs":
            _rewards(draft)
        elif name == "use_liger_loss":
            draft.accept(keys, "off, as it is here") if value is False else draft.refuse(
                keys, "plugin liger, for the model's layers"
            )
        else:
            set_trainer(draft, RENAMED.get(name, name), value, keys)


def _rewards(draft: Draft) -> None:
    """Functions by their dotted names, each with its weight."""
    draft.house(("trl", "reward_funcs"), "rewards")
    weights = draft.get("trl", "reward_weights")
    weights = weights if isinstance(weights, list) else []
    number = 0
    for index, (keys, name) in enumerate(draft.items("trl", "reward_funcs")):
        weight: Keys = ("trl", "reward_weights", index)
        module, _, function = str(name).rpartition(".")
        if "/" in str(name) or not module:
            draft.refuse(keys, "a reward function of yours that asks the model: `rewards: [module:function]`")
            if index < len(weights):
                draft.refuse(weight, "the weight of a reward that was not translated")
            continue
        draft.put(("rewards", number, "function"), f"{module}:{function}", keys)
        if index < len(weights):
            draft.put(("rewards", number, "weight"), weights[index], weight)
        number += 1
    if method_of(draft).draws_answers and not number:
        draft.refuse(("trl", "reward_funcs"), "`rewards:` with functions of yours; the method needs at least one")
