"""The fields of other libraries' classes, read from their source: `trainer:`, `adapter:` and `model.quantization`.

A config may name any of some 120 trainer arguments. They are not declared again here: the installed class is parsed with `ast`,
which takes milliseconds where importing transformers takes seconds, and is right for every version.
"""

from __future__ import annotations

import ast
import math
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longline.config.annotations import Annotation, read_annotation
from longline.config.document import Keys, Node, dotted
from longline.config.explain import nearest, shown
from longline.config.method import written
from longline.config.secrets import looks_secret
from longline.config.sections import AdapterSection
from longline.errors import Problem
from longline.upstream import SOURCES
from longline.upstream.trl import NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


REFUSED_ADAPTER_FIELDS: dict[str, str] = {
    "peft_type": "use `adapter.type`",
    "loftq_config": "only init_lora_weights: loftq reads it, which changes the base",
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
    "data_seed": 0,
    "eval_accumulation_steps": 1,
    "lora_dropout": 0,
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor"), 0),
}
_ABOVE: dict[str, float] = {
    **dict.fromkeys(("num_train_epochs", "logging_steps", "save_steps", "eval_steps", "save_total_limit"), 0),
    "lora_alpha": 0,  # which the adapter is multiplied by
}
_AT_MOST: dict[str, int] = {"seed": 2**32 - 1, "data_seed": 2**63 - 1, "lora_dropout": 1, "label_smoothing_factor": 1}
_BELOW: dict[str, float] = {"adam_beta1": 1, "adam_beta2": 1}
_WORDS: dict[str, tuple[str, ...]] = {
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "log_level": ("debug", "info", "warning", "error", "critical", "passive"),
    "log_level_replica": ("debug", "info", "warning", "error", "critical", "passive"),
}
"""Arguments typed as text that take only these words; transformers finds out late, or never."""


_WIDER: dict[str, str] = {"fsdp": "bool | str | None", "loss_type": "str | list[str]", "scale_rewards": "bool | str"}
"""Arguments that take more than their annotation says: transformers annotates `fsdp` for its own command line only, trl's
DPOConfig makes a list of one `loss_type`, and its GRPOConfig documents `scale_rewards` as true or a word."""


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


def adapter_fields() -> Mapping[str, LibraryField]:
    """Every field of peft.LoraConfig and its base classes; empty when peft is not installed."""
    return fields_of(_place("peft.LoraConfig"))


def quantization_fields() -> Mapping[str, LibraryField]:
    """Every argument of transformers.BitsAndBytesConfig; empty when transformers is not installed."""
    return fields_of(_place("transformers.BitsAndBytesConfig"))


def known_defaults(known: Mapping[str, LibraryField]) -> dict[str, Any]:
    """The defaults of fields, as far as the source tells them."""
    return {name: field.default for name, field in known.items() if not isinstance(field.default, Unknown)}


def _place(name: str) -> str:
    """Where the class is of which upstream.py says the file."""
    return f"{SOURCES[name].removesuffix('.py').replace('/', '.')}:{name.rpartition('.')[2]}"


# --- reading the source -------------------------------------------------------------------------------------------------------


@cache
def fields_of(place: str) -> Mapping[str, LibraryField]:
    """Every field of the class at `package.module:Class`, its base classes' included; empty when it is not installed."""
    module, _, name = place.partition(":")
    path = _module_file(module)
    found = find_class(path, name) if path else None
    if found is None:
        return {}
    if any(isinstance(item, ast.FunctionDef) and item.name == "__init__" for item in found[0].body):
        return {item.name: item for item in _constructor_fields(*found)}
    return dict(_dataclass_fields(*found))


