"""A server on this machine that publishes a model, and an empty cache."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlip.checkpoints.catalogue import Entry

Answer = Callable[[BaseHTTPRequestHandler], None]


def _archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("model/data.pkl", bytes(range(256)) * 4000)
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Answers `/model` with `data`; other answers can be set. Counts the requests."""

    daemon_threads = True
    data = _archive()

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.set("/model", self.data)
        self.requests = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def set(self, path: str, body: bytes, *, code: int = 200, length: int | None = None, location: str = "",
            before: Callable[[], object] = lambda: None) -> None:
        """Set the answer to `path`; a `length` of -1 sends none, `before` is called first."""
        def answer(handler: BaseHTTPRequestHandler) -> None:
            before()
            handler.send_response(code)
            if length != -1:
                handler.send_header("Content-Length", str(len(body) if length is None else length))
            if location:
                handler.send_header("Location", location)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer

    def handle_error(self, *_: Any) -> None:
        """Say nothing when a client hangs up, as some tests do."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.answers[self.path](self)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def model_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing between the test and its server."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "MLIP_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def entry(server: Server, model_cache: Path) -> Entry:
    """The entry of the model the server publishes."""
    return Entry("test-model", server.url("/model"), "LicenseRef-Test", citation="nobody",
                 training_data="nothing", size=len(server.data),
                 sha256=hashlib.sha256(server.data).hexdigest())
