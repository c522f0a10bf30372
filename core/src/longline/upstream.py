"""All that the core needs of transformers, trl, peft, datasets and accelerate beyond their documentation.

No other file of the core touches such a name. `ASSUMPTIONS` says in words what is relied on, with the version that it was read in;
the tests hold each against the installed library. Importing this module imports none of the libraries.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Below them trl 1.15 has another fused head, peft 0.18 lacks a module that transformers 5.23 imports, datasets 5.0 wants
# an older huggingface_hub than the rest, and gguf 0.17.0 needs sentencepiece.
TESTED: dict[str, str] = {
    "accelerate": ">=1.10.1,<1.16",
    "bitsandbytes": ">=0.49,<0.51",
    "datasets": ">=5.1,<5.3",
    "gguf": ">=0.17.1,<0.20",
    "peft": ">=0.19,<0.22",
    "transformers": ">=5.23,<5.25",  # with 5.22 two CPU ranks hang under FSDP2
    "trl": ">=1.16,<1.17",
}
"""The versions between which the tests ran: the same ranges as in the metadata of the distribution."""


def untested(tested: Mapping[str, str] = TESTED) -> list[str]:
    """What is installed outside of the tested ranges: `trl 1.17.0 (tested: >=1.16,<1.17)`. What is absent is left out."""
    from packaging.specifiers import SpecifierSet

    found = []
    for name, versions in tested.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if not SpecifierSet(versions).contains(installed, prereleases=True):
            found.append(f"{name} {installed} (tested: {versions})")
    return found


# --- what is relied on, in words ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assumption:
    """One thing that a library does not promise: the object that it is about, the sentence, and a check of what is installed."""

    about: str
    read_in: str
    sentence: str
    check: Callable[[], bool]

    def broken(self) -> str | None:
        """The sentence, with what the check raised, when it does not hold any more; None when it does."""
        try:
            if self.check():
                return None
            why = ""
        except Exception as error:  # whatever a missing or changed name raises
            why = f" ({type(error).__name__}: {error})"
        return f"{self.about}, as of {self.read_in}: {self.sentence}{why}"


def reads(path: str, *, takes: tuple[str, ...] = (), says: tuple[str, ...] = ()) -> Callable[[], bool]:
    """A check that `path` (`module:Class.method`) exists, has the parameters `takes` in this order, and `says` that."""

    def check() -> bool:
        item: Any = resolve_name(path)
        item = inspect.unwrap(getattr(item, "fget", item))  # a property has the function in it
        order = [name for name in inspect.signature(item).parameters if name in takes] if takes else []
        source = " ".join(inspect.getsource(item).split()) if says else ""
        return order == list(takes) and all(part in source for part in says)

    return check


def every(*checks: Callable[[], bool]) -> Callable[[], bool]:
    """A check that holds when all of them do."""
    return lambda: all(check() for check in checks)


# --- transformers ---------------------------------------------------------------------------------------------------------------

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
    "peft.LoraConfig": "peft/tuners/lora/config.py",
}
"""Classes whose fields are read from their source, without importing them: where that is."""


OPTIMIZERS = ("transformers.trainer_optimizer", "_OPTIMIZER_HANDLERS", "OptimizerNames")
"""Where `trainer.optim` is turned into an optimizer: the module, its table, and the enumeration of names."""
SCHEDULERS = ("transformers.optimization", "TYPE_TO_SCHEDULER_FUNCTION", "SchedulerType", "get_scheduler")
"""The same for `trainer.lr_scheduler_type`, and the function that hands each its arguments."""
ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
"""What optimizers get as `ctx.adam_kwargs`."""


def exports_state(callback: Any) -> bool:
    """Whether a callback has a state that goes into every checkpoint."""
    from transformers.trainer_callback import ExportableState

    return isinstance(callback, ExportableState)


def between_logs(trainer: Any) -> dict[str, Any]:
    """What a trainer has summed up since it last logged: the loss, from which step on, and for trl's the metrics of training."""
    metrics = _noted(trainer).get("train", {})
    kept = {"loss": trainer._tr_loss.detach().cpu(), "logged": trainer._globalstep_last_logged}
    return {**kept, "metrics": {name: [float(value) for value in values] for name, values in metrics.items()}}


