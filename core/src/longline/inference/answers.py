"""Answers of a model: how they are drawn, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from longline.errors import ModelError
from longline.weights import endings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn: temperature 0 takes the likeliest token each time."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0

    def kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of `model.generate`."""
        if self.temperature <= 0:
            # None, since models ship sampling defaults that greedy decoding would complain about
            return {
                "max_new_tokens": self.max_new_tokens,
                "do_sample": False,
                "temperature": None,
                "top_p": None,
                "top_k": None,
            }
        return {"max_new_tokens": self.max_new_tokens, "do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_size: int = 16,
    streamer: Any = None,
) -> Iterator[tuple[int, list[int]]]:
    """Answer prompts of token ids in left-padded batches of like length; yields (index of the prompt, new token ids).

    `streamer`, for a single prompt, is handed the tokens as they come, as `model.generate` hands them.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    ends = end_tokens(model, tokenizer)
    pad = int(tokenizer.pad_token_id)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in batch)
        # At the left: new tokens are put behind the last one of every row.
        rows = [[pad] * (width - len(prompts[index])) + list(prompts[index]) for index in batch]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in batch]
        with torch.inference_mode():
            out = cast("Any", model).generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                eos_token_id=ends,
                pad_token_id=pad,
                streamer=streamer,
                **sampling.kwargs(),
            )
        for index, row in zip(batch, out[:, width:].tolist(), strict=True):
            cut = next((place for place, token in enumerate(row) if token in ends), len(row))
            yield index, row[:cut]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer: the tokenizer's and those of the model's own generation config."""
    return sorted({*endings.of(model), *([] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)])})


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Return the ids of a conversation up to where the assistant's answer begins.

    Raises:
        ModelError: the model has no chat template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ModelError("this model has no chat template", hint="use --raw, or set model.tokenizer.chat_template")
    try:
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    except Exception as error:
        raise ModelError(f"the chat template refuses these messages: {error}") from error
    return cast("list[int]", ids)
