"""Libraries report nothing unless the user wants it: a real run against a server that stands in for the hub and counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Hub(ThreadingHTTPServer):
    """Answers everything with an empty page and remembers the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), Page)


class Page(BaseHTTPRequestHandler):
    server: Hub

    def answer(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("setting", "told"), [(None, False), ("0", True)])
def test_trl_reports_only_when_the_user_turns_it_on(setting, told, hub, run_config, preference_rows):
    trainer = {"max_steps": 3, "logging_steps": 1}
    config = run_config(method="dpo", data={"train": [{"path": str(preference_rows)}]}, trainer=trainer)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    environ = {**kept, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0", "DISABLE_TELEMETRY": "0"}
    if setting is not None:
        environ["HF_HUB_DISABLE_TELEMETRY"] = setting
    command = [sys.executable, "-m", "longline", "train", str(config)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    reports = [path for path in hub.paths if path.startswith("/api/telemetry")]
    assert bool(reports) is told, hub.paths
    if not told:
        assert hub.paths == []
