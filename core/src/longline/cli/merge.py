"""`longline merge`: an adapter and its base become one model that transformers loads without peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from longline import artifacts
from longline.errors import ConfigError


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

    from longline.inference import target as targets
    from longline.model import switch_cache

    target = targets.find_target(str(run), "merge", checkpoint=checkpoint)
    if target.weights is None or target.loaded is None:
        raise ConfigError(f"{run} is not a run folder: it has no run.json")
    if not (target.weights / "adapter_config.json").is_file():
        raise ConfigError(f"{target.weights} is no adapter: all weights were trained, it is a whole model already")
    final = output or run / "merged"
    if final.exists() and output is not None:
        raise ConfigError(f"{final} exists", hint="choose another --output")
    recorded = artifacts.read_manifest(run)["plan"]["dtype"]
    section = target.section.model_copy(update={"quantization": None, "dtype": "float32"})
    model, tokenizer = targets.load(replace(target, section=section))
    merged = model.merge_and_unload().to(getattr(torch, recorded if dtype == "auto" else dtype))  # type: ignore[operator]
    switch_cache(merged.config, on=True)
    view = target.state.view
    view.hook.pre_save(run=view, model=merged)

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    card = (target.weights / "README.md").read_text(encoding="utf-8") if (target.weights / "README.md").is_file() else ""
    card = card.replace("library_name: peft", "library_name: transformers")
    artifacts.save_model(final, write, card, lambda path: view.hook.post_save(run=view, path=path))
    click.echo(f"merged {target.name} with {target.section.path}, written to {final}")
