"""Fetches public checkpoints into a folder shared by all projects, and checks every byte, at every use.

The sha256 of a file is the published one; where nobody published one, that of the first transfer is recorded beside the
file, and every later use and transfer must agree with it. A file appears whole or not at all, so several processes may
fetch the same one; a broken transfer can be resumed (`mlip.checkpoints.transfer`). With `MLIP_OFFLINE` set, nothing is
fetched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import secrets
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from mlip.checkpoints.catalogue import Entry, entries, sha256_of
from mlip.checkpoints.transfer import (
    BrokenTransferError,
    Progress,
    Source,
    broken_off,
    check_url,
    keep_rest,
    receive,
    sweep,
    take_rest,
)
from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError, OptionError

MAX_BYTES = 1 << 30  # of a file whose size is not known
_SUFFIXES = (".model", ".pt")
_SHA256 = re.compile("[0-9a-f]{64}")

log = logging.getLogger("mlip")


def cache_dir() -> Path:
    """Return the folder of fetched files: `$MLIP_CACHE_DIR`, `$XDG_CACHE_HOME/mlip` or `~/.cache/mlip`.

    Raises:
        ModelNotFoundError: none of them and no home folder.
    """
    own, base = os.environ.get("MLIP_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser().absolute()
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "mlip"
    except RuntimeError as error:
        raise ModelNotFoundError(f"no folder for fetched models ({error}); set MLIP_CACHE_DIR") from None


def target_path(entry: Entry) -> Path:
    """Return where the file of an entry belongs, fetched or placed by hand."""
    suffix = Path(urlsplit(entry.url).path).suffix
    return cache_dir() / "models" / f"{entry.name}{suffix if suffix in _SUFFIXES else '.model'}"


def recorded(entry: Entry) -> str | None:
    """Return the sha256 that was recorded at the first transfer of an entry without a published one; else None.

    Raises:
        ModelFileError: the record is damaged.
    """
    record = _record_path(entry)
    try:
        text = record.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {record} ({error}); remove it and try again") from None
    if not _SHA256.fullmatch(text):
        raise ModelFileError(f"{record} holds no sha256; remove it, and {target_path(entry)}, and try again")
    return text


def offline() -> bool:
    """Tell whether the user forbids all transfers: `MLIP_OFFLINE` is set, and neither empty nor 0."""
    return os.environ.get("MLIP_OFFLINE", "") not in ("", "0")


def cached(entry: Entry) -> Path | None:
    """Return the file of an entry if it is there, without checking it; else None."""
    path = target_path(entry)
    return path if os.path.isfile(path) else None


def download(name: str, *, sha256: str | None = None) -> Path:
    """Fetch a public checkpoint and return its path; no more than a check if it is there already.

    Args:
        name: name in the catalogue.
        sha256: checksum of the file, for entries that have none; by default the recorded one.

    Raises:
        OptionError: the checksum is none, or not the published or recorded one.
        ModelNotFoundError: unknown name, or the file cannot be had.
        ModelFileError: what arrived, or is in the cache, is another file.
    """
    entry = entries().get(name)
    if entry is None:
        raise ModelNotFoundError(f"no public model is named {name!r}; known: {', '.join(entries())}")
    if sha256 is not None:
        sha256 = sha256.lower()
        if not _SHA256.fullmatch(sha256):
            raise OptionError(f"a sha256 has 64 hexadecimal digits; got {sha256!r}")
        if entry.sha256 not in (None, sha256):
            raise OptionError(f"{name} has the sha256 {entry.sha256}, not {sha256}")
        if entry.sha256 is None and recorded(entry) not in (None, sha256):
            raise OptionError(f"{name} had the sha256 {recorded(entry)} when it was fetched first, not {sha256}; if "
                              f"the file was replaced on purpose, remove {_record_path(entry)}")
        path = fetch(dataclasses.replace(entry, sha256=sha256))
        if entry.sha256 is None:
            _record(entry, sha256)
        return path
    return fetch(entry)


def fetch(entry: Entry, *, local_http: bool = False) -> Path:
    """Return the path of the file of an entry; fetches it if it is not in the cache.

    Args:
        entry: the checkpoint.
        local_http: whether plain http from this machine is allowed (for tests).

    Raises:
        ModelNotFoundError: no network, offline, no such file there, or nowhere to write.
        ModelFileError: what arrived, or is in the cache, is another file; it is removed.
    """
    target, known = target_path(entry), entry.sha256 or recorded(entry)
    if os.path.isfile(target):
        with contextlib.suppress(FileNotFoundError):  # another process removed it just now
            return _checked(target, entry, known)
    source = Source(entry.url, entry.name, _by_hand(entry, known), local_http)
    if offline():
        raise ModelNotFoundError(f"{entry.name} is not in the cache, and MLIP_OFFLINE forbids to fetch it; unset it. "
                                 f"{source.advice}")
    check_url(entry.url, local_http)
    log.warning("fetching %s (%s) from %s; licence of the weights: %s", entry.name,
                f"{entry.size / 1e6:.0f} MB" if entry.size else "size unknown", entry.url, entry.licence)
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        try:
            _fetch_part(source, entry, known, part, target)
        finally:
            part.unlink(missing_ok=True)
    except MLIPError:
        raise
    except OSError as error:
        raise ModelNotFoundError(f"cannot write {target}: {error.strerror or error}. Set MLIP_CACHE_DIR to a "
                                 f"folder that can be written and has room. {source.advice}") from None
    return target


def _fetch_part(source: Source, entry: Entry, known: str | None, part: Path, target: Path) -> None:
    """Receive the file as `part`, verify it and give it its name; keep what a broken transfer left."""
    progress = take_rest(part, target)
    try:
        with part.open("ab") as file:
            receive(source, file, progress, entry.size or MAX_BYTES)
        actual = sha256_of(part)
        if actual != known:
            _check_arrived(source, entry, known, part, progress, actual)
    except (BrokenTransferError, KeyboardInterrupt):
        keep_rest(part, target, progress)
        raise
    if known is None:
        _record(entry, actual)
    _put(part, target, actual)


def _check_arrived(source: Source, entry: Entry, known: str | None, part: Path, progress: Progress,
                   actual: str) -> None:
    """Refuse what arrived and has not the known checksum; the first transfer of a file without one must be whole."""
    with part.open("rb") as file:
        page = file.read(512).lstrip().startswith(b"<")
    if progress.received < (entry.size or 0) and not page:
        raise broken_off(source, progress)
    if known is None and not page and zipfile.is_zipfile(part):
        return
    what = "a web page, perhaps of a login or a proxy" if page else "another file"
    expected = (f"its sha256 is {actual}, the {_kind(entry)} one is {known}" if known
                else "it is no whole file of torch.save")
    raise ModelFileError(f"what {entry.url} sent is {what}: {expected}; it was not kept. {source.advice}")


def _checked(target: Path, entry: Entry, known: str | None) -> Path:
    """Return the file in the cache if it is the right one; else remove it and raise."""
    try:
        actual = sha256_of(target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFileError(f"cannot read {target}: {error.strerror or error}") from None
    if known is None:  # placed by hand
        _record(entry, actual)
    if actual == (known or actual):
        return target
    try:
        target.unlink(missing_ok=True)
        advice = "it was removed, try again"
    except OSError:
        advice = "remove it and try again"
    raise ModelFileError(f"{target} is not the file of {entry.name}: its sha256 is {actual}, the {_kind(entry)} "
                         f"one is {known}; {advice}. {_by_hand(entry, known)}")


def _kind(entry: Entry) -> str:
    return "published" if entry.sha256 else "recorded"


def _record_path(entry: Entry) -> Path:
    target = target_path(entry)
    return target.with_name(f"{target.name}.sha256")


def _record(entry: Entry, sha256: str) -> None:
    """Record the checksum of a file, whole or not at all; a folder that cannot be written is left alone.

    Raises:
        ModelFileError: another process recorded another one just now.
    """
    record, earlier = _record_path(entry), recorded(entry)
    if earlier == sha256:
        return
    if earlier is not None:
        raise ModelFileError(f"{entry.url} sent different files to two processes, with the sha256 {earlier} and "
                             f"{sha256}; see which is right, remove {target_path(entry)} and {record}, and try again")
    log.warning("no sha256 of %s is published; from now on it must be %s, recorded in %s", entry.name, sha256, record)
    part = record.with_name(f".{record.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_text(f"{sha256}\n", encoding="ascii")
        os.replace(part, record)
    except OSError as error:
        log.warning("cannot write %s: %s", record, error.strerror or error)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _by_hand(entry: Entry, known: str | None) -> str:
    check = f"see that its sha256 is {known}" if known else "note its sha256, for none is published"
    record = "" if entry.sha256 or not known else (
        f" If the file was replaced on purpose, remove {_record_path(entry)}, where the sha256 was recorded.")
    return (f"To do it by hand: get {entry.url} where there is a network, {check}, and place it at "
            f"{target_path(entry)}.{record}")


def _put(part: Path, target: Path, sha256: str) -> None:
    try:
        os.replace(part, target)
    except PermissionError:  # Windows: another process delivered it and reads it
        if not os.path.isfile(target) or sha256_of(target) != sha256:
            raise