def log_from(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Go on with what `between_logs` told, once training has begun; the mean of the run stays that of the steps since then."""
    trainer._tr_loss += kept["loss"].to(trainer._tr_loss)
    trainer._total_loss_scalar -= float(kept["loss"])
    trainer._globalstep_last_logged = kept["logged"]
    for name, values in kept["metrics"].items():
        _noted(trainer)["train"][name] = [*values]


def _noted(trainer: Any) -> Any:
    """The metrics of trl's trainers by mode, as lists."""
    return getattr(trainer, "_stored_metrics", getattr(trainer, "_metrics", {}))


def answers_left(trainer: Any) -> dict[str, Any]:
    """The answers that trl's online trainers have drawn and are not done with, and how many batches they have learnt from."""
    every = trainer.args.steps_per_generation * trainer.num_iterations
    return {"batches": trainer._step, "answers": trainer._buffered_inputs if trainer._step % every else None}


def answer_from(trainer: Any, kept: Mapping[str, Any]) -> None:
    """Go on with what `answers_left` told."""
    trainer._step, trainer._buffered_inputs = kept["batches"], kept["answers"]


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


def keep_gradients(model: PreTrainedModel) -> None:
    """Have 4-bit layers on a CPU compute in one way: bitsandbytes repacks them in an evaluation, and packed ones drop gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


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


# --- gguf -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def reading_gguf() -> Iterator[None]:
    """Let transformers read GGUF files with a reader seven times as fast for the block; what it makes of them is the same.

    transformers reads all metadata for the config, once more for the tokenizer and again for the weights, and makes the same map of
    names anew for each of some hundred modules.
    """
    import gguf

    library: Any = gguf
    slow = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = _quick_reader(), cache(slow[1])
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = slow


@cache
def _quick_reader() -> Any:
    """A GGUFReader that takes an array of the metadata at once, and not an array of numpy for each of 100,000 words."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class QuickReader(GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)  # a slice of a memmap costs ten of these

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            head, begin = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)], orig_offs + 12
            kind, count = GGUFValueType(int(head[0][0])), int(head[1][0])
            if kind in self.gguf_scalar_to_np:
                numbers = self._get(begin, self.gguf_scalar_to_np[kind], count)
                items: Any = [(number,) for number in numbers.tolist()]
                end = begin + numbers.nbytes
            elif kind == GGUFValueType.STRING and self.byte_order == "I":
                items, end = _strings(memoryview(self._bytes), begin, count)
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            kinds = [GGUFValueType.ARRAY, *([kind] if count else [])]
            return end - orig_offs, [*head, *items], list(range(2, 2 + count)), kinds

    return QuickReader


def _strings(view: memoryview, offset: int, count: int) -> tuple[list[bytes], int]:
    """`count` strings, each behind its length, and where they end."""
    items, length = [], struct.Struct("=Q")
    for _ in range(count):
        begin = offset + 8
        offset = begin + length.unpack_from(view, offset)[0]
        items.append(view[begin:offset].tobytes())
    return items, offset


# --- accelerate -----------------------------------------------------------------------------------------------------------------


def turn_on_fsdp(trainer: Any, plugin: Any) -> None:
    """Have a trainer's accelerator shard by `plugin` also on CPU ranks, for which accelerate silently chooses DDP."""
    from accelerate.utils import DistributedType

    state = trainer.accelerator.state
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    trainer.is_fsdp_enabled = True


# --- datasets -------------------------------------------------------------------------------------------------------------------


def fingerprint(dataset: Any) -> str:
    """What `datasets` keeps to know a revision of a data set by."""
    return str(dataset._fingerprint)


# --- trl ------------------------------------------------------------------------------------------------------------------------

REFERENCE_ADAPTER = "ref"
"""What trl calls its frozen copy of an adapter."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""The fields [rows, length - 1] that a model with trl's fused head puts out; those that nobody asked for are None."""


def fuse_head(model: Any, args: Any) -> None:
    """Give a reference the head with which trl's online trainers score answers."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=args.temperature, cast_lm_head_to_fp32=getattr(args, "cast_lm_head_to_fp32", False))


def shard_reference(model: Any, accelerator: Any) -> Any:
    """A frozen model, sharded by the accelerator's FSDP plugin."""
    from trl.models import prepare_fsdp

    return prepare_fsdp(model, accelerator)


