"""The cache folder, its locks, and offline mode.

The folder is `FBNETV3_HOME`, else `XDG_CACHE_HOME/fbnetv3`, else `~/.cache/fbnetv3`. Files from the
Hugging Face hub stay in the hub's own cache, which timm shares.
"""

from __future__ import annotations

import contextlib
import os
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
        return Path(home)
    parent = os.environ.get("XDG_CACHE_HOME")
    return (Path(parent) if parent else Path.home() / ".cache") / "fbnetv3"


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
