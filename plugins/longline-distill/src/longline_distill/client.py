"""A client of the completions API with log probabilities of prompts, as vLLM speaks it: a text goes in, for each of its tokens the
likeliest ones come back. Nothing is made up: what is not answered is an error.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import numpy as np

from longline import LonglineError
from longline.errors import nearest
from longline.text import one_line
from longline_distill.layouts import LayoutError, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from longline_distill.config import ServerConfig

    Told = tuple[NDArray[np.int32], NDArray[np.float32]]

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0


class ServerError(LonglineError):
    """The server did not answer, or with something else."""


@dataclass(frozen=True)
class Client:
    """Asks one server. `k`: how many of the likeliest tokens are wanted."""

    options: ServerConfig
    k: int
    stopped: Callable[[], bool] = lambda: False

    def models(self) -> list[str]:
        """The names of what the server has. Raises ServerError."""
        answer = self._call("/v1/models", None)
        try:
            return [str(model["id"]) for model in answer["data"]]
        except (KeyError, TypeError):
            raise self._error("answered /v1/models with something else", "is it an OpenAI-compatible server?") from None

    def model(self) -> str:
        """The model that is asked. Raises ServerError when it is not there, or several are and none is named."""
        found, wanted = self.models(), self.options.model
        if wanted is None and len(found) == 1:
            return found[0]
        listed = ", ".join(found[:6]) or "none"
        if wanted is None:
            raise self._error(f"has {len(found)} models: {listed}", "name one with `model`")
        if wanted not in found:
            meant = nearest(wanted, found)
            raise self._error(f"has no model {wanted!r}", f"it has {listed}" + (f"; did you mean {meant!r}?" if meant else ""))
        return wanted

    def ask(self, model: str, texts: Sequence[Sequence[int]]) -> list[Told]:
        """Of each text ids int32 [tokens, k], -1 where fewer are named, and log probabilities float32 [tokens, k]; the first token
        has none. Raises ServerError.
        """
        asked = {
            "model": model,
            "prompt": [list(text) for text in texts],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self.k,
        }
        answer = self._call("/v1/completions", asked)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        except (KeyError, TypeError):
            raise self._error("answered /v1/completions with something else", "is it an OpenAI-compatible server?") from None
        if len(choices) != len(texts):
            raise self._error(f"answered {len(choices)} of {len(texts)} texts", "is it vLLM?")
        return [self._told(choice, text) for choice, text in zip(choices, texts, strict=True)]

    def _told(self, choice: Any, text: Sequence[int]) -> Told:
        if not choice.get("prompt_logprobs"):
            raise self._error("gives no log probabilities of prompts", "vLLM does, with prompt_logprobs of the completions API")
        try:
            places = read(choice["prompt_logprobs"], "vllm").places
        except LayoutError as error:
            raise self._error(f"gave log probabilities that cannot be read: {error}", "is it vLLM?") from None
        if len(places) != len(text):
            raise self._error(f"spoke of {len(places)} tokens of a text of {len(text)}", "does it cut long texts?")
        ids, logs = np.full((len(text), self.k), -1, dtype=np.int32), np.zeros((len(text), self.k), dtype=np.float32)
        for at, (place, token) in enumerate(zip(places, text, strict=True)):
            if at == 0:
                continue
            if place is None or token not in place.stands:
                hint = "its model must have the student's tokenizer"
                raise self._error(f"spoke of another token than {token} at place {at}", hint)
            likeliest = sorted(place.likeliest, key=lambda pair: -pair[1])[: self.k]
            ids[at, : len(likeliest)], logs[at, : len(likeliest)] = zip(*likeliest, strict=True)
        return ids, logs

    # --- HTTP -----------------------------------------------------------------------------------------------------------------

    def _call(self, path: str, body: Any) -> Any:
        """One request, tried again where that may help. Raises ServerError."""
        wait = FIRST_WAIT
        for attempt in range(self.options.retries + 1):
            try:
                return self._once(path, body)
            except urllib.error.HTTPError as error:
                said = _said(error)
                if error.code != 429 and error.code < 500:
                    hint = "check url and api_key" if error.code in (401, 403, 404) else "look into the server's log"
                    raise self._error(f"refused {path} with {error.code}{said}", hint) from None
                why, wait = f"answered {path} with {error.code}{said}", _after(error, wait)
            except TimeoutError:
                why = f"did not answer {path} within {self.options.timeout:g} s"
            except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError, JSON's errors are ValueErrors
                reason = getattr(error, "reason", error)
                why = f"did not answer {path}: {one_line(str(reason)) or type(error).__name__}"
            if attempt < self.options.retries and not self.stopped():
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        raise self._error(
            f"{why}, {self.options.retries + 1} times", "is it running? `timeout` and `retries` say how long it is waited for"
        )

    def _once(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.options.api_key is not None:
            headers["Authorization"] = f"Bearer {self.options.api_key.get_secret_value()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.options.url + path, data, headers)  # noqa: S310  # http or https, as the options say
        with urllib.request.urlopen(request, timeout=self.options.timeout) as answer:  # noqa: S310
            return json.loads(answer.read())

    def _error(self, what: str, hint: str) -> ServerError:
        return ServerError(f"the teacher's server {self.options.url} {what}", hint=hint)


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says of a refusal, cut."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        text = str(found.get("message", text) if isinstance(found, dict) else found)
    except (ValueError, AttributeError):
        pass
    return f": {one_line(text)[:300]}" if text.strip() else ""


def _after(error: urllib.error.HTTPError, wait: float) -> float:
    """How long the server asks to wait, within reason."""
    try:
        return min(max(float(error.headers.get("Retry-After", wait)), 0.0), LONGEST_WAIT)
    except ValueError:
        return wait
