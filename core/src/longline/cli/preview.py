"""`longline preview`: rows as the model will see them, with what is learnt told from what is masked."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Literal

import click

from longline.cli.options import config_options
from longline.errors import ConfigError
from longline.events import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from rich.console import Console
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from longline.data import Prepared
    from longline.data.kinds import Kind
    from longline.events import Column

TRAINED, REJECTED, MASKED = "bold green", "bold red", "dim"
SPECIAL = "magenta"
SHOWN_TOKENS = 5
"""Of so many tokens the further columns are shown."""


@click.command("preview")
@config_options
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="How many rows to show.")
@click.option("--split", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Of which split.")
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="The first row to show, from 0.")
def command(config: Path, overrides: tuple[str, ...], rows: int, split: Literal["train", "eval"], index: int) -> None:
    """Show rows of CONFIG's data with trained and masked tokens in colour, then counts.

    Trained tokens are bold green (bold red in answers that are rejected or bad), masked ones dim, special tokens magenta.
    Without colour, ⟦ and ⟧ stand around what is trained. A prompt for generation is followed by the columns that reward
    functions get, and every row by the further columns that are kept.
    """
    from rich.console import Console

    from longline.config.loader import load_config
    from longline.data.summary import summary
    from longline.run import prepare

    kind, tokenizer, data = prepare(load_config(config, overrides), "preview")
    dataset = data.train if split == "train" else data.eval
    if dataset is None:
        raise ConfigError("there is no evaluation data", hint="set data.eval or data.eval_fraction, or leave out --split")
    if index >= len(dataset):
        raise ConfigError(f"--index {index}: {split} has {len(dataset)} rows, numbered from 0")
    console = Console(highlight=False, soft_wrap=True)
    for number in range(index, min(index + rows, len(dataset))):
        for heading, text in _samples(console, tokenizer, data, kind, split, dataset, number):
            console.print(heading, style="bold")
            console.print(text)
            console.print()
    for line in summary(data.report):
        console.print(line, markup=False)


def _samples(
    console: Console,
    tokenizer: PreTrainedTokenizerBase,
    data: Prepared,
    kind: Kind,
    split: Literal["train", "eval"],
    dataset: Dataset,
    number: int,
) -> Iterator[tuple[str, Text]]:
    """Each sample of a row, with a heading that says where it comes from."""
    row = dataset[number]
    labels = row.get("labels") or [IGNORED] * len(row["input_ids"])
    shown = kind.shown(row)
    places = [data.origin(split, row_id) for row_id in row["row_ids"]]
    if len(places) < len(shown):
        places *= len(shown)  # a pair is one row
    elif len(places) > len(shown):
        places = [f"{places[0]} to {places[-1]}, {len(places)} rows joined"]
    start = 0
    for position, (part, place) in enumerate(zip(shown, places, strict=True)):
        inside = slice(start, start := start + part.length)
        ids, own = row["input_ids"][inside], labels[inside]
        trained = f", {sum(label != IGNORED for label in own)} trained" if "labels" in row else ""
        heading = f"{split} row {number}{part.name}: {place}: {part.length} tokens{trained}"
        text = _marked(console, tokenizer, ids, own, REJECTED if part.bad else TRAINED)
        values = {**kind.values(row), **_kept(data.columns, row, inside, own, position)}
        yield heading.replace("[", r"\["), text.append_text(_lines(values))


def _kept(
    columns: Sequence[Column], row: Mapping[str, Any], inside: slice, labels: Sequence[int], position: int
) -> dict[str, Any]:
    """The further columns of a sample; of those that are aligned to tokens the values of the first that are trained."""
    found: dict[str, Any] = {}
    for column in columns:
        value = row[column.name]
        if column.align == "token":
            own = [item for item, label in zip(value[inside], labels, strict=True) if label != IGNORED] or value[inside]
            found[f"{column.name}, first trained tokens"] = own[:SHOWN_TOKENS]
        else:
            found[column.name] = value[position] if "seq_lengths" in row and len(row["row_ids"]) > 1 else value
    return found


def _lines(values: Mapping[str, Any]) -> Text:
    """Values one a line, each behind its name."""
    from rich.text import Text

    shown = Text()
    for name, value in values.items():
        shown.append(f"\n  {name}: ", style=MASKED).append(json.dumps(value, ensure_ascii=False, default=str))
    return shown


def _marked(
    console: Console, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int], style: str
) -> Text:
    """The text of a sample: styled on a terminal with colours, else with brackets around what is trained."""
    from rich.text import Text

    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    opening, closing = ("", "") if console.color_system else ("⟦", "⟧") if unicode else ("[[", "]]")
    text = Text()
    for trained, group in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED):
        text.append(opening if trained else "")
        tokens = [token for token, _ in group]
        for special, run in itertools.groupby(tokens, key=lambda token: token in tokenizer.all_special_ids):
            both = f"{style if trained else MASKED}{' ' + SPECIAL if special else ''}"
            text.append(str(tokenizer.decode(list(run), skip_special_tokens=False)), style=both)
        text.append(closing if trained else "")
    return text
