"""The cache folder, its locks, and offline mode.

The folder is `FBNETV3_HOME`, else `XDG_CACHE_HOME/fbnetv3`, else `~/.cache/fbnetv3`. Where there is
no home directory, or one that this user cannot use, a folder of the user's own in the system's
temporary folder takes its place, with a warning. Files from the Hugging Face hub stay in the hub's
own cache, which timm shares, or if that cannot be used, in `hub` in this folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from fbnetv3._internal.errors import FetchError

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
# Long enough for another process to download 40 MB over a slow connection.
_LOCK_TIMEOUT_S = 1800.0


def cache_dir(folder: str | Path | None = None) -> Path:
    """Returns `folder`, or the default cache folder; it may not exist yet."""
    if folder is not None:
        return Path(folder)
    home = os.environ.get("FBNETV3_HOME")
    if home:
        return _expanded(Path(home))  # no shell has expanded it where a Dockerfile sets it
    parent = os.environ.get("XDG_CACHE_HOME")
    try:
        default = (Path(parent) if parent else Path.home() / ".cache") / "fbnetv3"
    except RuntimeError:  # neither HOME nor an entry in the password database
        return _temporary("there is no home directory")
    return default if is_usable(default) else _temporary(f"{default} cannot be used")


def _expanded(folder: Path) -> Path:
    """Returns a folder with ~ replaced by the home directory, if there is one."""
    with contextlib.suppress(RuntimeError):
        return folder.expanduser()
    return folder


def is_usable(folder: Path) -> bool:
    """Returns whether a folder can be read, or made where it does not exist."""
    if os.access(folder, os.F_OK):
        return os.access(folder, os.R_OK | os.X_OK)
    existing = next(parent for parent in folder.absolute().parents if os.access(parent, os.F_OK))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


@functools.cache
def _temporary(reason: str) -> Path:
    """Returns a folder that belongs to this user only, and says so once."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"fbnetv3-{user}"
    with contextlib.suppress(FileExistsError):  # also of a file or link by that name
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    own = user == "user" or (status.st_uid == user and not status.st_mode & 0o022)
    if not (own and stat.S_ISDIR(status.st_mode)):
        # Someone else made it, and could put other weights into it.
        folder = Path(tempfile.mkdtemp(prefix="fbnetv3-"))
    warnings.warn(
        f"{reason}, so that files are cached in {folder}; choose another folder with the "
        "environment variable FBNETV3_HOME",
        stacklevel=3,
    )
    return folder


def is_offline(offline: bool | None = None) -> bool:
    """Returns `offline`; if None, whether HF_HUB_OFFLINE or FBNETV3_OFFLINE is set."""
    if offline is not None:
        return offline
    names = ("HF_HUB_OFFLINE", "FBNETV3_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file in the cache, shared by all processes.

    Raises:
        FetchError: the folder is not writable, or another process holds the lock for too long.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_LOCK_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FetchError(
            f"another process has held {lock.lock_file} for {_LOCK_TIMEOUT_S:.0f} s; stop it, or "
            "choose another folder with the environment variable FBNETV3_HOME"
        ) from None
    except OSError as error:
        raise FetchError(
            f"cannot write in {path.parent}: {error.strerror or error}; choose another folder "
            "with the environment variable FBNETV3_HOME"
        ) from error
    try:
        yield
    finally:
        lock.release()
