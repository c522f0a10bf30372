"""The fields of other libraries' classes, read from their source: `trainer:`, `adapter:` and `model.quantization`.

A config may name any of some 120 trainer arguments. They are not declared again here: the installed class is parsed with `ast`,
which takes milliseconds where importing transformers takes seconds, and is right for every version. A new method needs one row
in `TRAINER_CLASSES`.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.config.annotations import Annotation, read_annotation
from longline.config.document import Keys, Node, dotted
from longline.config.explain import nearest, shown
from longline.config.secrets import looks_secret
from longline.config.sections import AdapterSection
from longline.errors import Problem
from longline.upstream import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

TRAINER_CLASSES: dict[str, tuple[str, str]] = {
    "sft": ("transformers/training_args.py", "TrainingArguments"),
    "dpo": ("trl/trainer/dpo_config.py", "DPOConfig"),
    "kto": ("trl/trainer/kto_config.py", "KTOConfig"),
    "orpo": ("trl/experimental/orpo/orpo_config.py", "ORPOConfig"),
    "cpo": ("trl/experimental/cpo/cpo_config.py", "CPOConfig"),
    "simpo": ("trl/experimental/cpo/cpo_config.py", "CPOConfig"),
    "grpo": ("trl/trainer/grpo_config.py", "GRPOConfig"),
    "rloo": ("trl/trainer/rloo_config.py", "RLOOConfig"),
    "reward": ("trl/trainer/reward_config.py", "RewardConfig"),
}
"""Method to the file and class of its arguments; base classes are followed, also into other files and packages."""

_TRACKER = "Longline's own log is log.jsonl; trackers are plugins"
_HUB = "Longline does not push; upload <output_dir>/model with `hf upload` after the run"
_DATA_SECTION = "the config's `data` section decides what is trained and evaluated on"
_COLLATOR = "Longline's collator decides which columns reach the model"
_KERNELS = "kernels are plugins, so that one that does not fit is an error"
REFUSED_TRAINER_FIELDS: dict[str, str] = {
    "output_dir": "set `output_dir` at the top of the config",
    "resume_from_checkpoint": "use `longline train CONFIG --resume`",
    "report_to": _TRACKER,
    "run_name": _TRACKER,
    "project": _TRACKER,
    "trackio_space_id": _TRACKER,
    "trackio_bucket_id": _TRACKER,
    "trackio_static_space_id": _TRACKER,
    "push_to_hub": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "do_train": _DATA_SECTION,
    "do_eval": _DATA_SECTION,
    "do_predict": _DATA_SECTION,
    "remove_unused_columns": _COLLATOR,
    "label_names": _COLLATOR,
    "use_liger_kernel": _KERNELS,
    "liger_kernel_config": _KERNELS,
    "disable_tqdm": "Longline shows its own progress line",
    "logging_nan_inf_filter": "use `nonfinite_loss: continue` to go on after a loss that is NaN or infinite",
    "enable_jit_checkpoint": "Longline itself saves a checkpoint when it is told to stop",
    "auto_find_batch_size": "the plan fixes the batch; set `per_device_train_batch_size` and `gradient_accumulation_steps`",
    "local_rank": "use `longline train CONFIG --nproc N`, or torchrun",
}
"""Arguments that Longline sets itself, or that would do nothing under it: what to use instead."""

_MODEL_SECTION = "the config's `model` section says what is loaded and how"
_TABLES = "the plugin `completions` keeps and shows them"
_NO_ENCODER = "Longline trains causal models; this is for encoder-decoders"
_OF_TRL: dict[str, str] = {
    "model_init_kwargs": _MODEL_SECTION,
    "trust_remote_code": "use `model.trust_remote_code`",
    "pad_token": "use `model.tokenizer.pad_token`",
    "eos_token": "use `model.tokenizer.eos_token`",
    "chat_template_path": "use `model.tokenizer.chat_template`",
    "max_length": "use `data.max_length`",
    "truncation_mode": "Longline cuts the end off; see `data.too_long`",
    "padding_value": _COLLATOR,
    "padding_free": "trl does not implement it at present",
    "dataset_num_proc": "Longline prepares data in batches; nothing to set",
    "is_encoder_decoder": _NO_ENCODER,
    "generate_during_eval": "it needs another tracker; use `longline generate RUN` after the run",
    "shuffle_dataset": "use `data.shuffle`",
    "reward_weights": "give each of `rewards` its `weight`",
    "log_completions": _TABLES,
    "log_completions_hub_repo": _TABLES,
    "log_unique_prompts": _TABLES,
    "log_multimodal": _TABLES,
    "num_completions_to_print": _TABLES,
}
_OF_METHOD: dict[str, dict[str, str]] = {
    "dpo": {"pad_to_multiple_of": _COLLATOR},
    "reward": {"pad_to_multiple_of": _COLLATOR},
    "kto": {
        "pad_to_multiple_of": _COLLATOR,
        "train_sampling_strategy": "batches are fixed, because KTO pairs the rows of each; `data.shuffle` mixes them once",
        "precompute_ref_log_probs": "each batch pairs its rows anew, so nothing can be computed before",
        "precompute_ref_batch_size": "each batch pairs its rows anew, so nothing can be computed before",
    },
    "orpo": {"max_completion_length": _NO_ENCODER},
    "cpo": {"max_completion_length": _NO_ENCODER},
    "simpo": {"max_completion_length": _NO_ENCODER, "loss_type": "method simpo is this loss; use method cpo for the others"},
    "grpo": {"train_sampling_strategy": "prompts come in groups; `data.shuffle` decides about their order"},
    "rloo": {"train_sampling_strategy": "prompts come in groups; `data.shuffle` decides about their order"},
}

REFUSED_ADAPTER_FIELDS: dict[str, str] = {
    "peft_type": "use `adapter.type`",
    **dict.fromkeys(
        ("task_type", "inference_mode", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        "Longline sets it",
    ),
}

_ELSEWHERE: dict[str, str] = {
    "group_by_length": "write `train_sampling_strategy: group_by_length`",
    "warmup_ratio": "write `warmup_steps: 0.1` for a share of all steps",
    "evaluation_strategy": "did you mean `eval_strategy`?",
    "no_cuda": "did you mean `use_cpu`?",
    "max_length": "use `data.max_length`",
    "max_seq_length": "use `data.max_length`",
    "packing": "use `data.packing`",
    "dtype": "use `model.dtype`",
    "torch_dtype": "use `model.dtype`",
    "attn_implementation": "use `model.attn_implementation`",
    "early_stopping_patience": "use `early_stopping.patience`",
    "early_stopping_threshold": "use `early_stopping.threshold`",
    "dataset_num_proc": "Longline prepares data in batches; nothing to set",
    "assistant_only_loss": "use `data.train_on: assistant`",
    "completion_only_loss": "use `data.train_on: completion`",
}
"""Names of older versions and of other trainers, where the nearest name would mislead."""

_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "dataloader_num_workers": 0,
    "seed": 0,
}
_ABOVE: dict[str, float] = {"num_train_epochs": 0, "logging_steps": 0, "save_steps": 0, "eval_steps": 0, "save_total_limit": 0}
_WORDS: dict[str, tuple[str, ...]] = {
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "log_level": ("debug", "info", "warning", "error", "critical", "passive"),
    "log_level_replica": ("debug", "info", "warning", "error", "critical", "passive"),
}
"""Arguments typed as text that take only these words; transformers finds out late, or never."""


_WIDER: dict[str, str] = {"fsdp": "bool | str | None", "loss_type": "str | list[str]"}
"""Arguments that take more than their annotation says: transformers annotates `fsdp` for its own command line only, and trl's
DPOConfig makes a list of one `loss_type`."""


class Unknown:
    """A default that the source computes: `text` is the expression."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class LibraryField:
    """One field of a library's class: its name, type, default (`Unknown` when computed) and help text."""

    name: str
    annotation: Annotation
    default: Any
    help: str = ""


