"""Undocumented names of transformers, one function or constant each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from longline.upstream.assumption import Assumption, of, reads, stands_in
from longline.upstream.trl import noted

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

STATE_FILE = "trainer_state.json"
"""The trainer's state in a checkpoint."""
WEIGHTS = ("model", "pytorch_model", "adapter_model")
"""How the names of weights in a checkpoint begin: whole, in shards, in FSDP's folders, of an adapter."""
OPTIMIZER, SCHEDULER, RANDOM = "optimizer", "scheduler.pt", "rng_state"
"""The same of the optimizer (FSDP has a folder), its schedule, and the state of random numbers."""
ENGINE = "global_step"
"""The same of DeepSpeed's folder, which has weights and optimizer."""
ARGUMENTS_FILE = "training_args.bin"
"""The pickle of its arguments beside every saved model."""
SOURCES: dict[str, str] = {
    "transformers.TrainingArguments": "transformers/training_args.py",
    "transformers.BitsAndBytesConfig": "transformers/utils/quantization_config.py",
}
"""Classes whose fields are read from their source, without importing them: where that is."""

OPTIMIZERS = ("transformers.trainer_optimizer", "_OPTIMIZER_HANDLERS", "OptimizerNames")
"""Where `trainer.optim` is turned into an optimizer: the module, its table, and the enumeration of names."""
SCHEDULERS = ("transformers.optimization", "TYPE_TO_SCHEDULER_FUNCTION", "SchedulerType", "get_scheduler")
"""The same for `trainer.lr_scheduler_type`, and the function that hands each its arguments."""
ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
"""What optimizers get as `ctx.adam_kwargs`."""


def default_optimizer() -> str:
    """What `optim` is where nobody says it: it depends on the version of torch, which is not imported for that."""
    try:
        fused = Version(Version(version("torch")).base_version) >= Version("2.8")
    except PackageNotFoundError:
        fused = False
    return "adamw_torch_fused" if fused else "adamw_torch"


def exports_state(callback: Any) -> bool:
    """Whether a callback has a state that goes into every checkpoint."""
    from transformers.trainer_callback import ExportableState

    return isinstance(callback, ExportableState)


def between_logs(trainer: Any) -> dict[str, Any]:
    """What a trainer has summed up since it last logged: the loss, from which step on, and for trl's the metrics of training."""
    metrics = noted(trainer).get("train", {})
    kept = {"loss": trainer._tr_loss.detach().cpu(), "logged": trainer._globalstep_last_logged}
    return {**kept, "metrics": {name: [float(value) for value in values] for name, values in metrics.items()}}


