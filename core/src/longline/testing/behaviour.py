"""What a plugin must not do, seen from outside: importing and making it are tried in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any

from longline.testing.entries import surroundings

if TYPE_CHECKING:
    from longline.plugins import Plugin

MOST_SECONDS = 0.05
"""What a constructor may take; the quickest of `TRIES` counts, since a busy machine delays any of them."""
TRIES = 3
HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate", "trl", "pyarrow", "pandas", "numpy")
"""What takes seconds to import."""
SEEN = "longline saw: "
"""Begins the line that is meant for the parent process; a thread of the plugin may print at any time."""
WORK = {
    "open": "opens the file",
    "socket.__new__": "makes a socket",
    "subprocess.Popen": "starts the process",
    "os.posix_spawn": "starts the process",
    "os.system": "starts the process",
    "os.fork": "forks",
}
"""Audit events of Python that are work, and what they mean."""
_NAMED = ("open", "subprocess.Popen", "os.posix_spawn", "os.system")
_CODE = (".py", ".pyc", ".so", ".pyd")


def assert_constructor_is_idle(plugin_class: type[Plugin], options: Mapping[str, Any]) -> None:
    """Fail unless a plugin is made without any work: what it does belongs into `check` and into hooks.

    The class is imported by its name in a fresh process, and made from `options`, as under its name in a config. Constructing it
    may open no file, make no socket, start no thread or process, import no module of another distribution, and take at most 50 ms.

    Raises:
        AssertionError: it does some of that; the message says what.
    """
    place = f"{plugin_class.__module__}:{plugin_class.__qualname__}"
    command = [sys.executable, "-c", "from longline.testing.behaviour import observe; observe()", place, json.dumps(options)]
    done = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{place} cannot be made: {done.stderr}")
    [told] = [line for line in done.stdout.splitlines() if line.startswith(SEEN)]
    if found := json.loads(told.removeprefix(SEEN)):
        raise AssertionError(f"the constructor of {place} {', '.join(found)}")


def assert_import_is_light(module: str, *also: str) -> None:
    """Fail if importing a module, in a process of its own, imports what takes seconds: `longline check` and `--help` do without.

    `also` are further modules that it may not import, such as the library that a plugin is about, or `http.client`.

    Raises:
        AssertionError: it imports one of them, or it cannot be imported; the message says which, or why.
    """
    script = f"import json, sys, {module}\nprint('{SEEN}' + json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], env=surroundings(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{module} cannot be imported: {done.stderr}")
    [told] = [line for line in done.stdout.splitlines() if line.startswith(SEEN)]
    if found := sorted({*HEAVY, *also} & set(json.loads(told.removeprefix(SEEN)))):
        raise AssertionError(f"importing {module} imports {', '.join(found)}: import them in the functions that need them")


def observe() -> None:
    """Make the plugin that the command line names, and print what its constructor did, as a JSON list of texts."""
    module, _, name = sys.argv[1].partition(":")
    plugin_class: Any = reduce(getattr, name.split("."), import_module(module))
    config = plugin_class.Config.model_validate(json.loads(sys.argv[2]))
    seen: list[str] = []
    before = set(sys.modules)
    # An audit hook cannot be taken off again: another reason for a process of its own.
    sys.addaudithook(lambda event, arguments: seen.extend(_work(event, arguments)))
    # Python 3.11 audits no threads, so calls of what starts one are looked for; that costs time, which the next tries measure.
    sys.setprofile(lambda frame, event, called: seen.extend(["starts a thread"] if _starts_thread(event, called) else []))
    plugin_class(config)
    sys.setprofile(None)
    seconds = min(_seconds(plugin_class, config) for _ in range(TRIES))
    done = list(dict.fromkeys(seen))
    own = {"longline", module.partition(".")[0], *sys.stdlib_module_names}
    done += [f"imports {name}" for name in sorted({key.partition(".")[0] for key in set(sys.modules) - before} - own)]
    if seconds > MOST_SECONDS:
        done.append(f"takes {seconds * 1000:.0f} ms")
    print(f"{SEEN}{json.dumps(done)}")  # noqa: T201 - the parent process reads it


def _seconds(plugin_class: type[Plugin], config: Any) -> float:
    begin = perf_counter()
    plugin_class(config)
    return perf_counter() - begin


def _starts_thread(event: str, called: Any) -> bool:
    return event == "c_call" and called.__name__ in ("start_new_thread", "start_joinable_thread")


def _work(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """What an audit event means, if it is work; modules are told of by their names, not by their files."""
    if event not in WORK or (event == "open" and str(arguments[0]).endswith(_CODE)):
        return []
    return [f"{WORK[event]} {arguments[0]}" if event in _NAMED else WORK[event]]
