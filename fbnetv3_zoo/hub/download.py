"""One file from a plain address: resumed where it was cut, and whole or absent under its name.

The bytes go to `<name>.part`; what the server said about the file's version stands beside them in
`<name>.part.json`, so that a later process resumes only the same version. The part is renamed
onto its final name when its length (and hash, where known) is right. (pooch checks hashes and
renames too, but begins every attempt at the first byte.)

The edge of this file: addresses and files, no weights, no cache.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import rename, sha256_of

_CHUNK = 1 << 18
_NUM_ATTEMPTS = 4
_PAUSE_S = 0.5
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class _Answer:
    """What the server said: whole size in bytes, where the body starts, version of the file."""

    size: int | None
    start: int
    version: str | None


class _Retry(Exception):  # noqa: N818  # never leaves this file
    """A failure that may pass."""


def download(
    url: str, target: Path, *, sha256: str | None, timeout_s: float, progress: bool
) -> str:
    """Brings a file to `target`, which is replaced in one step; returns its SHA-256.

    Up to four attempts are made where a failure may pass (a cut, a silence, a busy server), each
    going on where the last one stopped. No two processes may call this for one target at a time.

    Args:
        url: http, https or file address.
        target: where it goes; its folder exists.
        sha256: what its hash has to be, None where unknown.
        timeout_s: silence of the server in seconds that ends an attempt.
        progress: show a bar if the error output is a terminal.

    Raises:
        FetchError: the server does not give the file, or it cannot be written.
        ValueError: the file is not the expected one.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        for attempt in range(1, _NUM_ATTEMPTS + 1):
            try:
                _attempt(url, part, sha256 is not None, timeout_s, progress)
                break
            except _Retry as failure:
                if attempt == _NUM_ATTEMPTS:
                    raise FetchError(
                        f"cannot fetch {url}: {failure} ({attempt} attempts); try again later, "
                        "what has come is kept"
                    ) from failure
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
        found = sha256_of(part)
        if sha256 is not None and found != sha256:
            _discard(part)
            raise ValueError(
                f"{url} has SHA-256 {found}, expected {sha256}; it was discarded. Try again; if "
                "it stays so, the file at this address is not the published one"
            )
        rename(part, target)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(
            f"cannot write {target}: {error.strerror or error}; make room, or choose another "
            "folder with the environment variable FBNETV3_HOME"
        ) from error
    _version_file(part).unlink(missing_ok=True)
    return found


def _attempt(url: str, part: Path, hash_known: bool, timeout_s: float, progress: bool) -> None:
    """Brings the rest of `part`, or all of it."""
    start, version = _resumable(part, url)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    with _failures(url, part):
        response = urllib.request.urlopen(request, timeout=timeout_s)
    with response:
        answer = _understand(response)
        if answer.start not in (0, start):
            raise _Retry(f"the server sent bytes from {answer.start}, asked for {start}")
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if answer.size is None and not chunked and not hash_known:
            raise FetchError(f"{url} comes without a length or hash, so a cut would not be seen")
        if not answer.start:
            _discard(part)
        if answer.version:
            _version_file(part).write_text(json.dumps({"url": url, "version": answer.version}))
        with part.open("ab") as file, _bar(part, answer, progress) as advance:
            while True:
                with _failures(url, part):
                    chunk = response.read(_CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if answer.size is not None and size != answer.size:
        if size > answer.size:
            _discard(part)
        raise _Retry(f"the connection ended after {size} of {answer.size} bytes")


@contextlib.contextmanager
def _failures(url: str, part: Path) -> Iterator[None]:
    """Sorts what goes wrong with a connection into what may pass and what will not."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            _discard(part)
            raise _Retry("the server refused to resume") from error
        if error.code in _RETRIED_STATUS:
            raise _Retry(f"the server answered {error.code} {error.reason}") from error
        raise FetchError(
            f"cannot fetch {url}: the server answered {error.code} {error.reason}; check the "
            "address, or put the file in the cache yourself"
        ) from error
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # An unknown name stays unknown; waiting for it would only delay the message.
        if isinstance(reason, socket.gaierror | ConnectionRefusedError | str):
            raise FetchError(
                f"cannot fetch {url}: {reason}; check the network, or set FBNETV3_OFFLINE=1 to be "
                "told where to put the file"
            ) from error
        raise _Retry(str(reason) or type(reason).__name__) from error


def _understand(response: http.client.HTTPResponse) -> _Answer:
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified")
    if version and version.startswith("W/"):  # Names a meaning, not bytes: no good for resuming.
        version = None
    if response.status == http.client.PARTIAL_CONTENT:
        try:
            unit, _, span = headers.get("Content-Range", "").partition(" ")
            first, size = int(span.split("-")[0]), int(span.split("/")[1])
        except (ValueError, IndexError):
            unit = ""
        if unit != "bytes":
            raise _Retry("the server resumed without a valid Content-Range")
        return _Answer(size, first, version)
    length = headers.get("Content-Length")
    return _Answer(int(length) if length and length.isdigit() else None, 0, version)


def _resumable(part: Path, url: str) -> tuple[int, str]:
    """Returns how many bytes are there already and the version they belong to; (0, "") if none."""
    try:
        record = json.loads(_version_file(part).read_text())
        if record["url"] == url and isinstance(record["version"], str):
            return part.stat().st_size, record["version"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _bar(part: Path, answer: _Answer, progress: bool) -> Iterator[Callable[[int], None]]:
    """Yields what is told of every chunk; draws only where the error output is a terminal."""
    if not progress or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        name = part.name.removesuffix(".part")
        task = bar.add_task(name, total=answer.size, completed=answer.start)
        yield lambda count: bar.advance(task, count)
