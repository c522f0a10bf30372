"""What must fit together across the sections of a config; torch-free, and no further than this machine's file names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from longline.config import doors, trainer_checks
from longline.config.attention import ATTENTION, lookup
from longline.config.check import Check, adder, touched
from longline.config.explain import nearest
from longline.config.method import find
from longline.config.paths import holds_module, is_template, is_unicode, looks_local
from longline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longline.config.loader import LoadedConfig
    from longline.config.sections import RewardSection
    from longline.errors import Problem


CHECKS: list[Check] = []
"""Every check that holds for all methods, in the order of the config's sections; a method has its own beside them."""
_check = adder(CHECKS)


def check_config(loaded: LoadedConfig, skip: frozenset[str] = frozenset()) -> list[Problem]:
    """Every contradiction in a config; `skip` are dotted paths with problems of their own."""
    # Where the name itself is wrong, nobody knows which method is meant.
    own = () if touched(("method",), skip) else find(loaded.config.method).checks()
    checks = [check for check in (*own, *CHECKS, *trainer_checks.CHECKS) if not touched(check.reads, skip)]
    return [problem for check in checks for problem in check.function(loaded)]


# --- model --------------------------------------------------------------------------------------------------------------------


@_check("model.path")
def model_path(loaded: LoadedConfig) -> Iterator[Problem]:
    """A path that can only be local must exist."""
    text = loaded.config.model.path
    path = Path(text).expanduser()
    if "://" in text:
        yield loaded.problem(
            "a url is no model path", "model", "path", hint="a folder, a .gguf file, or a hub id such as owner/name"
        )
    elif looks_local(text) and not path.exists():
        yield loaded.problem(
            f"no such {'file' if path.suffix == '.gguf' else 'folder'}: {text}", "model", "path", hint=_similar(path)
        )
    elif path.is_file() and path.suffix != ".gguf":
        yield loaded.problem(f"{text} is a file", "model", "path", hint="give its folder, or a file that ends with .gguf")


@_check("model.tokenizer.chat_template")
def chat_template(loaded: LoadedConfig) -> Iterator[Problem]:
    """A template that holds no Jinja is the path of a file."""
    text = loaded.config.model.tokenizer.chat_template
    if text is not None and not is_template(text) and not Path(text).expanduser().is_file():
        hint = _similar(Path(text).expanduser()) or "give a Jinja template or the path of one"
        yield loaded.problem(f"no such file: {text[:80]}", "model", "tokenizer", "chat_template", hint=hint)


@_check("model.attn_implementation")
def attention_is_known(loaded: LoadedConfig) -> Iterator[Problem]:
    """The name must be in the table, or be a hub kernel's."""
    name = loaded.config.model.attn_implementation
    if name is not None and lookup(name) is None:
        hint = nearest(name, ATTENTION) or f"known: {', '.join(ATTENTION)}, or a kernel's hub id"
        yield loaded.problem(f"unknown attention implementation {name!r}", "model", "attn_implementation", hint=hint)


@_check("model.attn_implementation", "data.packing")
def packing_is_isolated(loaded: LoadedConfig) -> Iterator[Problem]:
    """Packed samples must not see each other."""
    attention = lookup(loaded.config.model.attn_implementation)
    if loaded.config.data.packing and attention is not None and attention.packing is None:
        able = ", ".join(name for name, row in ATTENTION.items() if row.packing)
        text = f"{loaded.config.model.attn_implementation} is not known to keep packed samples apart"
        yield loaded.problem(text, "data", "packing", hint=f"turn packing off, or use one of {able}")


# transformers tells packed samples apart by position ids that start again, which it looks for only without a cache.
@_check("trainer.use_cache", "data.packing")
def packing_has_no_cache(loaded: LoadedConfig) -> Iterator[Problem]:
    """With a key-value cache transformers no longer tells packed samples apart."""
    if loaded.config.data.packing and loaded.config.trainer.get("use_cache"):
        yield loaded.problem("packed samples are kept apart only without a cache", "trainer", "use_cache", hint="leave it out")


