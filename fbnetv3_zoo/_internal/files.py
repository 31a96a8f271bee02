"""Atomic writing of files, used for every file that this package writes.

A file is written under a temporary name in the same folder, flushed to disk and renamed. Readers
see either the old or the new content, also after a crash. New files get the default permissions.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# Network file systems cannot fsync a folder, and Windows cannot open one.
_NO_FOLDER_SYNC = frozenset(
    {errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP}
    | {errno.EPERM}
)

# A disk that is full, or fails: the error of a write does not name the file.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})

# In a temporary folder: its process holds the first; the second is what a folder replaces.
_LOCK, _BEFORE = ".lock", "before"
# A process has long locked the temporary folder that it made so many seconds ago.
_LOCKED_AFTER_S = 2.0

# What `zipfile` raises at damaged archives and at entries that it cannot read.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


@contextlib.contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """Names a file in errors of the disk in the body that name none, or its `part`."""
    try:
        yield
    except OSError as error:
        unnamed = error.errno in DISK_ERRORS and error.filename is None
        if unnamed or (part is not None and error.filename == str(part)):
            error.filename = str(path)
        raise


def check_output(path: Path) -> None:
    """Checks that a file can be written, before the work whose result it is to hold.

    Raises:
        ValueError: there is a folder of that name.
        FileNotFoundError: its folder does not exist.
    """
    _refuse_folder(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")


def check_output_folder(path: Path) -> None:
    """Checks that a folder can be made, or is there, before the work whose results it is to hold.

    Raises:
        ValueError: there is a file of that name.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"cannot write {path}: it is a file; give the name of a folder")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes bytes, or text as UTF-8, to a file in an existing folder.

    Names of files in the text that are no UTF-8 are written with the bytes that they have.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
        ValueError: there is a folder of that name.
    """
    _refuse_folder(path)
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    part = _neighbour(path)
    try:
        with naming(path, part):
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            rename(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; the file is moved to `path` at the end.

    For libraries that write to a path themselves. Other files that they write beside it are moved
    first, to the same folder as `path`. After an error nothing is moved. What a killed process has
    left of the same file is removed.

    Raises:
        ValueError: `path` cannot be written; raised before the body runs.
    """
    _refuse_folder(path)
    _remove_stale(path)
    folder = _neighbour(path)
    part = folder / path.name
    try:
        folder.mkdir()
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror}; give an output in a folder that exists and "
            "is writable"
        ) from error
    with _held(folder), naming(path, part):
        yield part
        others = [file for file in folder.iterdir() if file.name not in (path.name, _LOCK)]
        for file in (*others, part):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            rename(file, path.with_name(file.name))


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder elsewhere, of the same name, which is moved to `path` at the end.

    An existing folder is replaced. After an error nothing has changed. What a killed process has
    left of the same folder is removed at the end, as it may be the only copy until then.

    Raises:
        ValueError: `path` cannot be written, or is a file; raised before the body runs.
    """
    check_output_folder(path)
    work = _neighbour(path)
    part = work / path.name
    try:
        part.mkdir(parents=path.parent.is_dir())
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror}; give an output in a folder that exists and "
            "is writable"
        ) from error
    with _held(work):
        with naming(path):
            yield part
        for file in part.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        if path.exists():
            path.rename(work / _BEFORE)
        rename(part, path)
    _remove_stale(path)


def rename(part: Path, path: Path) -> None:
    """Renames a complete, flushed file atomically and flushes its folder."""
    os.replace(part, path)
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 lower-case hex digits, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file name in it")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds the lock in a temporary folder during the body, and removes the folder after it."""
    import shutil

    from filelock import FileLock

    lock = FileLock(folder / _LOCK)
    try:
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
        yield
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Removes temporary folders for a path whose process has ended without removing them."""
    import shutil

    from filelock import FileLock, Timeout

    for folder in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        # Suppressed: it is gone meanwhile, or this user may not write to it.
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > _LOCKED_AFTER_S:
                with FileLock(folder / _LOCK, timeout=0):
                    pass
                shutil.rmtree(folder, ignore_errors=True)


def _neighbour(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
