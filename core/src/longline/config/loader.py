"""From a file and overrides to a `LoadedConfig`, or to one ConfigError that lists everything that is wrong.

The order: YAML to nodes with places; the short forms of lists and of `plugins` written out; overrides; `${NAME}`; the
fields of `trainer`, `adapter` and `quantization`; the sections' own rules; what must fit together across sections.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from longline.config import checks, document, fields, method
from longline.config.document import Key, Keys, Node, Place, dotted
from longline.config.explain import explain, models_in
from longline.config.frozen import freeze
from longline.config.secrets import MASK
from longline.config.sections import SHORT_FORMS, Config, DataSection, ModelSection, SourceSection
from longline.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAY_BE_EMPTY = ("trainer", "plugins", "data.eval", "model.overrides", "model.tokenizer")


@dataclass(frozen=True)
class LoadedConfig:
    """A checked config, which cannot be changed at any depth, and where each of its values came from.

    `env_refs` maps a dotted path (`model.token`, `plugins.swanlab.api_key`, `data.train.0.path`) to NAME where the value is one
    `${NAME}` and nothing else.
    """

    config: Config
    path: Path
    env_refs: Mapping[str, str]
    root: Node = field(repr=False, compare=False)
    awaits_files: bool = False
    """Whether nobody has looked for the data files yet: a plugin may make them in `pre_data_load`."""

    def where(self, *keys: Key) -> str:
        """`file:line:column` of a key or of its nearest parent; `--set KEY` when an override gave it.

        Plugins stand under their name, sources under their index: `where("plugins", "swanlab")`, `where("data", "train", 0)`.
        """
        return str(self.root.nearest(keys).key)

    def problem(self, message: str, *keys: Key, hint: str | None = None) -> Problem:
        """A problem with the value at `keys`, placed where a person will look for it."""
        node = self.root.nearest(keys)
        return Problem(message, dotted(keys), str(node.focus if self.root.find(keys) else node.key), hint)

    def explain(self, error: ValidationError, model: type[BaseModel], *prefix: Key) -> list[Problem]:
        """What pydantic found when it validated the values at `prefix` as `model`: plain words, places, nearest valid keys."""
        return explain(error, self.root, prefix, model)


def load_config(
    path: Path | str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None, *, data_files: bool = True
) -> LoadedConfig:
    """Read, complete and check a config file.

    `overrides` are `a.b.c=VALUE` as `--set` takes them, later ones win; `environ` replaces os.environ for `${NAME}`. With
    `data_files` False the data may be missing: enough to use the model of a finished run. Where the config names plugins,
    `load_plugins` looks for them, since one may make them. Raises ConfigError with every problem, sorted by position.
    """
    loaded, problems = read_config(path, overrides, environ, data_files=data_files)
    if loaded is None or problems:
        raise ConfigError(problems)
    return loaded


def read_config(
    path: Path | str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None, *, data_files: bool = True
) -> tuple[LoadedConfig | None, list[Problem]]:
    """As `load_config`, but return the problems, with what remains of the config when wrong values are left out.

    That remainder is None when too much is wrong; it serves to look for more problems, never to train. Raises ConfigError only
    for a file that is no YAML mapping.
    """
    path = Path(path)
    root = _read(path)
    problems: list[Problem] = []
    _write_out(root, problems)
    for rank, override in enumerate(overrides, start=1):
        _override(root, override, rank, problems)
    _write_out(root, problems)  # an override may bring short forms of its own
    env_refs = _substitute(root, os.environ if environ is None else environ, problems)
    problems += _masked(root)
    problems += method.check_name(root)
    bad = {problem.path for problem in problems if problem.path and problem.where}
    problems += fields.check_fields(root, bad)
    bad |= {problem.path for problem in problems if problem.path}
    # What is wrong is left out and the rest checked on, so that nobody repairs a file one message at a time.
    config, found = _validate(root, bad)
    problems += found
    if config is None:
        return None, in_order(problems)
    loaded = LoadedConfig(freeze(config), path, env_refs, root, awaits_files=data_files and bool(config.plugins))
    problems += checks.check_config(loaded, skip=frozenset(bad))
    if data_files and not loaded.awaits_files:
        problems += checks.missing_files(loaded, frozenset(bad)) + checks.missing_rewards(loaded, frozenset(bad))
    return loaded, in_order(problems)


def untold(model: ModelSection) -> LoadedConfig:
    """The config of a bare model, of which no file tells: all else is as it is by default, and the data are never asked for."""
    config = Config(model=model, data=DataSection(train=[SourceSection(path="none")]), output_dir=Path())
    place = Place("no config")
    return LoadedConfig(config, Path(), {}, Node({}, place, place))


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Without repetitions, by line and column; those of overrides follow in the order given."""

    def order(problem: Problem) -> tuple[int, int, int]:
        place = re.search(r":(\d+):(\d+)$", problem.where)
        return (0, int(place[1]), int(place[2])) if place else (1, 0, 0)

    return sorted(dict.fromkeys(problems), key=order)


