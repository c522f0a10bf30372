"""Tokenizer, model, adapter: from a config section to the real objects.

A model path is a local folder, a `.gguf` file, or a hub id. What is loaded from GGUF is unpacked into plain weights and loses
its quantisation marks, since transformers refuses to train or save a model that still carries them.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longline import upstream
from longline.config.attention import ATTENTION, BEST, lookup
from longline.config.paths import is_template, looks_local
from longline.errors import LonglineError, ModelError, did_you_mean, remedy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from peft import PeftConfig
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from longline.config.sections import AdapterSection, ModelSection
    from longline.methods.base import Output


logger = logging.getLogger("longline.model")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What `from_pretrained` is given: a folder or hub id, and the GGUF file in it if that is what is loaded."""

    path: str
    gguf_file: str | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword that tells transformers to read a GGUF file; empty for ordinary models."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def locate(section: ModelSection) -> ModelSource:
    """Tell apart a GGUF file, a folder and a hub id.

    Raises:
        ModelError: the path looks local and is not there.
    """
    # A saved adapter names its base by this, and is loaded in other working directories.
    path = Path(section.path).expanduser().absolute()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model.path: no such file: {section.path}", hint="give a .gguf file, a folder or a hub id")
        return ModelSource(str(path.parent), path.name)
    if path.is_dir():
        return ModelSource(str(path), section.gguf_file)
    if path.is_file():
        raise ModelError(f"model.path: {section.path} is a file", hint="give its folder, or a file that ends with .gguf")
    if looks_local(section.path):
        raise ModelError(f"model.path: no such folder: {section.path}", hint="give a folder, a .gguf file or a hub id")
    return ModelSource(section.path, section.gguf_file)


def _hub_kwargs(section: ModelSection) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"trust_remote_code": section.trust_remote_code}
    if section.revision:
        kwargs["revision"] = section.revision
    if section.token:
        kwargs["token"] = section.token.get_secret_value()
    return kwargs


def _loading(what: str, section: ModelSection, load: Callable[[], Any]) -> Any:
    """Run `load`; whatever a library raises becomes a ModelError that says what was loaded from where."""
    of_gguf = section.path.endswith(".gguf") or section.gguf_file
    try:
        with upstream.gguf.reading_gguf() if of_gguf else nullcontext():
            return load()
    except LonglineError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        text = f"cannot load the {what} from {section.path}: {type(error).__name__}: {first}"
        own = section.gguf_file is None and not (what == "tokenizer" and section.tokenizer.path)
        raise ModelError(text, hint=_remedy(error, Path(section.path).expanduser() if own else None)) from error


def _remedy(error: Exception, folder: Path | None) -> str | None:
    """What to do about what a library raised; None where nothing is known that fits. `folder` should have a config.json."""
    import torch
    from safetensors import SafetensorError

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "model.dtype: bfloat16 or model.quantization with an adapter takes less memory, and so does a smaller model"
    if isinstance(error, SafetensorError):
        return "a file of weights is damaged or not whole: fetch it again"
    fault = _config_fault(folder / "config.json") if folder is not None and folder.is_dir() else None
    return fault or remedy_of(error, "model.")


def _config_fault(path: Path) -> str | None:
    """What is wrong with the config.json of a folder, or with its model type; None where nothing is."""
    from transformers import CONFIG_MAPPING

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(path.parent.glob("*.gguf")):
            return "it holds .gguf files: name the one to load with model.gguf_file"
        adapter = path.with_name("adapter_config.json").exists()
        what = "an adapter alone: merge it, or give its base" if adapter else "no model: give one with config.json and weights"
        return f"there is no config.json in it, it holds {what}"
    except (ValueError, OSError):
        return "its config.json cannot be read as JSON: fetch it again"
    name = content.get("model_type") if isinstance(content, dict) else None
    if name in CONFIG_MAPPING:
        return None
    if isinstance(content, dict) and content.get("auto_map"):
        return "the model brings its own code: set model.trust_remote_code: true if you trust it"
    if not name:
        return "its config.json names no model_type"
    text = f"transformers {version('transformers')} knows no model type {name!r}"
    return f"{text}: {did_you_mean(str(name), CONFIG_MAPPING, 'a newer one may')}"


