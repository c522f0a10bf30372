"""Commands that plugins bring, against distributions that lie installed in a folder of sys.path as pip would leave them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import click
import pytest

from longline.cli import COMMANDS, cli, run_cli

GOOD = """
    import click

    @click.command()
    @click.argument("number", type=int)
    def command(number):
        '''Count hooks.'''
        click.echo(f"{number} hooks")
        return number
"""


class Site:
    """A folder on sys.path into which distributions are put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, code: str = GOOD, *, dist: str = "", target: str = "command") -> str:
        """Install a distribution that brings the command `name`; returns its module."""
        dist = dist or f"longline-{name}"
        module = f"{dist.replace('-', '_')}_{self.folder.parent.name}"  # imports are cached by name: every test has its own
        (self.folder / f"{module}.py").write_text(dedent(code))
        info = self.folder / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\nSummary: Something with {name}.\n\n"
        )
        (info / "entry_points.txt").write_text(f"[longline.commands]\n{name} = {module}:{target}\n")
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Site(folder)


def test_a_command_of_a_plugin_runs_and_its_result_is_the_exit_status(site, capsys):
    site.add("count")
    assert run_cli(["count", "7"]) == 7
    assert capsys.readouterr().out == "7 hooks\n"
    assert run_cli(["count", "many"]) == 2
    assert "Usage: longline count" in capsys.readouterr().err


def test_help_lists_it_from_metadata_without_importing(site, capsys):
    module = site.add("count", "raise RuntimeError('imported')")
    assert run_cli(["--help"]) == 0
    told = capsys.readouterr().out
    assert "Commands of plugins:" in told
    assert "Something with count. (longline-count)" in " ".join(told.split())
    assert module not in sys.modules


def test_our_own_commands_look_for_no_plugin_and_import_none(site):
    module = site.add("count")
    assert run_cli(["new", "--help"]) == 0
    assert module not in sys.modules


def test_our_own_names_cannot_be_taken(site, capsys):
    site.add("check", "raise RuntimeError('imported')")
    assert run_cli(["check", "--help"]) == 0
    assert run_cli(["--help"]) == 0
    assert "Something with check" not in capsys.readouterr().out


def test_a_name_that_two_distributions_offer_is_refused(site, capsys):
    site.add("count", dist="longline-count")
    site.add("count", dist="longline-other")
    assert run_cli(["count", "7"]) == 3
    told = capsys.readouterr().err
    assert "'count' is offered by several distributions" in told
    assert "longline-count 1.0" in told
    assert "longline-other 1.0" in told


def test_one_that_cannot_be_imported_is_named_with_its_remedy(site, capsys):
    site.add("count", "import no_such_module")
    assert run_cli(["count"]) == 3
    told = capsys.readouterr().err
    assert "the command 'count' (longline-count 1.0) cannot be imported: ModuleNotFoundError" in told
    assert "pip install --force-reinstall longline-count" in told


def test_one_that_is_no_command_is_named(site, capsys):
    site.add("count", "command = 3")
    assert run_cli(["count"]) == 3
    assert "is a int, and must be an instance of Command" in capsys.readouterr().err


def test_an_unknown_command_is_still_an_error_of_usage(site, capsys):
    site.add("count")
    assert run_cli(["cuont"]) == 2
    assert "no such command 'cuont'; did you mean 'count'?" in capsys.readouterr().err


def test_the_documented_group_knows_no_plugin(site):
    """docs/generate.py writes the reference from `cli`: it must not depend on what is installed."""
    site.add("count")
    context = click.Context(cli, info_name="longline", **cli.context_settings)
    assert cli.list_commands(context) == list(COMMANDS)
    assert cli.get_command(context, "count") is None
    assert "plugins:" not in context.get_help()


def test_help_stays_fast_and_light():
    code = (
        "import sys; from longline.cli import run_cli; run_cli(['--help'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begin < 1.5