def forget_metric(trainer: Any, name: str) -> None:
    """Drop one of the metrics that a trainer of trl adds to its next log."""
    for metrics in getattr(trainer, "_metrics", {}).values():
        metrics.pop(name, None)


def take_metrics(trainer: Any) -> dict[str, float]:
    """Take what a trainer of trl would add to the log of an evaluation: what it noted of the batch that it evaluated last."""
    noted = (trainer._stored_metrics if hasattr(trainer, "_stored_metrics") else trainer._metrics)["eval"]
    taken = {name: values[-1] for name, values in noted.items()}
    noted.clear()
    return taken


def accept_collator(trainer: Any) -> None:
    """Tell trl's ORPO and CPO that the collator makes the columns of theirs; they warn at every evaluation step otherwise."""
    trainer.use_dpo_data_collator = True


# --- the register ---------------------------------------------------------------------------------------------------------------


def _transformers(about: str, sentence: str, *checks: Callable[[], bool]) -> Assumption:
    return Assumption(f"transformers.{about}", "5.23.0", sentence, every(*checks))


def _trl(about: str, sentence: str, *checks: Callable[[], bool]) -> Assumption:
    return Assumption(f"trl.{about}", "1.16.0", sentence, every(*checks))


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


def _fingerprints_tell_data_apart() -> bool:
    made = resolve_name("datasets:Dataset.from_dict")
    one, same, other = (fingerprint(made({"a": [value]})) for value in (1, 1, 2))
    return one == same != other


def _source_is(name: str, file: str) -> Callable[[], bool]:
    return lambda: inspect.getfile(resolve_name(name.replace(".", ":", 1))).replace("\\", "/").endswith(f"/{file}")


def _class_is_in_the_mapping() -> bool:
    auto, config = resolve_name("transformers:AutoModelForCausalLM"), resolve_name("transformers:LlamaConfig")
    return class_of(auto, config()) is resolve_name("transformers:LlamaForCausalLM")


def _classes_declare_attention() -> bool:
    names = ("eager", "sdpa", "flash_attention_2")
    llama, mamba = resolve_name("transformers:LlamaForCausalLM"), resolve_name("transformers:MambaForCausalLM")
    return attentions_of(llama, names) == list(names) and attentions_of(mamba, names) == ["eager"]


def _reference_adapter(trainer: str) -> Callable[[], bool]:
    switched = f'adapter_name="{REFERENCE_ADAPTER}" if "{REFERENCE_ADAPTER}" in'
    return lambda: switched in inspect.getsource(resolve_name(f"trl:{trainer}"))


_TRAINER = "transformers:Trainer"
_GGUF = "transformers.modeling_gguf_pytorch_utils:"
_ONLINE = ("GRPOTrainer", "RLOOTrainer")
_REFERRING = ("DPOTrainer", "KTOTrainer", *_ONLINE)
_OFFLINE = ("DPOTrainer", "KTOTrainer", "RewardTrainer")
_CONCATENATED = ("orpo:ORPOTrainer", "cpo:CPOTrainer")

