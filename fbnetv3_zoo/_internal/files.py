"""Files that are there whole or not at all, also after a crash: all writing of this package.

A file is written under another name beside its own, flushed to the disk, and renamed. Whoever reads
the name meanwhile finds the old file or the new one. New files have the permissions of any other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

# Network file systems refuse to flush a folder, Windows to open one.
_NO_FOLDER_SYNC = frozenset(
    {errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP}
    | {errno.EPERM}
)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file of bytes, or of text in UTF-8; its folder has to exist.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    part = _neighbour(path)
    try:
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        rename(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(path)  # the name that the caller knows
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path of the same name in a temporary folder; at the end the file there is at `path`.

    For libraries that write to a path. Files that they put beside it go beside `path`, before it;
    after an error nothing does.

    Raises:
        ValueError: nothing can be written at `path`; found out before the body is run.
    """
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file name in it")
    folder = _neighbour(path)
    try:
        folder.mkdir()
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror}; give an output in a folder that exists and "
            "is writable"
        ) from error
    try:
        part = folder / path.name
        yield part
        for file in (*(file for file in folder.iterdir() if file != part), part):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            rename(file, path.with_name(file.name))
    finally:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def rename(part: Path, path: Path) -> None:
    """Gives a whole, flushed file its name, in one step that a power cut does not undo."""
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
    """Returns the SHA-256 of a file as 64 lower-case hex digits, without reading it at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _neighbour(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
