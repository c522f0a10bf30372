"""`longline doctor [CONFIG]`: this machine, what is installed, and what a config needs of both; made to be pasted into a report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longline.cli.options import ConfigPath, set_option
from longline.errors import EXIT_CONFIG, EXIT_PLUGIN, EXIT_TRAINING
from longline.events import Finding

if TYPE_CHECKING:
    from longline.cli.check import Examined

LITTLE_DISK, LITTLE_MEMORY = 5.0, 2.0
"""GB below which a disk or memory is told as short: a checkpoint of a small model, and what torch and a batch need."""
READ = ("CUDA_", "HF_", "LONGLINE_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "TOKENIZERS_", "TORCH_", "TRANSFORMERS_")
READ_WHOLE = ("http_proxy", "https_proxy", "no_proxy", "MALLOC_CONF", "LD_PRELOAD", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME")
"""Environment variables that Longline or a library below it reads: beginnings of names, and names in either case."""
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}


@click.command("doctor")
@click.argument("config", required=False, type=ConfigPath(), metavar="[CONFIG]")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Tell versions, conflicts, devices, memory, disks and the environment; with CONFIG its mistakes and its plugins' own words.

    Values of secrets are not shown. Exit status: 0 nothing is in the way, 1 something is, 2 the config is wrong, 3 a plugin
    cannot be used. Warnings change nothing.
    """
    examined = _examined(config, overrides)
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": _versions,
        "plugins": _plugins,
        "device": _device,
        "memory and disks": lambda: _room(examined),
        "environment": _environment,
    }
    told = {name: list(look()) for name, look in sections.items()}
    status = EXIT_TRAINING if any(finding.level == "error" for found in told.values() for finding in found) else 0
    if config is not None and examined is not None:
        told |= {f"config {config}": list(_config(examined)), **_by_plugin(examined)}
        status = _status(examined, told) or status
    if as_json:
        rows = [{"section": name, **asdict(finding)} for name, found in told.items() for finding in found]
        click.echo(json.dumps({"status": status, "findings": rows}, indent=2, ensure_ascii=False))
    else:
        _print(told)
    return status


def _examined(config: Path | None, overrides: tuple[str, ...]) -> Examined | None:
    if config is None:
        if overrides:
            raise click.UsageError("--set changes a config: name one")
        return None
    from longline.cli.check import examine

    return examine(config, overrides)


def _status(examined: Examined, told: dict[str, list[Finding]]) -> int:
    if examined.problems or examined.loaded is None:
        return EXIT_CONFIG
    own = {f"plugin {plugin.name}" for plugin in examined.plugins}
    failed = any(finding.level == "error" for name in own for finding in told[name])
    return EXIT_PLUGIN if examined.failure or examined.refused or failed else 0


def _print(told: dict[str, list[Finding]]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from longline.text import showable

    console = Console(soft_wrap=True, highlight=False)
    for section, found in told.items():
        console.print(f"[bold]{escape(section)}[/bold]")
        width = max((len(finding.name) for finding in found), default=0)
        for finding in found:
            mark = f"{MARKS[finding.level]}{' ' * (7 - len(finding.level))}"
            console.print(f"  {mark}  {escape(showable(finding.name)):<{width}}  {escape(showable(finding.text))}")
            if finding.hint:
                console.print(f"  {'':7}  {'':{width}}  [dim]{escape(showable(finding.hint))}[/dim]")
    worst = [finding for found in told.values() for finding in found if finding.level != "ok"]
    errors = sum(finding.level == "error" for finding in worst)
    console.print(f"[bold]{errors} error{'' if errors == 1 else 's'}, {len(worst) - errors} warnings[/bold]")


# --- what is installed ----------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    """Python, Longline and every library that it names, against the ranges in which the tests ran."""
    import importlib_metadata
    from packaging.requirements import Requirement

    from longline import upstream
    from longline.config.doors import CORE

    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("longline", importlib_metadata.version(CORE))
    for line in sorted(importlib_metadata.requires(CORE) or []):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib_metadata.version(requirement.name)
        except importlib_metadata.PackageNotFoundError:
            yield Finding(requirement.name, "is not installed", "error", f"pip install '{line}'")
            continue
        tested = upstream.TESTED.get(requirement.name, str(requirement.specifier))
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, f"{version}, and longline needs {tested}", "error", f"pip install '{line}'")
        else:
            yield Finding(
                requirement.name, f"{version}  (tested: {tested})" if requirement.name in upstream.TESTED else version
            )


def _plugins() -> Iterator[Finding]:
    """Every installed plugin, and what it or a library below it requires in vain."""
    from longline.config.doors import CORE
    from longline.plugins import conflicts, installed, unusable

    infos = installed()
    if not infos:
        yield Finding("none", "no plugin is installed")
    for info in infos.values():
        faults = unusable(info)
        text = f"{info.distribution} {info.version}"
        why = "; ".join(fault.reason for fault in faults)
        yield Finding(
            info.name, f"{text} {why}" if why else text, "warning" if faults else "ok", faults[0].remedy if faults else None
        )
    for name, unmet in conflicts([CORE, *(info.distribution for info in infos.values())]).items():
        reasons = "; ".join(f"requires {wanted}, but {have}" for wanted, have in unmet)
        packages = " ".join(f"'{wanted}'" for wanted, _ in unmet)
        yield Finding(name, reasons, "warning", f"pip install {packages}")


