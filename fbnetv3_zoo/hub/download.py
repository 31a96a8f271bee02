"""Downloading a file from a URL, with resume and an atomic rename at the end.

The bytes are written to `<name>.part`, and the version of the file that the server reports to
`<name>.part.json`, so that a later process resumes only the same version. The part is renamed when
its length (and hash, if known) is correct. (pooch also checks hashes and renames, but restarts
every attempt from the first byte.)
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import string
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import rename, sha256_of
from fbnetv3._internal.messages import one_line

_CHUNK = 1 << 18
_NUM_ATTEMPTS = 4
_PAUSE_S = 0.5
# What does not change within the retries: no such host or file, nobody listens, a bad URL.
_FINAL = (
    socket.gaierror,
    ConnectionRefusedError,
    FileNotFoundError,
    IsADirectoryError,
    PermissionError,
    http.client.InvalidURL,
    str,
)
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class _Response:
    """From the response headers: total size and start of the body in bytes, version of the file."""

    size: int | None
    start: int
    version: str | None


class _Retry(Exception):  # noqa: N818  # never leaves this file
    """A failure that may be temporary."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    timeout_s: float,
    progress: bool,
    num_attempts: int = _NUM_ATTEMPTS,
) -> str:
    """Downloads a file to `target`, which is replaced atomically; returns its SHA-256.

    Temporary failures (a lost connection, a timeout, a busy server) are retried, each attempt
    resuming where the last one stopped. Only one process at a time may call this for
    the same target.

    Args:
        url: http, https or file URL; a name and password in it are sent and never shown.
        target: path to write to; its folder exists.
        sha256: the expected hash or its first digits, None if unknown.
        timeout_s: seconds without data from the server after which an attempt fails.
        progress: show a progress bar if stderr is a terminal.
        num_attempts: number of attempts in total.

    Raises:
        FetchError: the file cannot be downloaded or written.
        ValueError: the hash differs from `sha256`.
    """
    part = target.with_name(f"{target.name}.part")
    url, login = _without_login(url)
    try:
        for attempt in range(1, num_attempts + 1):
            try:
                _attempt(url, login, part, sha256 is not None, timeout_s, progress)
                break
            except _Retry as failure:
                if attempt == num_attempts:
                    raise FetchError(
                        f"cannot fetch {url}: {failure} ({attempt} attempts); try again later, "
                        "it will resume"
                    ) from failure
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
        found = sha256_of(part)
        if sha256 is not None and not found.startswith(sha256):
            _discard(part)
            raise ValueError(
                f"{url} has SHA-256 {found}, expected {sha256}; it was discarded. Try again; if "
                "this repeats, the file at this URL is not the published one"
            )
        rename(part, target)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(
            f"cannot write {target}: {error.strerror or error}; free some space, or choose another "
            "folder with the environment variable FBNETV3_HOME"
        ) from error
    _version_file(part).unlink(missing_ok=True)
    return found


def _attempt(
    url: str, login: str | None, part: Path, hash_known: bool, timeout_s: float, progress: bool
) -> None:
    """Downloads the rest of `part`, or all of it."""
    start, version = _resumable(part, url)
    request = _request(url, login)
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    with _failures(url, part):
        response = urllib.request.urlopen(request, timeout=timeout_s)
    with response:
        try:
            found = _read_headers(response)
            if found.start not in (0, start):
                raise _Retry(f"the server sent bytes from {found.start}, asked for {start}")
            if found.start and found.version not in (None, version):
                raise _Retry("the server resumed another version of the file")
        except _Retry:
            _discard(part)  # a server that resumes wrongly once does so again
            raise
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise FetchError(
                f"cannot fetch {url}: the server sent it packed as {one_line(encoding, 40)}, which "
                "was not asked for; have the server send its files as they are"
            )
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if found.size is None and not chunked and not hash_known:
            raise FetchError(
                f"{url} has no length or hash, so a truncated file would not be noticed"
            )
        if not found.start:
            _discard(part)
        if found.version:
            _version_file(part).write_text(json.dumps({"url": url, "version": found.version}))
        with part.open("ab") as file, _bar(part, found, progress) as advance:
            while True:
                with _failures(url, part):
                    # What has come so far, so that a slow connection's bytes are kept.
                    chunk = response.read1(_CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if found.size is not None and size != found.size:
        if size > found.size:
            _discard(part)
        raise _Retry(f"the connection ended after {size} of {found.size} bytes")


@contextlib.contextmanager
def _failures(url: str, part: Path) -> Iterator[None]:
    """Turns temporary connection failures into `_Retry`, and others into `FetchError`."""
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
            f"cannot fetch {url}: the server answered {error.code} {one_line(str(error.reason))}; "
            "check the URL, or put the file into the cache by hand"
        ) from error
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(
                f"cannot fetch {url}: {reason.verify_message}; if a proxy of yours replaces "
                "certificates, name its own in the environment variable SSL_CERT_FILE"
            ) from error
        if isinstance(reason, _FINAL):
            what = "folder" if url.startswith("file:") else "network"
            raise FetchError(
                f"cannot fetch {url}: {reason}; check the {what}, or set FBNETV3_OFFLINE=1 to be "
                "told where to put the file"
            ) from error
        raise _Retry(one_line(str(reason)) or type(reason).__name__) from error


def _without_login(url: str) -> tuple[str, str | None]:
    """Returns a URL without the name and password in it, and the header that sends these."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition("@")
    if not at:
        return url, None
    encoded = base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
    return f"{scheme}://{host}{slash}{path}", f"Basic {encoded}"


def _request(url: str, login: str | None) -> urllib.request.Request:
    """Returns the request for a URL whose path may have any characters."""
    quoted = urllib.parse.quote(url, safe=string.punctuation)
    request = urllib.request.Request(quoted, headers={"Accept-Encoding": "identity"})
    if login:
        request.add_unredirected_header("Authorization", login)  # for no other host
    return request


def _read_headers(response: http.client.HTTPResponse) -> _Response:
    headers = response.headers
    version = headers.get("ETag") or headers.get("Last-Modified")
    if version and version.startswith("W/"):  # A weak ETag does not guarantee equal bytes.
        version = None
    if response.status == http.client.PARTIAL_CONTENT:
        try:
            unit, _, span = headers.get("Content-Range", "").partition(" ")
            first, size = int(span.split("-")[0]), int(span.split("/")[1])
        except (ValueError, IndexError):
            unit = ""
        if unit != "bytes":
            raise _Retry("the server resumed without a valid Content-Range")
        return _Response(size, first, version)
    length = headers.get("Content-Length")
    return _Response(int(length) if length and length.isdecimal() else None, 0, version)


def _resumable(part: Path, url: str) -> tuple[int, str]:
    """Returns the number of bytes already downloaded and their version; (0, "") if none."""
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
def _bar(part: Path, found: _Response, progress: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the size of each chunk; draws only if stderr is a terminal."""
    if not progress or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        name = part.name.removesuffix(".part")
        task = bar.add_task(name, total=found.size, completed=found.start)
        yield lambda count: bar.advance(task, count)