@_check("model.attn_implementation", "trainer.use_cpu")
def attention_runs_on_cpu(loaded: LoadedConfig) -> Iterator[Problem]:
    """`use_cpu` rules out kernels for GPUs."""
    name = loaded.config.model.attn_implementation
    attention = lookup(name)
    if loaded.config.trainer.get("use_cpu") is True and attention is not None and "cpu" not in attention.devices:
        text = f"{name} does not run on the CPU that trainer.use_cpu asks for"
        yield loaded.problem(text, "model", "attn_implementation", hint="leave it out")


_QUANTIZED = (
    ("bnb_4bit_", "load_in_4bit"),
    *((f"llm_int8_{name}", "load_in_8bit") for name in ("threshold", "has_fp16_weight")),
)
"""How names of options begin that only 4 or only 8 bits have."""


@_check("model.quantization", "adapter")
def quantization_has_adapter(loaded: LoadedConfig) -> Iterator[Problem]:
    """Quantised weights cannot be trained themselves."""
    quantization = loaded.config.model.quantization
    if not quantization:
        return
    bits = [name for name in ("load_in_4bit", "load_in_8bit") if quantization.get(name) is True]
    if len(bits) != 1:
        text = (
            "both 4 and 8 bits are asked for"
            if bits
            else "neither load_in_4bit nor load_in_8bit is true, so nothing is quantised"
        )
        yield loaded.problem(text, "model", "quantization", hint="set exactly one of them to true")
    for name in quantization:
        for start, needed in _QUANTIZED:
            if len(bits) == 1 and name.startswith(start) and needed not in bits:
                yield loaded.problem(f"only {needed} reads it", "model", "quantization", name, hint="remove it")
    if loaded.config.adapter is None:
        hint = "add `adapter: {type: lora}`, or remove model.quantization"
        yield loaded.problem("quantised weights cannot be trained without an adapter", "model", "quantization", hint=hint)


@_check("model.dtype", "trainer.bf16", "trainer.fp16")
def precision(loaded: LoadedConfig) -> Iterator[Problem]:
    """`model.dtype` and mixed precision must not contradict each other."""
    trainer, dtype = loaded.config.trainer, loaded.config.model.dtype
    if trainer.get("bf16") is True and trainer.get("fp16") is True:
        yield loaded.problem("bf16 and fp16 exclude each other", "trainer", "fp16", hint="keep one of them")
    if trainer.get("bf16_full_eval") is True and trainer.get("fp16_full_eval") is True:
        yield loaded.problem(
            "bf16_full_eval and fp16_full_eval exclude each other", "trainer", "fp16_full_eval", hint="keep one of them"
        )
    for field, same, other in (("bf16", "bfloat16", "float16"), ("fp16", "float16", "bfloat16")):
        if trainer.get(field) is True and dtype == other:
            hint = f"leave one out, or set model.dtype: {'float32' if loaded.config.adapter is None else same}"
            yield loaded.problem(f"mixed precision in {same} contradicts model.dtype: {other}", "trainer", field, hint=hint)
    if dtype == "float16" and loaded.config.adapter is None:
        hint = "use dtype: float32 with trainer.fp16: true, or an adapter"
        yield loaded.problem(
            "training all weights in float16 overflows: its gradients cannot be scaled", "model", "dtype", hint=hint
        )


# --- adapter ------------------------------------------------------------------------------------------------------------------


@_check("adapter")
def adapter_type(loaded: LoadedConfig) -> Iterator[Problem]:
    """`type: dora` with `use_dora: false` says two things."""
    adapter = loaded.config.adapter
    for kind, field in (("dora", "use_dora"), ("rslora", "use_rslora")):
        if adapter is not None and adapter.type == kind and (adapter.model_extra or {}).get(field) is False:
            yield loaded.problem(f"contradicts adapter.type: {kind}", "adapter", field, hint="remove it, or use type: lora")
    given = (adapter.model_extra or {}) if adapter else {}
    if given.get("qalora_group_size") and not given.get("use_qalora"):
        yield loaded.problem("only use_qalora: true reads it", "adapter", "qalora_group_size", hint="remove it")


