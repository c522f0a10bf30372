"""Secrets that a test plants, looked for in all that a run left: files, what it wrote, and requests to servers."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from longline.testing.process import Ended
from longline.testing.running import Folder
from longline.testing.servers import Server

Place = Path | Folder | Server | str
SHORTEST = 8
"""Characters below which a text is found by chance."""
LEGITIMATE = ("authorization", "x-api-key", "cookie")
"""Headers in which a key goes to the server that it is for."""


def assert_no_secret(secret: str | Iterable[str], *places: Place) -> None:
    """Fail where a secret is found: as it is, or as JSON, a url or base64 would write it.

    A place is a file or folder (every file in it, its name too, and what a .gz holds), an Outcome or Ended (its folder and what the
    command wrote), a text, or a Server: paths, bodies and headers of its requests but those headers that are for keys.

    Raises:
        AssertionError: the message names each place, never the secret.
        ValueError: the secret has less than 8 characters, which are found by chance.
    """
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets or min(map(len, secrets)) < SHORTEST:
        raise ValueError(f"a secret to look for has at least {SHORTEST} characters")
    forms = {form for one in secrets for form in _forms(one)}
    found = [name for place in places for name, content in _contents(place) if any(form in content for form in forms)]
    if found:
        raise AssertionError(f"a secret is in {', '.join(dict.fromkeys(found))}")


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield json.dumps(secret)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")


def _contents(place: Place) -> Iterator[tuple[str, bytes]]:
    if isinstance(place, str):
        yield "a text", place.encode()
    elif isinstance(place, Server):
        for number, request in enumerate(place.requests, start=1):
            headers = {name: value for name, value in request.headers.items() if name not in LEGITIMATE}
            content = f"{request.path}\n{headers}\n".encode() + request.body
            yield f"request {number} ({request.method})", content
    elif isinstance(place, Folder):
        yield from _contents(place.output_dir)
        if isinstance(place, Ended):
            yield "what the command wrote", place.text.encode()
    else:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                yield str(path), path.name.encode() + b"\n" + _read(path)


def _read(path: Path) -> bytes:
    if path.suffix == ".gz":
        with suppress(OSError, EOFError):
            return gzip.decompress(path.read_bytes())
    return path.read_bytes()
