"""Refuse what would silently never be called: misspelled hooks and arguments, hook methods that are not marked."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pluggy

from longline import hookspecs
from longline.errors import PluginError, did_you_mean
from longline.plugins.base import LoadedPlugin, Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from longline.hookspecs import HookFacts

CORE = "longline"
"""How the core's own objects are named in the account, in `listeners()` and in traces: `longline:<name>`."""


def verified_manager(loaded: Sequence[LoadedPlugin], core: Sequence[tuple[str, object]]) -> pluggy.PluginManager:
    """A pluggy manager in which everything is registered so that calls go in the given order, plugins first.

    Raises PluginError with every mistake of every plugin.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    mistakes = {plugin: list(hook_mistakes(plugin.instance, manager)) for plugin in loaded}
    guilty = [plugin for plugin, lines in mistakes.items() if lines]
    if guilty:
        text = "\n".join(f"{plugin.label}: {line}" for plugin in guilty for line in mistakes[plugin])
        raise PluginError(text, hint="\n        ".join(plugin.remedy for plugin in guilty))
    # pluggy calls the last registered first
    named = [(plugin.name, plugin.instance) for plugin in loaded] + [(f"{CORE}:{name}", item) for name, item in core]
    try:
        for name, item in reversed(named):
            manager.register(item, name=name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"the plugins cannot be put together: {error}") from error
    return manager


def hook_mistakes(plugin: Plugin, manager: pluggy.PluginManager) -> Iterator[str]:
    """What is wrong with the hook methods of a plugin, one line each."""
    facts = hookspecs.hook_facts()
    for method, options in marked(plugin, manager).items():
        yield from _method_mistakes(getattr(plugin, method), options.get("specname") or method, options, facts)
    for name in facts:
        if _is_own(type(plugin), name) and manager.parse_hookimpl_opts(plugin, name) is None:
            yield f"{name} is the name of a hook, but the method has no @hookimpl, so it would never be called"


def marked(plugin: Plugin | type[Plugin], manager: pluggy.PluginManager) -> dict[str, Mapping[str, Any]]:
    """The methods that carry `@hookimpl`, with what was said there."""
    found = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    return {name: options for name, options in found.items() if options is not None}


def _is_own(cls: type, name: str) -> bool:
    """Whether the attribute comes from the plugin's own classes, not from a foreign base such as TrainerCallback."""
    return any(name in vars(base) for base in cls.__mro__ if issubclass(base, Plugin))


def _method_mistakes(
    function: Callable[..., Any], name: str, options: Mapping[str, Any], facts: Mapping[str, HookFacts]
) -> Iterator[str]:
    if name not in facts:
        if not options.get("optionalhook"):
            yield f"there is no hook {name!r}; {did_you_mean(name, facts, 'see the hook reference')}"
        return
    # With these the order of calls would no longer be the order in the config, the one thing that a reader can see.
    ordering = [key for key in ("wrapper", "hookwrapper", "tryfirst", "trylast") if options.get(key)]
    if ordering:
        yield f"{name} uses @hookimpl({ordering[0]}=True); each plugin is called by itself, in the order of the config"
    elif inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        yield f"{name} is a coroutine or a generator, so its body would never run; write a plain function"
    else:
        yield from _argument_mistakes(function, name, facts[name].arguments)


def _argument_mistakes(function: Callable[..., Any], name: str, known: tuple[str, ...]) -> Iterator[str]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            yield f"{name} takes {parameter}; name the arguments that you want, out of {', '.join(known)}"
        elif parameter.name not in known:
            meant = did_you_mean(parameter.name, known, f"it has {', '.join(known)}")
            yield f"{name} has no argument {parameter.name!r}; {meant}"
