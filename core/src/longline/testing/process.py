"""Commands in processes of their own: with plugins that are not packaged, on several ranks, and ended when they take too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longline.plugins import LoadedPlugin, Plugin
from longline.testing.entries import Given, Named, as_entry, by_name, surroundings, write_entry_points
from longline.testing.running import Folder, leave_checkpoint


@dataclass(frozen=True)
class Ended(Folder):
    """A command that ended: its exit status, what it wrote, the config of a run, and its folder as an Outcome has it."""

    code: int
    out: str
    err: str
    config: Path
    output_dir: Path

    @property
    def text(self) -> str:
        """All that it wrote."""
        return self.out + self.err


def execute(words: Sequence[str], *, environment: Mapping[str, str], timeout: float, folder: Path) -> tuple[int, str, str]:
    """Run `longline WORDS` in `folder`; exit status and what it wrote. After `timeout` seconds all of it is ended.

    Raises AssertionError with what it wrote, when it was.
    """
    with _started(words, environment, folder) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"longline {' '.join(words)} had not ended after {timeout:g} seconds:\n{out}{err}") from None
    return process.returncode, out, err


@contextmanager
def _started(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "longline", *words],
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # with its ranks, so that one signal ends all
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., Ended]:
    """Return a function that runs a command of Longline in a process of its own and returns an Ended.

    `run_command("check", config, plugins={"tide": TidePlugin})`: `plugins` are classes by the names that the config calls them,
    as if a distribution with these entry points was installed. `env` adds to the environment; a command that has not ended after
    `timeout` seconds is killed with all its ranks, and the test fails.
    """

    def run(*words: object, plugins: Named | None = None, env: Mapping[str, str] | None = None, timeout: float = 300) -> Ended:
        entries = tmp_path / "entry-points"
        write_entry_points(entries, plugins or {})
        environment = {"OMP_NUM_THREADS": "1", **surroundings(entries), **(env or {})}
        said = [str(word) for word in words]
        code, out, err = execute(said, environment=environment, timeout=timeout, folder=tmp_path)
        config = next((Path(word) for word in said[1:] if Path(word).exists()), tmp_path)
        return Ended(code, out, err, config, tmp_path / "run")

    return run


@pytest.fixture
def run_process(run_command: Callable[..., Ended], run_config: Callable[..., Path]) -> Callable[..., Ended]:
    """Return a function that trains as `run_longline` does, but in a process of its own, or with `ranks=2` in two.

    It returns an Ended.

    `run_process(plugins=[TidePlugin(options), fail_at("on_step_end", 3, "SIGKILL")])`: instances are written into the config, so
    their classes must stand in a module that can be imported. To go on with a run give its config: `run_process(ended.config,
    resume="last", plugins=[...])`; the plugins are written into that config anew, with nothing of the first run's faults.
    `checkpoint=3` goes on from one that is made first, as in `run_longline`.
    """

    def run(
        config: Path | None = None,
        *,
        plugins: Sequence[Given] = (),
        ranks: int = 1,
        checkpoint: int | None = None,
        resume: str | None = None,
        overwrite: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        **overrides: Any,
    ) -> Ended:
        import yaml

        made = [as_entry(plugin) for plugin in plugins if isinstance(plugin, (Plugin, LoadedPlugin))]
        named, classes = by_name(plugins)
        entries = [*named, *({name: options} for name, _, options in made)]
        if config is None:
            config = run_config(**overrides, plugins=entries)
        elif overrides:
            raise TypeError("a config of your own says all: give it the other keywords")
        else:
            content = yaml.safe_load(config.read_text(encoding="utf-8"))
            config.write_text(yaml.safe_dump({**content, "plugins": entries}, sort_keys=False), encoding="utf-8")
        if checkpoint is not None:
            resume = resume or leave_checkpoint(config, checkpoint)
        flags = [*(["--resume", resume] if resume else []), *(["--overwrite"] if overwrite else [])]
        flags += ["--nproc", str(ranks)] if ranks > 1 else []
        classes |= {name: cls for name, cls, _ in made}
        ended = run_command("train", config, *flags, plugins=classes, env=env, timeout=timeout)
        folder = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["output_dir"])
        return Ended(ended.code, ended.out, ended.err, config, folder)

    return run