MADE_ELSEWHERE = {
    **dict.fromkeys(("eva", "corda"), "is computed from data, which Longline does not do"),
    "loftq": "trains on a base that is quantised at the start, which the saved adapter does not hold",
}


@_check("adapter.init_lora_weights")
def adapter_start(loaded: LoadedConfig) -> Iterator[Problem]:
    """Some starts need more than the model: without it peft starts as usual, or fails, or makes a base that nobody saves."""
    adapter = loaded.config.adapter
    start = (adapter.model_extra or {}).get("init_lora_weights") if adapter is not None else None
    if start in MADE_ELSEWHERE:
        hint = "use pissa, pissa_niter_16 or olora, or leave it out"
        yield loaded.problem(f"{start} {MADE_ELSEWHERE[start]}", "adapter", "init_lora_weights", hint=hint)


# --- data ---------------------------------------------------------------------------------------------------------------------


def missing_files(loaded: LoadedConfig, skip: frozenset[str] = frozenset()) -> list[Problem]:
    """The data files that the config names and that are not there, or are empty; `skip` are dotted paths with other problems.

    Apart from `check_config`, since a plugin may make them in `pre_data_load`: then they are looked for after that hook.
    """
    return [
        loaded.problem(fault[0], "data", part, index, "path", hint=fault[1])
        for part in ("train", "eval")
        if not touched((f"data.{part}",), skip)
        for index, source in enumerate(getattr(loaded.config.data, part))
        if (fault := missing_data(source.path))
    ]


def missing_rewards(loaded: LoadedConfig, skip: frozenset[str] = frozenset()) -> list[Problem]:
    """The reward functions that are not there, as far as that can be told without importing them.

    Apart from `check_config` too: a plugin may answer with others, and a tuned model is used without any.
    """
    faults = [] if touched(("rewards",), skip) else [_missing_reward(one, loaded.path.parent) for one in loaded.config.rewards]
    return [
        loaded.problem(fault.message, "rewards", index, "function", hint=fault.hint)
        for index, fault in enumerate(faults)
        if fault is not None
    ]


def _missing_reward(section: RewardSection, folder: Path) -> ConfigError | None:
    module, colon, _ = section.function.partition(":")
    if not colon:
        try:
            doors.find(doors.REWARDS, section.function, "reward function")
        except ConfigError as error:
            return error
        return None
    folder = (section.folder or folder).expanduser()
    if holds_module(folder, module) or find_spec(module.partition(".")[0]):
        return None
    return ConfigError(
        f"there is no module {module}", hint=f"it is looked for in {folder.absolute()} and among what is installed"
    )


def missing_data(text: str) -> tuple[str, str | None] | None:
    """What is wrong with a data path that looks local, with a hint; None when it leads to something or is not local."""
    if not looks_local(text):
        return None
    path = Path(text).expanduser()
    if any(mark in text for mark in "*?[") and not path.exists():
        root = Path(path.anchor) if path.is_absolute() else Path()
        found = next(root.glob(str(path.relative_to(path.anchor) if path.is_absolute() else path)), None)
        return None if found else (f"no file matches {text}", _similar(path))
    if not path.exists():
        return f"no such file: {text}", _similar(path)
    if path.is_dir() and not any(path.iterdir()):
        return f"the folder {text} is empty", None
    if path.is_file() and path.stat().st_size == 0:
        return f"the file {text} is empty", None
    return None


@_check("data.train", "data.eval")
def formats_are_installed(loaded: LoadedConfig) -> Iterator[Problem]:
    """A format comes with the core or with another distribution."""
    for part in ("train", "eval"):
        for index, source in enumerate(getattr(loaded.config.data, part)):
            if source.format == "auto":
                continue
            try:
                doors.find("longline.formats", source.format, "format")
            except ConfigError as error:
                yield loaded.problem(error.problems[0].message, "data", part, index, "format", hint=error.hint)