def trainer_fields(method: str) -> Mapping[str, LibraryField]:
    """Every argument of the method's arguments class; empty for an unknown method or when the library is not installed."""
    return _fields_of(*TRAINER_CLASSES[method]) if method in TRAINER_CLASSES else {}


def refused_fields(method: str) -> Mapping[str, str]:
    """The arguments of the method's class that are not set under `trainer`, each with what to use instead."""
    trl = _OF_TRL if TRAINER_CLASSES.get(method, ("",))[0].startswith("trl/") else {}
    return {**REFUSED_TRAINER_FIELDS, **trl, **_OF_METHOD.get(method, {})}


@cache
def loss_types(method: str) -> tuple[str, ...]:
    """The words that the method's config and trainer compare `loss_type` with; trl finds out about others in the first step."""
    config = TRAINER_CLASSES.get(method, ("", ""))[0]
    files = [_locate(config), _locate(config.replace("_config.py", "_trainer.py"))] if config.startswith("trl/") else []
    words: list[str] = []
    for node in (node for path in files if path for node in ast.walk(_module(path))):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] == "loss_type":
            words += [item.value for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return tuple(dict.fromkeys(words))


def adapter_fields() -> Mapping[str, LibraryField]:
    """Every field of peft.LoraConfig and its base classes; empty when peft is not installed."""
    return _fields_of(SOURCES["peft.LoraConfig"], "LoraConfig")


def quantization_fields() -> Mapping[str, LibraryField]:
    """Every argument of transformers.BitsAndBytesConfig; empty when transformers is not installed."""
    return _fields_of(SOURCES["transformers.BitsAndBytesConfig"], "BitsAndBytesConfig")


# --- reading the source -------------------------------------------------------------------------------------------------------


@cache
def _fields_of(file: str, name: str) -> dict[str, LibraryField]:
    path = _locate(file)
    found = _find_class(path, name) if path else None
    if found is None:
        return {}
    if any(isinstance(item, ast.AnnAssign) for item in found[0].body):
        return dict(_dataclass_fields(*found))
    return {item.name: item for item in _constructor_fields(*found)}


def _locate(file: str) -> Path | None:
    """A file inside an installed package. Only the top package is asked for, because finding a submodule imports its parent."""
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((folder / rest for folder in folders if (folder / rest).is_file()), None)


@cache
def _module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _find_class(path: Path, name: str) -> tuple[ast.ClassDef, Path] | None:
    """A class by the name that it has in a file: defined there, or imported from another file."""
    for item in _module(path).body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return item, path
        if isinstance(item, ast.ImportFrom):
            for alias in item.names:
                if name == (alias.asname or alias.name):
                    target = _imported_file(path, item, alias.name)
                    return _find_class(target, alias.name) if target else None
    return None


def _imported_file(path: Path, item: ast.ImportFrom, name: str) -> Path | None:
    if not item.level:
        module = item.module or ""
        return _locate(SOURCES.get(f"{module}.{name}", f"{module.replace('.', '/')}.py"))
    folder = path.parents[item.level - 1].joinpath(*(item.module or "").split("."))
    return next((file for file in (folder.with_suffix(".py"), folder / "__init__.py") if file.is_file()), None)


def _dataclass_fields(cls: ast.ClassDef, path: Path) -> Iterator[tuple[str, LibraryField]]:
    """Base classes first, as dataclasses have it; names that start with `_` are not arguments."""
    for base in cls.bases:
        found = _find_class(path, base.id) if isinstance(base, ast.Name) else None
        if found:
            yield from _dataclass_fields(*found)
    constants = _constants(cls)
    for item in cls.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            default, text = _default(item.value, constants)
            name = item.target.id
            written = ast.parse(_WIDER[name], mode="eval").body if name in _WIDER else item.annotation
            yield name, LibraryField(name, _annotation(written, path), default, text)


def _constants(cls: ast.ClassDef) -> dict[str, ast.expr]:
    """Names that the class body assigns exactly once: what a branch assigns again depends on the machine."""
    assigned = [
        (target.id, item.value) for item in _assignments(cls.body) for target in item.targets if isinstance(target, ast.Name)
    ]
    times = Counter(name for name, _ in assigned)
    return {name: value for name, value in assigned if times[name] == 1}


def _assignments(body: Iterable[ast.stmt]) -> Iterator[ast.Assign]:
    """Those of a body and of its branches; what methods assign is their own."""
    for item in body:
        if isinstance(item, ast.Assign):
            yield item
        elif not isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _assignments(getattr(item, part, ()))


def _default(value: ast.expr | None, constants: Mapping[str, ast.expr]) -> tuple[Any, str]:
    """Default and help text of `field(default=..., metadata={"help": ...})` or of a plain default."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field"):
        return _literal(value, constants), ""
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    text = _help(given.get("metadata"))
    factory = given.get("default_factory")
    if isinstance(factory, ast.Name) and factory.id in {"dict", "list"}:
        return ({} if factory.id == "dict" else []), text
    return _literal(given.get("default", factory), constants), text


def _help(metadata: ast.expr | None) -> str:
    """The help text; what stands beside it may not be a literal."""
    if isinstance(metadata, ast.Dict):
        for key, value in zip(metadata.keys, metadata.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "help":
                text = _literal(value, {})
                return text if isinstance(text, str) else ""
    return ""


def _literal(value: ast.expr | None, constants: Mapping[str, ast.expr]) -> Any:
    if isinstance(value, ast.Name) and value.id in constants:
        value = constants[value.id]
    if value is None:
        return Unknown("required")
    try:
        return ast.literal_eval(value)
    except ValueError:
        return Unknown(ast.unparse(value))


def _constructor_fields(cls: ast.ClassDef, path: Path) -> Iterator[LibraryField]:
    """The named arguments of `__init__`; one without annotation has the type of its default."""
    init = next((item for item in cls.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    arguments = init.args.args[1:] if init else []
    defaults = [None] * (len(arguments) - len(init.args.defaults)) + list(init.args.defaults) if init else []
    for argument, value in zip(arguments, defaults, strict=True):
        default = _literal(value, {})
        written = argument.annotation or ast.Name("Any" if default is None else type(default).__name__)
        yield LibraryField(argument.arg, _annotation(written, path), default)


def _annotation(expression: ast.expr, path: Path) -> Annotation:
    return read_annotation(expression, lambda name: _enum_values(path, name))


@cache
def _enum_values(path: Path, name: str) -> tuple[str, ...] | None:
    """The words of an enumeration of text, or None when `name` is some other class."""
    found = _find_class(path, name)
    if found is None or not any("Enum" in ast.unparse(base) for base in found[0].bases):
        return None
    values = [item.value for item in found[0].body if isinstance(item, ast.Assign)]
    return tuple(item.value for item in values if isinstance(item, ast.Constant) and isinstance(item.value, str))


# --- checking what a config says ----------------------------------------------------------------------------------------------


def check_fields(root: Node, skip: Iterable[str] = ()) -> list[Problem]:
    """Names and types under `trainer`, `adapter` and `model.quantization`; paths in `skip` are known to be wrong already.

    Text that stands for a number (`${EPOCHS}`, or quoted) becomes one in the tree, so that the library is handed its own type.
    """
    node = root.child("method")
    method = str(node.value) if node else "sft"
    # A class is read only when the config has its section: parsing the source is most of what a check costs.
    sections: list[tuple[Keys, Callable[[], Mapping[str, LibraryField]], Mapping[str, str], Iterable[str]]] = [
        (("trainer",), partial(trainer_fields, method), refused_fields(method), ()),
        (("adapter",), adapter_fields, REFUSED_ADAPTER_FIELDS, AdapterSection.model_fields),
        (("model", "quantization"), quantization_fields, {}, ()),
    ]
    problems = []
    skipped = set(skip)
    for keys, fields, refused, own in sections:
        section = root.find(keys)
        if section is None or not isinstance(section.value, dict) or not (known := fields()):
            continue
        for name, node in section.value.items():
            place = dotted((*keys, name))
            if name not in own and place not in skipped:
                problems += _check(name, node, place, known, refused, own)
    return problems


def _check(
    name: str, node: Node, path: str, known: Mapping[str, LibraryField], refused: Mapping[str, str], own: Iterable[str]
) -> list[Problem]:
    if name in refused:
        return [Problem("is not set here", path, str(node.key), refused[name])]
    if name not in known:
        valid = [field for field in {**known, **dict.fromkeys(own)} if field not in refused]
        hint = _ELSEWHERE.get(name) if path.startswith("trainer.") else None
        return [Problem("unknown field", path, str(node.key), hint or nearest(name, valid))]
    field = known[name]
    if name in _WORDS:
        return [] if node.value in _WORDS[name] else [_not_one_of(node, path, _WORDS[name])]
    fits, value = field.annotation.fit(node.plain())
    if not fits:
        words = field.annotation.words()
        if words and isinstance(node.value, str):
            return [_not_one_of(node, path, words)]
        text = f"expected {field.annotation.plain()}, got {shown(node, secret=looks_secret(name))}"
        return [Problem(text, path, str(node.focus))]
    if not isinstance(node.value, (dict, list)):
        node.value = value
    return _in_range(name, value, node, path)


def _not_one_of(node: Node, path: str, words: tuple[str, ...]) -> Problem:
    few = f" one of {', '.join(words)}" if len(words) <= 16 else f" among its {len(words)} values"
    return Problem(f"{shown(node)} is not{few}", path, str(node.focus), nearest(str(node.value), words))


def _in_range(name: str, value: Any, node: Node, path: str) -> list[Problem]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return []
    if not math.isfinite(value):
        return [Problem(f"must be a finite number, got {shown(node)}", path, str(node.focus))]
    if name in _AT_LEAST and value < _AT_LEAST[name]:
        return [Problem(f"must be at least {_AT_LEAST[name]:g}, got {shown(node)}", path, str(node.focus))]
    if name in _ABOVE and value <= _ABOVE[name]:
        return [Problem(f"must be greater than {_ABOVE[name]:g}, got {shown(node)}", path, str(node.focus))]
    return []
