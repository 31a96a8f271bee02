"""Who may write to a search folder, and what goes wrong with folders, in clear words."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fbnetv3._internal.errors import StoreError
from fbnetv3._internal.json_record import read_object

from .files import way_to_resume
from .results import is_disk_full, write_json

OWNER = "coordinator.json"
# A coordinator on another host counts as dead after this silence; on this host the kernel knows.
REMOTE_SILENCE_S = 60.0
_PROCESS = "process {} on host {}"


def take_lock(folder: Path) -> FileLock:
    """Returns the held lock of a folder's only coordinator; a dead one's is taken over.

    Raises:
        StoreError: a living coordinator has it; the message has its process and host.
    """
    lock = FileLock(folder / "coordinator.lock")
    owner_file = folder / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if coordinator_of(folder) == _PROCESS.format(os.getpid(), socket.gethostname()):
            raise StoreError(
                f"{folder} is in use by this process itself, such as by an earlier cell of a "
                "notebook; close the study that has it open, or wait for its run"
            ) from None
        raise StoreError(
            f"{folder} is in use by {_owner(owner_file)}; wait for it or stop it"
        ) from None
    # Not every network file system keeps locks between hosts, so there the heartbeat decides.
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        host = read_object(owner_file)["host"]
        silence = time.time() - owner_file.stat().st_mtime
        if host != socket.gethostname() and silence < REMOTE_SILENCE_S:
            lock.release()
            raise StoreError(
                f"{folder} is in use by {_owner(owner_file)}, last seen {silence:.0f} s ago; "
                f"stop it there, or try again {REMOTE_SILENCE_S:.0f} s after its death"
            )
    with reported(folder):
        write_json(
            owner_file, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        )
    return lock


def give_lock(folder: Path, lock: FileLock) -> None:
    """Gives a held lock up."""
    if lock.is_locked:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def beat(folder: Path) -> None:
    """Shows coordinators on other hosts that this one is alive."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(folder / OWNER)


def coordinator_of(folder: Path) -> str:
    """Returns the process and host of a folder's living coordinator, or an empty text.

    One that was killed leaves its file behind: on this host its process is gone, on another one its
    file is no longer touched.
    """
    try:
        owner = read_object(folder / OWNER)
        silence = time.time() - (folder / OWNER).stat().st_mtime
        here = owner["host"] == socket.gethostname()
        alive = _runs(int(owner["pid"])) if here else silence < REMOTE_SILENCE_S
    except (OSError, ValueError, KeyError):
        return ""
    return _owner(folder / OWNER) if alive else ""


def _runs(pid: int) -> bool:
    """Returns whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _owner(path: Path) -> str:
    try:
        owner = read_object(path)
        return _PROCESS.format(owner["pid"], owner["host"])
    except (OSError, ValueError, KeyError):
        return "another process"


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turns what a disk can do to us into one clear error.

    Raises:
        StoreError: the disk is full, or the database cannot be used.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise _full(folder, "full") from None
        if "disk I/O" in str(error):
            raise _full(folder, "full or broken") from None
        raise StoreError(f"the database in {folder} cannot be used: {error}") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"the database in {folder} is damaged ({error}); rebuild it with "
            f"fbnetv3-search rebuild {folder}"
        ) from None
    except OSError as error:
        if is_disk_full(error):
            raise _full(folder, "full") from None
        raise


def _full(folder: Path, what: str) -> StoreError:
    return StoreError(
        f"the disk is {what} at {folder}; free some space, then: {way_to_resume(folder)}; "
        "no finished trial is lost"
    )