# --- tokenizer ------------------------------------------------------------------------------------------------------------------


def tokenizer_kwargs(section: ModelSection) -> dict[str, Any]:
    """Return the keyword arguments for `AutoTokenizer.from_pretrained`."""
    source = ModelSource(section.tokenizer.path) if section.tokenizer.path else locate(section)
    return {"pretrained_model_name_or_path": source.path, **source.kwargs, **_hub_kwargs(section)}


def load_tokenizer(section: ModelSection, kwargs: dict[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer and apply what `model.tokenizer` changes.

    Raises:
        ModelError: it cannot be loaded, is not a fast tokenizer, or lacks a token that the config names.
    """
    from transformers import AutoTokenizer

    kwargs = tokenizer_kwargs(section) if kwargs is None else kwargs
    tokenizer: PreTrainedTokenizerBase = _loading("tokenizer", section, lambda: AutoTokenizer.from_pretrained(**kwargs))
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {section.path} has no fast version",
            hint="masks need character offsets; set model.tokenizer.path",
        )
    options = section.tokenizer
    if options.add_tokens:
        tokenizer.add_tokens(options.add_tokens)
    for field in ("pad_token", "eos_token"):
        token = getattr(options, field)
        if token is not None:
            _require_token(tokenizer, token, f"model.tokenizer.{field}")
            setattr(tokenizer, field, token)
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {section.path} has no end token", hint="set model.tokenizer.eos_token")
    if tokenizer.pad_token is None:
        # Padding is never trained and never attended to, so any token serves.
        tokenizer.pad_token = tokenizer.eos_token
    if options.chat_template is not None:
        tokenizer.chat_template = _read_template(options.chat_template)
    return tokenizer


def _require_token(tokenizer: PreTrainedTokenizerBase, token: str, where: str) -> None:
    if token not in tokenizer.get_vocab():
        raise ModelError(f"{where}: {token!r} is not in the vocabulary", hint="add it with model.tokenizer.add_tokens")


def _read_template(value: str) -> str:
    """A value with Jinja marks is the template itself, anything else the path of one."""
    if is_template(value):
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model.tokenizer.chat_template: cannot read {value}: {error}") from error


# --- model ----------------------------------------------------------------------------------------------------------------------


AUTO_CLASSES: dict[Output, str] = {"tokens": "AutoModelForCausalLM", "score": "AutoModelForSequenceClassification"}
"""The class of transformers that loads a model by what it puts out: tokens, or one score for a text."""
# llava, qwen2_vl, voxtral and others are in no mapping of causal models.
WITH_TOWERS = "AutoModelForMultimodalLM"
"""The one for models of tokens that also see pictures or hear sound; they are trained on text."""
TASKS: dict[Output, str] = {"tokens": "CAUSAL_LM", "score": "SEQ_CLS"}
"""The same for peft."""


def model_kwargs(section: ModelSection, dtype: str, output: Output = "tokens") -> dict[str, Any]:
    """Return the keyword arguments for `from_pretrained`; `dtype` is a resolved type's name.

    Raises:
        ModelError: `model.overrides` names a field that the model's config does not have, or the library of
            `attn_implementation` is not installed.
    """
    import torch
    import transformers

    _require_library(section.attn_implementation)
    source, hub = locate(section), _hub_kwargs(section)
    config = _config(section, source, hub)
    # transformers keeps and changes what it is handed, and the config of a run is frozen.
    _override(config, deepcopy(section.overrides))
    _require_support(config, section.attn_implementation, output)
    if output == "score":
        config.num_labels = 1
    kwargs: dict[str, Any] = {
        "pretrained_model_name_or_path": source.path,
        "config": config,
        "dtype": getattr(torch, dtype),
        "attn_implementation": section.attn_implementation,
        **source.kwargs,
        **hub,
    }
    if section.quantization is not None:
        kwargs["quantization_config"] = cast("Any", transformers.BitsAndBytesConfig)(**deepcopy(section.quantization))
    elif source.gguf_file:
        kwargs["quantization_config"] = transformers.GgufConfig(gguf_file=source.gguf_file, dequantize=True)
    return kwargs


def _config(section: ModelSection, source: ModelSource, hub: dict[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    config: PretrainedConfig = _loading(
        "model's config", section, lambda: AutoConfig.from_pretrained(source.path, **source.kwargs, **hub)
    )
    return config


def _require_library(attention: str | None) -> None:
    """An implementation needs its library, or the package `kernels`, with which transformers fetches a build of it."""
    row = lookup(attention)
    if row is None or row.library is None or any(_installed(name) for name in (row.library, "kernels")):
        return
    hint = f"pip install {row.library}, or leave it out"
    raise ModelError(f"model.attn_implementation: {attention} needs {row.library}, which is not installed", hint=hint)


def _require_support(config: PretrainedConfig, attention: str | None, output: Output) -> None:
    """Refuse an attention that the model's class does not have, and say what it has."""
    model_class = upstream.transformers.class_of(_auto_class(type(config), output), config)
    if attention not in ATTENTION or model_class is None:
        return
    has = upstream.transformers.attentions_of(model_class, ATTENTION)
    if attention in has:
        return
    text = f"model.attn_implementation: {model_class.__name__} has no {attention}"
    raise ModelError(text, hint=f"leave it out, or use {' or '.join(has)}")


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _override(config: PretrainedConfig, overrides: dict[str, Any]) -> None:
    """Set fields of the model's config; a mapping is merged into a mapping, so `rope_parameters` keeps its other keys."""
    known = set(config.to_dict()) | set(getattr(config, "attribute_map", {}))
    for name, value in overrides.items():
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"fields: {', '.join(sorted(known))}")
            raise ModelError(f"model.overrides.{name}: {type(config).__name__} has no such field", hint=hint)
        old = getattr(config, name, None)
        setattr(config, name, {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value)


def load_model(section: ModelSection, kwargs: dict[str, Any], output: Output = "tokens") -> PreTrainedModel:
    """Load the weights; `kwargs` as `model_kwargs` made them, perhaps changed by plugins.

    Raises:
        ModelError: the weights cannot be loaded, or `attn_implementation` was not taken.
    """
    loader = _auto_class(type(kwargs.get("config")), output)
    # The sizes are compared here: of itself transformers says which differ in a table that nobody asked for.
    own = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with quietly():
        loaded: tuple[PreTrainedModel, dict[str, Any]] = _loading(
            "model", section, lambda: loader.from_pretrained(**{**kwargs, **own})
        )
    model, found = loaded
    if found["mismatched_keys"] and not kwargs.get("ignore_mismatched_sizes"):
        raise _other_sizes(section, model, found["mismatched_keys"])
    _tell_of_random(section, model, found["missing_keys"], output)
    if kwargs.get("gguf_file"):
        # transformers refuses to train or save a model that carries them, though the weights are plain already.
        upstream.transformers.drop_quantisation_marks(model)
    elif getattr(model, "is_quantized", False):
        upstream.bitsandbytes.keep_gradients(model)
    # Asked for and not applied is an error, never a warning.
    wanted, got = kwargs.get("attn_implementation"), upstream.transformers.attention_of(model)
    if wanted is not None and got != wanted:
        raise ModelError(f"model.attn_implementation: asked for {wanted}, the model took {got}")
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what transformers tells of a model that it loads or resizes out of sight, unless --debug wants to see it."""
    from transformers import logging as library

    before = library.get_verbosity()
    library.set_verbosity(before if os.environ.get("LONGLINE_DEBUG") else logging.ERROR)
    try:
        yield
    finally:
        library.set_verbosity(before)


def _other_sizes(section: ModelSection, model: PreTrainedModel, keys: Iterable[tuple[str, Any, Any]]) -> ModelError:
    listed = [f"{name} is {list(there)}, not {list(wanted)}" for name, there, wanted in sorted(keys)]
    what = f"{len(listed)} weights in {section.path} have other sizes than {type(model).__name__} by its config"
    hint = "the weights and config.json are of different models, or model.overrides changes a size"
    return ModelError(f"{what}: {_some(listed)}", hint=hint)


def _tell_of_random(section: ModelSection, model: PreTrainedModel, missing: Iterable[str], output: Output) -> None:
    """Say which weights start from random numbers; the head that gives a score always does, on a model of tokens."""
    named = sorted(name for name in missing if output == "tokens" or name.startswith(f"{model.base_model_prefix}."))
    if named:
        text = f"{len(named)} weights of {type(model).__name__} are not in {section.path}, and start from random numbers"
        logger.warning("warning: %s: %s", text, _some(named))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _auto_class(config: type, output: Output) -> Any:
    """The class of transformers that loads models with this class of configs."""
    import transformers

    towers = config not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and config in transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING
    return getattr(transformers, WITH_TOWERS if output == "tokens" and towers else AUTO_CLASSES[output])


def best_attention(section: ModelSection, output: Output = "tokens") -> tuple[str, str] | None:
    """What a model takes when `attn_implementation` is left out, and its class: from its config alone, without weights.

    None where that cannot be said: a hub id that is not in the cache (the hub is not asked: without a network it would be asked
    again for half a minute), or a class that comes with the model.

    Raises:
        ModelError: a local folder or file has no config that transformers can read.
    """
    source = locate(section)
    try:
        config = _config(section, source, {**_hub_kwargs(section), "local_files_only": True})
    except ModelError:
        if Path(source.path).is_dir():
            raise
        return None
    model_class = upstream.transformers.class_of(_auto_class(type(config), output), config)
    if model_class is None:
        return None
    has = upstream.transformers.attentions_of(model_class, ATTENTION)
    return next(name for name in BEST if name in has), model_class.__name__


def switch_cache(config: PretrainedConfig, on: bool) -> None:
    """Let a model keep keys and values or not, its text part too where that has a config of its own, which the trainer forgets.

    With a cache transformers no longer tells packed samples apart, and it takes memory.
    """
    if hasattr(config, "use_cache"):
        config.use_cache = on
    for name in config.sub_configs:
        part: Any = getattr(config, name, None)
        if hasattr(part, "sub_configs"):
            switch_cache(part, on)


# --- adapter --------------------------------------------------------------------------------------------------------------------


def adapter_config(section: AdapterSection, output: Output = "tokens") -> PeftConfig:
    """Return the peft config that an adapter section asks for.

    Raises:
        ModelError: peft refuses the combination.
    """
    from peft import LoraConfig

    kinds = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
    fields = section.model_dump(exclude={"type"})
    try:
        return LoraConfig(task_type=TASKS[output], **{**fields, **kinds[section.type]})
    except (TypeError, ValueError) as error:
        raise ModelError(f"adapter: {error}") from error


def attach_adapter(model: PreTrainedModel, config: PeftConfig, *, activation_checkpointing: bool = False) -> PreTrainedModel:
    """Put the adapter on; its weights are float32 whatever the base has, as peft does by default.

    Raises:
        ModelError: the adapter fits no module of this model.
    """
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=activation_checkpointing)
    elif activation_checkpointing:
        # A frozen embedding cuts the graph that recomputation needs.
        cast("Any", model).enable_input_require_grads()
    try:
        with warnings.catch_warnings():
            # adapter_names refuses what a config names in vain; peft also warns of patterns that it made itself.
            warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys did not match")
            adapted: PreTrainedModel = get_peft_model(model, config)
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelError(f"adapter: {error}") from error
    head = cast("Any", adapted).get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.bias = None  # peft hides it where it trains rows of the head; trl asks for it
    return adapted


def put_on(model: PreTrainedModel, folder: Path, base: str) -> PreTrainedModel:
    """Put the adapter that was saved in a folder on its base; `base` is what messages call that.

    Raises:
        ModelError: it does not fit, or cannot be read.
    """
    from peft import PeftModel

    try:
        adapted: PreTrainedModel = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot put the adapter {folder} on {base}: {first}") from error
    return adapted


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Return how many parameters are trainable, and how many there are; 4-bit weights count unpacked."""
    trainable, total = 0, 0
    for parameter in model.parameters():
        size = parameter.numel() * (2 if parameter.__class__.__name__ == "Params4bit" else 1)
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total
