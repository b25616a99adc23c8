"""Resumed transfers, recorded checksums, and working offline. No network but a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlip.checkpoints import catalogue, download, transfer
from mlip.checkpoints.catalogue import Entry
from mlip.checkpoints.download import fetch, recorded, target_path
from mlip.errors import ModelFileError, ModelNotFoundError, OptionError

if TYPE_CHECKING:
    from tests.checkpoints.conftest import Server

HALF = 500_000
REST = ".test-model.model.22763122.rest"  # of the version "v1", quotes included


@pytest.fixture
def unhashed(entry: Entry) -> Entry:
    """The entry of the model without size and checksum, as the files of EquiformerV3 have none."""
    return dataclasses.replace(entry, sha256=None, size=None)


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


class Ranges:
    """Answers like a server of large files: with an ETag, and from the byte asked for; the first breaks."""

    def __init__(self, data: bytes, etag: str = '"v1"', broken: int = 1, **wrong: Any) -> None:
        self.data, self.etag, self.broken, self.wrong = data, etag, broken, wrong
        self.asked: list[str | None] = []
        self.starts: list[int] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"]
        self.asked.append(wanted)
        start = 0
        matches = handler.headers["If-Range"] == self.etag or self.wrong.get("careless")
        if wanted and matches and not self.wrong.get("ignored"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.starts.append(start)
        if start >= len(self.data):
            handler.send_response(416)
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.data) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        if start:
            said = start + self.wrong.get("shift", 0)
            handler.send_header("Content-Range", f"bytes {said}-{len(self.data) - 1}/{len(self.data)}")
        handler.end_headers()
        end = HALF if len(self.asked) <= self.broken else len(self.data)
        handler.wfile.write(self.data[start:end])


def _answer(server: Server, **options: Any) -> Ranges:
    ranges = Ranges(server.data, **options)
    server.answers["/model"] = ranges
    return ranges


# ---- resuming

@pytest.mark.parametrize("known", [True, False])
def test_a_broken_transfer_goes_on(known: bool, entry: Entry, unhashed: Entry, server: Server,
                                   model_cache: Path) -> None:
    ranges, wanted = _answer(server), entry if known else unhashed
    with pytest.raises(ModelFileError, match=f"broke off after {HALF} bytes; they are kept, try again"):
        fetch(wanted, local_http=True)
    (rest,) = (model_cache / "models").iterdir()
    assert rest.read_bytes() == server.data[:HALF]
    assert fetch(wanted, local_http=True).read_bytes() == server.data
    assert ranges.asked == [None, f"bytes={HALF}-"]
    assert ranges.starts == [0, HALF]
    assert not rest.exists()


def test_it_may_break_twice(entry: Entry, server: Server) -> None:
    ranges = _answer(server, broken=2)
    for _ in range(2):  # the second answer sends nothing
        with pytest.raises(ModelFileError, match=f"broke off after {HALF} bytes"):
            fetch(entry, local_http=True)
    assert fetch(entry, local_http=True).read_bytes() == server.data
    assert ranges.asked == [None, *[f"bytes={HALF}-"] * 2]


def test_interrupted_by_the_user(entry: Entry, server: Server, model_cache: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = _answer(server, broken=0)
    with monkeypatch.context() as patch:
        def stopped(source: Any, response: Any, progress: transfer.Progress) -> bytes:
            if progress.received:
                raise KeyboardInterrupt
            return bytes(response.read(1000))

        patch.setattr(transfer, "_next_block", stopped)
        with pytest.raises(KeyboardInterrupt):
            fetch(entry, local_http=True)
    assert fetch(entry, local_http=True).read_bytes() == server.data
    assert ranges.starts == [0, 1000]
    assert _left(model_cache) == ["test-model.model"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "v1", '"' + "x" * 200 + '"'])
def test_versions_without_a_usable_name_begin_again(etag: str, entry: Entry, server: Server, model_cache: Path) -> None:
    ranges = _answer(server, etag=etag)
    with pytest.raises(ModelFileError, match="nothing was kept"):
        fetch(entry, local_http=True)
    assert _left(model_cache) == []
    assert fetch(entry, local_http=True).read_bytes() == server.data
    assert ranges.asked == [None, None]


def test_another_version_begins_again(unhashed: Entry, server: Server, model_cache: Path) -> None:
    _answer(server)
    with pytest.raises(ModelFileError, match="are kept"):
        fetch(unhashed, local_http=True)
    server.data = bytes(reversed(server.data[:HALF])) + server.data[HALF:]  # halves of different versions must not mix
    ranges = _answer(server, etag='"v2"', broken=0)
    assert fetch(unhashed, local_http=True).read_bytes() == server.data
    assert ranges.asked == [f"bytes={HALF}-"]
    assert ranges.starts == [0]


def test_halves_of_two_versions_are_never_joined(unhashed: Entry, server: Server, model_cache: Path) -> None:
    """Also where the server does not heed the version that was asked for."""
    _answer(server)
    with pytest.raises(ModelFileError, match="are kept"):
        fetch(unhashed, local_http=True)
    ranges = _answer(server, etag='"v2"', broken=0, careless=True)
    with pytest.raises(ModelFileError, match="sent another part"):
        fetch(unhashed, local_http=True)
    assert ranges.starts == [HALF]
    assert _left(model_cache) == []
    assert recorded(unhashed) is None


def test_a_server_without_ranges(entry: Entry, server: Server) -> None:
    _answer(server, ignored=True)
    with pytest.raises(ModelFileError, match="are kept"):
        fetch(entry, local_http=True)
    assert fetch(entry, local_http=True).read_bytes() == server.data


def test_another_part_than_asked_for(entry: Entry, server: Server, model_cache: Path) -> None:
    _answer(server, shift=1)
    with pytest.raises(ModelFileError, match="are kept"):
        fetch(entry, local_http=True)
    with pytest.raises(ModelFileError, match="sent another part"):
        fetch(entry, local_http=True)
    assert _left(model_cache) == []


def test_all_of_it_was_there(entry: Entry, server: Server) -> None:
    rest = target_path(entry).with_name(REST)
    rest.parent.mkdir(parents=True)
    rest.write_bytes(server.data)
    ranges = _answer(server, broken=0)
    assert fetch(entry, local_http=True).read_bytes() == server.data
    assert ranges.asked == [f"bytes={len(server.data)}-", None]
    assert not rest.exists()


def test_rests_of_long_ago_and_nonsense(entry: Entry, server: Server, model_cache: Path) -> None:
    folder = target_path(entry).parent
    folder.mkdir(parents=True)
    old, strange = folder / REST, folder / ".test-model.model.zz.rest"
    for path in (old, strange):
        path.write_bytes(b"wrong")
    os.utime(old, (time.time() - 2e5,) * 2)
    ranges = _answer(server, broken=0)
    assert fetch(entry, local_http=True).read_bytes() == server.data
    assert ranges.asked == [None]
    assert _left(model_cache) == [strange.name, "test-model.model"]


def test_a_wrong_rest_is_found_out(entry: Entry, server: Server, model_cache: Path) -> None:
    rest = target_path(entry).with_name(REST)
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"\0" * HALF)
    _answer(server, broken=0)
    with pytest.raises(ModelFileError, match="another file"):
        fetch(entry, local_http=True)
    assert _left(model_cache) == []


# ---- checksums that nobody published

def test_first_transfer_is_recorded(unhashed: Entry, server: Server, model_cache: Path,
                                    caplog: pytest.LogCaptureFixture) -> None:
    digest = hashlib.sha256(server.data).hexdigest()
    assert recorded(unhashed) is None
    with caplog.at_level(logging.WARNING, logger="mlip"):
        path = fetch(unhashed, local_http=True)
    assert digest in caplog.text
    assert recorded(unhashed) == digest
    assert _left(model_cache) == ["test-model.model", "test-model.model.sha256"]
    server.shutdown()
    assert fetch(unhashed, local_http=True) == path
    assert server.requests == 1


def test_later_uses_are_checked(unhashed: Entry, server: Server) -> None:
    path = fetch(unhashed, local_http=True)
    path.write_bytes(server.data[:-1] + b"!")
    with pytest.raises(ModelFileError, match=r"the recorded one is .*removed, try again"):
        fetch(unhashed, local_http=True)
    assert not path.exists()
    assert fetch(unhashed, local_http=True).read_bytes() == server.data


def test_later_transfers_are_checked(unhashed: Entry, server: Server) -> None:
    path = fetch(unhashed, local_http=True)
    path.unlink()
    server.set("/model", server.data + b"replaced")
    with pytest.raises(ModelFileError, match=r"recorded one is .*If the file was replaced on purpose") as caught:
        fetch(unhashed, local_http=True)
    record = path.with_name(f"{path.name}.sha256")
    assert str(record) in str(caught.value)
    assert not path.exists()
    record.unlink()  # as the message says
    server.set("/model", server.data)
    assert fetch(unhashed, local_http=True) == path


def test_files_placed_by_hand_are_recorded(unhashed: Entry, server: Server) -> None:
    path = target_path(unhashed)
    path.parent.mkdir(parents=True)
    path.write_bytes(server.data)
    assert fetch(unhashed, local_http=True) == path
    assert recorded(unhashed) == hashlib.sha256(server.data).hexdigest()
    assert server.requests == 0
    path.write_bytes(server.data + b"!")
    with pytest.raises(ModelFileError, match="recorded"):
        fetch(unhashed, local_http=True)


@pytest.mark.parametrize(("body", "message"), [
    (b"<html>please log in</html>", "web page"), (b"", "another file"), (b"text", "another file"),
    (b"PK\x03\x04" + b"\0" * 1000, "no whole file of torch.save"),
])
def test_what_is_no_model_is_not_recorded(body: bytes, message: str, unhashed: Entry, server: Server,
                                          model_cache: Path) -> None:
    server.set("/model", body)
    with pytest.raises(ModelFileError, match=message):
        fetch(unhashed, local_http=True)
    assert _left(model_cache) == []


def test_cut_without_length(unhashed: Entry, server: Server, model_cache: Path) -> None:
    server.set("/model", server.data[:-100], length=-1)
    with pytest.raises(ModelFileError, match="no whole file"):
        fetch(unhashed, local_http=True)
    assert _left(model_cache) == []


@pytest.mark.parametrize("content", ["", "abc", "é" * 64, "G" * 64])
def test_a_damaged_record(content: str, unhashed: Entry, server: Server) -> None:
    path = fetch(unhashed, local_http=True)
    path.with_name(f"{path.name}.sha256").write_text(content, encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"sha256.*remove it"):
        fetch(unhashed, local_http=True)


def test_two_processes_that_get_different_files(unhashed: Entry, server: Server, model_cache: Path) -> None:
    path = target_path(unhashed)

    def another_process() -> None:
        path.with_name(f"{path.name}.sha256").write_text("0" * 64)

    server.set("/model", server.data, before=another_process)
    with pytest.raises(ModelFileError, match="different files to two processes"):
        fetch(unhashed, local_http=True)
    assert _left(model_cache) == ["test-model.model.sha256"]


def test_a_checksum_of_the_user(unhashed: Entry, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_read", lambda: {unhashed.name: unhashed})
    monkeypatch.setattr(download, "check_url", lambda url, local_http: None)
    with pytest.raises(ModelFileError, match="0000"):
        download.download(unhashed.name, sha256="0" * 64)
    assert recorded(unhashed) is None
    digest = hashlib.sha256(server.data).hexdigest()
    path = download.download(unhashed.name, sha256=digest)
    assert recorded(unhashed) == digest
    assert download.download(unhashed.name) == path
    with pytest.raises(OptionError, match="when it was fetched first"):
        download.download(unhashed.name, sha256="0" * 64)


# ---- offline

@pytest.mark.parametrize(("value", "forbidden"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_offline(value: str, forbidden: bool, entry: Entry, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_OFFLINE", value)
    call: Callable[[], Path] = lambda: fetch(entry, local_http=True)  # noqa: E731
    if forbidden:
        with pytest.raises(ModelNotFoundError, match="MLIP_OFFLINE") as caught:
            call()
        assert server.requests == 0
        for needed in (entry.url, str(target_path(entry)), str(entry.sha256)):
            assert needed in str(caught.value)
        target_path(entry).parent.mkdir(parents=True)
        target_path(entry).write_bytes(server.data)  # as the message says
    assert call().read_bytes() == server.data
    assert server.requests == (0 if forbidden else 1)
