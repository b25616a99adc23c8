"""Fetches public checkpoints into a folder shared by all projects, and checks every byte, at every use.

Only files with a published sha256 are fetched, only over https. A file appears whole or not at all, so
several processes may fetch the same one. Proxies are those of `urllib` (`https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tqdm import tqdm

from mlip.checkpoints.catalogue import Entry, entries, sha256_of
from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError, OptionError

TIMEOUT = 30.0  # s, of each network operation
MAX_BYTES = 1 << 30  # of a file whose size is not known
_BLOCK = 1 << 18
_STALE = 86400.0  # s after which a half file is what a killed process left
_LOCAL = ("127.0.0.1", "localhost", "::1")

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
    return cache_dir() / "models" / f"{entry.name}.model"


def cached(entry: Entry) -> Path | None:
    """Return the file of an entry if it is there, without checking it; else None."""
    path = target_path(entry)
    return path if os.path.isfile(path) else None


def download(name: str, *, sha256: str | None = None) -> Path:
    """Fetch a public checkpoint and return its path; no more than a check if it is there already.

    Args:
        name: name in the catalogue.
        sha256: checksum of the file, for entries that have none.

    Raises:
        OptionError: the checksum is none, or not the one of the catalogue.
        ModelNotFoundError: unknown name, or the file cannot be had.
        ModelFileError: what arrived, or is in the cache, is another file.
    """
    entry = entries().get(name)
    if entry is None:
        raise ModelNotFoundError(f"no public model is named {name!r}; known: {', '.join(entries())}")
    if sha256 is not None:
        sha256 = sha256.lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise OptionError(f"a sha256 has 64 hexadecimal digits; got {sha256!r}")
        if entry.sha256 not in (None, sha256):
            raise OptionError(f"{name} has the sha256 {entry.sha256}, not {sha256}")
        entry = dataclasses.replace(entry, sha256=sha256)
    return fetch(entry)


def fetch(entry: Entry, *, local_http: bool = False) -> Path:
    """Return the path of the file of an entry; fetches it if it is not in the cache.

    Args:
        entry: the checkpoint.
        local_http: whether plain http from this machine is allowed (for tests).

    Raises:
        ModelNotFoundError: no published checksum, no network, no such file there, or nowhere to write.
        ModelFileError: what arrived, or is in the cache, is another file; it is removed.
    """
    target = target_path(entry)
    if entry.sha256 is None:
        raise ModelNotFoundError(
            f"{entry.name} is not fetched by itself, for no checksum of it is published. Get it from "
            f"{entry.url} (licence: {entry.licence}) and load it by its path, mlip.load(path), or fetch it "
            f"with a checksum you trust: mlip.checkpoints.download.download({entry.name!r}, sha256=...)")
    if os.path.isfile(target):
        with contextlib.suppress(FileNotFoundError):  # another process removed it just now
            return _checked(target, entry)
    _check_url(entry.url, local_http)
    log.warning("fetching %s (%s) from %s; licence of the weights: %s", entry.name,
                f"{entry.size / 1e6:.0f} MB" if entry.size else "size unknown", entry.url, entry.licence)
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        try:
            with part.open("xb") as file, contextlib.closing(_verified(entry, local_http)) as blocks:
                for block in blocks:
                    file.write(block)
            _put(part, target, entry.sha256)
        finally:
            part.unlink(missing_ok=True)
    except MLIPError:
        raise
    except OSError as error:
        raise ModelNotFoundError(f"cannot write {target}: {error.strerror or error}. Set MLIP_CACHE_DIR to a "
                                 f"folder that can be written and has room. {_by_hand(entry)}") from None
    return target


def _checked(target: Path, entry: Entry) -> Path:
    """Return the file in the cache if it is the right one; else remove it and raise."""
    try:
        actual = sha256_of(target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFileError(f"cannot read {target}: {error.strerror or error}") from None
    if actual == entry.sha256:
        return target
    try:
        target.unlink(missing_ok=True)
        advice = "it was removed, try again"
    except OSError:
        advice = "remove it and try again"
    raise ModelFileError(f"{target} is not the file of {entry.name}: its sha256 is {actual}, the published "
                         f"one is {entry.sha256}; {advice}. {_by_hand(entry)}")


def _verified(entry: Entry, local_http: bool) -> Generator[bytes, None, None]:
    """Yield the file in blocks; raise at its end, or before, if it is not the one of the entry."""
    limit, digest, received, head = entry.size or MAX_BYTES, hashlib.sha256(), 0, b""
    with contextlib.closing(_blocks(entry, local_http)) as blocks:
        for block in blocks:
            received += len(block)
            head = head or block[:512]
            if received > limit:
                raise ModelFileError(f"{entry.url} is larger than the {limit} bytes that {entry.name} may "
                                     f"have; it was not kept. {_by_hand(entry)}")
            digest.update(block)
            yield block
    if digest.hexdigest() == entry.sha256:
        return
    page = head.lstrip().startswith(b"<")
    if received < (entry.size or 0) and not page:
        raise _broken_off(entry, received)
    what = "a web page, perhaps of a login or a proxy" if page else "another file"
    raise ModelFileError(f"what {entry.url} sent is {what}: its sha256 is {digest.hexdigest()}, the "
                         f"published one is {entry.sha256}; it was not kept. {_by_hand(entry)}")


def _blocks(entry: Entry, local_http: bool) -> Generator[bytes, None, None]:
    """Yield what the server sends; errors of the network become typed ones."""
    received = 0
    opener = urllib.request.build_opener(_Redirects(local_http))
    request = urllib.request.Request(entry.url,
                                     headers={"User-Agent": "mlip-md", "Accept-Encoding": "identity"})
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            total = response.length
            with tqdm(total=total, unit="B", unit_scale=True, desc=entry.name, leave=False,
                      disable=sys.stderr is None or not sys.stderr.isatty()) as bar:
                while block := response.read(_BLOCK):
                    received += len(block)
                    bar.update(len(block))
                    yield block
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelNotFoundError(f"the server answered {error.code} {error.reason} for {entry.url}. "
                                 f"{_by_hand(entry)}") from None
    except MLIPError:
        raise
    except (OSError, HTTPException) as error:
        if received:
            raise _broken_off(entry, received) from None
        reason = getattr(error, "reason", error)
        raise ModelNotFoundError(f"{entry.name} is not in the cache and its server cannot be reached "
                                 f"({reason}). {_by_hand(entry)}") from None
    if total is not None and received < total:
        raise _broken_off(entry, received)


def _broken_off(entry: Entry, received: int) -> ModelFileError:
    return ModelFileError(f"the transfer of {entry.url} broke off after {received} bytes; nothing was kept, "
                          f"try again. {_by_hand(entry)}")


def _by_hand(entry: Entry) -> str:
    return (f"To do it by hand: get {entry.url} where there is a network, see that its sha256 is "
            f"{entry.sha256}, and place it at {target_path(entry)}")


def _put(part: Path, target: Path, sha256: str) -> None:
    try:
        os.replace(part, target)
    except PermissionError:  # Windows: another process delivered it and reads it
        if not os.path.isfile(target) or sha256_of(target) != sha256:
            raise


def _sweep(folder: Path) -> None:
    """Remove half files of processes that were killed long ago."""
    for old in folder.glob(".*.model.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE:
                old.unlink()


def _check_url(url: str, local_http: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (local_http and parts.scheme == "http" and parts.hostname in _LOCAL):
        return
    raise ModelNotFoundError(f"models are fetched over https only; this is {url}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not to insecure places."""

    def __init__(self, local_http: bool) -> None:
        self.local_http = local_http

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: HTTPMessage, newurl: str) -> urllib.request.Request | None:
        """Return the request for the new address.

        Raises:
            ModelNotFoundError: the new address is not https.
        """
        try:
            _check_url(newurl, self.local_http)
        except ModelNotFoundError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
