"""One request to a custom bot's webhook: signed, bounded, and its answer judged.

As Lark documents it: the signature is the base64 of an HMAC-SHA256 over an empty message, whose key is the timestamp in seconds,
a line break and the bot's secret. Lark takes a timestamp that is at most one hour old, bodies of at most 20 KB, 100 requests
a minute and 5 a second for each bot.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from longline.text import one_line
from longline_lark.address import host, is_loopback
from longline_lark.cards import Payload, encode, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from longline_lark.credentials import Credentials

MAX_ANSWER = 64 * 1024
"""Bytes after which it is looked whether an answer has said its code already, so that the rest need not come."""
LONGEST_ANSWER = 32 * 1024 * 1024
MAX_SAID = 200
"""Bytes of what a server says that are told."""
LIMITED = {11232, 99991400}
"""Codes that say: too many requests, come back later."""
_OPENS, _COLON, _COMMA = (re.compile(rf"\s*{mark}\s*") for mark in (r"\ufeff?\s*\{", ":", ","))
REMEDIES = {
    9499: "Lark cannot read the message; this is a fault of longline-lark, please report it",
    19001: "the webhook's token is unknown: copy the webhook again from the bot's page, the bot may have been removed",
    19007: "the bot is switched off: turn it on in the group's bot settings",
    19021: "the signature does not match: copy the secret again from the bot's security settings into LARK_SECRET, and check "
    "that this machine's clock is right to within an hour",
    19022: "the bot takes messages only from certain addresses: add this machine's public IP to the bot's allowlist, or use "
    "signature verification instead",
    19024: "the bot takes only messages with its keywords: add a word that every message holds, such as Longline, to the bot's "
    "keywords, or use signature verification instead",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: delivered, worth another attempt, or refused for good; `wait` is what the server asked for."""

    outcome: Literal["delivered", "again", "refused"]
    reason: str = ""
    remedy: str = ""
    wait: float = 0.0


def sign(timestamp: int, secret: str) -> str:
    """Return the signature for a timestamp in seconds."""
    key = f"{timestamp}\n{secret}".encode()
    return base64.b64encode(hmac.new(key, b"", hashlib.sha256).digest()).decode()


class Webhook:
    """A custom bot's webhook. Nothing that it returns or raises holds the url or the secret."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.host = host(credentials.url.get_secret_value())
        self._opener: OpenerDirector | None = None

    def post(self, payload: Payload, timeout: float) -> Answer:
        """Send one message, signed now; waits at most about `timeout` seconds for each part of the exchange."""
        try:
            return self._post(payload, timeout)
        except URLError as error:
            return Answer("again", self._told(error.reason))
        except (OSError, HTTPException) as error:
            return Answer("again", self._told(error))

    def _post(self, payload: Payload, timeout: float) -> Answer:
        if self._opener is None:
            # a proxy is for the world outside; what goes to this machine stays on it
            proxies = [ProxyHandler({})] if is_loopback(self.host) else []
            self._opener = build_opener(_NoRedirect(), *proxies)
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": f"longline-lark/{version('longline-lark')}"}
        url = self._credentials.url.get_secret_value()
        request = Request(url, data=encode(self._signed(payload)), headers=headers, method="POST")  # noqa: S310 - checked by address
        try:
            response = self._opener.open(request, timeout=timeout)
        except HTTPError as error:  # an answer like any other
            response = error
        with response:
            return judge(response.status, response.headers, _read(response, timeout), self._shown)

    def _shown(self, text: str) -> str:
        """What somebody else says, as it may be told: a server may send back what it was sent. Masked before it is cut."""
        return shorten(one_line(self._credentials.mask(text)), MAX_SAID)

    def _signed(self, payload: Payload) -> Payload:
        if self._credentials.secret is None:
            return payload
        now = int(time.time())
        return {"timestamp": str(now), "sign": sign(now, self._credentials.secret.get_secret_value()), **payload}

    def _told(self, error: BaseException | str) -> str:
        """What went wrong on the way, in a line that names the host and nothing else of the url."""
        if isinstance(error, TimeoutError):
            return f"{self.host} did not answer in time"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate of {self.host} cannot be verified: {error.verify_message}"
        return f"{self.host} cannot be reached: {self._shown(str(error) or type(error).__name__)}"


class _NoRedirect(HTTPRedirectHandler):
    """A webhook does not move; following would carry the message to a host that nobody named."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, so that the answer is judged as it is."""
        return


