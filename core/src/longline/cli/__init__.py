"""The command line. Each command is one module, imported only when that command runs, so that `--help` costs nothing."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

import click

from longline import __version__
from longline.errors import EXIT_SIGINT, EXIT_TRAINING, LonglineError

DEBUG = "LONGLINE_DEBUG"

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
    "runs": ("longline.cli.runs", "List runs with status, steps and last metrics."),
    "new": ("longline.cli.new", "Write a commented config to start from."),
}


class LazyGroup(click.Group):
    """A group whose commands are modules that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a run's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return its `command`; did-you-mean is click's own."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="longline")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks; also after a command.")
def cli() -> None:
    """Fine-tune causal language models from one config file; plugins do the rest.

    Exit status: 0 done, 1 training failed, 2 config or usage, 3 plugin, 130 and 143 stopped by a signal.
    """


def run_cli(args: list[str] | None = None) -> int:
    """Run one command line in this process and return its exit status; never raises SystemExit.

    `args` leaves out the program's name; None takes sys.argv.
    """
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args or bool(os.environ.get(DEBUG))
    args = [argument for argument in args if argument != "--debug"]  # it may stand before or after the command
    if debug:
        os.environ[DEBUG] = "1"  # for ranks that this process starts
    else:
        _quiet()
    try:
        result: Any = cli.main(args=args, prog_name="longline", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        return EXIT_SIGINT
    except LonglineError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_TRAINING
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {type(error).__name__}: {error}\n  hint: --debug shows the traceback", err=True)
        return EXIT_TRAINING
    return result if isinstance(result, int) else 0


def _quiet() -> None:
    """Keep what libraries tell their developers, and progress bars where no terminal is, out of a person's sight."""
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def main() -> None:
    """Entry point of the `longline` command."""
    code = run_cli()
    if "LONGLINE_LAUNCHED" in os.environ:
        from longline.distributed import report

        code = report(code)
    sys.exit(code)
