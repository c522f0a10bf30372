"""What servers and files say of a teacher's distribution, read into one form: for each token the one that stands there, and the
likeliest ones with their log probabilities.

- vLLM, `prompt_logprobs` of the completions API: a list with null first, then for each token an object from token ids to
  `{"logprob": ...}`; the token itself is always one of them. Its Python API's `logprobs` are such a list without the null.
- OpenAI, `choices[0].logprobs` of a chat completion: `{"content": [{"token", "bytes", "logprob", "top_logprobs": [...]}]}`.
- OpenAI's and vLLM's completions API: `{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}]}`.
- plain arrays: a list with a list of [token id, log probability] for each token, the token itself first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longline_distill.config import Layout

Named = int | bytes
"""A token by its id or by its bytes."""


class LayoutError(ValueError):
    """A value is not what its layout says."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is said of one token: `stands`, what it may be, and (token, log probability) of the likeliest ones."""

    stands: frozenset[Named]
    likeliest: list[tuple[Named, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said of a text. `whole`: of all its tokens from the first; else of some that follow each other."""

    places: list[Place | None]
    whole: bool


def read(value: Any, layout: Layout = "auto") -> Answer:
    """Read one row's value. Raises LayoutError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise LayoutError("it is a text that is no JSON") from None
    try:
        return READERS[_layout(value) if layout == "auto" else layout](value)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(f"it is not what the layout {layout} says: {type(error).__name__}: {error}") from error


def _layout(value: Any) -> str:
    """What it looks like. Raises LayoutError."""
    if isinstance(value, Mapping):
        if {"choices", "content", "tokens", "logprobs"} & value.keys():
            return "openai"
        if "prompt_logprobs" in value:
            return "vllm"
        raise LayoutError(f"an object with the keys {', '.join(list(map(str, value))[:6]) or 'none'} is none of the layouts")
    if not isinstance(value, list):
        raise LayoutError(f"a {type(value).__name__} is none of the layouts")
    first = next((item for item in value if item is not None), None)
    if isinstance(first, Mapping):
        return "openai" if "token" in first else "vllm"
    if isinstance(first, list):
        return "arrays"
    raise LayoutError("an empty list" if first is None else f"a list of {type(first).__name__} is none of the layouts")


def _vllm(value: Any) -> Answer:
    if isinstance(value, Mapping):
        value = value["choices"][0] if "choices" in value else value
        value = value["prompt_logprobs"] if value.get("prompt_logprobs") is not None else value["logprobs"]
    places = [None if item is None else _of_ids(item) for item in value]
    return Answer(places, whole=bool(places) and places[0] is None)


def _of_ids(item: Any) -> Place:
    """`{"123": {"logprob": -0.5}}`, or with a number in the place of the object; of a table also as pairs."""
    pairs = item.items() if isinstance(item, Mapping) else item
    found = [
        (int(token), _number(told["logprob"] if isinstance(told, Mapping) else told))
        for token, told in pairs
        if told is not None
    ]
    return Place(frozenset(token for token, _ in found), found)


def _openai(value: Any) -> Answer:
    if isinstance(value, Mapping) and "choices" in value:
        value = value["choices"][0]
    if isinstance(value, Mapping) and "logprobs" in value:
        value = value["logprobs"]
    if isinstance(value, Mapping) and "tokens" in value:
        places = [
            Place(
                frozenset([_token(token)]),
                [(_token(name), _number(told)) for name, told in (top or {}).items() if told is not None],
            )
            for token, top in zip(value["tokens"], value["top_logprobs"], strict=True)
        ]
        return Answer([*places], whole=False)
    content = value["content"] if isinstance(value, Mapping) else value
    return Answer([_of_content(item) for item in content], whole=False)


def _of_content(item: Mapping[str, Any]) -> Place:
    own = _token(item["token"], item.get("bytes"))
    found = {_token(top["token"], top.get("bytes")): _number(top["logprob"]) for top in item.get("top_logprobs") or ()}
    found.setdefault(own, _number(item["logprob"]))
    return Place(frozenset([own]), list(found.items()))


def _token(text: str, raw: Any = None) -> Named:
    """vLLM writes `token_id:123` where it is told to; a token that is a part of a letter has its bytes beside it."""
    if text.startswith("token_id:"):
        return int(text.removeprefix("token_id:"))
    return bytes(raw) if raw else text.encode("utf-8", "surrogatepass")


def _arrays(value: Any) -> Answer:
    places = []
    for pairs in value:
        found = [(int(token), _number(told)) for token, told in pairs]
        places.append(Place(frozenset([found[0][0]]), found))
    return Answer([*places], whole=False)


def _number(value: Any) -> float:
    found = float(value)
    if not found <= 1e-3:  # rounding may leave it a little above 0; a NaN is not
        raise LayoutError(f"{found} is no log probability")
    return max(found, -1e4) if math.isinf(found) else min(found, 0.0)


READERS: dict[str, Callable[[Any], Answer]] = {"vllm": _vllm, "openai": _openai, "arrays": _arrays}
