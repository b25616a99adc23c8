"""The download of public checkpoints and their cache. No network but a server on this machine."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlip.checkpoints import transfer
from mlip.checkpoints.catalogue import Entry
from mlip.checkpoints.download import cached, fetch, target_path
from mlip.errors import ModelFileError, ModelNotFoundError

if TYPE_CHECKING:
    from tests.checkpoints.conftest import Server

PAGE = b"\n<!DOCTYPE html><html>please log in</html>"


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# ---- the download

def test_success(entry: Entry, server: Server, model_cache: Path, caplog: pytest.LogCaptureFixture,
                 capfd: pytest.CaptureFixture[str]) -> None:
    assert cached(entry) is None
    with caplog.at_level(logging.WARNING, logger="mlip"):
        path = fetch(entry, local_http=True)
    assert path == cached(entry) == target_path(entry)
    assert path.read_bytes() == server.data
    assert _left(model_cache) == ["test-model.model"]
    (record,) = caplog.records
    assert record.name == "mlip"
    assert "LicenseRef-Test" in record.getMessage()
    assert capfd.readouterr().out == ""
    caplog.clear()
    server.shutdown()  # from here on the cache must do
    assert fetch(entry, local_http=True) == path
    assert server.requests == 1
    assert not caplog.records


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_the_file(entry: Entry) -> None:
    path = fetch(entry, local_http=True)
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode


def test_unknown_size_and_no_content_length(entry: Entry, server: Server) -> None:
    server.set("/model", server.data, length=-1)
    assert fetch(dataclasses.replace(entry, size=None), local_http=True).read_bytes() == server.data


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other file": ({"cut": -1, "body": b"!"}, ModelFileError, "another file"),
    "web page": ({"cut": 0, "body": PAGE}, ModelFileError, "web page"),
    "too large": ({"body": b"!"}, ModelFileError, "larger than"),
    "broken off": ({"cut": 5000, "length": 10**6}, ModelFileError, "broke off after 5000 bytes"),
    "broken off, no length": ({"cut": 5000, "length": -1}, ModelFileError, "broke off after 5000 bytes"),
    "empty": ({"cut": 0}, ModelFileError, "broke off after 0 bytes"),
    "404": ({"code": 404}, ModelNotFoundError, "answered 404"),
    "503": ({"code": 503}, ModelNotFoundError, "answered 503"),
    "to http": ({"code": 302, "location": "http://example.invalid/x"}, ModelNotFoundError, "https only"),
    "to a file": ({"code": 302, "location": "file:///etc/passwd"}, ModelNotFoundError, "answered 302"),
    "loop": ({"code": 302, "location": "/model"}, ModelNotFoundError, "answered 302"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_answers_leave_nothing(case: str, entry: Entry, server: Server, model_cache: Path) -> None:
    options, error, message = BAD[case]
    body = server.data[:options.get("cut", len(server.data))] + options.get("body", b"")
    server.set("/model", body, **{k: v for k, v in options.items() if k not in ("cut", "body")})
    with pytest.raises(error, match=message) as caught:
        fetch(entry, local_http=True)
    assert _left(model_cache) == []
    if case != "to http":
        assert entry.url in str(caught.value)
        assert str(target_path(entry)) in str(caught.value)
    server.set("/model", server.data)
    assert fetch(entry, local_http=True).read_bytes() == server.data


def test_no_http_server(entry: Entry, server: Server, model_cache: Path) -> None:
    server.answers["/model"] = lambda handler: handler.wfile.write(b"\x00\x01 nonsense\r\n\r\n") and None
    with pytest.raises(ModelNotFoundError, match="cannot be reached"):
        fetch(entry, local_http=True)
    assert _left(model_cache) == []


def test_redirection(entry: Entry, server: Server) -> None:
    server.set("/old", b"", code=302, location="/model")
    moved = dataclasses.replace(entry, url=server.url("/old"))
    assert fetch(moved, local_http=True).read_bytes() == server.data


def test_slow_server(entry: Entry, server: Server, model_cache: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    server.set("/model", server.data, before=lambda: done.wait(5))
    with pytest.raises(ModelNotFoundError, match="timed out"):
        fetch(entry, local_http=True)
    done.set()
    assert _left(model_cache) == []


def test_offline(entry: Entry, server: Server, model_cache: Path) -> None:
    server.server_close()
    with pytest.raises(ModelNotFoundError, match="cannot be reached") as caught:
        fetch(entry, local_http=True)
    for needed in (entry.url, str(target_path(entry)), str(entry.sha256)):
        assert needed in str(caught.value)
    target_path(entry).write_bytes(server.data)  # as the message says
    assert fetch(entry, local_http=True).read_bytes() == server.data


@pytest.mark.parametrize("url", ["http://127.0.0.1/model", "http://example.org/m", "ftp://x/m", "file:///etc/passwd"])
def test_https_only(entry: Entry, url: str) -> None:
    with pytest.raises(ModelNotFoundError, match="https only"):
        fetch(dataclasses.replace(entry, url=url), local_http="127" not in url)


# ---- the cache

@pytest.mark.parametrize("kind", ["page", "short", "empty"])
def test_poisoned_cache(kind: str, entry: Entry, server: Server) -> None:
    target_path(entry).parent.mkdir(parents=True)
    target_path(entry).write_bytes({"page": PAGE, "short": server.data[:-1], "empty": b""}[kind])
    with pytest.raises(ModelFileError, match="removed, try again"):
        fetch(entry, local_http=True)
    assert cached(entry) is None
    assert server.requests == 0
    assert fetch(entry, local_http=True).read_bytes() == server.data


def test_half_files_of_killed_processes(entry: Entry, model_cache: Path) -> None:
    old, new = (target_path(entry).parent / f".test-model.model.{k}.part" for k in ("1-aa", "2-bb"))
    old.parent.mkdir(parents=True)
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2e5,) * 2)
    fetch(entry, local_http=True)
    assert _left(model_cache) == [new.name, "test-model.model"]


@pytest.mark.parametrize("place", ["cache", "cache/models"])
def test_unusable_folder(place: str, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file, not a folder")
    with pytest.raises(ModelNotFoundError, match="Set MLIP_CACHE_DIR"):
        fetch(entry, local_http=True)


def test_full_disk(entry: Entry, monkeypatch: pytest.MonkeyPatch, model_cache: Path) -> None:
    class Full(io.FileIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    with pytest.raises(ModelNotFoundError, match="No space left"):
        fetch(entry, local_http=True)
    assert _left(model_cache) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_read_only_cache(entry: Entry, model_cache: Path) -> None:
    path = fetch(entry, local_http=True)
    path.parent.chmod(0o500)
    try:
        assert fetch(entry, local_http=True) == path
        with pytest.raises(ModelNotFoundError, match="Set MLIP_CACHE_DIR"):
            fetch(dataclasses.replace(entry, name="another"), local_http=True)
    finally:
        path.parent.chmod(0o700)


def test_concurrent(entry: Entry, server: Server, model_cache: Path) -> None:
    count, together = 6, threading.Barrier(6)
    server.set("/model", server.data, before=lambda: together.wait(30))  # nobody is served before all ask
    with ThreadPoolExecutor(count) as pool:
        paths = list(pool.map(lambda _: fetch(entry, local_http=True), range(count)))
    assert set(paths) == {target_path(entry)}
    assert paths[0].read_bytes() == server.data
    assert _left(model_cache) == ["test-model.model"]


@pytest.mark.slow
def test_concurrent_processes(entry: Entry, model_cache: Path, server: Server) -> None:
    code = (f"from mlip.checkpoints.catalogue import Entry; from mlip.checkpoints.download import fetch; "
            f"print(fetch({entry!r}, local_http=True))")
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=120)[0].strip() for process in running} == {str(target_path(entry))}
    assert target_path(entry).read_bytes() == server.data
    assert _left(model_cache) == ["test-model.model"]