ASSUMPTIONS: tuple[Assumption, ...] = (
    _transformers(
        "Trainer._prepare_inputs",
        "every batch of training and evaluation passes through it once before the model sees it, and what it returns is used",
        reads(f"{_TRAINER}._prepare_inputs", takes=("inputs",)),
        reads(f"{_TRAINER}.training_step", says=("inputs = self._prepare_inputs(inputs)",)),
        reads(f"{_TRAINER}.prediction_step", says=("inputs = self._prepare_inputs(inputs)",)),
    ),
    _transformers(
        "trainer_optimizer._OPTIMIZER_HANDLERS",
        "it names for each optim the function that reads ctx.args, ctx.adam_kwargs (betas and eps) and ctx.optim_args",
        reads(
            f"{_TRAINER}.get_optimizer_cls_and_kwargs",
            says=('"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon', f"{OPTIMIZERS[1]}.get(args.optim)"),
        ),
    ),
    _transformers(
        "optimization.TYPE_TO_SCHEDULER_FUNCTION",
        "get_scheduler looks a schedule up in it, and hands it the warmup and the options where it has any use for them",
        reads(
            f"{SCHEDULERS[0]}:{SCHEDULERS[3]}",
            takes=("name", "optimizer", "num_warmup_steps", "num_training_steps", "scheduler_specific_kwargs"),
            says=(f"{SCHEDULERS[1]}[name]",),
        ),
    ),
    _transformers(
        "Trainer._get_train_sampler",
        "it gives the sampler of training rows, for a data set or without one for the trainer's own",
        reads(f"{_TRAINER}._get_train_sampler", takes=("train_dataset",)),
        reads(f"{_TRAINER}.get_train_dataloader", says=("self._get_train_sampler",)),
    ),
    _transformers(
        "Trainer.get_batch_samples",
        "it fetches the batches of one step, which are then learnt from in turn",
        reads(
            f"{_TRAINER}.get_batch_samples", takes=("epoch_iterator", "num_batches", "device"), says=("return batch_samples,",)
        ),
    ),
    _transformers(
        "Trainer._maybe_log_save_evaluate",
        "after a step it logs, evaluates and saves in this order, and has on_save called once it has saved",
        reads(
            f"{_TRAINER}._maybe_log_save_evaluate",
            says=("self._save_checkpoint(model, trial)", "self.callback_handler.on_save(self.args, self.state, self.control)"),
        ),
    ),
    _transformers(
        "Trainer._save_checkpoint",
        "it alone writes checkpoints, into checkpoint-<step> below what _get_output_dir answers, with the state as the last file",
        reads(
            f"{_TRAINER}._save_checkpoint",
            takes=("model", "trial"),
            says=("run_dir = self._get_output_dir(trial=trial)", "self.state.save_to_json("),
        ),
    ),
    _transformers(
        "Trainer._load_optimizer_and_scheduler",
        "it loads both from a checkpoint, after they were made and prepared, unless DeepSpeed does; without it both start anew",
        reads(f"{_TRAINER}._load_optimizer_and_scheduler", takes=("checkpoint",)),
        reads(f"{_TRAINER}._prepare_for_training", says=("self._load_optimizer_and_scheduler(resume_from_checkpoint)",)),
        reads(f"{_TRAINER}._save_rng_state", says=('"rng_state.pth"', 'f"rng_state_{self.args.process_index}.pth"')),
    ),
    _transformers(
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
    _transformers(
        "Trainer._load_rng_state",
        "training calls it once after a resume: at the begin of an epoch, or within one just before the next step's batches",
        reads(f"{_TRAINER}._load_rng_state", takes=("checkpoint",)),
        reads(
            f"{_TRAINER}._run_epoch",
            says=("elif steps_trained_in_current_epoch == 0: self._load_rng_state(", "if rng_to_sync: self._load_rng_state("),
        ),
    ),
    _transformers(
        "Trainer._load_best_model",
        "when training ends it alone is called to load the weights of the best checkpoint in the state, and nothing else",
        reads(
            f"{_TRAINER}._finalize_training",
            says=("if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:",),
        ),
        reads(f"{_TRAINER}._load_best_model", says=("model.load_adapter(self.state.best_model_checkpoint",)),
    ),
    _transformers(
        "trainer_callback.ExportableState",
        "what a callback of this class returns from state(), attributes among it, is in the trainer's state of a checkpoint",
        lambda: exports_state(resolve_name("transformers:EarlyStoppingCallback")()),
        reads(f"{_TRAINER}._save_checkpoint", says=("self.state.stateful_callbacks[cb_name]", "cb_state = cb.state()")),
    ),
    _transformers(
        "Trainer._get_output_dir",
        "it is asked where a checkpoint goes, and answers output_dir unless hyperparameters are searched",
        reads(f"{_TRAINER}._get_output_dir", takes=("trial",), says=("run_dir = self.args.output_dir return run_dir",)),
    ),
    _transformers(
        "Trainer._save",
        "save_model writes weights, tokenizer and arguments through it on every rank, with a state dict where ranks have shards",
        reads(f"{_TRAINER}._save", takes=("output_dir", "state_dict"), says=("save_pretrained(", "TRAINING_ARGS_NAME")),
        reads(f"{_TRAINER}.save_model", takes=("output_dir", "_internal_call"), says=("self._save(output_dir",)),
    ),
    _transformers(
        "Trainer._load_from_checkpoint",
        "it loads the weights of a checkpoint into the model, and _load_best_model those of state.best_model_checkpoint",
        reads(f"{_TRAINER}._load_from_checkpoint", takes=("resume_from_checkpoint", "model"), says=("model.load_adapter(",)),
    ),
    _transformers(
        "integrations.is_deepspeed_zero3_enabled",
        "it says whether weights are partitioned when models are loaded",
        reads("transformers:PreTrainedModel.resize_token_embeddings", says=("is_deepspeed_zero3_enabled()",)),
    ),
    _transformers(
        "Trainer.create_accelerator_and_postprocess",
        "the constructor makes the accelerator in it, and is_fsdp_enabled says from then on whether FSDP is on",
        reads(f"{_TRAINER}.create_accelerator_and_postprocess", says=("self.is_fsdp_enabled =",)),
        reads(f"{_TRAINER}.__init__", says=("self.create_accelerator_and_postprocess()",)),
    ),
    _transformers(
        "Trainer.label_smoother",
        "label_smoother and compute_loss_func are None unless they take a loss from the logits",
        reads(f"{_TRAINER}.__init__", says=("self.label_smoother = None", "self.compute_loss_func = compute_loss_func")),
    ),
    _transformers(
        "trainer", f"a checkpoint has {STATE_FILE}, and a saved model has {ARGUMENTS_FILE} beside it", _constants_hold
    ),
    _transformers(
        "TrainingArguments._n_gpu",
        "n_gpu gives back what it holds, and the trainer spreads batches by threads where that is above 1",
        reads("transformers:TrainingArguments.n_gpu", says=("return self._n_gpu",)),
    ),
    _transformers(
        "PreTrainedModel._loss_function",
        "what is set as loss_function is kept in it and used until it is deleted; without, LOSS_MAPPING has that of loss_type",
        _loss_is_kept_where_it_is_set,
    ),
    _transformers(
        "PretrainedConfig._attn_implementation",
        "a model's config says in it which attention was taken",
        reads("transformers:PreTrainedModel.__init__", says=("self.config._attn_implementation",)),
    ),
    _transformers("AutoModel._model_mapping", "it has the class for each class of configs", _class_is_in_the_mapping),
    _transformers(
        "PreTrainedModel._supports_sdpa",
        "a class says in it, and in _supports_flash_attn and _supports_flex_attn, which attention it has beside eager",
        _classes_declare_attention,
    ),
    _transformers(
        "PreTrainedModel.hf_quantizer",
        "it, quantization_method and the config's quantization_config are all that marks a model as quantised",
        reads(f"{_TRAINER}.__init__", says=("quantization_method",)),
        reads("transformers:PreTrainedModel.save_pretrained", says=("hf_quantizer",)),
    ),
    Assumption(
        "bitsandbytes.nn.Linear4bit.support_avx512bf16_for_cpu",
        "0.50.2",
        "a layer on a CPU repacks its weights in evaluation, as no gradient passes, only where this is true",
        reads("bitsandbytes.nn:Linear4bit.forward", says=("self.support_avx512bf16_for_cpu and not self.training",)),
    ),
    _transformers(
        "PreTrainedModel._from_config",
        "it builds a model of just that class from a config, in the dtype that it is told",
        reads("transformers:PreTrainedModel._from_config", takes=("config",), says=('kwargs.pop("dtype"',)),
    ),
    _transformers(
        "models.auto.modeling_auto",
        "its mappings of names have a class's name for each model type",
        lambda: text_classes()[0]["llama"] == "LlamaForCausalLM",
        lambda: text_classes()[1][0]["gemma3"] == "Gemma3ForConditionalGeneration",
    ),
    _transformers(
        "modeling_gguf_pytorch_utils.load_gguf_checkpoint",
        "it takes GGUFReader and get_tensor_name_map from gguf at each call, and of a field only its types and the parts that its "
        "data counts",
        reads(f"{_GGUF}load_gguf_checkpoint", says=("from gguf import GGUFReader, dequantize",)),
        reads(f"{_GGUF}get_gguf_hf_weights_map", says=("import MODEL_ARCH_NAMES, get_tensor_name_map",)),
        reads(f"{_GGUF}load_gguf_checkpoint", says=("(field.parts[_data_index], field.types) for _data_index in field.data",)),
    ),
    Assumption(
        "gguf.GGUFReader._get_field_parts",
        "0.19.0",
        "it reads a value from data and returns its size, its parts, which of them hold the value, and its types",
        every(
            reads("gguf:GGUFReader._get_field_parts", says=("return offs - orig_offs, aparts, data_idxs, types",)),
            reads("gguf:GGUFReader._get", takes=("offset", "dtype", "count"), says=("self.data[offset:end_offs]",)),
            reads("gguf:GGUFReader._build_fields", says=("self._get_field_parts(offs, raw_kv_type[0])", "skip_sum = True")),
        ),
    ),
    *(
        Assumption(name, "transformers 5.23.0, peft 0.21.2", f"its fields stand in {file}", _source_is(name, file))
        for name, file in SOURCES.items()
    ),
    *(
        _trl(
            f"{name}: loss_type",
            "each trainer compares loss_type with all words that it takes, in a file beside that of its arguments",
            lambda name=name: (
                inspect.getfile(resolve_name(f"trl:{name}")).replace("_trainer.py", "_config.py")  # type: ignore[misc]
                == inspect.getfile(resolve_name(f"trl:{name.replace('Trainer', 'Config')}"))
            ),
        )
        for name in ("DPOTrainer", "KTOTrainer", "GRPOTrainer")
    ),
    Assumption(
        "accelerate.state.AcceleratorState",
        "1.15.0",
        "a model is prepared by the distributed_type and fsdp_plugin that the state has then, so they can be set before",
        every(
            reads("accelerate:Accelerator.distributed_type", says=("return self.state.distributed_type",)),
            reads("accelerate:Accelerator.prepare_model", says=("self.distributed_type == DistributedType.FSDP",)),
            reads("accelerate.utils:FullyShardedDataParallelPlugin.set_mixed_precision", takes=("mixed_precision",)),
        ),
    ),
    Assumption(
        "datasets.Dataset._fingerprint",
        "5.2.0",
        "it is the same for the same data, and another for other data",
        _fingerprints_tell_data_apart,
    ),
    _trl(
        "trainer.utils.add_fused_lm_head",
        "it replaces the forward of one model; called with labels and fused_lm_head=True, that scores the backbone's "
        f"last_hidden_state, with shift_labels unshifted, and puts out {', '.join(PER_TOKEN)} and label_mask",
        reads(
            "trl.trainer.utils:add_fused_lm_head",
            takes=("model", "temperature", "cast_lm_head_to_fp32"),
            says=("model.forward = types.MethodType(", "backbone_outputs.last_hidden_state", "if shift_labels is None:"),
        ),
        lambda: {*PER_TOKEN, "label_mask"} <= set(resolve_name("trl.trainer.utils:FusedCausalLMOutput").__annotations__),
    ),
    _trl(
        "models.prepare_fsdp",
        "it shards a model that is not trained by the plugin of an accelerator",
        reads("trl.models:prepare_fsdp", takes=("model", "accelerator"), says=("accelerator.state.fsdp_plugin",)),
    ),
    _trl(
        "trainer.base_trainer._BaseTrainer._send_telemetry",
        "trl reports about a run in it, when a trainer is made",
        reads("trl.trainer.base_trainer:_BaseTrainer.__init__", says=("self._send_telemetry()",)),
    ),
    *(
        _trl(
            f"{name}._prepare_dataset",
            "the constructor passes every data set through it, which does all of the tokenising, and takes what it returns",
            reads(f"trl:{name}.__init__", says=("train_dataset = self._prepare_dataset(train_dataset",)),
        )
        for name in _OFFLINE
    ),
    *(
        _trl(
            f"{name}._metrics",
            "its values, by mode, are the metrics that log adds to the trainer's own",
            reads(f"trl:{name}.log", says=("self._metrics[mode].items()",)),
        )
        for name in (*_OFFLINE, *_ONLINE)
    ),
    *(
        _trl(
            f"experimental.{name.replace(':', '.')}._stored_metrics",
            "its values, by train and eval, are the metrics that log adds to the trainer's own",
            reads(f"trl.experimental.{name}.log", says=("self._stored_metrics[train_eval].items()",)),
        )
        for name in _CONCATENATED
    ),
    *(
        _trl(
            f"{name}.__init__: add_adapter",
            f"its frozen copy of an adapter is called {REFERENCE_ADAPTER}; without one, it switches the adapter off instead",
            reads(f"trl:{name}.__init__", says=(f'add_adapter("{REFERENCE_ADAPTER}"',)),
            _reference_adapter(name),
        )
        for name in _REFERRING
    ),
    *(
        _trl(
            f"{name}._generate_and_score_completions",
            "it answers and scores this rank's rows; tensors added to what it returns are shuffled and split with the rest",
            reads(f"trl:{name}._generate_and_score_completions", takes=("inputs",)),
            reads(
                f"trl:{name}._prepare_inputs",
                says=("= self._generate_and_score_completions(", "shuffle_sequence_dict(", "split_tensor_dict("),
            ),
        )
        for name in _ONLINE
    ),
    *(
        _trl(
            f"{name}._buffered_inputs",
            "the answers of a generation, one batch after the other by _step, and drawn anew as _step divides or where it is None",
            reads(
                f"trl:{name}._prepare_inputs",
                says=(
                    "if self._step % generate_every == 0 or self._buffered_inputs is None:",
                    "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]",
                ),
            ),
        )
        for name in _ONLINE
    ),
    *(
        _trl(
            f"{name}._calculate_rewards",
            "it returns the scores [answers of all ranks, functions] in the order of ranks, nan where there is none",
            reads(f"trl:{name}._generate_and_score_completions", says=("rewards_per_func = self._calculate_rewards(",)),
            reads(
                f"trl:{name}._calculate_rewards",
                says=("rewards_per_func = gather(rewards_per_func)", "torch.zeros(len(prompts), len(self.reward_funcs)"),
            ),
        )
        for name in _ONLINE
    ),
    *(
        _trl(
            f"{name}.ref_model",
            "with beta 0 the constructor loads no reference; a loss looks at beta and ref_model when it is computed",
            reads(f"trl:{name}.__init__", says=("if self.beta == 0.0:", "self.ref_model = None", "self.reward_func_names =")),
        )
        for name in _ONLINE
    ),
    *(
        _trl(
            f"{name}.num_generations_eval",
            "so many answers to a prompt stand side by side in the batches of an evaluation, in which ranks have as many",
            reads(f"trl:{name}._get_eval_sampler", says=("mini_repeat_count=self.num_generations_eval",)),
            reads(f"trl:{name}._generate_and_score_completions", says=("else self.num_generations_eval", "gather(")),
        )
        for name in _ONLINE
    ),
    _trl(
        "KTOTrainer._compute_loss",
        "it asks the policy for the mismatch, then for the answers, and then the reference for both, all with the fused head",
        reads(
            "trl:KTOTrainer._compute_loss",
            says=(
                "KL_logps = self._compute_kl_logps(model, batch) ",
                "outputs = model(**model_kwargs, labels=completion_labels, fused_lm_head=True)",
                "ref_KL_logps = self._compute_kl_logps(self.ref_model, batch) ref_outputs = self.ref_model(",
                "self.calculate_KL",
            ),
        ),
    ),
    *(
        _trl(
            f"experimental.{name.replace(':', '.')}.concatenated_forward",
            "the loss calls it with the collator's batch; it reads chosen_ and rejected_ input_ids, attention_mask and labels; it "
            "returns the log probabilities and logits of both sides, then the mean that is learnt, which the loss adds",
            reads(
                f"trl.experimental.{name}.concatenated_forward",
                takes=("model", "batch"),
                says=("return (chosen_logps, rejected_logps, chosen_logits, rejected_logits, ", "nll_loss)"),
            ),
            reads(f"trl.experimental.{name}.get_batch_loss_metrics", says=("policy_nll_loss", "loss_coef * aux_loss")),
            reads(f"trl.experimental.{name}.get_batch_loss_metrics", says=("self.concatenated_forward(model, batch)",)),
            reads(f"trl.experimental.{name}.__init__", says=("self.use_dpo_data_collator =",)),
        )
        for name in _CONCATENATED
    ),
)
"""Everything undocumented that the core calls, sets, or overrides in a class of its own."""
