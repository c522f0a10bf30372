"""`longline preview`: rows as the model will see them, with what is learnt told from what is masked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import click

from longline.cli.options import config_options, load
from longline.cli.preprocess import prepared
from longline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from longline.data import Prepared

TRAINED, MASKED = "bold green", "dim"
SPECIAL = "magenta"


@click.command("preview")
@config_options
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="How many rows to show.")
@click.option("--split", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Of which split.")
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="The first row to show, from 0.")
def command(config: Path, overrides: tuple[str, ...], rows: int, split: Literal["train", "eval"], index: int) -> None:
    """Show rows of CONFIG's data with trained and masked tokens in colour, then counts.

    Trained tokens are bold green, masked ones dim, special tokens magenta. Without colour, ⟦ and ⟧ stand around what is
    trained.
    """
    from rich.console import Console

    from longline.data.summary import summary

    tokenizer, data = prepared(load(config, overrides).config)
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
    start = 0
    for position, (length, row_id) in enumerate(zip(lengths, row["row_ids"], strict=True), start=1):
        ids, labels = row["input_ids"][start : start + length], row["labels"][start : start + length]
        start += length
        trained = sum(label != -100 for label in labels)
        part = f", sample {position} of {len(lengths)}" if len(lengths) > 1 else ""
        heading = f"{split} row {number}{part}: {data.origin(split, row_id)}: {length} tokens, {trained} trained"
        yield heading.replace("[", r"\["), _marked(console, tokenizer, ids, labels)


def _marked(console: Console, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int]) -> Text:
    """The text of a sample: styled on a terminal with colours, else with brackets around what is trained."""
    from rich.text import Text

    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    opening, closing = ("", "") if console.color_system else ("⟦", "⟧") if unicode else ("[[", "]]")
    text = Text()
    for trained, group in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100):
        text.append(opening if trained else "")
        tokens = [token for token, _ in group]
        for special, run in itertools.groupby(tokens, key=lambda token: token in tokenizer.all_special_ids):
            style = f"{TRAINED if trained else MASKED}{' ' + SPECIAL if special else ''}"
            text.append(str(tokenizer.decode(list(run), skip_special_tokens=False)), style=style)
        text.append(closing if trained else "")
    return text
