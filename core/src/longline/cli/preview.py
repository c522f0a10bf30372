"""`longline preview`: rows as the model will see them, with what is learnt told from what is masked."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Literal

import click

from longline.cli.options import config_options, load
from longline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from longline.data import Prepared

TRAINED, REJECTED, MASKED = "bold green", "bold red", "dim"
SPECIAL = "magenta"


@click.command("preview")
@config_options
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="How many rows to show.")
@click.option("--split", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Of which split.")
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="The first row to show, from 0.")
def command(config: Path, overrides: tuple[str, ...], rows: int, split: Literal["train", "eval"], index: int) -> None:
    """Show rows of CONFIG's data with trained and masked tokens in colour, then counts.

    Trained tokens are bold green (bold red in answers that are rejected or bad), masked ones dim, special tokens magenta.
    Without colour, ⟦ and ⟧ stand around what is trained. A prompt for generation is followed by the columns that reward
    functions get.
    """
    from rich.console import Console

    from longline.data.summary import summary
    from longline.run import prepare

    tokenizer, data = prepare(load(config, overrides), "preview")
    dataset = data.train if split == "train" else data.eval
    if dataset is None:
        raise ConfigError("there is no evaluation data", hint="set data.eval or data.eval_fraction, or leave out --split")
    if index >= len(dataset):
        raise ConfigError(f"--index {index}: {split} has {len(dataset)} rows, numbered from 0")
    console = Console(highlight=False, soft_wrap=True)
    for number in range(index, min(index + rows, len(dataset))):
        for heading, text in _samples(console, tokenizer, data, split, number, dataset[number]):
            console.print(heading, style="bold")
            console.print(text)
            console.print()
    for line in summary(data.report):
        console.print(line, markup=False)


def _samples(
    console: Console,
    tokenizer: PreTrainedTokenizerBase,
    data: Prepared,
    split: Literal["train", "eval"],
    number: int,
    row: Mapping[str, Any],
) -> Iterator[tuple[str, Text]]:
    """Each sample of a row, with a heading that says where it comes from."""
    lengths = row.get("seq_lengths") or [len(row["input_ids"])]
    labels = row.get("labels") or [-100] * len(row["input_ids"])
    parts = _parts(data.report.layout, row, len(lengths))
    row_ids = row["row_ids"] if len(row["row_ids"]) == len(lengths) else row["row_ids"] * len(lengths)
    start = 0
    for length, row_id, (part, style) in zip(lengths, row_ids, parts, strict=True):
        ids, own = row["input_ids"][start : start + length], labels[start : start + length]
        start += length
        trained = f", {sum(label != -100 for label in own)} trained" if "labels" in row else ""
        heading = f"{split} row {number}{part}: {data.origin(split, row_id)}: {length} tokens{trained}"
        text = _marked(console, tokenizer, ids, own, style)
        yield heading.replace("[", r"\["), text.append_text(_columns(row["row"])) if "row" in row else text


def _parts(layout: str, row: Mapping[str, Any], count: int) -> list[tuple[str, str]]:
    """What each sample of a row is called behind its number, and the style of what is trained in it."""
    if layout == "pairs":
        return [(", chosen", TRAINED), (", rejected", REJECTED)]
    if layout == "labelled":
        return [(", label true", TRAINED) if row["label"] else (", label false", REJECTED)]
    names = [f", sample {position} of {count}" for position in range(1, count + 1)] if count > 1 else [""]
    return [(name, TRAINED) for name in names]


def _columns(text: str) -> Text:
    """The columns of a prompt's row beside the prompt, one a line."""
    from rich.text import Text

    shown = Text()
    for name, value in json.loads(text).items():
        if name != "prompt":
            shown.append(f"\n  {name}: ", style=MASKED).append(json.dumps(value, ensure_ascii=False))
    return shown


def _marked(
    console: Console, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int], style: str
) -> Text:
    """The text of a sample: styled on a terminal with colours, else with brackets around what is trained."""
    from rich.text import Text

    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    opening, closing = ("", "") if console.color_system else ("⟦", "⟧") if unicode else ("[[", "]]")
    text = Text()
    for trained, group in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100):
        text.append(opening if trained else "")
        tokens = [token for token, _ in group]
        for special, run in itertools.groupby(tokens, key=lambda token: token in tokenizer.all_special_ids):
            both = f"{style if trained else MASKED}{' ' + SPECIAL if special else ''}"
            text.append(str(tokenizer.decode(list(run), skip_special_tokens=False)), style=both)
        text.append(closing if trained else "")
    return text
