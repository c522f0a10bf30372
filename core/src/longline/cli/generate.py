"""`longline generate`: one answer, a file of answers, or a chat in the terminal."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longline.artifacts import write_atomically
from longline.cli.options import set_option
from longline.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline.inference.answers import Sampling


@click.command()
@click.argument("target")
@set_option
@click.option("-p", "--prompt", help="Answer this and end.")
@click.option("-f", "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Answer every line of a file.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="With --file: write JSONL here.")
@click.option("-s", "--system", help="A system prompt.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template.")
@click.option("--base", is_flag=True, help="Of a run: use the model before tuning.")
@click.option("--checkpoint", metavar="NAME", help="Of a run: use this checkpoint.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the likeliest token.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0, show_default=True, help="Nucleus.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="With --file: rows at a time.")
def command(
    target: str,
    overrides: tuple[str, ...],
    prompt: str | None,
    file: Path | None,
    output: Path | None,
    system: str | None,
    raw: bool,
    base: bool,
    checkpoint: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    batch_size: int,
) -> None:
    """Let TARGET answer: a run folder (its tuned model), a config (its model as it came), or a model path.

    Without --prompt and --file it is a chat: an empty line or Ctrl-D ends it. A --file holds one prompt a line, as plain text or
    as JSON with `messages` or `prompt`.
    """
    from longline.inference.answers import Sampling
    from longline.inference.target import find_target, load

    if output and not file:
        raise click.UsageError("--output goes with --file")
    if prompt is not None and file:
        raise click.UsageError("--prompt and --file exclude each other")
    prompts = _read_prompts(file) if file else []
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
    found = find_target(target, "generate", overrides, base=base, checkpoint=checkpoint)
    answer = found.answering()
    model, tokenizer = load(found)
    talk = _Talk(model, tokenizer, answer, Sampling(max_new_tokens, temperature, top_p), system, raw)
    if file:
        _answer_file(talk, prompts, output, batch_size)
    elif prompt is not None or not sys.stdin.isatty():
        talk.stream([{"role": "user", "content": prompt if prompt is not None else sys.stdin.read()}])
    else:
        talk.chat()


class _Talk:
    """A model with the options of this command."""

    def __init__(
        self, model: Any, tokenizer: Any, answer: Callable[..., Any], sampling: Sampling, system: str | None, raw: bool
    ) -> None:
        self.model, self.tokenizer, self.answer, self.sampling = model, tokenizer, answer, sampling
        self.system, self.raw = system, raw

    def ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """The tokens that the model is given."""
        from longline.inference.answers import chat_prompt

        if self.raw:
            ids: list[int] = self.tokenizer(messages[-1]["content"])["input_ids"]
            return ids
        head = [{"role": "system", "content": self.system}] if self.system and messages[0]["role"] != "system" else []
        return chat_prompt(self.tokenizer, head + messages)

    def stream(self, messages: list[dict[str, Any]]) -> str:
        """Print the answer as it comes, and return it."""
        from transformers import TextStreamer

        shown = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        [(_, ids)] = self.answer(self.model, self.tokenizer, [self.ids(messages)], self.sampling, 1, shown)
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def chat(self) -> None:
        """Talk until an empty line."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                text = input("you> ").strip()
            except EOFError:
                click.echo()
                return
            if not text:
                return
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": self.stream(messages)})


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A conversation that is to be answered, and where it was read."""

    messages: list[dict[str, Any]]
    where: str


def _read_prompts(path: Path) -> list[_Prompt]:
    """The conversations of a file, one a line.

    Raises:
        DataError: it is not UTF-8, holds nothing, or a line is JSON without `messages` or `prompt`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    places = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    prompts = [_Prompt(_conversation(line, where), where) for where, line in places]
    if not prompts:
        raise DataError(f"{path} holds no prompt")
    return prompts


def _conversation(line: str, where: str) -> list[dict[str, Any]]:
    if not line.lstrip().startswith("{"):
        return [{"role": "user", "content": line}]
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if isinstance(row.get("messages"), list) and row["messages"]:
        messages = list(row["messages"])
        while messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            messages.pop()  # the answer is what is asked for
        if messages:
            return messages
    if isinstance(row.get("prompt"), str):
        return [{"role": "user", "content": row["prompt"]}]
    raise DataError(f"{where}: a row needs `messages` or `prompt`")


def _answer_file(talk: _Talk, prompts: list[_Prompt], output: Path | None, batch_size: int) -> None:
    ids = [_ids(talk, prompt) for prompt in prompts]
    answers = dict(talk.answer(talk.model, talk.tokenizer, ids, talk.sampling, batch_size))
    rows = [
        {"messages": prompt.messages, "answer": talk.tokenizer.decode(answers[index], skip_special_tokens=True).strip()}
        for index, prompt in enumerate(prompts)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output:
        write_atomically(output, text)
        click.echo(f"{len(rows)} answers written to {output}")
    else:
        click.echo(text, nl=False)


def _ids(talk: _Talk, prompt: _Prompt) -> list[int]:
    try:
        return talk.ids(prompt.messages)
    except (ModelError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{prompt.where}: {error}") from error
