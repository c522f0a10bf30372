"""A server that plays SwanLab's cloud for the real client, and the real dashboard as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from longline.testing import serve

KEY = "k3y-of-the-account-0123456789"
OTHER_SECRET = "s3cr3t-of-another-plugin"


@dataclass
class Cloud:
    """What it received and how it answers; `login` and `upload` are the status of these requests, 0 for no answer at all."""

    url: str = ""
    login: int = 200
    upload: int = 200
    fails_after: int | None = None
    """How many scalar values are taken before `upload` counts."""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    projects: set[str] = field(default_factory=set)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    media: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    failures: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def series(self, key: str) -> list[tuple[int, float]]:
        """The values of one metric that were taken."""
        return [(item["index"], item["data"]) for item in self.metrics if item["key"] == key]

    def tables(self, key: str) -> list[tuple[int, Any]]:
        """The tables of one key as (step, what the web page draws)."""
        return [(item["index"], json.loads(self.files[item["data"][0]])) for item in self.media if item["key"] == key]

    def texts(self, key: str) -> list[tuple[str, str]]:
        """The texts of one key as (caption, text)."""
        items = [item for item in self.media if item["key"] == key]
        return [(item["more"][0]["caption"], self.files[item["data"][0]].decode()) for item in items]

    def refuses(self) -> bool:
        return self.upload != 200 and (self.fails_after is None or len(self.metrics) >= self.fails_after)

    def answer(self, method: str, path: str, body: Any, raw: bytes) -> tuple[int, Any]:
        """Status and content of the answer to one request; status 0: none."""
        parts = path.strip("/").split("/")
        if parts[0] == "store":
            self.files["/".join(parts[1:])] = raw
            return 200, {}
        parts = parts[1:]  # api
        if parts[:2] == ["login", "api_key"]:
            return self.login, {
                "sid": "s",
                "expiredAt": "2099-01-01T00:00:00.000Z",
                "userInfo": {"username": "me", "name": "Me"},
            }
        if parts[0] == "projects" and len(parts) == 2:
            self.projects.add(body["name"])
            return 201, {}
        if parts[0] == "project" and len(parts) == 3:
            count = {"experiments": len(self.experiments)}
            there = {
                "cuid": "p1",
                "name": parts[2],
                "version": 1,
                "group": {"username": "me"},
                "path": f"/me/{parts[2]}",
                "_count": count,
            }
            return (200, there) if parts[2] in self.projects else (404, {"code": "404", "message": "no project"})
        if parts[0] == "project" and parts[3:] == ["experiment"]:
            new = body["cuid"] not in self.experiments
            kept = self.experiments.setdefault(body["cuid"], {**body, "slug": body["cuid"]})
            return (201 if new else 200), kept
        if parts[0] == "project" and len(parts) == 5 and method == "GET":
            return (200, self.experiments[parts[4]]) if parts[4] in self.experiments else (404, {})
        if parts[-1] == "profile":
            self.profile.update(body)
        elif parts[-1] == "state":
            self.states.append(body["state"])
        elif "summaries" in parts:
            last = {item["key"]: item["index"] for item in self.metrics}
            return 200, {"scalar": [{"key": key, "step": step} for key, step in last.items()], "media": [], "log": []}
        elif parts[-2:] == ["presigned", "put"]:
            return 200, {"urls": [f"{self.url}/store/{quote(name)}" for name in body["paths"]]}
        elif parts[-2:] == ["files", "prepare"]:
            return 200, {"urls": [f"{self.url}/store/{quote(item['path'])}" for item in body["files"]]}
        elif parts[-2:] == ["house", "metrics"]:
            if self.refuses():
                self.failures += 1
                return self.upload, {"code": str(self.upload), "message": "not any more"}
            if body["type"] == "log":
                self.logs += [item["message"] for item in body["metrics"]]
            else:
                (self.media if body["type"] == "media" else self.metrics).extend(body["metrics"])
        return 200, {}


def handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            is_json = raw and "json" in self.headers.get("Content-Type", "")
            body = json.loads(raw) if is_json else None
            with cloud.lock:
                cloud.requests.append((self.command, path, body))
                cloud.bodies.append(raw)
                cloud.headers.append(dict(self.headers))
                status, content = cloud.answer(self.command, path, body, raw)
            if status == 0:
                cloud.release.wait(120)
                self.close_connection = True
                return
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_any  # noqa: N815 - the names that http.server looks for

        def log_message(self, *args: object) -> None: ...

    return Handler


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A server on a free port of this machine; `url` is its api_host."""
    server = Cloud()
    with serve(handler(server), server.release) as server.url:
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Dashboard:
    """`swanlab watch` on a free port."""

    def __init__(self, log_dir: Path) -> None:
        self.port = free_port()
        command = [str(Path(sys.executable).with_name("swanlab")), "watch", str(log_dir), "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def get(self, path: str) -> Any:
        """The data of one answer of its API."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        assert content["code"] == 0, content
        return content["data"]

    def wait(self) -> None:
        for _ in range(300):
            try:
                self.get("project")
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("swanlab watch did not start")

    def charts(self, experiment: int = 1) -> dict[str, str]:
        """Names and types of the charts of an experiment."""
        return {chart["name"]: chart["type"] for chart in self.get(f"experiment/{experiment}/chart")["charts"]}

    def series(self, name: str, experiment: int = 1) -> list[tuple[int, Any]]:
        """The values of one chart."""
        return [(item["index"], item["data"]) for item in self.get(f"experiment/{experiment}/tag/{quote(name)}")["list"]]

    def texts(self, name: str, experiment: int = 1) -> list[tuple[int, str, str]]:
        """The texts of one chart: step, caption, text."""
        items = self.get(f"experiment/{experiment}/tag/{quote(name)}")["list"]
        return [
            (item["index"], more["caption"], text)
            for item in items
            for text, more in zip(item["data"], item["more"], strict=True)
        ]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def watch() -> Iterator[Callable[[Path], Dashboard]]:
    """Return a function that starts the dashboard for a folder and waits until it answers."""
    started: list[Dashboard] = []

    def start(log_dir: Path) -> Dashboard:
        started.append(Dashboard(log_dir))
        started[-1].wait()
        return started[-1]

    yield start
    for dashboard in started:
        dashboard.stop()


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever a person has set or stored for their own runs."""
    for name in [name for name in os.environ if name.startswith("SWANLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