@cache
def compared(modules: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The words that the source of `modules` compares a variable or attribute `name` with, in their order."""
    words: list[str] = []
    for node in (node for path in map(_module_file, modules) if path for node in ast.walk(_module(path))):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] == name:
            words += [item.value for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return tuple(dict.fromkeys(words))


@cache
def noted(modules: tuple[str, ...]) -> frozenset[str]:
    """The names under which the source of `modules` notes numbers of an evaluation; `*` stands for what is filled in."""
    names = set()
    for node in (node for path in map(_module_file, modules) if path for node in ast.walk(_module(path))):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in (NOTES if _says(node.slice) else NOTES[:1]):
            names.add(_filled(node.slice).removeprefix("eval_"))
    return frozenset(names)


def _says(name: ast.expr) -> bool:
    return isinstance(name, (ast.Constant, ast.JoinedStr))


def _filled(name: ast.expr) -> str:
    if isinstance(name, ast.Constant):
        return str(name.value)
    if not isinstance(name, ast.JoinedStr):
        return "*"
    parts = [part.value if isinstance(part, ast.Constant) else "*" for part in name.values]
    prefixed = isinstance(name.values[0], ast.FormattedValue) and ast.unparse(name.values[0].value) == "prefix"
    return "".join(map(str, parts[1:] if prefixed else parts))


def module_of(module: str) -> tuple[ast.Module, Path] | tuple[None, None]:
    """The source of a module, parsed, and its file; twice None when it is not installed."""
    path = _module_file(module)
    return (_module(path), path) if path else (None, None)


def _module_file(module: str) -> Path | None:
    file = module.replace(".", "/")
    return _locate(f"{file}.py") or _locate(f"{file}/__init__.py")


def _locate(file: str) -> Path | None:
    """A file inside an installed package. Only the top package is asked for, because finding a submodule imports its parent."""
    package, _, rest = file.partition("/")
    spec = find_spec(package.removesuffix(".py"))
    if spec and not rest:
        return Path(spec.origin) if spec.origin and not spec.submodule_search_locations else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((folder / rest for folder in folders if (folder / rest).is_file()), None)


@cache
def _module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_class(path: Path, name: str) -> tuple[ast.ClassDef, Path] | None:
    """A class by the name that it has in a file: defined there, or imported from another file."""
    for item in _statements(_module(path).body):  # a package that imports late names its parts under TYPE_CHECKING alone
        if isinstance(item, ast.ClassDef) and item.name == name:
            return item, path
        if isinstance(item, ast.ImportFrom):
            for alias in item.names:
                if name == (alias.asname or alias.name):
                    target = _imported_file(path, item, alias.name)
                    return find_class(target, alias.name) if target else None
    return None


def _imported_file(path: Path, item: ast.ImportFrom, name: str) -> Path | None:
    if not item.level:
        home = SOURCES.get(f"{item.module}.{name}")
        return _locate(home) if home else _module_file(item.module or "")
    folder = path.parents[item.level - 1].joinpath(*(item.module or "").split("."))
    return next((file for file in (folder.with_suffix(".py"), folder / "__init__.py") if file.is_file()), None)


def _base(path: Path, written: ast.expr) -> tuple[ast.ClassDef, Path] | None:
    """A base class as the file writes it: `TrainingArguments`, or `transformers.TrainingArguments`."""
    if isinstance(written, ast.Name):
        return find_class(path, written.id)
    if not isinstance(written, ast.Attribute):
        return None
    module = ast.unparse(written.value)
    aliases = (alias for item in _module(path).body if isinstance(item, ast.Import) for alias in item.names)
    real = next((alias.name for alias in aliases if alias.asname == module), module)
    home = SOURCES.get(f"{real}.{written.attr}")
    target = _locate(home) if home else _module_file(real)
    return find_class(target, written.attr) if target else None


def _dataclass_fields(cls: ast.ClassDef, path: Path) -> Iterator[tuple[str, LibraryField]]:
    """Base classes first, as dataclasses have it; names that start with `_` are not arguments."""
    for base in cls.bases:
        if found := _base(path, base):
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
    assignments = [item for item in _statements(cls.body) if isinstance(item, ast.Assign)]
    assigned = [(target.id, item.value) for item in assignments for target in item.targets if isinstance(target, ast.Name)]
    times = Counter(name for name, _ in assigned)
    return {name: value for name, value in assigned if times[name] == 1}


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a body and of its branches; what functions and classes hold is their own."""
    for item in body:
        yield item
        if not isinstance(item, (ast.FunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(item, part, ()))


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
    found = find_class(path, name)
    if found is None or not any("Enum" in ast.unparse(base) for base in found[0].bases):
        return None
    values = [item.value for item in found[0].body if isinstance(item, ast.Assign)]
    return tuple(item.value for item in values if isinstance(item, ast.Constant) and isinstance(item.value, str))


# --- checking what a config says ----------------------------------------------------------------------------------------------


def check_fields(root: Node, skip: Iterable[str] = ()) -> list[Problem]:
    """Names and types under `trainer`, `adapter` and `model.quantization`; paths in `skip` are known to be wrong already.

    Text that stands for a number (`${EPOCHS}`, or quoted) becomes one in the tree, so that the library is handed its own type.
    """
    method = written(root)
    # A class is read only when the config has its section: parsing the source is most of what a check costs.
    sections: list[tuple[Keys, Callable[[], Mapping[str, LibraryField]], Mapping[str, str], Iterable[str]]] = [
        *([(("trainer",), method.fields, method.refused, ())] if method else []),
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
    most = _AT_MOST.get(name, sys.maxsize if isinstance(value, int) else math.inf)
    if value > most:
        return [Problem(f"must be at most {most}, got {shown(node)}", path, str(node.focus))]
    if name in _BELOW and value >= _BELOW[name]:
        return [Problem(f"must be less than {_BELOW[name]:g}, got {shown(node)}", path, str(node.focus))]
    if name == "max_steps" and value < 1 and value != -1:
        return [Problem(f"must be at least 1, or -1 for whole epochs, got {shown(node)}", path, str(node.focus))]
    return []