@_check("data.too_long", "data.overlap", "data.join", "data.max_length", "data.packing", "data.train", "data.eval")
def splitting_fits(loaded: LoadedConfig) -> Iterator[Problem]:
    """An overlap leaves room for what is new; joined documents are neither isolated from each other nor cut otherwise."""
    data = loaded.config.data
    rules = {source.too_long or data.too_long for source in (*data.train, *data.eval)}
    others = sorted(rule for rule in rules if rule not in (None, "split"))
    if data.overlap >= data.max_length:
        text = f"a piece of {data.max_length} tokens (data.max_length) would hold nothing new"
        yield loaded.problem(text, "data", "overlap", hint="set less than data.max_length")
    elif data.overlap and len(others) == len(rules):
        yield loaded.problem("nothing is split", "data", "overlap", hint="remove it, or set data.too_long: split")
    if not data.join:
        return
    if data.packing:
        text = "joined documents fill their rows, and are not isolated as packed ones are"
        yield loaded.problem(text, "data", "join", hint="keep one of data.join and data.packing")
    if data.overlap:
        yield loaded.problem("joined documents are cut without an overlap", "data", "overlap", hint="remove it, or data.join")
    if others:
        text = f"too_long: {others[0]} contradicts it: a joined document goes on in the next row"
        yield loaded.problem(text, "data", "join", hint="remove `too_long`, or data.join")


@_check("data.train", "data.eval")
def encodings_are_known(loaded: LoadedConfig) -> Iterator[Problem]:
    """An encoding is one that Python knows, of text."""
    for part in ("train", "eval"):
        for index, source in enumerate(getattr(loaded.config.data, part)):
            try:
                known = source.encoding is None or isinstance("".encode(source.encoding), bytes)
            except (LookupError, ValueError):
                known = False
            if not known:
                text = f"unknown encoding {source.encoding!r}"
                yield loaded.problem(
                    text, "data", part, index, "encoding", hint="such as utf-8, utf-16, cp1252, latin-1, gb18030"
                )


@_check("data.keep")
def kept_columns_fit(loaded: LoadedConfig) -> Iterator[Problem]:
    """A further column has one name, and what it holds fits together."""
    keep = loaded.config.data.keep
    for index, column in enumerate(keep):
        place = ("data", "keep", index)
        if column.name in [other.name for other in keep[:index]]:
            yield loaded.problem(f"{column.name!r} is kept twice", *place, hint="remove one of them")
        if column.dtype in ("text", "json") and (column.align == "token" or column.width is not None):
            yield loaded.problem(
                f"{column.dtype} is one value for each row", *place, hint="remove its width and `align: token`"
            )
        if column.dtype is None and column.width is not None:
            yield loaded.problem("a width needs a dtype", *place, "width", hint="give both, or let the data say both")


@_check("data.eval", "data.eval_fraction")
def one_kind_of_eval(loaded: LoadedConfig) -> Iterator[Problem]:
    """Evaluation rows are given, or set aside, not both."""
    data = loaded.config.data
    if data.eval and data.eval_fraction is not None:
        yield loaded.problem(
            "data.eval is given too; rows would be set aside for nothing", "data", "eval_fraction", hint="keep one of them"
        )


# --- the run folder -----------------------------------------------------------------------------------------------------------


@_check("output_dir")
def output_dir(loaded: LoadedConfig) -> Iterator[Problem]:
    """The run folder, or the nearest parent that exists, must be a folder."""
    path = loaded.config.output_dir.expanduser()
    if not is_unicode(path.absolute()):
        shown = str(path.absolute()).encode("utf-8", "backslashreplace").decode()
        hint = "name a folder whose whole path is UTF-8"
        yield loaded.problem(f"{shown} is not UTF-8, and a model can be saved under no such path", "output_dir", hint=hint)
        return
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            kind = "a file" if place.is_file() else "not a folder"
            yield loaded.problem(f"{place} is {kind}", "output_dir", hint="name a folder that exists or can be made")
            return


def _similar(path: Path) -> str | None:
    """The nearest name in the nearest folder that exists."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    if not missing.parent.is_dir():
        return None
    close = nearest(missing.name, [item.name for item in missing.parent.iterdir()])
    if close:
        return close
    return None if missing == path else f"there is no folder {missing}"
