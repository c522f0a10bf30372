"""Writes the generated references, docs/reference/*.md, pages of plugins that are their README, and the import contract.

    python docs/generate.py            # writes them
    python docs/generate.py --check    # compares with what is there; exit status 1 names each stale page

Everything comes from the code: the config's sections, the hook specifications, the commands' own help, docstrings; but for what is
public for authors, which docs/public.toml lists. What is not public there, the contract in pyproject.toml forbids to plugins.
Neither torch nor transformers is imported.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
import tomllib
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel, SecretStr

from longline import __all__ as public_names
from longline import errors, hookspecs
from longline.cli import cli
from longline.config import doors
from longline.config.attention import ATTENTION
from longline.config.explain import models_in
from longline.config.fields import REFUSED_ADAPTER_FIELDS
from longline.config.sections import PLUGIN_WORDS, Config, PluginEntry
from longline.converters import axolotl
from longline.converters.axolotl import sources as sources_of_axolotl
from longline.methods import GROUP as METHODS
from longline.methods import find
from longline.methods.base import REFUSED
from longline.plan import TRAINER_DEFAULTS
from longline.plugins.discovery import GROUP
from longline.plugins.run import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo

    from longline.converters.axolotl.rules import Rule

MARK = "<!-- Written by "
"""How what is written here begins."""
DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
CORE = ROOT / "core" / "src" / "longline"
CONTRACT = ROOT / "pyproject.toml"
PUBLIC = tomllib.loads((DOCS / "public.toml").read_text(encoding="utf-8"))
COMMAND = "python docs/generate.py"
HELP_WIDTH = 100


def main(arguments: list[str], folder: Path = DOCS / "reference") -> int:
    """Write the pages into `folder`, or with --check compare; returns the exit status."""
    stale = []
    texts = {CONTRACT: contract()}
    texts |= {folder / f"{name}.md": marked(page(), "the code") for name, page in PAGES.items()}
    texts |= {folder.parent / "plugins" / f"{name}.md": marked(plugin_page(name), "its README") for name in from_readme()}
    texts |= {folder.parent / "images" / f"{name}.svg": text for name, text in pictures().items()}
    texts |= {folder.parent / name: with_lists(DOCS / name) for name in WITH_LISTS}
    for path, text in texts.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            stale.append(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        print(f"{shown} is stale: run `{COMMAND}`", file=sys.stderr)
    return 1 if stale else 0


def marked(text: str, source: str) -> str:
    """A page under a line that says where it is changed."""
    return f"{MARK}{COMMAND}; edit {source}, not this page. -->\n\n{text.rstrip()}\n"


# --- Markdown -----------------------------------------------------------------------------------------------------------------


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped, a line break becomes a space."""
    lines = [list(heading), ["---"] * len(list(heading)), *map(list, rows)]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line of a table; `<` opens no tag outside of code."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def page_of(*parts: str) -> str:
    """Paragraphs, tables and headings under each other."""
    return "\n\n".join(part.strip("\n") for part in parts if part)


def fenced(docstring: str) -> str:
    """A docstring with its indented examples as blocks of Python."""
    found = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")
    return found.sub(lambda block: f"```python\n{textwrap.dedent(block[0]).strip()}\n```\n\n", f"{docstring}\n\n").rstrip()


def code(value: Any) -> str:
    """A value as it is written in a config."""
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


# --- config -------------------------------------------------------------------------------------------------------------------

CONFIG_INTRO = """\
# Config reference

Every key that a config may have. How a config is written, overridden and checked is told in [The config](../config.md); for an
editor, `longline schema` prints the same as a JSON schema. A key that is not here is an error."""


def config_page() -> str:
    """Every section with its keys, then what is known of the libraries' fields."""
    parts = [CONFIG_INTRO, "## The top level", section_table(Config, "")]
    for path, model in sections(Config, ""):
        parts += [f"## {path}", (model.__doc__ or "").strip(), section_table(model, path)]
        parts += {"adapter": [ADAPTER_NOTE, refused(REFUSED_ADAPTER_FIELDS)]}.get(path, [])
    return page_of(*parts, *_trainer(), *_plugins_section(), *_attention())


ADAPTER_NOTE = "Beside these, every field of `peft.LoraConfig`, but for:"
TRAINER_NOTE = """\
Every field of the method's own arguments class: `transformers.TrainingArguments` for `sft`. Names, types and ranges are read from
the source of the installed version, so `longline check` and `longline schema` know them all; their meaning is in the
[documentation of transformers](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments)."""


