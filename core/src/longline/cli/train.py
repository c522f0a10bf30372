"""`longline train`: run a config, on this process or on several."""

from __future__ import annotations

from pathlib import Path

import click

from longline.cli.options import config_argument, set_option
from longline.errors import ConfigError


@click.command()
@config_argument
@set_option
@click.option(
    "--resume",
    is_flag=False,
    flag_value="last",
    metavar="[CHECKPOINT]",
    help="Go on from the last checkpoint in output_dir, or from the one given.",
)
@click.option(
    "--weights-only", is_flag=True, help="With --resume: start optimizer and schedule anew, at the checkpoint's step."
)
@click.option("--overwrite", is_flag=True, help="Delete an earlier run in output_dir first.")
@click.option("--nproc", type=click.IntRange(min=1), help="Start this many processes on this machine, through torchrun.")
def command(
    config: Path, overrides: tuple[str, ...], resume: str | None, weights_only: bool, overwrite: bool, nproc: int | None
) -> int:
    """Fine-tune a model as CONFIG says. CONFIG is a file, or the folder of a run to repeat."""
    from longline.config.loader import load_config
    from longline.parallel.launch import launch
    from longline.parallel.ranks import under_launcher

    if resume and overwrite:
        raise ConfigError("--resume goes on with a run that --overwrite would delete", hint="give one of them")
    if weights_only and not resume:
        raise ConfigError("--weights-only says what of a checkpoint --resume takes", hint="give --resume as well")
    loaded = load_config(config, overrides)
    if nproc is not None and not under_launcher():
        # Also for --nproc 1, so that what runs is what would run with more.
        arguments = ["train", str(config), *(part for value in overrides for part in ("--set", value))]
        flags = {"--weights-only": weights_only, "--overwrite": overwrite}
        arguments += [*(["--resume", resume] if resume else []), *(flag for flag, given in flags.items() if given)]
        return launch(arguments, nproc)

    from longline.run import train

    return train(loaded, resume=resume, weights_only=weights_only, overwrite=overwrite).exit_code
