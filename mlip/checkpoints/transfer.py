"""One file over https: progress, resumption, typed errors. Proxies are those of `urllib` (`https_proxy`, `no_proxy`).

What a broken transfer left is kept beside the target if the server names the version of its file by a strong ETag, and
the next transfer goes on there, if that version is still the one the server has.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from mlip.errors import MLIPError, ModelFileError, ModelNotFoundError

TIMEOUT = 30.0  # s, of each network operation
_BLOCK = 1 << 18
_STALE = 86400.0  # s after which a half file is what a killed process left
_LOCAL = ("127.0.0.1", "localhost", "::1")
_STRONG = re.compile(r'"[\x21\x23-\x7e]{1,90}"')  # its hexadecimal digits are part of a file name


@dataclass
class Source:
    """A file on a server.

    Attributes:
        url: where it is.
        name: what to call it.
        advice: a sentence on what to do if it cannot be had.
        local_http: whether plain http from this machine is allowed.
    """

    url: str
    name: str
    advice: str
    local_http: bool = False


@dataclass
class Progress:
    """How much of which version of a file has arrived.

    Attributes:
        received: bytes.
        etag: strong ETag of the version; empty if the server gave none.
    """

    received: int = 0
    etag: str = ""


class BrokenTransferError(ModelFileError):
    """A transfer that ended before the file did."""


def check_url(url: str, local_http: bool) -> None:
    """Refuse insecure places.

    Raises:
        ModelNotFoundError: neither https, nor plain http from this machine where that is allowed.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (local_http and parts.scheme == "http" and parts.hostname in _LOCAL):
        return
    raise ModelNotFoundError(f"models are fetched over https only; this is {url}")


def receive(source: Source, file: BinaryIO, progress: Progress, limit: int) -> None:
    """Append what the server sends to a file that holds `progress.received` bytes, or begin it again.

    Args:
        source: where from.
        file: open for appending.
        progress: what the file holds; follows what arrives.
        limit: bytes that the whole may have.

    Raises:
        ModelNotFoundError: the server cannot be reached, or has no such file.
        BrokenTransferError: the transfer ended early; the file holds what `progress` says.
        ModelFileError: more than `limit` bytes.
        OSError: the file cannot be written.
    """
    with contextlib.closing(_open(source, progress)) as response:
        file.truncate(progress.received)
        total = None if response.length is None else progress.received + response.length
        with tqdm(total=total, initial=progress.received, unit="B", unit_scale=True, desc=source.name, leave=False,
                  disable=sys.stderr is None or not sys.stderr.isatty()) as bar:
            while block := _next_block(source, response, progress):
                if progress.received + len(block) > limit:
                    raise ModelFileError(f"{source.url} is larger than the {limit} bytes that {source.name} may have; "
                                         f"it was not kept. {source.advice}")
                file.write(block)
                progress.received += len(block)
                bar.update(len(block))
    if total is not None and progress.received < total:
        raise broken_off(source, progress)


def broken_off(source: Source, progress: Progress) -> BrokenTransferError:
    """Return the error of a transfer that ended early."""
    kept = "they are kept, try again to go on from there" if resumable(progress) else "nothing was kept, try again"
    return BrokenTransferError(f"the transfer of {source.url} broke off after {progress.received} bytes; {kept}. "
                               f"{source.advice}")


def resumable(progress: Progress) -> bool:
    """Tell whether a transfer can go on later."""
    return bool(progress.received and progress.etag)


def keep_rest(part: Path, target: Path, progress: Progress) -> None:
    """Keep what a broken transfer left of the file `target`; without an ETag nothing is kept."""
    if resumable(progress):
        with contextlib.suppress(OSError):
            os.replace(part, target.with_name(f".{target.name}.{progress.etag.encode().hex()}.rest"))


def take_rest(part: Path, target: Path) -> Progress:
    """Take over what an earlier transfer left of the file `target`, as `part`; of two processes, one gets it."""
    for rest in target.parent.glob(f".{target.name}.*.rest"):
        with contextlib.suppress(OSError, ValueError):
            etag = bytes.fromhex(rest.name.split(".")[-2]).decode("ascii")
            if _STRONG.fullmatch(etag):
                os.rename(rest, part)
                return Progress(part.stat().st_size, etag)
    return Progress()


def sweep(folder: Path) -> None:
    """Remove half files that nobody asked for again, and those of processes that were killed long ago."""
    for pattern in (".*.part", ".*.rest"):
        for old in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _STALE:
                    old.unlink()


def _open(source: Source, progress: Progress) -> HTTPResponse:
    """Ask for the file, or for what is left of it; `progress` says from where on the answer goes."""
    headers = {"User-Agent": "mlip-md", "Accept-Encoding": "identity"}
    if resumable(progress):
        headers |= {"Range": f"bytes={progress.received}-", "If-Range": progress.etag}
    opener = urllib.request.build_opener(_Redirects(source.local_http))
    try:
        response: HTTPResponse = opener.open(urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and resumable(progress):  # nothing is left to send, or another version is shorter
            progress.received, progress.etag = 0, ""
            return _open(source, progress)
        raise ModelNotFoundError(f"the server answered {error.code} {error.reason} for {source.url}. "
                                 f"{source.advice}") from None
    except MLIPError:
        raise
    except (OSError, HTTPException) as error:
        raise _unreachable(source, error) from None
    etag = response.headers.get("ETag", "")
    if response.status == 206:
        start = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
        if etag not in ("", progress.etag) or start is None or int(start[1]) != progress.received:
            response.close()
            raise ModelFileError(f"{source.url} was to go on after {progress.received} bytes, but its server sent "
                                 f"another part; nothing was kept, try again. {source.advice}")
    else:
        progress.received, progress.etag = 0, etag if _STRONG.fullmatch(etag) else ""
    return response


def _next_block(source: Source, response: HTTPResponse, progress: Progress) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        if progress.received:
            raise broken_off(source, progress) from None
        raise _unreachable(source, error) from None


def _unreachable(source: Source, error: Exception) -> ModelNotFoundError:
    return ModelNotFoundError(f"{source.name} is not in the cache and its server cannot be reached "
                              f"({getattr(error, 'reason', error)}). {source.advice}")


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
            check_url(newurl, self.local_http)
        except ModelNotFoundError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
