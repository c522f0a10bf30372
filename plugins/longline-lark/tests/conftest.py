"""A server that treats requests as Lark's webhook does: verifies signature, age, size, shape and rate. It can be told to fail."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from longline.testing import serve

SECRET = "s3cr3t-of-the-bot"
TOKEN = "f00dcafe-0123-4567-89ab-token0fthebot"
TEMPLATES = {"blue", "green", "red", "orange"}
TAGS = {"div", "column_set", "column", "hr", "button", "plain_text"}


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC as RFC 2104 writes it, so that the plugin is compared with something else than its own library call."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


@dataclass
class LarkServer:
    """What it received and how it answers. `faults` are used up, one for each request; then it answers as Lark does."""

    url: str = ""
    secret: str | None = SECRET
    clock: float = 0.0
    """Seconds that the server's clock is ahead."""
    keyword: str = ""
    says: bytes = b""
    """What it answers a good message with, instead of what Lark does; `delivered` is then counted all the same."""
    faults: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: deque[float] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)
    release: threading.Event = field(default_factory=threading.Event)

    def judge(self, path: str, body: bytes) -> tuple[int, str]:
        """The code and message that Lark's documentation gives for such a request."""
        now = time.time()
        recent = [at for at in self.times if now - at < 60]
        self.times = deque([*recent, now])
        if sum(now - at < 1 for at in recent) >= 5 or len(recent) >= 100:
            return 11232, "frequency limited"
        if path != f"/open-apis/bot/v2/hook/{TOKEN}":
            return 19001, "param invalid: incoming webhook access token invalid"
        try:
            message = json.loads(body)
        except ValueError:
            return 9499, "Bad Request"
        if len(body) > 20 * 1024 or not well_formed(message):
            return 9499, "Bad Request"
        if self.secret is not None:
            stamp = message.get("timestamp")
            sign = b64encode(hmac_sha256(f"{stamp}\n{self.secret}".encode(), b"")).decode()
            fresh = isinstance(stamp, str) and abs(now + self.clock - int(stamp)) <= 3600
            if not fresh or message.get("sign") != sign:
                return 19021, "sign match fail or timestamp is not within one hour from current time"
        if self.keyword not in json.dumps(list(texts(message["card"])), ensure_ascii=False):
            return 19024, "Key Words Not Found"
        self.cards.append(message["card"])
        return 0, "success"

    @property
    def titles(self) -> list[str]:
        return [card["header"]["title"]["content"] for card in self.cards]

    def facts(self, index: int = -1) -> dict[str, str]:
        """The lines of a card, name to value."""
        columns = [item["columns"] for item in self.cards[index]["body"]["elements"] if item["tag"] == "column_set"]
        return {left["elements"][0]["text"]["content"]: right["elements"][0]["text"]["content"] for left, right in columns}

    def text(self, index: int = -1) -> str:
        """Everything outside of the lines."""
        items = [item["text"]["content"] for item in self.cards[index]["body"]["elements"] if item["tag"] == "div"]
        return "\n".join(items)

    def wait_for(self, count: int, seconds: float = 10) -> None:
        """Wait until so many messages were accepted."""
        until = time.monotonic() + seconds
        while len(self.cards) < count and time.monotonic() < until:
            time.sleep(0.01)
        assert len(self.cards) >= count, (self.titles, self.codes)


def well_formed(message: Any) -> bool:
    """The parts that a card of JSON schema 2.0 must have, and none that this plugin has no business with."""
    if not isinstance(message, dict) or message.get("msg_type") != "interactive":
        return False
    card = message.get("card", {})
    header = card.get("header", {})
    named = header.get("title", {}).get("tag") == "plain_text" and header.get("template") in TEMPLATES
    elements = card.get("body", {}).get("elements")
    return card.get("schema") == "2.0" and named and bool(elements) and tags(card) <= TAGS and len(list(texts(card))) < 200


def tags(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value[key] for key in ("tag",) if key in value}.union(*(tags(item) for item in value.values()))
    return set().union(*(tags(item) for item in value)) if isinstance(value, list) else set()


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from [item] if name == "content" else texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def handler(lark: LarkServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lark.lock:
                lark.bodies.append(body)
                lark.headers.append(dict(self.headers))
                fault = lark.faults.pop(0) if lark.faults else ""
                code, message = (-1, "") if fault else lark.judge(self.path, body)
                lark.codes.append(code)
            if lark.says and not fault:
                with suppress(ConnectionError):  # who has read the code needs no more
                    self.answer(200, lark.says)
            elif fault:
                getattr(self, f"fail_{fault}")()
            else:
                # Lark sends its refusals with status 200, but for some limits
                self.answer(200, json.dumps({"code": code, "data": {}, "msg": message}).encode())

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def fail_429(self) -> None:
            self.answer(429, b'{"code":99991400,"msg":"request trigger frequency limit"}')

        def fail_wait(self) -> None:
            self.answer(429, b"", Retry_After="1")

        def fail_busy(self) -> None:
            self.answer(400, b'{"code":9499,"msg":"too many request","data":{}}')

        def fail_500(self) -> None:
            self.answer(500, b"<html>Internal Server Error</html>")

        def fail_404(self) -> None:
            self.answer(404, b"not here")

        def fail_garbage(self) -> None:
            self.answer(200, b"\xff\xfe<html>sign in to the network</html>")

        def fail_list(self) -> None:
            self.answer(200, b"[1, 2]")

        def fail_redirect(self) -> None:
            self.answer(302, b"", Location=f"{lark.url}/elsewhere")

        def fail_silent(self) -> None:
            lark.release.wait(60)

        def fail_drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not lark.release.wait(0.1):
                try:
                    self.wfile.write(b" ")
                    self.wfile.flush()
                except OSError:
                    return

        def fail_break(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"code":0,')
            self.wfile.flush()
            self.connection.close()

        def log_message(self, *args: object) -> None: ...

    return Handler


@pytest.fixture
def lark() -> Iterator[LarkServer]:
    """A server on a free port of this machine; `url` is the webhook of its bot."""
    server = LarkServer()
    with serve(handler(server), server.release) as url:
        server.url = f"{url}/open-apis/bot/v2/hook/{TOKEN}"
        yield server


@pytest.fixture
def dead_url() -> str:
    """A webhook on a port of this machine where nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}/open-apis/bot/v2/hook/{TOKEN}"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a person has set for their own runs."""
    for name in ("LARK_WEBHOOK_URL", "LARK_SECRET"):
        monkeypatch.delenv(name, raising=False)
