"""Import and configure the plugins that a config names; all that can be wrong with one is found here, before any work."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, get_args

import importlib_metadata
from pydantic import BaseModel, ValidationError

from longline.config.checks import missing_files, missing_rewards
from longline.config.explain import is_secret, unknown_hint
from longline.config.frozen import freeze
from longline.config.secrets import looks_secret
from longline.config.sections import PLUGIN_WORDS
from longline.config.trainer_checks import unmeasured
from longline.errors import AuthorWarning, ConfigError, LonglineError, PluginError, Problem
from longline.events import Finding
from longline.plugins.base import LoadedPlugin, Plugin, debug_hint, described, remedy
from longline.plugins.bus import Bus
from longline.plugins.discovery import GROUP, Fault, PluginInfo, installed, not_installed, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from longline.config.loader import LoadedConfig
    from longline.config.sections import Config, PluginEntry
    from longline.plan import Plan

logger = logging.getLogger("longline.plugins")

NEXT_HINT = "\n        "
"""Puts several hints under each other, as LonglineError prints them."""


def load_plugins(loaded: LoadedConfig, more: Sequence[LoadedPlugin] = ()) -> list[LoadedPlugin]:
    """Import, check and configure the plugins that the config names, in its order; `more` are there already and come last.

    Raises PluginError for plugins that are unknown, ambiguous, lack a requirement, cannot be imported or started, are no
    `Plugin`, claim what another one claims, or have a misspelled hook; ConfigError with all wrong options of all plugins.
    """
    entries = loaded.config.plugins
    infos = _find(entries)
    classes = _import_all(infos)
    options = _options(loaded, entries, classes)
    plugins = [
        LoadedPlugin(
            info.name, _start(info, cls, model), model, info.distribution, info.version, entry.on_error, entry.slow_after
        )
        for info, cls, model, entry in zip(infos, classes, options, entries, strict=True)
    ]
    plugins += more
    _refuse_claims(plugins)
    bus = Bus(plugins)  # verifies the hooks, so that `check` and `plan` find what `train` would
    if os.environ.get("RANK", "0") == "0":  # as torchrun sets it: once is enough
        _tell_of_idle(plugins, bus)
    measured = bus.hook.provide_trainer_class.plugins or bus.hook.post_trainer_create.plugins
    if problems := [] if measured else unmeasured(loaded):
        raise ConfigError(problems)
    if loaded.awaits_files:
        missing = [] if bus.hook.pre_data_load.plugins else missing_files(loaded)
        missing += [] if bus.hook.provide_reward_functions.plugins else missing_rewards(loaded)
        if missing:
            raise ConfigError(missing)
    return plugins


def _tell_of_idle(plugins: Sequence[LoadedPlugin], bus: Bus) -> None:
    """Name plugins that would do nothing: most likely the author forgot what marks a hook. Not an error: `check` may be all."""
    heard = {name for names in bus.listeners().values() for name in names}
    for plugin in plugins:
        cls = type(plugin.instance)
        if plugin.name not in heard and cls.check is Plugin.check and cls.columns is Plugin.columns:
            logger.warning("%s does nothing: it answers no hook; @hookimpl marks a method that does", plugin.label)


def plugin_problems(loaded: LoadedConfig, plan: Plan, plugins: Sequence[LoadedPlugin]) -> list[Problem]:
    """What the plugins themselves refuse of a config, each with its place.

    Raises PluginError for a plugin whose `check` fails.
    """
    return [_placed(loaded, plugin, problem) for plugin in plugins for problem in _checked(loaded.config, plan, plugin)]


def _checked(config: Config, plan: Plan, plugin: LoadedPlugin) -> list[Problem]:
    try:
        return list(plugin.instance.check(config, plan))
    except LonglineError as error:
        return [Problem(error.message, hint=error.hint)]
    except Exception as error:
        raise plugin.failed("cannot check the config", error) from error


def plugin_plans(config: Config, plan: Plan, plugins: Sequence[LoadedPlugin]) -> dict[str, list[str]]:
    """What each plugin says that it will do, by name. Raises PluginError for one whose `plan` fails."""
    told = {}
    for plugin in plugins:
        try:
            told[plugin.name] = [str(line) for line in plugin.instance.plan(config, plan)]
        except Exception as error:
            raise plugin.failed("cannot tell what it will do", error) from error
    return told


def plugin_findings(plugin: LoadedPlugin) -> list[Finding]:
    """How what a plugin needs is doing; a `doctor` that fails is one more finding."""
    found: list[Finding] = []
    try:
        found.extend(plugin.instance.doctor())
    except Exception as error:
        failure = plugin.failed("cannot look at itself", error)
        found.append(Finding("doctor", failure.message, "error", failure.hint))
    return found


def _placed(loaded: LoadedConfig, plugin: LoadedPlugin, problem: Problem) -> Problem:
    """The problem with the plugin's name, at the key that it is about, or at the plugin's entry."""
    if problem.where:
        return problem
    keys: list[str | int] = [int(key) if key.isdecimal() else key for key in problem.path.split(".") if key]
    message = f"{plugin.name}: {problem.message}" if keys and keys[:2] != ["plugins", plugin.name] else problem.message
    return loaded.problem(message, *(keys or ["plugins", plugin.name]), hint=problem.hint)


def refuse_problems(problems: Sequence[Problem]) -> None:
    """Raise PluginError with what plugins refuse, if there is anything."""
    if problems:
        raise PluginError("\n".join(map(str, problems)))


def _find(entries: Sequence[PluginEntry]) -> list[PluginInfo]:
    """The metadata of each entry; refuses the unknown, the ambiguous, and what lacks a requirement, all at once."""
    if not entries:
        return []
    known = installed()
    faults: list[Fault] = []
    for entry in entries:
        info = known.get(entry.name)
        faults += [not_installed(entry.name, known)] if info is None else unusable(info)
    if faults:
        raise _plugin_error(faults)
    return [known[entry.name] for entry in entries]


def _plugin_error(faults: Sequence[Fault]) -> PluginError:
    hints = dict.fromkeys(fault.remedy for fault in faults)
    return PluginError("\n".join(fault.text for fault in faults), hint=NEXT_HINT.join(hints))


def _import_all(infos: Sequence[PluginInfo]) -> list[type[Plugin]]:
    classes: list[type[Plugin]] = []
    errors: list[PluginError] = []
    for info in infos:
        try:
            classes.append(import_plugin(info))
        except PluginError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise PluginError("\n".join(error.message for error in errors), hint=NEXT_HINT.join(hints)) from errors[0]
    return classes


def import_plugin(info: PluginInfo) -> type[Plugin]:
    """Import one plugin and return its class; raises PluginError when that fails or the class is not what it should be."""
    entry = importlib_metadata.EntryPoint(name=info.name, value=info.entry_point, group=GROUP)
    try:
        found = entry.load()
    # A library that calls sys.exit() while it is imported must not end the command as if all were well.
    except (Exception, SystemExit) as error:
        raise PluginError(f"{info.label} cannot be imported: {described(error)}", hint=_import_remedy(info, error)) from error
    fault = _class_fault(found)
    if fault:
        message = f"{info.label}: its entry point {info.entry_point!r} {fault}"
        raise PluginError(message, hint=remedy(info.name))
    plugin: type[Plugin] = found
    return plugin


def _import_remedy(info: PluginInfo, error: BaseException) -> str:
    repair = f"repair it: pip install --force-reinstall {info.distribution}; or remove {info.name!r} from plugins:"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install what provides the module {error.name.partition('.')[0]!r}, or {repair}"
    return f"--debug shows the traceback; {repair}"


def _class_fault(found: object) -> str | None:
    """What is wrong with the object behind an entry point, or None."""
    if not isinstance(found, type):
        kind = f"an instance of {type(found).__name__}" if isinstance(found, Plugin) else f"a {type(found).__name__}"
        return f"is {kind}; it must name a class that derives from longline.Plugin"
    if not issubclass(found, Plugin) or found is Plugin:
        return f"is the class {found.__name__}, which does not derive from longline.Plugin"
    config: object = found.Config
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        return f"has a Config that is no pydantic model: {config!r}"
    if taken := [word for word in PLUGIN_WORDS if word in config.model_fields]:
        return f"has an option `{taken[0]}`, which is Longline's own word"
    claims: object = found.claims
    return None if isinstance(claims, property) else _claims_fault(claims)


def _claims_fault(claims: object) -> str | None:
    if isinstance(claims, (set, frozenset)) and all(isinstance(claim, str) for claim in claims):
        return None
    return f'has claims that are no set of names: {claims!r}; write claims = frozenset({{"loss"}})'


def claims_by_options(cls: type[Plugin]) -> bool:
    """Whether what a plugin claims depends on its options: then only an instance can tell."""
    claims: object = cls.claims
    return isinstance(claims, property) and claims is not vars(Plugin)["claims"]


def _refuse_claims(plugins: Sequence[LoadedPlugin]) -> None:
    owners: dict[str, LoadedPlugin] = {}
    for plugin in plugins:
        for claim in sorted(_claims(plugin)):
            other = owners.setdefault(claim, plugin)
            if other is not plugin:
                hints = [f"remove {other.name!r} or {plugin.name!r} from plugins:"]
                hints += [
                    f"or set the options of {one.name!r} so that it leaves {claim!r} alone"
                    for one in (other, plugin)
                    if claims_by_options(type(one.instance))
                ]
                raise PluginError(
                    f"{other.label} and {plugin.label} both claim {claim!r}; only one can have it", hint=NEXT_HINT.join(hints)
                )


def _claims(plugin: LoadedPlugin) -> frozenset[str]:
    """What an instance claims; its own property may fail like any code of a plugin."""
    try:
        claims = plugin.instance.claims
    except Exception as error:
        raise plugin.failed("cannot tell what it claims", error) from error
    fault = _claims_fault(claims)
    if fault:
        raise PluginError(f"{plugin.label} {fault}", hint=plugin.remedy)
    return claims


def _options(loaded: LoadedConfig, entries: Sequence[PluginEntry], classes: Sequence[type[Plugin]]) -> list[BaseModel]:
    models: list[BaseModel] = []
    problems: list[Problem] = []
    for entry, cls in zip(entries, classes, strict=True):
        problems += [
            loaded.problem("unknown key", "plugins", entry.name, key, hint=unknown_hint(key, cls.Config))
            for key in _ignored(entry.options, cls.Config)
        ]
        try:
            # Frozen as the config is: the saved config and the manifest tell what the plugin was given.
            models.append(freeze(cls.Config.model_validate(entry.options)))
            _warn_author(entry.name, cls.Config)
        except ValidationError as error:
            problems += loaded.explain(error, cls.Config, "plugins", entry.name)
    if problems:
        raise ConfigError(problems)
    return models


def _warn_author(name: str, model: type[BaseModel]) -> None:
    """Tell of options that are named like secrets and are not declared as such: they are written into files as they are."""
    for key, field in model.model_fields.items():
        text = field.annotation is str or str in get_args(field.annotation)
        if text and looks_secret(key) and not is_secret((key,), model):
            what = f"plugin {name!r}: the option `{key}` is named like a secret, and is written and shown as it is"
            warnings.warn(f"{what}: declare it as pydantic.SecretStr, or rename it", AuthorWarning, stacklevel=2)


def _ignored(options: dict[str, object], model: type[BaseModel]) -> list[str]:
    """Options that pydantic would drop without a word, because the author left `extra` at its default."""
    if model.model_config.get("extra") in ("forbid", "allow"):
        return []
    known = {*model.model_fields, *(field.alias for field in model.model_fields.values())}
    return [key for key in options if key not in known]


def _start(info: PluginInfo, cls: type[Plugin], options: BaseModel) -> Plugin:
    try:
        return cls(options)
    except LonglineError as error:
        raise PluginError(f"{info.label} cannot start: {error.message}", hint=error.hint) from error
    except Exception as error:
        raise PluginError(f"{info.label} cannot start: {described(error)}", hint=debug_hint(info.name)) from error


def option_models(skipped: Callable[[PluginInfo, str], None] | None = None) -> dict[str, type[BaseModel]]:
    """The options model of every installed plugin, imported for it.

    `skipped(info, why)` is told of each plugin that cannot be loaded.
    """
    models: dict[str, type[BaseModel]] = {}
    for name, info in installed().items():
        try:
            faults = unusable(info)
            if faults:
                raise _plugin_error(faults)
            models[name] = import_plugin(info).Config
        except PluginError as error:
            if skipped is not None:
                skipped(info, error.message)
    return models
