"""The trainer's arguments: batches, length of training, learning rate, saving, evaluating, memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from longline.config import unread
from longline.converters.axolotl.data import evaluates
from longline.converters.axolotl.rules import Rule, method_of, none, nothing, set_trainer, together, trainer
from longline.methods.trl import CHECKPOINTING

if TYPE_CHECKING:
    from longline.converters.draft import Draft

_SHARE = "a share of all steps, as axolotl computes it from the number of epochs"
_RESUME = "`longline train CONFIG --resume`"
RULES: dict[str, Rule] = {
    "output_dir": together("output_dir"),
    "micro_batch_size": together("trainer.per_device_train_batch_size"),
    "batch_size": together("trainer.gradient_accumulation_steps", "divided by micro_batch_size"),
    "gradient_accumulation_steps": together("trainer.gradient_accumulation_steps"),
    "eval_batch_size": together("trainer.per_device_eval_batch_size"),
    "auto_find_batch_size": none("the plan fixes the batch"),
    "num_epochs": together("trainer.num_train_epochs"),
    "max_steps": trainer("max_steps"),
    "learning_rate": together("trainer.learning_rate"),
    "lr_scheduler": together("trainer.lr_scheduler_type", "rex and one_cycle have no equal"),
    "lr_scheduler_kwargs": trainer("lr_scheduler_kwargs"),
    "cosine_min_lr_ratio": together("trainer.lr_scheduler_type: cosine_with_min_lr"),
    "cosine_constant_lr_ratio": none("`trainer.lr_scheduler_type: warmup_stable_decay`"),
    "lr_quadratic_warmup": none("a linear warm-up"),
    "lr_div_factor": none("`trainer.lr_scheduler_kwargs`"),
    "lr_groups": none("a plugin that answers `provide_optimizer`"),
    "embedding_lr": none("a plugin that answers `provide_optimizer`"),
    "embedding_lr_scale": none("a plugin that answers `provide_optimizer`"),
    "warmup_steps": together("trainer.warmup_steps", "below 1 a share of all steps"),
    "warmup_ratio": together("trainer.warmup_steps", "below 1 a share of all steps"),
    "optimizer": together("trainer.optim", "those of transformers; muon and others are left at adamw_torch_fused"),
    "optim_args": together("trainer.optim_args"),
    "optim_target_modules": together("trainer.optim_target_modules"),
    "weight_decay": trainer("weight_decay"),
    "max_grad_norm": trainer("max_grad_norm"),
    "adam_beta1": trainer("adam_beta1"),
    "adam_beta2": trainer("adam_beta2"),
    "adam_epsilon": trainer("adam_epsilon"),
    "adam_beta3": none("`trainer.optim_args`"),
    "adam_epsilon2": none("`trainer.optim_args`"),
    "seed": trainer("seed"),
    "group_by_length": together("trainer.train_sampling_strategy: group_by_length"),
    "neftune_noise_alpha": trainer("neftune_noise_alpha"),
    "noisy_embedding_alpha": trainer("neftune_noise_alpha"),
    "tf32": together("trainer.tf32", "auto is left to torch"),
    "fp8": none("`bf16: true`"),
    "fp8_config": none("`bf16: true`"),
    "fp8_enable_fsdp_float8_all_gather": none("`bf16: true`"),
    "logging_steps": trainer("logging_steps"),
    "save_steps": together("trainer.save_steps"),
    "save_strategy": together("trainer.save_strategy"),
    "saves_per_epoch": together("trainer.save_steps", _SHARE),
    "save_total_limit": trainer("save_total_limit"),
    "save_only_model": trainer("save_only_model"),
    "save_safetensors": nothing("weights are always safetensors"),
    "save_first_step": none("`trainer.save_steps`"),
    "eval_steps": together("trainer.eval_steps"),
    "eval_strategy": together("trainer.eval_strategy"),
    "evaluation_strategy": together("trainer.eval_strategy"),
    "evals_per_epoch": together("trainer.eval_steps", _SHARE),
    "early_stopping_patience": together("early_stopping.patience"),
    "load_best_model_at_end": together(
        "trainer.load_best_model_at_end", "where it is saved when it is evaluated, as axolotl demands"
    ),
    "metric_for_best_model": trainer("metric_for_best_model"),
    "greater_is_better": trainer("greater_is_better"),
    "resume_from_checkpoint": none(_RESUME),
    "auto_resume_from_checkpoints": none(_RESUME),
    "hub_model_id": none("`hf upload` of <output_dir>/model after the run"),
    "hub_strategy": none("`hf upload` of <output_dir>/model after the run"),
    "hub_revision": none("`hf upload` of <output_dir>/model after the run"),
    "gradient_checkpointing": together("trainer.activation_checkpointing", "offload keeps its activations on the device"),
    "gradient_checkpointing_kwargs": together("trainer.activation_checkpointing_kwargs"),
    "activation_offloading": together(
        "trainer.activation_offloading", "where the method's trainer has it; `trainer.activation_checkpointing` else"
    ),
    "layer_offloading": none("`trainer.fsdp` with `cpu_offload`"),
    "selective_checkpointing": none("`trainer.activation_checkpointing`"),
    "torch_compile": together("trainer.torch_compile"),
    "torch_compile_backend": trainer("torch_compile_backend"),
    "torch_compile_mode": trainer("torch_compile_mode"),
    "torch_compile_options": none("`trainer.torch_compile_mode`"),
    "torch_empty_cache_steps": trainer("torch_empty_cache_steps"),
    "gc_steps": none("`trainer.torch_empty_cache_steps`; garbage is collected between steps"),
    "gc_collect_steps": none("`trainer.torch_empty_cache_steps`; garbage is collected between steps"),
    "include_tokens_per_second": nothing("tokens per second are logged"),
    "include_tkps": nothing("tokens per second are logged"),
    "remove_unused_columns": nothing("the collator decides which columns reach the model; `data.keep` names further ones"),
    "dataloader_num_workers": trainer("dataloader_num_workers"),
    "dataloader_pin_memory": trainer("dataloader_pin_memory"),
    "dataloader_prefetch_factor": trainer("dataloader_prefetch_factor"),
    "dataloader_drop_last": trainer("dataloader_drop_last"),
    "accelerator_config": trainer("accelerator_config"),
}


def translate(draft: Draft) -> None:
    """Everything of the trainer that is translated together."""
    _output(draft)
    _batch(draft)
    _duration(draft)
    _rate(draft)
    _optimizer(draft)
    _logging(draft)
    _saving(draft)
    _evaluating(draft)
    _best(draft)
    _memory(draft)


def _output(draft: Draft) -> None:
    if draft.get("output_dir") is not None:
        draft.put("output_dir", str(draft.get("output_dir")), "output_dir")
    else:
        draft.add("output_dir", "./model-out", "axolotl's default")


def _batch(draft: Draft) -> None:
    micro, steps, total = (draft.number(key) for key in ("micro_batch_size", "gradient_accumulation_steps", "batch_size"))
    if micro is not None:
        set_trainer(draft, "per_device_train_batch_size", micro, ("micro_batch_size",))
    else:
        draft.add("trainer.per_device_train_batch_size", 1, "axolotl's default")
    if steps is not None:
        set_trainer(draft, "gradient_accumulation_steps", steps, ("gradient_accumulation_steps",))
        if total is not None:
            draft.accept("batch_size", "not used: `gradient_accumulation_steps` holds")
    elif total is not None:
        note = "batch_size divided by micro_batch_size"
        set_trainer(draft, "gradient_accumulation_steps", max(1, int(total // (micro or 1))), ("batch_size",), note=note)
    if not evaluates(draft):
        if draft.get("eval_batch_size") is not None:
            set_trainer(draft, "per_device_eval_batch_size", draft.get("eval_batch_size"), ("eval_batch_size",))
    elif draft.get("eval_batch_size") is not None:
        set_trainer(draft, "per_device_eval_batch_size", draft.get("eval_batch_size"), ("eval_batch_size",))
    else:
        draft.add(
            "trainer.per_device_eval_batch_size", 1 if micro is None else micro, "axolotl evaluates with micro_batch_size"
        )


def _epochs(draft: Draft) -> float:
    return float(draft.number("num_epochs") or 1)


def _duration(draft: Draft) -> None:
    if draft.get("num_epochs") is not None:
        set_trainer(draft, "num_train_epochs", draft.number("num_epochs"), ("num_epochs",))
    elif draft.get("max_steps") is None:
        draft.add("trainer.num_train_epochs", 1, "axolotl's default")


# --- learning rate and optimizer ----------------------------------------------------------------------------------------------


def _rate(draft: Draft) -> None:
    rate = draft.number("learning_rate")
    if rate is not None:
        set_trainer(draft, "learning_rate", rate, ("learning_rate",))
    elif draft.get("learning_rate") is None:
        draft.problem((), "there is no `learning_rate`", hint="axolotl has no default, and neither is there one to translate")
    _scheduler(draft)
    given = [key for key in ("warmup_steps", "warmup_ratio") if draft.get(key) is not None]
    scheduler = draft.config["trainer"]["lr_scheduler_type"]
    warms = unread.by_scheduler(scheduler)
    if warms is not None and not warms[0]:
        for key in given:
            draft.accept(key, f"not used, as it is there: {scheduler} has no warm-up")
        return
    for key in given[:1]:
        set_trainer(draft, "warmup_steps", draft.number(key), (key,))
    for key in given[1:]:
        draft.accept(key, f"not used: `{given[0]}` holds")
    if not given:
        draft.add("trainer.warmup_steps", 0.03, "axolotl's default: a share of all steps, there of 100 steps at most")


def _scheduler(draft: Draft) -> None:
    name, least = draft.get("lr_scheduler"), draft.number("cosine_min_lr_ratio")
    known = method_of(draft).fields()["lr_scheduler_type"].annotation.words()
    if name is not None and str(name) not in known:
        draft.refuse("lr_scheduler", "cosine, which is written; or a plugin that answers `provide_scheduler`")
        draft.add("trainer.lr_scheduler_type", "cosine", f"nearest to {name}")
    elif least and draft.get("cosine_constant_lr_ratio") in (None, 0) and str(name or "cosine") == "cosine":
        of = [key for key in ("lr_scheduler", "cosine_min_lr_ratio") if draft.get(key) is not None]
        draft.put("trainer.lr_scheduler_type", "cosine_with_min_lr", *of)
        draft.put("trainer.lr_scheduler_kwargs", {"min_lr_rate": least}, "cosine_min_lr_ratio")
        if draft.get("cosine_constant_lr_ratio") == 0:
            draft.accept("cosine_constant_lr_ratio", "0: the rate falls to the end")
        return
    elif name is not None:
        set_trainer(draft, "lr_scheduler_type", str(name), ("lr_scheduler",))
    else:
        draft.add("trainer.lr_scheduler_type", "cosine", "axolotl's default")
    if least is not None:
        draft.refuse("cosine_min_lr_ratio", "`trainer.lr_scheduler_type: cosine_with_min_lr`")


_OTHER_NAMES = {"ao_adamw_4bit": "adamw_torch_4bit", "ao_adamw_8bit": "adamw_torch_8bit", "adamw_hf": "adamw_torch"}


def _optimizer(draft: Draft) -> None:
    name = draft.get("optimizer")
    known = method_of(draft).fields()["optim"].annotation.words()
    taken = _OTHER_NAMES.get(str(name), str(name))
    if name is not None and taken in known:
        set_trainer(draft, "optim", taken, ("optimizer",), note="" if taken == str(name) else "what transformers calls it")
    elif name is not None:
        nearest = (
            "adamw_torch_fused, which holds; its learning rate is another one. Or a plugin that answers `provide_optimizer`"
        )
        draft.refuse("optimizer", nearest)
    args, targets = draft.get("optim_args"), draft.get("optim_target_modules")
    if args is not None:
        text = ",".join(f"{key}={value}" for key, value in args.items()) if isinstance(args, dict) else args
        set_trainer(draft, "optim_args", text, ("optim_args",))
    if targets is not None:
        set_trainer(
            draft, "optim_target_modules", "all-linear" if targets == "all_linear" else targets, ("optim_target_modules",)
        )
    if draft.get("group_by_length") is True:
        set_trainer(draft, "train_sampling_strategy", "group_by_length", ("group_by_length",))
    elif draft.get("group_by_length") is not None:
        draft.accept("group_by_length", "off, as it is here")


def _logging(draft: Draft) -> None:
    if draft.get("logging_steps") is None:
        draft.add("trainer.logging_steps", 0.005, "axolotl's default: a share of all steps, there between 1 and 10 steps")
    tf32 = draft.get("tf32")
    if isinstance(tf32, bool):
        set_trainer(draft, "tf32", tf32, ("tf32",))
    elif tf32 is not None:
        draft.accept("tf32", "left to torch")


# --- saving and evaluating ----------------------------------------------------------------------------------------------------


def _often(draft: Draft, per_epoch: str) -> float | None:
    """What share of all steps `times in an epoch` are; None for never, 1 and more for the end of an epoch."""
    times = draft.number(per_epoch)
    # Rounded down: of 150000 steps a fifteenth that is rounded up would come one step late.
    return math.floor(1e6 / (times * _epochs(draft))) / 1e6 if times else None


def _word(value: Any) -> str:
    """A strategy; YAML 1.1 takes `no` for false."""
    return "no" if value is False else str(value)


def _saving(draft: Draft) -> None:
    steps, strategy, often = draft.number("save_steps"), draft.get("save_strategy"), _often(draft, "saves_per_epoch")
    if steps:
        set_trainer(draft, "save_strategy", "steps", ("save_steps",))
        set_trainer(draft, "save_steps", steps, ("save_steps",))
        holds = "save_steps"
    elif often is not None and often < 1:
        set_trainer(draft, "save_strategy", "steps", ("saves_per_epoch",))
        set_trainer(draft, "save_steps", often, ("saves_per_epoch",), note=_SHARE)
        holds = "saves_per_epoch"
    elif strategy is not None:
        set_trainer(draft, "save_strategy", _word(strategy), ("save_strategy",))
        holds = "save_strategy"
    elif often is not None:
        set_trainer(draft, "save_strategy", "epoch", ("saves_per_epoch",))
        holds = "saves_per_epoch"
    else:
        draft.add("trainer.save_strategy", "epoch", "axolotl's default")
        holds = "the default"
    for key in ("save_steps", "saves_per_epoch", "save_strategy"):
        if draft.get(key) is not None and not draft.spoken(key):
            draft.accept(key, f"not used: `{holds}` holds")
    if draft.get("save_total_limit") is None:
        draft.add("trainer.save_total_limit", 4, "axolotl's default")


_EVALUATING = ("eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy")


def _evaluating(draft: Draft) -> None:
    if not evaluates(draft):
        for key in _EVALUATING:
            if draft.get(key) is not None:
                draft.accept(key, "there are no rows to evaluate on")
        return
    steps, often = draft.number("eval_steps"), _often(draft, "evals_per_epoch")
    named = next((key for key in _EVALUATING[2:] if draft.get(key) is not None), None)
    if steps or (often is not None and often < 1):
        key, value = ("eval_steps", steps) if steps else ("evals_per_epoch", often)
        set_trainer(draft, "eval_strategy", "steps", (key,))
        set_trainer(draft, "eval_steps", value, (key,), note="" if steps else _SHARE)
    elif named is not None:
        key = named
        set_trainer(draft, "eval_strategy", _word(draft.get(named)), (named,))
    elif often is not None:
        key = "evals_per_epoch"
        note = "at the end of each epoch; axolotl itself would never evaluate, since 1 in 1 epoch is no share of the steps"
        set_trainer(draft, "eval_strategy", "epoch", (key,), note=note if often == 1 else "")
    else:
        key = "the default"
        draft.add(
            "trainer.eval_strategy", "no", "axolotl sets the rows aside and never evaluates on them, unless it is told when"
        )
    for other in _EVALUATING:
        if draft.get(other) is not None and not draft.spoken(other):
            draft.accept(other, f"not used: `{key}` holds")
    if draft.config["trainer"]["eval_strategy"] != "no":
        draft.add("trainer.eval_on_start", True, "axolotl evaluates before the first step too")


def _best(draft: Draft) -> None:
    """Early stopping, and the best model at the end where it is certain to be saved."""
    patience, best = draft.get("early_stopping_patience"), draft.get("load_best_model_at_end")
    trained = draft.config["trainer"]
    measured = trained.get("eval_strategy", "no") != "no"
    if patience is not None and not measured:
        draft.refuse(
            "early_stopping_patience",
            "`early_stopping` with rows to evaluate on, by `data.eval_fraction` and `trainer.eval_steps`",
        )
    elif patience is not None:
        draft.put("early_stopping.patience", patience, "early_stopping_patience")
    saved, every = trained.get("save_steps"), trained.get("eval_steps")
    fits = bool(measured and saved and every and (saved < 1) == (every < 1) and round(saved * 1e6) % round(every * 1e6) == 0)
    if fits and (best is True or patience is not None):
        of = [key for key in ("load_best_model_at_end", "early_stopping_patience") if draft.get(key) not in (None, False)]
        draft.put("trainer.load_best_model_at_end", True, *of)
    elif best is True:
        draft.refuse(
            "load_best_model_at_end",
            "`trainer.save_strategy: best`; it is off there too, unless save_steps is a multiple of eval_steps",
        )
    if best is False:
        kept = "load_best_model_at_end" in trained
        draft.accept(
            "load_best_model_at_end", "on all the same, by `early_stopping_patience`" if kept else "off, as it is here"
        )


# --- memory -----------------------------------------------------------------------------------------------------


def _memory(draft: Draft) -> None:
    name = next((name for name in CHECKPOINTING if name in method_of(draft).fields()), CHECKPOINTING[0])
    asked, offload, kwargs = (
        draft.get(key) for key in ("gradient_checkpointing", "activation_offloading", "gradient_checkpointing_kwargs")
    )
    if asked is not None:
        note = "" if isinstance(asked, bool) else "activations are computed again, and not kept elsewhere"
        set_trainer(draft, name, bool(asked), ("gradient_checkpointing",), note=note)
    if kwargs is not None and asked:
        set_trainer(draft, f"{name}_kwargs", kwargs, ("gradient_checkpointing_kwargs",))
    elif kwargs is not None:
        draft.accept("gradient_checkpointing_kwargs", "not used: checkpointing is off")
    if offload is False:
        draft.accept("activation_offloading", "off, as it is here")
    elif offload is not None and "activation_offloading" in method_of(draft).fields():
        set_trainer(draft, "activation_offloading", True, ("activation_offloading",))
    elif offload is not None:
        draft.refuse("activation_offloading", f"`trainer.{name}: true`")
    if draft.get("torch_compile") is not None:
        set_trainer(draft, "torch_compile", bool(draft.get("torch_compile")), ("torch_compile",))
