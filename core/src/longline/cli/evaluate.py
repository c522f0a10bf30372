"""`longline evaluate`: loss, perplexity and accuracy on the evaluation data, and the share of answers that are exactly right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from longline.artifacts import write_atomically
from longline.cli.options import set_option


@click.command()
@click.argument("target")
@set_option
@click.option("--base", is_flag=True, help="Of a run: measure the model before tuning.")
@click.option("--checkpoint", metavar="NAME", help="Of a run: measure this checkpoint, such as checkpoint-100.")
@click.option("--generate", is_flag=True, help="Also answer every row and count the answers that are exactly right.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Rows at a time.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write measures and answers here, as JSON.")
def command(
    target: str,
    overrides: tuple[str, ...],
    base: bool,
    checkpoint: str | None,
    generate: bool,
    max_new_tokens: int,
    batch_size: int,
    output: Path | None,
) -> None:
    """Measure TARGET, a run folder (its tuned model) or a config (its model as it came), on the config's evaluation data."""
    from longline.data.kinds import load as load_kind
    from longline.inference import measures as measuring
    from longline.inference.answers import Sampling
    from longline.inference.target import find_target, load_weights, load_words

    found = find_target(target, "evaluate", overrides, base=base, checkpoint=checkpoint)
    measure = found.measuring()
    answer = found.answering() if generate else None
    # The rows first: whatever is wrong with them is told before a model is loaded, and so is a place that cannot be written.
    place = output or (found.weights and found.run_dir and found.run_dir / "evaluation" / f"{found.weights.name}.json")
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = load_words(found)
    rows = measuring.evaluation_rows(found, tokenizer)
    model = load_weights(found, tokenizer)
    measures: dict[str, Any] = measure(model, tokenizer, measuring.Awaited(rows), batch_size)
    answers: list[dict[str, Any]] = []
    if answer:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        kind = load_kind(found.state.method.kind)
        answers = measuring.predict(model, tokenizer, rows, sampling, batch_size, answer, kind)
        right = sum(answer["exact"] for answer in answers)
        measures |= {"answers": len(answers), "exactly_right": right, "exactly_right_share": right / max(1, len(answers))}
    click.echo(f"{found.name} on {len(rows)} rows")
    for name, value in measures.items():
        click.echo(f"  {name:<20} {value:.6g}" if isinstance(value, float) else f"  {name:<20} {value}")
    if place:
        content = {"model": found.name, "rows": len(rows), "measures": measures, "predictions": answers}
        write_atomically(place, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        click.echo(f"  written to           {place}")
