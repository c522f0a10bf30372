"""`longline merge`: an adapter and its base become one model that transformers loads without peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline import artifacts
from longline.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from longline.inference.target import Target
    from longline.saving.reload import Saved


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--checkpoint", metavar="NAME", help="Merge this checkpoint instead of the final adapter.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write; left out: RUN/merged.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Type of the written weights; auto is what the run used for its base.",
)
def command(run: Path, checkpoint: str | None, output: Path | None, dtype: str) -> None:
    """Merge the adapter of RUN, a run folder, into its base model. The sum is computed in float32."""
    import torch

    from longline.adapters.merging import merge
    from longline.inference import target as targets
    from longline.model import switch_cache
    from longline.saving.final import shapers
    from longline.saving.reload import Saved
    from longline.weights import likeness

    target, weights = _adapter(run, checkpoint)
    final = output or run / "merged"
    if final.exists() and output is not None:
        raise ConfigError(f"{final} exists", hint="choose another --output")
    recorded = artifacts.read_manifest(run)["plan"]["dtype"]
    section = target.section.model_copy(update={"quantization": None, "dtype": "float32"})
    model, tokenizer = targets.load(replace(target, section=section))
    written = recorded if dtype == "auto" else dtype
    merged: Any = merge(model, likeness.sample(tokenizer)).to(getattr(torch, written))
    switch_cache(merged.config, on=True)
    view = target.state.view
    view.hook.pre_save(run=view, model=merged)

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    card = (weights / "README.md").read_text(encoding="utf-8") if (weights / "README.md").is_file() else ""
    card = card.replace("library_name: peft", "library_name: transformers")
    card = card.replace("This is an adapter", "This is, merged, an adapter")

    def finish(folder: Path) -> None:
        view.hook.post_save(run=view, path=folder)
        _load_again(Saved(folder, target.section, written, view.output), merged, tokenizer, shapers(target.state))

    artifacts.save_model(final, write, artifacts.card_writer(card), finish)
    click.echo(f"merged {target.name} with {target.section.path}, written to {final}")


def _adapter(run: Path, checkpoint: str | None) -> tuple[Target, Path]:
    """The run, and the folder of its adapter. Raises ConfigError where it has none."""
    from longline.inference import target as targets

    target = targets.find_target(str(run), "merge", checkpoint=checkpoint)
    if target.weights is None or target.loaded is None:
        raise ConfigError(f"{run} is not a run folder: it has no run.json")
    if not (target.weights / "adapter_config.json").is_file():
        raise ConfigError(f"{target.weights} is no adapter: all weights were trained, it is a whole model already")
    return target, target.weights


def _load_again(saved: Saved, model: Any, tokenizer: Any, shaping: str) -> None:
    """Compare what was written with the model in memory. Raises TrainingError for another model."""
    from longline.saving.reload import NotComparedError
    from longline.weights import likeness

    try:
        found = saved.differs(model, tokenizer, likeness.tried(model, likeness.sample(tokenizer)))
    except NotComparedError as why:
        click.echo(f"not loaded again: {why}")
        return
    text = f"loaded again, the merged model is another one: {found}"
    if found and shaping:
        click.echo(f"{text}, where {shaping} does not take part when it is loaded")
    elif found:
        raise TrainingError(text, hint="nothing was written; use the adapter beside its base")