def sections(model: type[BaseModel], above: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section below `model` with its dotted path, depth first; sources of training and evaluation are the same."""
    seen: list[type[BaseModel]] = [PluginEntry]
    for name, info in model.model_fields.items():
        for below in models_in(info.annotation):
            if below not in seen:
                seen.append(below)
                path = f"{above}{name}"
                yield path, below
                yield from sections(below, f"{path}.")


def section_table(model: type[BaseModel], path: str) -> str:
    """The keys of one section."""
    rows = []
    for name, info in model.model_fields.items():
        below = [item for item in models_in(info.annotation) if item is not PluginEntry]
        link = f" See [{_dotted(path, name)}](#{_dotted(path, name).replace('.', '')})." if below and name != "eval" else ""
        link = " See [data.train](#datatrain)." if name == "eval" else link
        rows.append((f"`{name}`", kind(info.annotation, info.metadata), default(info), f"{info.description or ''}{link}"))
    return table(("key", "type", "default", "meaning"), rows)


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "text, kept secret",
    dict: "keys with values",
    Any: "any value",
}


def kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in the words of a person who writes YAML, with its bounds."""
    origin, inside = get_origin(annotation), get_args(annotation)
    bounds = "".join(_bound(item) for item in metadata)
    if origin is Annotated:
        return kind(inside[0], [bound for item in inside[1:] for bound in getattr(item, "metadata", [item])]) + bounds
    if origin is Literal:
        return "one of " + ", ".join(f"`{word}`" for word in inside)
    if origin in (Union, UnionType):
        return " or ".join(kind(item) for item in inside if item is not type(None)) + bounds
    if origin is list:
        return f"list of {kind(inside[0])}" if inside[0] is not PluginEntry else "list or keys with values"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section" if annotation.__name__ != "SourceSection" else "sources"
    return WORDS[origin or annotation] + bounds


def _bound(item: Any) -> str:
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return "".join(f", {word} {getattr(item, sign):g}" for sign, word in signs.items() if hasattr(item, sign))


def default(info: FieldInfo) -> str:
    """What holds when a key is left out."""
    if info.is_required():
        return "required"
    if info.default is None or info.default in ([], {}) or isinstance(info.default, BaseModel):
        return "none"
    return code(info.default)


def refused(fields: Mapping[str, str]) -> str:
    """The fields that are not set in a config, under what to do instead."""
    remedies: dict[str, list[str]] = {}
    for name, remedy in fields.items():
        remedies.setdefault(remedy, []).append(f"`{name}`")
    return table(("refused", "instead"), [(", ".join(names), remedy) for remedy, names in remedies.items()])


def _trainer() -> Iterator[str]:
    yield "## trainer"
    yield TRAINER_NOTE
    yield "What Longline assumes when the config is silent; all but the two about logging are the defaults of transformers:"
    yield table(("field", "default"), [(f"`{name}`", code(value)) for name, value in TRAINER_DEFAULTS.items()])
    yield "With evaluation data and no `eval_strategy`, it is `epoch`, or `steps` when `eval_steps` is set. Refused are:"
    yield refused(REFUSED)
    yield "The arguments class of each method, what is refused beside these, and the words for `loss_type`:"
    rows = []
    for method in map(find, doors.own(METHODS)):
        more = [f"`{field}`" for field in method.refused if field not in REFUSED and field in method.fields()]
        words = [f"`{word}`" for word in method.loss_types()]
        rows.append((f"`{method.name}`", method.arguments_name, ", ".join(more) or "-", ", ".join(words) or "-"))
    yield table(("method", "class", "refused", "loss_type"), rows)


def _plugins_section() -> Iterator[str]:
    yield "## plugins"
    yield (
        "A list of names, a list of `name: options`, or keys with values. The order is the order of calls. The options are the "
        "plugin's own: `longline plugins show NAME` prints them. These every plugin has:"
    )
    words = ((word, PluginEntry.model_fields[word]) for word in PLUGIN_WORDS)
    rows = [(f"`{word}`", kind(info.annotation), default(info), info.description or "") for word, info in words]
    yield table(("key", "type", "default", "meaning"), rows)


def _attention() -> Iterator[str]:
    yield "## Attention implementations"
    yield "What `model.attn_implementation` may be, besides the hub id of a kernel, which cannot be packed:"
    rows = []
    for name, row in ATTENTION.items():
        packing = {"rows": "yes", "flat": "yes, each batch as one row", None: "no"}[row.packing]
        rows.append((f"`{name}`", packing, f"`{row.library}`" if row.library else "none", ", ".join(row.devices)))
    yield table(("name", "packing", "needs the distribution", "devices"), rows)


# --- source -------------------------------------------------------------------------------------------------------------------


def module(name: str) -> ast.Module:
    """The parsed source of a module, found without running it or the package that it is in."""
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{top} is not installed")
    place = Path(spec.origin).parent.joinpath(*rest)
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def loaded(script: Path) -> ModuleType:
    """A module that is in no package."""
    spec = spec_from_file_location(f"docs_{script.stem}", script)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(script)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signature(node: ast.FunctionDef, *, method: bool = False) -> str:
    """`name(arguments) -> result` as the source has it."""
    if method:
        node.args.args = node.args.args[1:]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def named(tree: ast.Module, name: str) -> ast.ClassDef | ast.FunctionDef:
    """A class or function of a module."""
    return next(node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name)


def fields_of(node: ast.ClassDef) -> list[str]:
    """The annotated attributes of a class, as the source has them."""
    return [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]


def methods_of(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public methods and properties of a class that say what they do."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and ast.get_docstring(item):
            yield item


# --- hooks --------------------------------------------------------------------------------------------------------------------

HOOKS_INTRO = """\
# Hook reference

Every hook of Longline, from `longline.hookspecs`. How to answer one is told in [Writing a plugin](../writing-a-plugin.md)."""


def hooks_page() -> str:
    """The rules, one line for each hook, then each in full, under the headings of the source."""
    facts = hookspecs.hook_facts()
    rules = (hookspecs.__doc__ or "").partition("\n\n")[2]
    rows = [(f"[`{name}`](#{name})", fact.kind, fact.ranks, fact.when) for name, fact in facts.items()]
    parts = [HOOKS_INTRO, rules, table(("hook", "kind", "ranks", "when"), rows)]
    groups, fired, answered = hook_groups(), callers(), answers()
    for name, fact in facts.items():
        function = getattr(hookspecs, name)
        parts += [f"## {groups[name]}"] if name in groups else []
        node = ast.parse(re.sub(r"^@_spec.*?\n(?=def)", "", inspect.getsource(function), flags=re.DOTALL)).body[0]
        assert isinstance(node, ast.FunctionDef)
        ranks = "on every rank" if fact.ranks == "all" else "on the main rank"
        who = f"Fired by {_listed(fired.get(name, ()))}. Answered here by {_listed(answered.get(name, ()))}."
        parts += [f"### {name}", f"```python\ndef {signature(node)}: ...\n```"]
        parts += [f"**{fact.kind}**, {ranks}; {fact.when}.", inspect.getdoc(function) or "", who]
    return page_of(*parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nobody"


def hook_groups() -> dict[str, str]:
    """The first hook under each heading of hookspecs, to that heading."""
    source = inspect.getsource(hookspecs)
    found = re.findall(r"^# --- (.+?) -+\n.*?^def (\w+)", source, flags=re.DOTALL | re.MULTILINE)
    return {hook: heading[0].upper() + heading[1:] for heading, hook in found}


def sources() -> list[tuple[str, Path]]:
    """Everything in the repository that may raise or answer hooks, with what to call it."""
    core = [(path.relative_to(CORE).as_posix(), path) for path in sorted(CORE.rglob("*.py")) if "templates" not in path.parts]
    folders = [*sorted((ROOT / "plugins").glob("*/src")), *sorted((ROOT / "examples").glob("*/src"))]
    return core + [(folder.parent.name, path) for folder in folders for path in sorted(folder.rglob("*.py"))]


def pictures() -> dict[str, str]:
    """The line and its hooks in time, for a page with room and for a narrow one."""
    picture = loaded(DOCS / "picture.py")
    facts, headings = hookspecs.hook_facts(), hook_groups()
    return {"line": picture.wide(facts, headings), "line-narrow": picture.narrow(facts, headings)}


def callers() -> dict[str, list[str]]:
    """Hook to who fires it: `<anything>.hook.<name>(...)`."""
    found: dict[str, list[str]] = {}
    for name, path in sources():
        for hook in dict.fromkeys(re.findall(r"\bhook\.(\w+)\(\s*run=", path.read_text(encoding="utf-8"))):
            found.setdefault(hook, []).append(name)
    return found


def answers() -> dict[str, list[str]]:
    """Hook to who answers it with a function marked `@hookimpl`."""
    found: dict[str, list[str]] = {}
    for name, path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any("hookimpl" in ast.unparse(mark) for mark in node.decorator_list):
                found.setdefault(node.name, []).append(name)
    return found


# --- authors ------------------------------------------------------------------------------------------------------------------

AUTHORS_INTRO = """\
# Author's reference

What a distribution of yours may build on, all of it: the doors by which it brings something, the hooks that it may answer, the
modules and names that it may import. What is not here may change with any version. How it is done is told in
[Writing a plugin](../writing-a-plugin.md); the folder examples/ of the repository has a distribution for most."""
DOORS_INTRO = """\
Whatever a config names by a word is an entry point of a group. Installed, it is known; imported it is when something names it.
What the core brings is listed in the same groups of its own pyproject.toml."""


def authors_page() -> str:
    """The doors, the hooks, the public modules with their names."""
    doors = [(f"`{door['group']}`", door["brings"], door["object"], door["used"], door["shown"]) for door in PUBLIC["door"]]
    modules = [(f"[`{item['name']}`](#{item['name'].replace('.', '')})", item["why"]) for item in PUBLIC["module"]]
    hooks = [(f"[`{name}`](hooks.md#{name})", fact.kind, fact.when) for name, fact in hookspecs.hook_facts().items()]
    return page_of(
        *(AUTHORS_INTRO, "## Doors", DOORS_INTRO),
        table(("group", "brings", "the object", "a config or a person says", "shown by"), doors),
        *("How the entries look in a pyproject.toml:", f"```toml\n{_entries()}\n```"),
        *("## Hooks", table(("hook", "kind", "when"), hooks)),
        *("## Modules", table(("module", "what for"), modules)),
        *(part for item in PUBLIC["module"] for part in (f"### {item['name']}", _public_names(item["name"]))),
    )


def _entries() -> str:
    """An entry of each group, with the folder of examples/ where it stands."""
    lines = []
    for door in PUBLIC["door"]:
        group = f'"{door["group"]}"' if "." in door["group"] else door["group"]
        where = f"  # examples/{door['example']}" if "example" in door else ""
        lines += [f"[project.entry-points.{group}]{where}", door["entry"], ""]
    return "\n".join(lines[:-1])


def _public_names(home: str) -> str:
    """The names of a module that are public, each with the first sentence of what it says of itself."""
    rows = [(f"`{name}`", _sentence(home, name)) for name in public_of(home)]
    return table(("name", "what it is"), rows)


def public_of(home: str) -> list[str]:
    """The names of a module that are public: those that docs/public.toml lists, else all without an underscore."""
    item = next(item for item in PUBLIC["module"] if item["name"] == home)
    if "names" in item:
        return list(item["names"])
    tree = module(home)
    listed = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if listed:
        return [str(name) for name in ast.literal_eval(listed[0]) if not name.startswith("__")]
    return [name for name in dict.fromkeys(_defined(tree)) if not name.startswith("_")]


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _sentence(home: str, name: str) -> str:
    """What a class, a function or a constant says of itself first; of one that is imported, where it is written."""
    tree = module(home)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return _first(ast.get_docstring(node) or "")
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in _defined(ast.Module([node], [])):
            said = after.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            return _first(str(said.value)) if said else f"`{ast.unparse(node.value)}`" if node.value else ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return _sentence(node.module, name)
    raise SystemExit(f"docs/public.toml: {home} has no {name}")


def _first(text: str) -> str:
    """The first line of a docstring, or the sentence that goes on behind it."""
    line, _, rest = text.partition("\n")
    return line if line.endswith((".", ":")) or not rest.strip() else f"{line} {rest.partition('.')[0].strip()}."


def closed(folder: Path = CORE, name: str = "longline") -> Iterator[str]:
    """The modules that are not public, and of a package with nothing public in it only the package."""
    public = [item["name"] for item in PUBLIC["module"]]
    for path in sorted(folder.iterdir()):
        if path.stem.startswith("__") or not (path.suffix == ".py" or (path / "__init__.py").is_file()):
            continue
        full = f"{name}.{path.stem}"
        if not any(known == full or known.startswith(f"{full}.") for known in public):
            yield full
        elif path.is_dir():
            yield from closed(path, full)


def contract() -> str:
    """pyproject.toml with what plugins may not import."""
    text = CONTRACT.read_text(encoding="utf-8")
    begin = text.index("forbidden_modules = [", text.index('name = "plugins use the public names of longline"'))
    end = text.index("]\n", begin)
    lines = "".join(f'    "{name}",\n' for name in closed())
    return f"{text[:begin]}forbidden_modules = [\n{lines}{text[end:]}"


# --- commands -----------------------------------------------------------------------------------------------------------------

COMMANDS_INTRO = """\
# Command reference

What `longline COMMAND --help` prints. `--debug`, before or after a command, shows tracebacks; `LONGLINE_DEBUG=1` does the same.

For completion in bash: `eval "$(_LONGLINE_COMPLETE=bash_source longline)"`; `zsh_source` and `fish_source` serve the others."""


def commands_page() -> str:
    """The help of every command and of its subcommands."""
    parts = [COMMANDS_INTRO, _help("longline", cli, None)]
    with click.Context(cli, info_name="longline", **cli.context_settings) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            parts.append(_help(name, command, context))
            if isinstance(command, click.Group):
                inner = click.Context(command, info_name=name, parent=context)
                parts += [_help(sub, below, inner) for sub, below in command.commands.items()]
    return page_of(*parts)


def _help(name: str, command: click.Command, parent: click.Context | None) -> str:
    """One command; the width is fixed, whatever terminal this runs in."""
    offered = doors.offers(METHODS).keys() - doors.own(METHODS).keys()
    options: dict[str, Any] = {
        "terminal_width": HELP_WIDTH,
        "max_content_width": HELP_WIDTH,
        "help_option_names": ["-h", "--help"],
    }
    context = click.Context(command, info_name=name, parent=parent, **options)
    context.command = command = deepcopy(command)
    for choice in [param.type for param in command.params if isinstance(param.type, click.Choice)]:
        choice.choices = [word for word in choice.choices if word not in offered]  # what else is installed is no part of a page
    return f"## {context.command_path}\n\n```text\n{context.get_help()}\n```"


# --- plugins ------------------------------------------------------------------------------------------------------------------

PLUGINS_INTRO = f"""\
# Plugin reference

What a plugin may import from Longline, and the test kit. [Writing a plugin](../writing-a-plugin.md) shows them at work. A plugin
is a class behind an entry point of the group `{GROUP}`, whose name is the key in a config's `plugins:`."""

HOMES = {
    "Plugin": "longline.plugins.base",
    "PluginConfig": "longline.plugins.base",
    "Alert": "longline.events",
    "Column": "longline.events",
    "Completions": "longline.events",
    "RewardFunction": "longline.events",
    "Summary": "longline.events",
    "Table": "longline.events",
    "Timing": "longline.events",
    "Finding": "longline.events",
    "LonglineError": "longline.errors",
    "ConfigError": "longline.errors",
    "Problem": "longline.errors",
    "Config": "longline.config.sections",
    "Plan": "longline.plan",
    "Run": "longline.plugins.run",
}
MANAGER = [
    ("longline.plugins.loading", "load_plugins"),
    ("longline.plugins.base", "LoadedPlugin"),
    ("longline.plugins.bus", "Bus"),
    ("longline.plugins.bus", "HookCall"),
    ("longline.plugins.account", "Account"),
    ("longline.plugins.account", "HookCost"),
]


def plugins_page() -> str:
    """The public names, what the manager does with a plugin, the test kit."""
    own = [name for name in sorted(public_names) if not name.startswith("__") and name != "hookimpl"]
    assert set(own) == set(HOMES), "longline.__all__ changed: say in HOMES where each name lives"
    parts = [PLUGINS_INTRO, "## Names to import from longline", HOOKIMPL]
    parts += [described(HOMES[name], name, "###") for name in own]
    parts += ["## What becomes of a plugin", MANAGER_INTRO]
    parts += [described(home, name, "###") for home, name in MANAGER]
    parts += ["## The test kit: longline.testing", *test_kit()]
    return page_of(*parts)


HOOKIMPL = """\
### hookimpl

The marker of a method that answers a hook: `@hookimpl`, without arguments. The method has the hook's name, or says
`@hookimpl(specname="on_log")`."""
MANAGER_INTRO = """\
From `longline.plugins`: how the plugins that a config names are loaded, called, contained and accounted for."""


def described(home: str, name: str, level: str) -> str:
    """A class or function: signature or fields, docstring, methods."""
    node = named(module(home), name)
    parts = [f"{level} {name}"]
    if isinstance(node, ast.FunctionDef):
        return page_of(*parts, f"```python\ndef {signature(node)}: ...\n```", ast.get_docstring(node) or "")
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts += [f"```python\nclass {name}{f'({bases})' if bases else ''}:\n{_body(node)}\n```", ast.get_docstring(node) or ""]
    parts.append("\n".join(f"- `{_call(method)}`: {_one_line(method)}" for method in methods_of(node)))
    return page_of(*parts)


def _body(node: ast.ClassDef) -> str:
    """The attributes of a class and the constructor that it writes itself, as code."""
    lines = [line for line in fields_of(node) if not line.startswith("_")]
    lines += [
        f"def {signature(item)}: ..." for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    ]
    return "\n".join(f"    {line}" for line in lines) or "    ..."


def _one_line(node: ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(node) or "").split())


def _call(method: ast.FunctionDef) -> str:
    """A property by its name, a method with its signature."""
    marks = {ast.unparse(mark) for mark in method.decorator_list}
    return method.name if "property" in marks else signature(method, method="staticmethod" not in marks)


def _exit_statuses() -> str:
    meanings = {
        "EXIT_DONE": "done",
        "EXIT_TRAINING": "training failed, or something that nobody foresaw",
        "EXIT_CONFIG": "the config, the command line, the data or the model is at fault",
        "EXIT_PLUGIN": "a plugin cannot be used, or stopped the run",
        "EXIT_SIGINT": "stopped by Ctrl-C",
        "EXIT_SIGTERM": "stopped by SIGTERM",
        "EXIT_SIGHUP": "stopped by SIGHUP: its terminal is gone",
    }
    known = {name for name in vars(errors) if name.startswith("EXIT_")}
    assert known == set(meanings), "longline.errors has other exit statuses than this page"
    return table(("status", "meaning"), [(f"`{getattr(errors, name)}`", text) for name, text in meanings.items()])


# --- errors -------------------------------------------------------------------------------------------------------------------

ERRORS_INTRO = """\
# Errors and exit statuses

What Longline refuses or stops for on purpose says what happened, where, and what to do next:

```text
error: FILE:LINE:COLUMN: WHAT IS WRONG
  hint: WHAT TO DO
```

Any other exception is a bug, of Longline's or of a library: it is shown with its class, and `--debug` shows the traceback."""
ERRORS_END = """\
In Python each is a class of `longline.errors`, derived from `LonglineError`, with `message`, `hint` and `exit_code`. What a plugin
raises in a shape or provide hook ends the run with status 3; a `LonglineError` keeps its words and its hint."""


def errors_page() -> str:
    """The exit statuses, then every class of errors: what it means and, from the second paragraph on, what to do."""
    parts = [ERRORS_INTRO, "## Exit statuses", _exit_statuses(), "## Classes", ERRORS_END]
    for name, (home, node) in error_classes().items():
        means, _, remedy = (ast.get_docstring(node) or "").partition("\n\n")
        status = getattr(import_module(home), name).exit_code if name != "Interrupted" else "128 and the signal's number"
        bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "LonglineError"]
        kind = f" A kind of [{bases[0]}](#{bases[0].lower()})." if bases else ""
        parts += [f"### {name}", f"Exit status {status}.{kind} {' '.join(means.split())}", remedy]
    return page_of(*parts)


def error_classes() -> dict[str, tuple[str, ast.ClassDef]]:
    """Every class below LonglineError in the core, with the module that it is in; those of longline.errors first."""
    found: dict[str, tuple[str, ast.ClassDef]] = {}
    known = {"LonglineError"}
    paths = [CORE / "errors.py", *(path for path in sorted(CORE.rglob("*.py")) if "templates" not in path.parts)]
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & known and node.name not in known:
                known.add(node.name)
                found[node.name] = (".".join(["longline", *path.relative_to(CORE).with_suffix("").parts]), node)
    return found


_KIT = ("tiny", "running", "process", "resume", "well_behaved", "faults", "servers", "secrets", "recorder", "behaviour")
KIT = tuple(f"longline.testing.{name}" for name in _KIT)
"""The modules of the test kit, in the order of the page."""


def test_kit() -> Iterator[str]:
    """The docstring of the test kit, then each of its fixtures, classes and functions."""
    kit = module("longline.testing")
    yield fenced(ast.get_docstring(kit) or "")
    public = ast.literal_eval(kit.body[-1].value)  # __all__; the kit needs pytest, so it is not imported
    for home, node in [(name, node) for name in KIT for node in module(name).body if getattr(node, "name", "") in public]:
        if isinstance(node, ast.FunctionDef):
            fixture = any("fixture" in ast.unparse(mark) for mark in node.decorator_list)
            shown = f"### {node.name}" if fixture else f"### {node.name}()"
            called = "A fixture." if fixture else f"```python\ndef {signature(node)}: ...\n```"
            yield page_of(shown, called, ast.get_docstring(node) or "")
        elif isinstance(node, ast.ClassDef):
            yield described(home, node.name, "###")


# --- the pages of plugins -----------------------------------------------------------------------------------------------------


def from_readme() -> list[str]:
    """The plugins whose README is their page: all whose page in docs/plugins was not written by hand."""
    pages = {path.stem for path in (ROOT / "docs" / "plugins").glob("*.md") if not path.read_text().startswith(MARK)}
    return sorted({path.parent.name.removeprefix("longline-") for path in ROOT.glob("plugins/*/README.md")} - pages)


def plugin_page(name: str) -> str:
    """The README of a plugin as a page: under its name, with links that hold in the site."""
    text = (ROOT / "plugins" / f"longline-{name}" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^# longline-", "# ", text).replace("](../../README.md)", "](../index.md)").replace("](../../docs/", "](../")
    text = re.sub(r"\[([^]]+)\]\((?!https?:|\.\.)[^)]+\)", r"\1", text)  # files of the distribution are not in the site
    blocks = re.compile(r"^```(?:.*\n)+?```$|(?<=\n\n)(?: {4}.*\n)+", flags=re.MULTILINE)
    return blocks.sub(lambda block: block[0] if block[0].startswith("```") else _shown(textwrap.dedent(block[0])), text)


def _shown(text: str) -> str:
    """An indented block of a README as a fenced one: commands, a config, or what was printed."""
    if re.match(r"(pip|python3?|longline|swanlab|export) ", text):
        return f"```console\n{re.sub('^', '$ ', text.rstrip(), flags=re.MULTILINE)}\n```\n"
    return f"```{'yaml' if re.match(r'[a-z_]+:( |$)', text, flags=re.MULTILINE) else 'text'}\n{text}```\n"


# --- lists within pages -------------------------------------------------------------------------------------------------------

TRACES = ROOT / "tests" / "traces"


def with_lists(page: Path) -> str:
    """A page that is written by hand, with the lists between its marks made anew."""
    text = page.read_text(encoding="utf-8")
    for name, made in LISTS.items():
        begin, end = f"<!-- begin generated: {name} -->\n", f"<!-- end generated: {name} -->"
        if begin in text:
            above, _, rest = text.partition(begin)
            text = f"{above}{begin}\n{made()}\n\n{end}{rest.partition(end)[2]}"
    return text


def commands_and_hooks() -> str:
    """Which hooks each command fires, as tests/test_traces.py saw them."""
    facts, rows = hookspecs.hook_facts(), []
    for command in get_args(Command):
        trace = TRACES / ("sft-lora-eval.txt" if command == "train" else f"commands/{command}.txt")
        fired = {line.partition("(")[0] for line in trace.read_text(encoding="utf-8").splitlines()}
        names = ", ".join(f"[`{name}`](reference/hooks.md#{name})" for name in facts if name in fired)
        rows.append(
            (f"`{command}`", "all, those of a method or an event when there is one" if "on_run_end" in fired else names)
        )
    return table(("command", "hooks"), rows)


def plan_fields() -> str:
    """The fields and properties of Plan, each with what its docstring says."""
    node = named(module("longline.plan"), "Plan")
    rows = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        said = after.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(item, ast.AnnAssign):
            assert said, f"longline.plan: Plan.{ast.unparse(item.target)} has no docstring"
            rows.append((f"`{ast.unparse(item.target)}`", f"`{ast.unparse(item.annotation)}`", str(said.value)))
        elif isinstance(item, ast.FunctionDef) and any("property" in ast.unparse(mark) for mark in item.decorator_list):
            rows.append((f"`{item.name}`", f"`{ast.unparse(item.returns)}`" if item.returns else "", _one_line(item)))
    return table(("field", "type", "what it is"), rows)


WITH_LISTS = ("what-a-plugin-can-do.md",)
LISTS: dict[str, Callable[[], str]] = {"commands and hooks": commands_and_hooks, "fields of the plan": plan_fields}


# --- axolotl --------------------------------------------------------------------------------------------------------------------

AXOLOTL_INTRO = """\
# Keys of axolotl

What `longline convert axolotl` makes of each, from the converter's own tables. How it is used is told in
[Moving from axolotl](../moving-from-axolotl.md). A name that ends with `*` is every key that begins so; plugins that are installed
translate their own keys (`swanlab_*`, `liger_*`, `cut_cross_entropy`)."""
TYPES_INTRO = """\
The `type` of a data set decides its format, and the columns that are named for it. For preferences and labelled answers `chatml.X`
and `llama3.X` are X with that template. Any other type is left out, and the format is guessed from the columns."""
SOURCE_INTRO = "The other keys of a data set:"


def axolotl_page() -> str:
    """Every key by the part of the config that it belongs to, then what a data set may say."""
    parts = [AXOLOTL_INTRO]
    for heading, rules in axolotl.SECTIONS.items():
        parts += [f"## {heading}", table(("axolotl", "Longline", "remark"), _rules(rules))]
    rows = [
        (f"`{name}`", f"`{form.format}`", ", ".join(f"`{ours}: {theirs}`" for ours, theirs in form.columns.items()), form.note)
        for forms in sources_of_axolotl.FORMS.values()
        for name, form in forms.items()
    ]
    parts += ["## Data sets", TYPES_INTRO, table(("type", "format", "columns", "remark"), rows), SOURCE_INTRO]
    return page_of(*parts, table(("axolotl", "Longline", "remark"), _source_keys()))


def _rules(rules: Mapping[str, Rule]) -> Iterator[tuple[str, str, str]]:
    """Keys with the same rule share a row."""
    shared: dict[tuple[str, str], list[str]] = {}
    for key, rule in rules.items():
        shared.setdefault((rule.to, rule.remark), []).append(f"`{key}`")
    for (to, remark), keys in shared.items():
        if to == "-":
            yield ", ".join(keys), "no equal", f"nearest: {remark}"
        else:
            yield ", ".join(keys), f"`{to}`" if to else "nothing to set", remark


def _source_keys() -> Iterator[tuple[str, str, str]]:
    for key, column in {**sources_of_axolotl.FIELDS, **sources_of_axolotl.OF_TYPE}.items():
        yield f"`{key}`", f"`columns: {{{column}: ...}}`", ""
    yield from (
        ("`path`, `data_files`", "`path`", "each file is a source; of a hub data set as `hf://datasets/...`"),
        ("`name`, `revision`", "the same", ""),
        ("`split`", "`split`", "of files `train[:100]` is `limit: 100`, `train[:10%]` is `weight: 0.1`"),
        ("`shards`", "`weight`", "a fixed random share of the same size"),
        ("`message_property_mappings`", "`columns: {role: ..., content: ...}`", "other properties keep their names"),
        ("`roles`", "`roles`", "turned round: theirs to ours"),
        ("`roles_to_train`", "`train_on`", "assistant, or all"),
        ("`chat_template`", "`model.tokenizer.chat_template`", "one for all sources"),
    )
    for key, nearest in sources_of_axolotl.NOT_OF_SOURCE.items():
        yield f"`{key}`", "no equal" if nearest else "nothing to set", f"nearest: {nearest}" if nearest else ""


# --- kernels ------------------------------------------------------------------------------------------------------------------

KERNELS_INTRO = """\
# Model types of the loss kernels

Measured by tests on a tiny random model of each type, with and without the kernel. What the kernels are is told in
[Memory](../memory.md#logits)."""
CCE_INTRO = """\
## longline-cce

In float32, on one padded and one packed batch: the loss agrees to 1e-5 of it, the gradient of every parameter to 1e-4 of its
largest number. The last column names the heads and settings that each type was compared with. Types of models for pictures or
sound are compared on text; a packed batch is compared also where a model's layers would mix its samples, which training refuses."""


def kernels_page() -> str:
    """The support matrices, from what the plugins' tests wrote."""
    return page_of(KERNELS_INTRO, CCE_INTRO, _matrix("longline-cce"))


def _matrix(distribution: str) -> str:
    """The table of a distribution's tests/matrix.json, as its tests/matrix.py writes it."""
    script = ROOT / "plugins" / distribution / "tests" / "matrix.py"
    return str(loaded(script).markdown(json.loads(script.with_suffix(".json").read_text(encoding="utf-8"))))


PAGES: dict[str, Callable[[], str]] = {
    "config": config_page,
    "hooks": hooks_page,
    "authors": authors_page,
    "commands": commands_page,
    "plugins": plugins_page,
    "errors": errors_page,
    "kernels": kernels_page,
    "axolotl": axolotl_page,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
