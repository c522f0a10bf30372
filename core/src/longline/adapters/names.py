"""Names in `adapter:` that match nothing in the model: each is refused, with the nearest that does. peft ignores most of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longline.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from peft import PeftConfig
    from transformers import PreTrainedModel

    from longline.config.loader import LoadedConfig

Miss = tuple[tuple[str | int, ...], str, str | None]
"""The key below `adapter`, and the item in it that is wrong; what is wrong; what to do."""


@dataclass(frozen=True, slots=True)
class Names:
    """What there is to name in a model before an adapter is on: modules, those that adapters are made for, parameters with their
    number of dimensions, and how many rows each embedding has.
    """

    modules: tuple[str, ...]
    linear: tuple[str, ...]
    parameters: dict[str, int]
    rows: dict[str, int]
    embedding: str

    @classmethod
    def of(cls, model: PreTrainedModel) -> Names:
        """Those of a bare model."""
        from torch import nn

        modules: dict[str, Any] = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
        embeddings = {name: module for name, module in modules.items() if hasattr(module, "num_embeddings")}
        own: Any = model.get_input_embeddings()
        return cls(
            tuple(modules),
            tuple(name for name, module in modules.items() if isinstance(module, nn.Linear)),
            {
                f"{name}.{key}": 0 if "Conv" in type(module).__name__ else parameter.ndim
                for name, module in modules.items()
                for key, parameter in module.named_parameters(recurse=False)
            },
            {name: module.num_embeddings for name, module in embeddings.items()},
            next((name for name, module in embeddings.items() if module is own), ""),
        )

    @property
    def experts(self) -> list[str]:
        """Parameters that are stacks of matrices, as the experts of most models are, without the numbers of their layers."""
        return list(dict.fromkeys(re.sub(r".*\.\d+\.", "", name) for name, dims in self.parameters.items() if dims == 3))


def refuse_unmatched(loaded: LoadedConfig, asked: PeftConfig, made: PeftConfig, names: Names) -> None:
    """Hold what was `asked` for against a model's names; `made` is what peft turned it into, which renames some experts.

    Raises:
        ConfigError: some names match nothing; it lists all.
    """
    problems = []
    for (key, *item), text, hint in misses(asked, made, names):
        written: Any = getattr(loaded.config.adapter, str(key), None)
        if isinstance(written, (list, tuple)) and item and item[0] in written:
            item = [written.index(item[0])]
        elif not isinstance(written, Mapping):
            item = []
        problems.append(loaded.problem(text, "adapter", key, *item, hint=hint))
    if problems:
        raise ConfigError(problems)


def forgotten_experts(asked: PeftConfig, made: PeftConfig, names: Names) -> list[str]:
    """Experts that got no adapter though the layers of a network were asked for: all of them, or by the names that those have."""
    wanted: Any = asked
    targets = wanted.target_modules or ()
    meant = targets == "all-linear" or (not isinstance(targets, str) and any(means_experts(name, names) for name in targets))
    return names.experts if meant and not getattr(made, "target_parameters", None) else []


def misses(asked: PeftConfig, made: PeftConfig, names: Names) -> Iterator[Miss]:
    """Every name that matches nothing."""
    config: Any = asked
    targets = config.target_modules
    renamed = isinstance(targets, set) and targets - set(getattr(made, "target_modules", None) or ())
    yield from _modules("target_modules", {*targets} - {*renamed} if renamed else targets, names, names.linear)
    yield from _modules("exclude_modules", config.exclude_modules, names, names.modules)
    for name in config.modules_to_save or ():
        if not any(module.endswith(name) for module in names.modules):
            yield ("modules_to_save", name), f"no module is called {name!r}", hint(name, names.modules, names)
    for name in sorted(config.target_parameters or ()):
        if not _any_ends(names.parameters, name):
            known = [re.sub(r".*\.\d+\.", "", parameter) for parameter in names.parameters]
            yield ("target_parameters", name), f"no parameter is called {name!r}", hint(name, known, None)
    targeted = _targeted(config, made, names)
    yield from _layers(config, targeted, names)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field) or {}:
            text = f"{pattern!r} matches nothing that gets an adapter"
            yield from _fits((field, pattern), text, pattern, lambda part: rf"(.*\.)?({part})", targeted, names)
    yield from _tokens(config.trainable_token_indices, names)


def _modules(field: str, wanted: Any, names: Names, likely: Sequence[str]) -> Iterator[Miss]:
    """A list of ends of names, or a regular expression of whole names."""
    if isinstance(wanted, str):
        text = f"the regular expression {wanted!r} matches the whole name of no module"
        if wanted not in names.modules and _any_ends(names.modules, wanted):
            yield (field, wanted), text, f"write [{wanted}]: in a list the end of a name is enough"
        elif wanted != "all-linear":
            yield from _fits((field, wanted), text, wanted, str, names.modules, names)
        return
    for name in sorted(wanted or ()):
        if not _any_ends(names.modules, name):
            yield (field, name), f"no module is called {name!r}", hint(name, likely, names)


def _fits(
    place: tuple[str | int, ...], text: str, pattern: str, whole: Callable[[str], str], among: Iterable[str], names: Names
) -> Iterator[Miss]:
    """Whether a regular expression matches one of some names."""
    try:
        known = re.compile(whole(pattern))
    except re.error as error:
        yield place, f"{pattern!r} is no regular expression: {error}", None
        return
    if any(known.fullmatch(name) for name in among):
        return
    there = among is not names.modules and any(known.fullmatch(name) for name in names.modules)
    likely = names.linear if among is names.modules else among
    yield place, text, "it is there, and no target" if there else hint(pattern, likely, names)


def _targeted(config: Any, made: Any, names: Names) -> list[str]:
    """The modules and parameters that get an adapter, in any layer."""
    wanted, without = config.target_modules, config.exclude_modules or ()
    if wanted == "all-linear":
        found = list(names.linear)
    elif isinstance(wanted, str):
        found = [name for name in names.modules if re.fullmatch(wanted, name)] if _compiles(wanted) else list(names.modules)
    else:
        found = [
            name for name in names.modules if any(_ends(name, end) for end in wanted or getattr(made, "target_modules", ()))
        ]
    if not isinstance(without, str):
        found = [name for name in found if not any(_ends(name, end) for end in without)]
    ends = {*(config.target_parameters or ()), *(getattr(made, "target_parameters", None) or ())}
    return found + [name for name in names.parameters if any(_ends(name, end) for end in ends)]


def _layers(config: Any, targeted: Sequence[str], names: Names) -> Iterator[Miss]:
    """Numbers of layers, and what the list of layers is called."""
    wanted, patterns = config.layers_to_transform, config.layers_pattern or ()
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        lists = {match[1] for name in names.modules if (match := re.search(r"([^.]+)\.\d+(\.|$)", name))}
        yield from _fits(("layers_pattern", pattern), f"no list of layers is called {pattern!r}", pattern, str, lists, names)
    if wanted is None:
        return
    kinds = "|".join(patterns) or "[^.]*"
    found = {int(match["n"]) for name in targeted if (match := re.match(rf"(?:^|.*?\.)(?:{kinds})\.(?P<n>\d+)\.", name))}
    for layer in [wanted] if isinstance(wanted, int) else wanted:
        if found and layer not in found:
            yield ("layers_to_transform", layer), f"there is no layer {layer}", f"there are {min(found)} to {max(found)}"


def _tokens(wanted: Any, names: Names) -> Iterator[Miss]:
    """Numbers of tokens, of the embedding or of modules by name."""
    for module, tokens in wanted.items() if isinstance(wanted, dict) else [(names.embedding, wanted or [])]:
        place: tuple[str | int, ...] = ("trainable_token_indices", *([module] if isinstance(wanted, dict) else []))
        rows = [count for name, count in names.rows.items() if name.endswith(module)]
        if not any(name.endswith(module) for name in names.modules):
            yield place, f"no module is called {module!r}", hint(module, names.rows, names)
        for token in tokens if rows else ():
            if not 0 <= token < max(rows):
                yield (*place, token), f"there is no token {token}", f"there are {max(rows)}, from 0"


def means_experts(name: str, names: Names) -> bool:
    """Whether a name is one that experts had as modules, and these are parameters now."""
    last = name.rpartition(".")[2]
    parts = {*last.split("_")} - {"proj"}
    return any(parts & {*expert.rpartition(".")[2].split("_")} or re.fullmatch(r"w\d", last) for expert in names.experts)


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _any_ends(names: Iterable[str], end: str) -> bool:
    return any(_ends(name, end) for name in names)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def hint(name: str, among: Iterable[str], names: Names | None) -> str:
    """The nearest name, or where experts are parameters what would train those."""
    if names and means_experts(name, names):
        return f"the experts are parameters, no modules: target_parameters: [{', '.join(names.experts)}] trains them"
    ends = dict.fromkeys(part if part and not part.isdigit() else name for name in among for part in [name.rpartition(".")[2]])
    wholes = dict.fromkeys(among) if "." in name else ends
    return did_you_mean(name, wholes, f"there are {', '.join(sorted(ends)[:12])}")
