"""Which plugins are installed, and whether they can run here: from metadata alone, nothing is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import importlib_metadata
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from longline.errors import nearest
from longline.plugins.base import label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

GROUP = "longline"
"""The group of entry points."""
# A command that installs whatever has a mistyped name is how people get what somebody else put there.
PUBLISHED = (
    "cce",
    "completions",
    "densemixer",
    "distill",
    "grokfast",
    "lark",
    "liger",
    "lm-eval",
    "profiling",
    "sparsity",
    "spectrum",
    "swanlab",
)
"""The plugins whose distribution `longline-<name>` comes from this project: only of these a message says how to install them."""


class Fault(NamedTuple):
    """What is wrong with a plugin, and what to do."""

    plugin: str
    reason: str
    remedy: str

    @property
    def text(self) -> str:
        """What is wrong, as a sentence about the plugin."""
        return f"{self.plugin} {self.reason}"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What metadata tells of an installed plugin. `rivals` are further distributions that offer the same name."""

    name: str
    distribution: str
    version: str
    summary: str
    entry_point: str
    requires: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it: plugin, distribution and version."""
        return label(self.name, self.distribution, self.version)


def installed() -> dict[str, PluginInfo]:
    """Every installed plugin by its name, sorted."""
    found: dict[str, PluginInfo] = {}
    for entry in importlib_metadata.entry_points(group=GROUP):
        distribution = entry.dist
        if distribution is None:
            continue
        if entry.name in found:
            first = found[entry.name]
            found[entry.name] = replace(first, rivals=(*first.rivals, f"{distribution.name} {distribution.version}"))
            continue
        found[entry.name] = PluginInfo(
            name=entry.name,
            distribution=distribution.name,
            version=distribution.version,
            summary=distribution.metadata.get("Summary") or "",
            entry_point=entry.value,
            requires=tuple(distribution.requires or ()),
        )
    return dict(sorted(found.items()))


def not_installed(name: str, known: Iterable[str]) -> Fault:
    """What to tell about a plugin that nothing installed offers."""
    known = list(known)
    others = f"installed: {', '.join(known)}" if known else "no plugin is"
    remedy = f"take {name!r} out of plugins:, or ask whoever wrote the config which distribution brings it"
    plain = canonicalize_name(name).removeprefix("longline-")
    if found := name if name in PUBLISHED else nearest(plain, known) or nearest(plain, PUBLISHED):
        others = others if found == name else f"did you mean {found!r}?"
        remedy = f"write {found!r}, which is installed" if found in known else f"pip install longline-{found}"
    return Fault(f"plugin {name!r}", f"is not installed ({others})", remedy)


def unusable(info: PluginInfo) -> list[Fault]:
    """Why an installed plugin cannot be loaded; empty when it can."""
    if info.rivals:
        offers = ", ".join([f"{info.distribution} {info.version}", *info.rivals])
        return [Fault(f"plugin {info.name!r}", f"is offered by several distributions: {offers}", "pip uninstall all but one")]
    unmet = dict.fromkeys(_unmet(info))
    if not unmet:
        return []
    reasons = "; ".join(f"it requires {wanted}, but {have}" for wanted, have in unmet)
    packages = " ".join(f"'{wanted}'" for wanted, _ in unmet)
    remedy = f"pip install {packages}, or remove {info.name!r} from plugins:"
    return [Fault(info.label, f"cannot be used here: {reasons}", remedy)]


def conflicts(names: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """What some distributions, and all that they need in turn, require and do not find: by distribution, the requirement and what
    is there instead. As `pip check` sees it, for these alone.
    """
    waiting, seen, found = list(names), set[str](), dict[str, list[tuple[str, str]]]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        for requirement in _applying(_requires_of(name)):
            waiting.append(requirement.name)
            if unmet := list(_missing(requirement)):
                found[name] = found.get(name, []) + unmet
    return found


def _unmet(info: PluginInfo) -> Iterator[tuple[str, str]]:
    """Requirements that the environment does not meet, each with what is there instead."""
    for requirement in _applying(info.requires):
        yield from _missing(requirement)
        for extra in requirement.extras:
            for needed in _applying(_requires_of(requirement.name), extra):
                yield from _missing(needed)


def _applying(lines: Sequence[str], extra: str = "") -> Iterator[Requirement]:
    """The requirements whose markers hold here; with `extra`, only those that the extra adds."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # pip did not install by this line either
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if (always and not extra) or (extra and not always and marker is not None and marker.evaluate({"extra": extra})):
            yield requirement


def _requires_of(name: str) -> list[str]:
    try:
        return importlib_metadata.distribution(name).requires or []
    except importlib_metadata.PackageNotFoundError:
        return []


def _missing(requirement: Requirement) -> Iterator[tuple[str, str]]:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib_metadata.version(requirement.name)
    except importlib_metadata.PackageNotFoundError:
        yield wanted, f"{requirement.name} is not installed"
        return
    if not requirement.specifier.contains(version, prereleases=True):
        yield wanted, f"{requirement.name} {version} is installed"
