"""Servers on this machine whose behaviour a test scripts: a webhook, and one that speaks as OpenAI's API does."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Answer:
    """How a server answers one request: after `delay` seconds, with a status, headers and `content`, which is JSON unless bytes.

    A `silent` one takes the request and never answers.
    """

    status: int = 200
    content: Any = field(default_factory=dict)
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False


TOO_MANY = Answer(429, {"error": {"message": "too many requests"}}, headers={"Retry-After": "0"})
"""The server wants to be asked later."""
BROKEN = Answer(500, {"error": {"message": "out of order"}})
"""The server has a fault of its own."""
GARBAGE = Answer(200, b"\x00\xff<html>this is no JSON")
"""The server answers what nobody can read."""
SILENCE = Answer(silent=True)
"""The server takes a request and never answers."""


@dataclass(frozen=True)
class Request:
    """A request that came; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Server:
    """Answers with what `script` holds, one after the other, and then with `default`; keeps all `requests`."""

    def __init__(self, default: Callable[[Request], Answer] | None = None) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.script: deque[Answer] = deque()
        self.default = default or (lambda request: Answer())
        self._end, self._lock = threading.Event(), threading.Lock()

    def then(self, *answers: Answer) -> None:
        """Answer the next requests so."""
        self.script.extend(answers)

    def answer(self, request: Request) -> Answer | None:
        """The answer to a request, when it is time for it; None for no answer at all."""
        with self._lock:
            self.requests.append(request)
            answer = self.script.popleft() if self.script else self.default(request)
        if answer.silent:
            self._end.wait()
        return None if answer.silent or self._end.wait(answer.delay) else answer

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """Serve on a free port of this machine; `url` tells where."""
        with serve(_handler(self), self._end) as self.url:
            yield self


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler], end: threading.Event | None = None) -> Iterator[str]:
    """Serve with a handler of your own on a free port of this machine, for a block that gets the url.

    `end` is set first when the block is left, for handlers that let a request wait.
    """
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        if end is not None:
            end.set()
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.answer(Request(self.command, self.path, headers, body))
            if answer is None:
                self.close_connection = True
                return
            content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any  # noqa: N815 - the names that http.server looks for

        def log_message(self, *args: object) -> None: ...

    return Handler


class OpenAIServer(Server):
    """Knows `/v1/models`, `/v1/chat/completions` and `/v1/completions`; `say` makes an answer's text of a request's JSON."""

    def __init__(self, say: Callable[[Mapping[str, Any]], str] = lambda request: "seven") -> None:
        super().__init__(self._speak)
        self.say = say

    def _speak(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        if path == "/v1/models":
            return Answer(content={"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "longline"}]})
        if request.method != "POST" or path not in ("/v1/chat/completions", "/v1/completions"):
            return Answer(404, {"error": {"message": f"there is no {request.method} {path}"}})
        asked = request.json
        if asked.get("stream"):
            return Answer(400, {"error": {"message": "this server does not stream"}})
        chat = path == "/v1/chat/completions"
        said = [self.say(asked) for _ in range(asked.get("n") or 1)]
        shape = [{"message": {"role": "assistant", "content": text}} if chat else {"text": text} for text in said]
        return Answer(
            content={
                "id": f"answer-{len(self.requests)}",
                "object": "chat.completion" if chat else "text_completion",
                "created": 0,
                "model": asked.get("model", "tiny"),
                "choices": [{"index": index, "finish_reason": "stop", **choice} for index, choice in enumerate(shape)],
                "usage": {"prompt_tokens": 1, "completion_tokens": len(said), "total_tokens": 1 + len(said)},
            }
        )


@pytest.fixture
def webhook() -> Iterator[Server]:
    """A Server that answers `{}` with status 200, until `webhook.then(TOO_MANY, Answer(delay=2), SILENCE ...)` says otherwise."""
    with Server().serving() as server:
        yield server


@pytest.fixture
def openai_server() -> Iterator[Server]:
    """An OpenAIServer at `openai_server.url`; `openai_server.say = lambda request: ...` makes its answers."""
    with OpenAIServer().serving() as server:
        yield server
