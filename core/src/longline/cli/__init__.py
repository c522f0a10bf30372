"""The command line. Each command is one module, imported only when that command runs, so that `--help` costs nothing.

A plugin's distribution may bring a command of its own, a click command behind an entry point:

    [project.entry-points."longline.commands"]
    lark = "longline_lark.cli:command"
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline.config import doors
from longline.errors import EXIT_SIGINT, EXIT_TRAINING, AuthorWarning, ConfigError, LonglineError, PluginError, did_you_mean
from longline.process import garbage, lingering, signals, telemetry
from longline.text import showable

if TYPE_CHECKING:
    from importlib_metadata import EntryPoint

DEBUG = "LONGLINE_DEBUG"
PLUGIN_COMMANDS = "longline.commands"
"""The group of entry points for the commands of plugins."""

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("longline.cli.train", "Fine-tune a model as a config says."),
    "check": ("longline.cli.check", "Report every mistake of a config, in under a second."),
    "plan": ("longline.cli.plan", "Print what would run and which plugin answers each hook."),
    "preview": ("longline.cli.preview", "Show real rows with trained and masked tokens in colour."),
    "preprocess": ("longline.cli.preprocess", "Prepare and cache the data without training."),
    "evaluate": ("longline.cli.evaluate", "Measure a model or a finished run on the evaluation data."),
    "generate": ("longline.cli.generate", "Answer a prompt, a file of prompts, or a chat in the terminal."),
    "merge": ("longline.cli.merge", "Merge a run's adapter into its base model."),
    "plugins": ("longline.cli.plugins", "List installed plugins, or show one."),
    "schema": ("longline.cli.schema", "Print the JSON schema of a config, with the options of all installed plugins."),
    "doctor": ("longline.cli.doctor", "Look at this machine, what is installed, and what a config needs of both."),
    "runs": ("longline.cli.runs", "List, sort and filter runs; show one, compare several, delete."),
    "new": ("longline.cli.new", "Write a commented config to start from."),
    "convert": ("longline.cli.convert", "Translate another tool's config, and say of every key what became of it."),
}


# click, because it imports in milliseconds and lets a command be a module that is imported when it runs: `--help` and `check`
# never pay for torch.
class LazyGroup(click.Group):
    """A group whose commands are modules that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a run's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        with garbage.paused():
            command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command of a command line; an unknown name gets the nearest one."""
        known = ctx.resilient_parsing or args[0].startswith("-") or args[0] in COMMANDS
        if not known and args[0] not in self.list_commands(ctx):  # plugins' metadata is read only for a name that is not ours
            meant = did_you_mean(args[0], self.list_commands(ctx), otherwise="`longline --help` lists them")
            raise click.UsageError(f"no such command {args[0]!r}; {meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="longline", prog_name="longline")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks; also after a command.")
def cli() -> None:
    """Fine-tune causal language models from one config file; plugins do the rest.

    Exit status: 0 done, 1 training failed, 2 config or usage, 3 plugin, 129, 130 and 143 stopped by a signal.
    """
    try:
        Path.cwd()
    except FileNotFoundError:  # numerical libraries end the process for it, with a word of their own
        raise ConfigError("the working directory was deleted", hint="cd to one that is there") from None


class PluginGroup(LazyGroup):
    """Our own commands and, after them, those of plugins: names from metadata, imported when called. Our names cannot be taken."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our own names, then those of plugins by the alphabet."""
        return [*COMMANDS, *plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; raises PluginError when a plugin's cannot be used."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            command = _load(cmd_name) if cmd_name in plugin_commands() else None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write our own, then those of plugins with what their distributions say of themselves."""
        super().format_commands(ctx, formatter)
        rows = [(name, _summary(offers[0])) for name, offers in plugin_commands().items()]
        if rows:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(rows)


def plugin_commands() -> dict[str, list[EntryPoint]]:
    """The commands of plugins by name, with every distribution that offers one; from metadata alone."""
    return {name: entries for name, entries in doors.offers(PLUGIN_COMMANDS).items() if name not in COMMANDS}


def _summary(entry: EntryPoint) -> str:
    distribution = entry.dist
    return f"{distribution.metadata.get('Summary') or ''} ({distribution.name})".strip() if distribution else ""


def _load(name: str) -> click.Command:
    """Import a plugin's command. Raises PluginError."""
    try:
        command: click.Command = doors.load(doors.find(PLUGIN_COMMANDS, name, "command"), "command", click.Command)
    except ConfigError as error:
        raise PluginError(error.message, hint=error.hint) from error
    return command


# With the same settings: click keeps the help option of the first context that asks for one.
command_line = PluginGroup(
    cli.name, callback=cli.callback, params=cli.params, help=cli.help, context_settings=cli.context_settings
)
"""What `longline` runs. `cli` is the same without plugins: the documentation of commands is generated from it."""


def run_cli(args: list[str] | None = None) -> int:
    """Run one command line in this process and return its exit status; never raises SystemExit.

    `args` leaves out the program's name; None takes sys.argv.
    """
    telemetry.off_by_default()
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args or bool(os.environ.get(DEBUG))
    args = [argument for argument in args if argument != "--debug"]  # it may stand before or after the command
    if not debug:
        _quiet()
    try:
        result: Any = command_line.main(args=args, prog_name="longline", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return EXIT_SIGINT
    except LonglineError as error:
        _show(error, str(error), debug=debug)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_TRAINING
    except Exception as error:
        _show(error, f"{type(error).__name__}: {error}\n  hint: --debug shows the traceback", debug=debug)
        return EXIT_TRAINING
    return result if isinstance(result, int) else 0


def _show(error: Exception, text: str, *, debug: bool) -> None:
    """Print an error, with its traceback if that is wanted; a run's error brings the mask for the secrets of its config."""
    if "LONGLINE_LAUNCHED" in os.environ:
        from longline.parallel.launch import says_first

        if not says_first(text):
            return
    mask = getattr(error, "mask", showable)
    if debug:
        click.echo(mask("".join(traceback.format_exception(error))), err=True)
    click.echo(f"error: {mask(text)}", err=True)


def _quiet() -> None:
    """Keep what libraries tell their developers, and progress bars where no terminal is, out of a person's sight."""
    for category in (FutureWarning, DeprecationWarning, AuthorWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.|transformers\.pytorch_utils")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, used or not, and it misses optional packages
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def main() -> None:
    """Entry point of the `longline` command."""
    signals.once()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A letter that a terminal's or a file's encoding lacks, or a name from a foreign file system, is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    if "--debug" in sys.argv:
        os.environ[DEBUG] = "1"  # for ranks that this process starts
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun sets it for its ranks; so does accelerate, with torchrun
        from longline.parallel.launch import join

        join()
    try:
        code = run_cli()
        signals.leave(code)
    except KeyboardInterrupt:  # after the last line of the command
        code = EXIT_SIGINT
    if "LONGLINE_LAUNCHED" in os.environ:
        from longline.parallel.launch import report

        code = report(code)
    garbage.leave()
    lingering.watch()
    sys.exit(code)