def _read(response: Any, timeout: float) -> bytes:
    """Read an answer until it has said its code; one that drips is given up, one that breaks off raises.

    Only what is no answer of Lark's is long. It is read all the same: who takes a message and answers with a megabyte has taken it,
    and would get it again.
    """
    deadline = time.monotonic() + timeout
    data = bytearray()
    looked = False
    while len(data) < LONGEST_ANSWER and (part := response.read1(64 * 1024)):
        data += part
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) >= MAX_ANSWER and not looked:
            looked = True
            if _code(data)[0] is not None:
                return bytes(data)
    if response.length and len(data) < LONGEST_ANSWER:  # what was announced and never came
        raise ConnectionResetError("the connection was closed in the middle of the answer")
    return bytes(data)


def judge(status: int, headers: Message, body: bytes, shown: Callable[[str], str]) -> Answer:
    """Decide what an answer means: by the code in its body, which Lark also sends with status 200, else by the status.

    `shown` makes of what the server says what may be told.
    """
    code, message = _code(body)
    if status == 200 and code == 0:
        return Answer("delivered")
    said = f"HTTP {status}" + (f", code {code}: {shown(message)}" if code is not None else "")
    if status == 429 or code in LIMITED or (code == 9499 and "too many" in message.lower()):
        return Answer("again", f"Lark asks to send less often ({said})", wait=_wait(headers))
    if status >= 500:
        return Answer("again", f"Lark has trouble ({said})", wait=_wait(headers))
    if code is not None:
        return Answer("refused", f"Lark refused the message ({said})", REMEDIES.get(code, "see the bot's page in the group"))
    if status == 200 and len(body) >= LONGEST_ANSWER:
        return Answer("refused", f"the answer is not Lark's: {len(body):,} bytes without a code", "check webhook_url")
    if status == 200:
        return Answer("again", "the answer is not Lark's: status 200 without a code; is there a proxy or a login page between?")
    if 300 <= status < 400:
        return Answer("refused", f"the server redirects (HTTP {status}), which is not followed", "check webhook_url")
    return Answer("refused", f"the server refused the message ({said})", "check webhook_url")


def _code(body: bytes | bytearray) -> tuple[int | None, str]:
    """Code and message of an answer, or of the beginning of one; older bots answer with StatusCode and StatusMessage."""
    content = _fields(body.decode("utf-8", "replace"))
    old = "code" not in content
    code = content.get("StatusCode" if old else "code")
    message = content.get("StatusMessage" if old else "msg")
    return (code if isinstance(code, int) else None), str(message or "")


def _fields(text: str) -> dict[str, Any]:
    """The fields of a JSON object, as far as the text goes; none when it is something else."""
    decoder, fields = json.JSONDecoder(), {}
    begin = _OPENS.match(text)
    at = begin.end() if begin else -1
    while at >= 0:
        try:
            name, at = decoder.raw_decode(text, at)
            colon = _COLON.match(text, at)
            if colon is None or not isinstance(name, str):
                break
            value, at = decoder.raw_decode(text, colon.end())
            if at == len(text):  # an object would go on, so this may be half a number
                break
            fields[name] = value
        except (ValueError, RecursionError):
            break
        comma = _COMMA.match(text, at)
        at = comma.end() if comma else -1
    return fields


def _wait(headers: Message) -> float:
    """Seconds that the server asks for, at most a minute."""
    text = headers.get("Retry-After") or headers.get("x-ogw-ratelimit-reset") or ""
    return min(float(text), 60.0) if text.strip().isdecimal() else 0.0