def _read(path: Path) -> Node:
    root = document.parse(document.read_text(path), str(path))
    example = "see `longline new` for one to start from"
    if root is None or root.value is None:
        raise ConfigError([Problem("the file is empty", where=str(path), hint=example)])
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        raise ConfigError([Problem(f"{kind} at the top; a config is keys with values", where=str(root.at), hint=example)])
    return root


# --- short forms --------------------------------------------------------------------------------------------------------------


def _write_out(root: Node, problems: list[Problem]) -> None:
    """Give the short forms their full shape, so that every place and override has one path. Doing it twice changes nothing."""
    for name in ("model", "data"):
        section = root.child(name)
        if section and section.value is None:
            section.value = {}
    for name in _MAY_BE_EMPTY:
        *parents, last = name.split(".")
        above, node = root.find(tuple(parents)), root.find(tuple(name.split(".")))
        if above and node and node.value is None:
            del above.value[last]
    for keys, key in SHORT_FORMS.items():
        listed = root.find(keys)
        if listed:
            _write_out_list(listed, key)
    plugins = root.child("plugins")
    if plugins:
        _write_out_plugins(plugins, problems)


def _write_out_list(node: Node, key: str) -> None:
    if isinstance(node.value, (str, dict)):
        node.value = [Node(node.value, node.at, node.key, node.template)]
        node.template = None
    if isinstance(node.value, list):
        for item in node.value:
            if isinstance(item.value, str):
                item.value = {key: Node(item.value, item.at, item.key)}


def _write_out_plugins(node: Node, problems: list[Problem]) -> None:
    """A list of names and of `name: options` becomes one mapping; what is neither becomes a problem."""
    items = node.value if isinstance(node.value, list) else [node]
    entries: dict[str, Node] = {}
    for item in items:
        if isinstance(item.value, str):
            named = {item.value: Node(None, item.at, item.at)}
        elif isinstance(item.value, dict):
            named = item.value
        else:
            text = "expected plugin names: `[completions]` or `completions: {every: 50}`"
            problems.append(Problem(text, "plugins", str(item.focus)))
            continue
        for name, options in named.items():
            if name in entries:
                text = f"`{name}` is given twice; the first is at {entries[name].key}"
                problems.append(Problem(text, f"plugins.{name}", str(options.key), "put all its options under one"))
            entries.setdefault(name, options)
            if options.value is not None and not isinstance(options.value, dict):
                text = f"expected its options as keys with values: `{name}: {{...}}`"
                problems.append(Problem(text, f"plugins.{name}", str(options.focus)))
                options.value = None
    node.value = entries


# --- overrides ----------------------------------------------------------------------------------------------------------------


def _override(root: Node, text: str, rank: int, problems: list[Problem]) -> None:
    name, equals, value = text.partition("=")
    name = name.strip()
    source = f"--set {name}"
    if not equals or not name or not all(name.split(".")):
        hint = "for example --set trainer.learning_rate=1e-4"
        problems.append(Problem("expected KEY=VALUE with a dotted KEY", where=f"--set {text}", hint=hint))
        return
    place = Place(source, rank=rank)
    try:
        node = document.parse(value, source, rank=rank, marked=False) or Node(None, place, place)
        _put(root, name.split("."), node, place)
    except ConfigError as error:
        problems.extend(error.problems)


def _put(root: Node, keys: list[str], node: Node, place: Place) -> None:
    """Put `node` at the end of `keys`, making the mappings on the way; a list takes the index of an item, or of the next."""
    above = root
    for index, key in enumerate(keys):
        last = index == len(keys) - 1
        if above.value is None:
            above.value = {}
        if isinstance(above.value, dict):
            below = above.value.get(key)
            if last or below is None:
                first = not last and keys[index + 1] == "0"  # of a list that is not there yet
                below = above.value[key] = node if last else Node([] if first else None, place, place)
        elif isinstance(above.value, list):
            below = _put_item(above, key, node if last else None, place, keys[: index + 1])
        else:
            raise ConfigError([Problem("is a single value and has no keys", dotted(tuple(keys[:index])), str(place))])
        above = below


