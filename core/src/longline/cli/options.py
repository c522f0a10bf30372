"""What commands have in common: the CONFIG argument and `--set`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console


class ShortGroup(click.Group):
    """A group of which one command, `usual`, may be left out: the first word decides, so a file named as a command is ./NAME."""

    usual: str = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the subcommand first."""
        words = [word for word in args if not word.startswith("-")]
        if words and words[0] in self.commands:
            args.remove(words[0])
            args = [words[0], *args]
        elif not {"-h", "--help"}.intersection(args):
            args = [self.usual, *args]
        return super().parse_args(ctx, args)


class ConfigPath(click.ParamType[Path]):
    """A config file, or a run folder that holds a config.yaml; whether it can be read is the loader's business."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the file: a folder stands for the config.yaml in it."""
        path = Path(value)
        return path / "config.yaml" if path.is_dir() and (path / "config.yaml").is_file() else path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Let the shell complete file names."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def config_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument CONFIG as `config`, a Path."""
    return click.argument("config", type=ConfigPath(), metavar="CONFIG")(function)


def set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--set KEY=VALUE`, to be given any number of times, as `overrides`, a tuple of texts."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a value of the config: --set trainer.learning_rate=1e-4 --set data.train.0.limit=100. VALUE is YAML.",
    )(function)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds CONFIG and `--set`."""
    return config_argument(set_option(function))


def write_new(path: Path, texts: Mapping[Path, str]) -> None:
    """Write files that are not there yet, with their folders. Raises ConfigError that names `path`, what all of it is."""
    try:
        for place, text in texts.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def output() -> Console:
    """A rich console for tables: as wide as the terminal, and wide enough for every column where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=240)
