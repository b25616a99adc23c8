"""Public checkpoints by name: the table, checksums, and `mlip.load`. No network."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mlip
from mlip.checkpoints import catalogue, download
from mlip.checkpoints.catalogue import Entry, entries, identify
from mlip.checkpoints.download import cache_dir, target_path
from mlip.errors import ModelFileError, ModelNotFoundError, OptionError

if TYPE_CHECKING:
    from tests.checkpoints.conftest import Server

LOAD = sys.modules["mlip.checkpoints.load"]


# ---- the table

def test_table() -> None:
    table = entries()
    assert {"mace-mp-0a-medium", "mace-mpa-0-medium", "mace-off23-small", "mace-omat-0-small"} <= set(table)
    hashes = [e.sha256 for e in table.values() if e.sha256]
    assert len(set(hashes)) == len(hashes) == len({e.url for e in table.values() if e.sha256})
    for name, item in table.items():
        assert name == item.name
        assert item.url.startswith("https://")
        assert item.url.endswith({"mace": ".model", "equiformer_v3": ".pt"}[item.family])
        assert name.startswith(item.family.replace("_", "-"))
        assert target_path(item).suffix == Path(item.url).suffix
        assert item.sha256 is None or re.fullmatch("[0-9a-f]{64}", item.sha256)
        assert bool(item.sha256) == bool(item.sha256_source), "a checksum needs a source"
        assert item.size is None or 1e6 < item.size < download.MAX_BYTES
        assert (item.licence == "MIT") == item.commercial_use
        assert all((item.licence, item.citation, item.training_data, item.elements, item.description))


def test_names_do_not_hide_bundled_models() -> None:
    assert not set(entries()) & set(mlip.checkpoints.bundled())


def test_entries_are_a_copy() -> None:
    entries().clear()
    assert entries()


# ---- where files are kept

def test_cache_dir(model_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == model_cache
    monkeypatch.delenv("MLIP_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "mlip"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cache_dir() == tmp_path / ".cache" / "mlip"


# ---- checksums

@pytest.fixture
def table(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """A catalogue with the test model and one without a checksum."""
    rows = {entry.name: entry, "unhashed": dataclasses.replace(entry, name="unhashed", sha256=None)}
    monkeypatch.setattr(catalogue, "_read", lambda: rows)
    monkeypatch.setattr(download, "check_url", lambda url, local_http: None)
    return rows


def test_download_by_name(table: dict[str, Entry], entry: Entry, server: Server) -> None:
    assert download.download("test-model").read_bytes() == server.data
    assert download.download("unhashed", sha256=str(entry.sha256).upper()).read_bytes() == server.data
    with pytest.raises(ModelNotFoundError, match="test-model, unhashed"):
        download.download("nothing")
    for wrong in ("0" * 64, "", "abc", "g" * 64):
        with pytest.raises(OptionError, match="sha256"):
            download.download("test-model", sha256=wrong)


# ---- load

@pytest.fixture
def imported(mace: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the reading of mace-torch files, which has tests of its own; lists the files read."""
    read: list[Path] = []

    def read_mace_torch(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        read.append(path)
        return {}, {}

    monkeypatch.setitem(sys.modules, "mlip.checkpoints.mace_torch",
                        type("Stub", (), {"read_mace_torch": staticmethod(read_mace_torch)}))
    monkeypatch.setattr(LOAD, "from_reference", lambda *_: mace)
    return read


def test_load_by_name(table: dict[str, Entry], entry: Entry, imported: list[Path], tmp_path: Path,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / entry.name).mkdir()  # a folder of results with the name of the model is no obstacle
    monkeypatch.chdir(tmp_path)
    info = mlip.load("test-model").info
    assert imported == [target_path(entry)]
    assert (info.name, info.licence, info.citation, info.training_data) == (
        "test-model", "LicenseRef-Test", "nobody", "nothing")
    assert entry.url in info.description
    assert str(entry.sha256) in info.description
    assert mlip.load("unhashed").info.name == "unhashed"
    assert imported[1:] == [target_path(table["unhashed"])]


def test_load_by_path_knows_the_licence(table: dict[str, Entry], imported: list[Path], tmp_path: Path,
                                        server: Server) -> None:
    path = tmp_path / "anything.model"
    path.write_bytes(server.data)
    assert identify(path) == table["test-model"]
    assert mlip.load(path).info.licence == "LicenseRef-Test"
    path.write_bytes(server.data + b"\0")
    assert identify(path) is None
    assert mlip.load(path).info.licence == "unknown"


def test_paths_come_before_public_names(table: dict[str, Entry], imported: list[Path], tmp_path: Path,
                                        server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test-model").write_bytes(server.data)
    monkeypatch.chdir(tmp_path)
    mlip.load("test-model")
    assert imported == [Path("test-model")]
    assert server.requests == 0


def test_unknown_name_lists_and_suggests(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean mace-mpa-0-medium.*mace-off23-small"):
        mlip.load("mace_mpa_0_medium")
    with pytest.raises(ModelFileError, match="is a folder"):
        mlip.load(tmp_path)