def _put_item(above: Node, key: str, node: Node | None, place: Place, keys: list[str]) -> Node:
    items: list[Node] = above.value
    if not key.isdecimal() or int(key) > len(items):
        text = f"is a list of {len(items)}; `{key}` is no index of it"
        raise ConfigError(
            [Problem(text, dotted(tuple(keys[:-1])), str(place), f"0 to {len(items) - 1}, or {len(items)} to add one")]
        )
    if int(key) == len(items):
        items.append(Node(None, place, place))
    if node is not None:
        items[int(key)] = node
    return items[int(key)]


# --- the environment ----------------------------------------------------------------------------------------------------------


def _substitute(root: Node, environ: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    """Replace `${NAME}` in every text; returns the dotted paths whose whole value is one reference."""
    references: dict[str, str] = {}
    for keys, node in root.walk():
        if not isinstance(node.value, str) or "${" not in node.value or node.template is not None:
            continue
        template = node.value
        missing: list[str] = []
        node.value = _REFERENCE.sub(lambda match: _resolve(match, environ, missing), template)  # noqa: B023 - used at once
        if node.value == template or "${" in template.replace("$${", ""):
            node.template = template
        path = dotted(keys)
        problems.extend(Problem(text, path, str(node.focus), hint) for text, hint in map(_missing, missing))
        alone = _REFERENCE.fullmatch(template)
        if alone and alone["name"] is not None and not missing:
            references[path] = alone["name"]
    return references


def _resolve(match: re.Match[str], environ: Mapping[str, str], missing: list[str]) -> str:
    name = match["name"]
    if name is None:
        return "${"
    if not match[0].endswith("}") or not _NAME.fullmatch(name) or name not in environ:
        missing.append(match[0])
        return match[0]
    return environ[name]


def _missing(reference: str) -> tuple[str, str]:
    name = reference[2:-1]
    if reference.endswith("}") and _NAME.fullmatch(name):
        return f"the environment variable {name} is not set", f"export {name}=..., or write $${{{name}}} for the text itself"
    return f"`{reference[:40]}` names no environment variable", "write $${ for the text ${"


def _masked(root: Node) -> list[Problem]:
    text = f"{MASK} is what Longline writes in place of a secret"
    hint = "put ${NAME} here and the secret into the environment"
    return [
        Problem(text, dotted(keys), str(node.focus), hint)
        for keys, node in root.walk()
        if isinstance(node.value, str) and MASK in node.value
    ]


# --- the sections -------------------------------------------------------------------------------------------------------------


def _validate(root: Node, bad: set[str]) -> tuple[Config | None, list[Problem]]:
    """The config, and what is wrong with it; what is wrong is left out of the config, which is None where that cannot be."""
    try:
        # With all items of lists first: without one the others move up, and places would be those of their neighbours.
        return Config.model_validate(_without(root, bad, items=False).plain()), []
    except ValidationError as error:
        problems = [_elsewhere(problem, root) for problem in explain(error, root, (), Config) if problem.path not in bad]
    bad |= {problem.path for problem in problems}
    try:
        return Config.model_validate(_without(root, bad, items=True).plain()), problems
    except ValidationError:
        return None, problems


def _without(node: Node, paths: set[str], keys: Keys = (), *, items: bool) -> Node:
    """A copy of the tree without the nodes at these dotted paths; items of lists only if `items`: the others move up."""

    def kept(pairs: Iterable[tuple[Key, Node]], remove: bool) -> Iterator[tuple[Key, Node]]:
        for key, child in pairs:
            if not (remove and dotted((*keys, key)) in paths):
                yield key, _without(child, paths, (*keys, key), items=items)

    if isinstance(node.value, dict):
        return Node(dict(kept(node.value.items(), remove=True)), node.at, node.key)
    if isinstance(node.value, list):
        return Node([child for _, child in kept(enumerate(node.value), items)], node.at, node.key)
    return node


def _elsewhere(problem: Problem, root: Node) -> Problem:
    """An unknown key that is a known one of another section: say where it belongs."""
    name = problem.path.rpartition(".")[2]
    if problem.message != "unknown key" or (problem.hint or "").startswith("did you mean"):
        return problem
    asked = method.written(root)
    homes = {"": set(Config.model_fields), "trainer": set(asked.fields()) if asked else set()}
    for section, info in Config.model_fields.items():
        for model in models_in(info.annotation):
            homes[section] = set(model.model_fields)
    home = next((section for section, names in homes.items() if name in names), None)
    if home is None:
        return problem
    return replace(problem, hint=f"`{name}` belongs under `{home}`" if home else f"`{name}` belongs at the top")