# --- this machine ---------------------------------------------------------------------------------------------------------------


def _device() -> Iterator[Finding]:
    """What torch computes on, and what it can do there."""
    from longline.process import threads

    try:
        import torch

        from longline.parallel.machine import machine

        found = machine()
    except Exception as error:  # a broken installation raises what it likes: OSError for a library, RuntimeError for a driver
        yield Finding("torch", f"cannot be used: {type(error).__name__}: {error}", "error", "install torch anew")
        return
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    yield Finding("torch", f"{torch.__version__}, built {built}")
    yield Finding("device", f"{found.device}, {'computes' if found.bfloat16 else 'does not compute'} in bfloat16")
    if found.device == "cuda":
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            major, minor = torch.cuda.get_device_capability(index)
            free, total = (size / 1e9 for size in torch.cuda.mem_get_info(index))
            yield Finding(f"cuda:{index}", f"{facts.name}, sm_{major}{minor}, {free:.1f} of {total:.1f} GB free")
    backends = [name for name in ("nccl", "gloo", "mpi") if getattr(torch.distributed, f"is_{name}_available")()]
    yield Finding("ranks", ", ".join(backends) or "torch was built without distributed", "ok" if backends else "warning")
    logical = os.cpu_count()
    yield Finding("threads", f"{found.threads} of {threads.cores()} cores ({logical} logical): {found.threads_why}")


def _room(examined: Examined | None) -> Iterator[Finding]:
    """Memory, and the disks of what is written: run folder, caches, temporary files."""
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / 1e9
    text = f"{free:.1f} of {memory.total / 1e9:.1f} GB available{_allowed()}"
    yield Finding("memory", text, "warning" if free < LITTLE_MEMORY else "ok")
    for name, place in _places(examined):
        yield _disk(name, place)


def _allowed() -> str:
    """The memory that a container allows, as Linux tells it."""
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        return f", {limit / 1e9:.1f} GB allowed to this container"
    return ""


def _places(examined: Examined | None) -> Iterator[tuple[str, Path]]:
    from huggingface_hub import constants

    from longline.data.store.cache import cache_root

    config = examined.loaded.config if examined and examined.loaded else None
    if config is not None:
        yield "output_dir", Path(config.output_dir)
    yield "prepared data", cache_root(config.data.cache_dir if config is not None else None)
    yield "models and data", Path(constants.HF_HUB_CACHE)
    yield "temporary", Path(tempfile.gettempdir())


def _disk(name: str, place: Path) -> Finding:
    """Free space of a folder's disk, and whether it can be written; a folder that is not there yet is made later, by its parent."""
    there = next((folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists()), Path("/"))
    if not there.is_dir():
        return Finding(name, f"{place}: {there} is a file", "error", "name another folder")
    free = shutil.disk_usage(there).free / 1e9
    text = f"{place}, {free:.1f} GB free"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, f"{text}, not writable", "error", f"change the rights of {there}, or name another folder")
    return Finding(name, text, "warning" if free < LITTLE_DISK else "ok", "free some space" if free < LITTLE_DISK else None)


def _environment() -> Iterator[Finding]:
    """The variables that are set and read; what may be a secret is not shown."""
    from longline.config.secrets import looks_secret, mask_userinfo

    whole = {name.lower() for name in READ_WHOLE}
    for name, value in sorted(os.environ.items()):
        if name.startswith(READ) or name.lower() in whole:
            yield Finding(name, "set, not shown" if looks_secret(name) else mask_userinfo(value) or "set, empty")
    if sys.flags.optimize:
        yield Finding("PYTHONOPTIMIZE", "assertions of libraries are off", "warning", "unset it")


# --- the config -----------------------------------------------------------------------------------------------------------------


def _config(examined: Examined) -> Iterator[Finding]:
    """What `longline check` finds."""
    for problem in [*examined.problems, *examined.refused]:
        place = f"{problem.where}: " if problem.where else ""
        yield Finding(problem.path or "file", f"{place}{problem.message}", "error", problem.hint)
    if examined.failure:
        yield Finding("plugins", examined.failure.message, "error", examined.failure.hint)
    if examined.loaded is not None and not (examined.problems or examined.refused or examined.failure):
        config = examined.loaded.config
        yield Finding("check", f"method {config.method}, model {config.model.path}")
        for name in sorted(set(examined.loaded.env_refs.values())):
            yield Finding(name, "set, and read by the config")


def _by_plugin(examined: Examined) -> dict[str, list[Finding]]:
    """What each enabled plugin says of itself, without the secrets of its options."""
    from dataclasses import replace

    from longline.config.secrets import Secrets
    from longline.plugins import plugin_findings

    if examined.loaded is None:
        return {}
    mask = Secrets.of(examined.loaded.config, {plugin.name: plugin.instance.config for plugin in examined.plugins}).mask
    return {
        f"plugin {plugin.name}": [
            replace(finding, text=mask(finding.text), hint=mask(finding.hint) if finding.hint else None)
            for finding in plugin_findings(plugin)
        ]
        for plugin in examined.plugins
    }