def log_from(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Go on with what `between_logs` told, once training has begun; the mean of the run stays that of the steps since then."""
    trainer._tr_loss += kept["loss"].to(trainer._tr_loss)
    trainer._total_loss_scalar -= float(kept["loss"])
    trainer._globalstep_last_logged = kept["logged"]
    for name, values in kept["metrics"].items():
        noted(trainer)["train"][name] = [*values]


def load_best(trainer: Any) -> None:
    """Load the best checkpoint at the end, if the arguments ask for it, where the trainer's own end is not reached."""
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
        trainer._load_best_model()


def use_one_gpu(args: Any) -> None:
    """Keep the trainer from spreading each batch over all GPUs of the process by threads."""
    args._n_gpu = 1


def attention_of(model: PreTrainedModel) -> str | None:
    """The attention that a model runs with."""
    name: str | None = model.config._attn_implementation
    return name


def class_of(auto_class: Any, config: PretrainedConfig) -> Any:
    """The class that an auto class would load a config's model with, or None; `from_pretrained` says it only with weights."""
    found = auto_class._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found


def attentions_of(model_class: Any, names: Iterable[str]) -> list[str]:
    """Those of the attentions `names` that a class of models has; eager, and what nobody declares, every class has."""
    family = {"sdpa": "sdpa", "flex_attention": "flex_attn", "flash_attention": "flash_attn"}
    flags = {name: family.get(name.rstrip("_0123456789")) for name in names}
    return [name for name, flag in flags.items() if flag is None or getattr(model_class, f"_supports_{flag}", False)]


def has_common_loss(model: Any) -> bool:
    """Whether a bare model's loss is the one that causal language models share, and nobody has replaced it."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    return "_loss_function" not in vars(model) and LOSS_MAPPING.get(str(getattr(model, "loss_type", None))) is ForCausalLMLoss


def restore_loss(model: Any) -> None:
    """Take back what was set as `model.loss_function`: the setter has no way back to the class's own."""
    del model._loss_function


def drop_quantisation_marks(model: PreTrainedModel) -> None:
    """Make a model that was unpacked from GGUF an ordinary one, so that it can be trained and saved."""
    for holder in (model.config, model):
        for name in ("quantization_config", "quantization_method", "hf_quantizer"):
            if name in vars(holder):
                delattr(holder, name)


def from_config(model_class: Any, config: PretrainedConfig, dtype: Any) -> PreTrainedModel:
    """A model of exactly this class with random weights of a torch dtype."""
    model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
    return model


def text_classes() -> tuple[Mapping[str, str], list[Mapping[str, str]]]:
    """By model type, the names of classes with a text loss: of causal models; of those that see or hear besides, two mappings."""
    from transformers.models.auto import modeling_auto as auto

    towers: list[Mapping[str, str]] = [
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    ]
    return auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, towers


def has_partitioned_weights() -> bool:
    """Whether DeepSpeed's stage 3 holds weights, of which a rank sees a part at most."""
    enabled: Callable[[], bool] = resolve_name("transformers.integrations:is_deepspeed_zero3_enabled")
    return enabled()


_assume = of("transformers", "5.23.0")


def _constants_hold() -> bool:
    trainer = resolve_name("transformers.trainer")
    return bool(
        (trainer.TRAINER_STATE_NAME, trainer.TRAINING_ARGS_NAME) == (STATE_FILE, ARGUMENTS_FILE)
        and trainer.SCHEDULER_NAME == SCHEDULER
        and trainer.OPTIMIZER_NAME.startswith(OPTIMIZER)
        and trainer.SAFE_WEIGHTS_NAME.startswith(WEIGHTS)
        and trainer.ADAPTER_SAFE_WEIGHTS_NAME.startswith(WEIGHTS)
    )


def _loss_is_kept_where_it_is_set() -> bool:
    loss: property = resolve_name("transformers:PreTrainedModel.loss_function")
    common = resolve_name("transformers.loss.loss_utils:ForCausalLMLoss")
    model: Any = SimpleNamespace(loss_type="ForCausalLM")
    before = loss.__get__(model) is common and has_common_loss(model)
    loss.__set__(model, len)
    during = loss.__get__(model) is len and not has_common_loss(model)
    restore_loss(model)
    return before and during and loss.__get__(model) is common


def _class_is_in_the_mapping() -> bool:
    auto, config = resolve_name("transformers:AutoModelForCausalLM"), resolve_name("transformers:LlamaConfig")
    return class_of(auto, config()) is resolve_name("transformers:LlamaForCausalLM")


def _classes_declare_attention() -> bool:
    names = ("eager", "sdpa", "flash_attention_2")
    llama, mamba = resolve_name("transformers:LlamaForCausalLM"), resolve_name("transformers:MambaForCausalLM")
    return attentions_of(llama, names) == list(names) and attentions_of(mamba, names) == ["eager"]


_TRAINER = "transformers:Trainer"

ASSUMPTIONS: tuple[Assumption, ...] = (
    _assume(
        "TrainingArguments.optim",
        "its default is adamw_torch_fused with torch 2.8 or newer, and adamw_torch before",
        lambda: resolve_name("transformers:TrainingArguments").optim == default_optimizer(),
    ),
    _assume(
        "Trainer._prepare_inputs",
        "every batch of training and evaluation passes through it once before the model sees it, and what it returns is used",
        reads(f"{_TRAINER}._prepare_inputs", takes=("inputs",)),
        reads(f"{_TRAINER}.training_step", says=("inputs = self._prepare_inputs(inputs)",)),
        reads(f"{_TRAINER}.prediction_step", says=("inputs = self._prepare_inputs(inputs)",)),
    ),
    _assume(
        "trainer_optimizer._OPTIMIZER_HANDLERS",
        "it names for each optim the function that reads ctx.args, ctx.adam_kwargs (betas and eps) and ctx.optim_args",
        reads(
            f"{_TRAINER}.get_optimizer_cls_and_kwargs",
            says=('"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon', f"{OPTIMIZERS[1]}.get(args.optim)"),
        ),
    ),
    _assume(
        "optimization.TYPE_TO_SCHEDULER_FUNCTION",
        "get_scheduler looks a schedule up in it, and hands it the warmup and the options where it has any use for them",
        reads(
            f"{SCHEDULERS[0]}:{SCHEDULERS[3]}",
            takes=("name", "optimizer", "num_warmup_steps", "num_training_steps", "scheduler_specific_kwargs"),
            says=(f"{SCHEDULERS[1]}[name]",),
        ),
    ),
    _assume(
        "Trainer._get_train_sampler",
        "it gives the sampler of training rows, for a data set or without one for the trainer's own",
        reads(f"{_TRAINER}._get_train_sampler", takes=("train_dataset",)),
        reads(f"{_TRAINER}.get_train_dataloader", says=("self._get_train_sampler",)),
    ),
    _assume(
        "Trainer.get_batch_samples",
        "it fetches the batches of one step, which are then learnt from in turn",
        reads(
            f"{_TRAINER}.get_batch_samples", takes=("epoch_iterator", "num_batches", "device"), says=("return batch_samples,",)
        ),
    ),
    _assume(
        "Trainer._maybe_log_save_evaluate",
        "after a step it logs, evaluates and saves in this order, and has on_save called once it has saved",
        reads(
            f"{_TRAINER}._maybe_log_save_evaluate",
            says=("self._save_checkpoint(model, trial)", "self.callback_handler.on_save(self.args, self.state, self.control)"),
        ),
    ),
    _assume(
        "Trainer._save_checkpoint",
        "it alone writes checkpoints, into checkpoint-<step> below what _get_output_dir answers, with the state as the last file",
        reads(
            f"{_TRAINER}._save_checkpoint",
            takes=("model", "trial"),
            says=("run_dir = self._get_output_dir(trial=trial)", "self.state.save_to_json("),
        ),
    ),
    _assume(
        "Trainer._load_optimizer_and_scheduler",
        "it loads both from a checkpoint, after they were made and prepared, unless DeepSpeed does; without it both start anew",
        reads(f"{_TRAINER}._load_optimizer_and_scheduler", takes=("checkpoint",)),
        reads(f"{_TRAINER}._prepare_for_training", says=("self._load_optimizer_and_scheduler(resume_from_checkpoint)",)),
        reads(f"{_TRAINER}._save_rng_state", says=('"rng_state.pth"', 'f"rng_state_{self.args.process_index}.pth"')),
    ),
    _assume(
        "Trainer._tr_loss",
        "it is the sum of the losses since _globalstep_last_logged; both are set before on_train_begin, with _total_loss_scalar",
        reads(
            f"{_TRAINER}._maybe_log_save_evaluate",
            says=("tr_loss -= tr_loss", "tr_loss_scalar / (self.state.global_step - self._globalstep_last_logged)"),
        ),
        reads(
            f"{_TRAINER}._inner_training_loop",
            says=("self._total_loss_scalar = 0.0 self._globalstep_last_logged = self.state.global_step model.zero_grad()",),
        ),
    ),
    _assume(
        "Trainer._load_rng_state",
        "training calls it once after a resume: at the begin of an epoch, or within one just before the next step's batches",
        reads(f"{_TRAINER}._load_rng_state", takes=("checkpoint",)),
        reads(
            f"{_TRAINER}._run_epoch",
            says=("elif steps_trained_in_current_epoch == 0: self._load_rng_state(", "if rng_to_sync: self._load_rng_state("),
        ),
    ),
    _assume(
        "Trainer._load_best_model",
        "when training ends it alone is called to load the weights of the best checkpoint in the state, and nothing else",
        reads(
            f"{_TRAINER}._finalize_training",
            says=("if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:",),
        ),
        reads(f"{_TRAINER}._load_best_model", says=("model.load_adapter(self.state.best_model_checkpoint",)),
    ),
    _assume(
        "trainer_callback.ExportableState",
        "what a callback of this class returns from state(), attributes among it, is in the trainer's state of a checkpoint",
        lambda: exports_state(resolve_name("transformers:EarlyStoppingCallback")()),
        reads(f"{_TRAINER}._save_checkpoint", says=("self.state.stateful_callbacks[cb_name]", "cb_state = cb.state()")),
    ),
    _assume(
        "Trainer._get_output_dir",
        "it is asked where a checkpoint goes, and answers output_dir unless hyperparameters are searched",
        reads(f"{_TRAINER}._get_output_dir", takes=("trial",), says=("run_dir = self.args.output_dir return run_dir",)),
    ),
    _assume(
        "Trainer._save",
        "save_model writes weights, tokenizer and arguments through it on every rank, with a state dict where ranks have shards",
        reads(f"{_TRAINER}._save", takes=("output_dir", "state_dict"), says=("save_pretrained(", "TRAINING_ARGS_NAME")),
        reads(f"{_TRAINER}.save_model", takes=("output_dir", "_internal_call"), says=("self._save(output_dir",)),
    ),
    _assume(
        "Trainer._load_from_checkpoint",
        "it loads the weights of a checkpoint into the model, and _load_best_model those of state.best_model_checkpoint",
        reads(f"{_TRAINER}._load_from_checkpoint", takes=("resume_from_checkpoint", "model"), says=("model.load_adapter(",)),
    ),
    _assume(
        "integrations.is_deepspeed_zero3_enabled",
        "it says whether weights are partitioned when models are loaded",
        reads("transformers:PreTrainedModel.resize_token_embeddings", says=("is_deepspeed_zero3_enabled()",)),
    ),
    _assume(
        "Trainer.create_accelerator_and_postprocess",
        "the constructor makes the accelerator in it, and is_fsdp_enabled says from then on whether FSDP is on",
        reads(f"{_TRAINER}.create_accelerator_and_postprocess", says=("self.is_fsdp_enabled =",)),
        reads(f"{_TRAINER}.__init__", says=("self.create_accelerator_and_postprocess()",)),
    ),
    _assume(
        "Trainer.label_smoother",
        "label_smoother and compute_loss_func are None unless they take a loss from the logits",
        reads(f"{_TRAINER}.__init__", says=("self.label_smoother = None", "self.compute_loss_func = compute_loss_func")),
    ),
    _assume("trainer", f"a checkpoint has {STATE_FILE}, and a saved model has {ARGUMENTS_FILE} beside it", _constants_hold),
    _assume(
        "TrainingArguments._n_gpu",
        "n_gpu gives back what it holds, and the trainer spreads batches by threads where that is above 1",
        reads("transformers:TrainingArguments.n_gpu", says=("return self._n_gpu",)),
    ),
    _assume(
        "PreTrainedModel._loss_function",
        "what is set as loss_function is kept in it and used until it is deleted; without, LOSS_MAPPING has that of loss_type",
        _loss_is_kept_where_it_is_set,
    ),
    _assume(
        "PretrainedConfig._attn_implementation",
        "a model's config says in it which attention was taken",
        reads("transformers:PreTrainedModel.__init__", says=("self.config._attn_implementation",)),
    ),
    _assume("AutoModel._model_mapping", "it has the class for each class of configs", _class_is_in_the_mapping),
    _assume(
        "PreTrainedModel._supports_sdpa",
        "a class says in it, and in _supports_flash_attn and _supports_flex_attn, which attention it has beside eager",
        _classes_declare_attention,
    ),
    _assume(
        "PreTrainedModel.hf_quantizer",
        "it, quantization_method and the config's quantization_config are all that marks a model as quantised",
        reads(f"{_TRAINER}.__init__", says=("quantization_method",)),
        reads("transformers:PreTrainedModel.save_pretrained", says=("hf_quantizer",)),
    ),
    _assume(
        "PreTrainedModel._from_config",
        "it builds a model of just that class from a config, in the dtype that it is told",
        reads("transformers:PreTrainedModel._from_config", takes=("config",), says=('kwargs.pop("dtype"',)),
    ),
    _assume(
        "models.auto.modeling_auto",
        "its mappings of names have a class's name for each model type",
        lambda: text_classes()[0]["llama"] == "LlamaForCausalLM",
        lambda: text_classes()[1][0]["gemma3"] == "Gemma3ForConditionalGeneration",
    ),
    *(_assume(name.partition(".")[2], f"its fields stand in {file}", stands_in(name, file)) for name, file in SOURCES.items()),
)
