"""Processes that decode images: a signal that goes to all of a run leaves them to end with it.

A terminal sends Ctrl-C, and `timeout` and service managers SIGTERM, to every process of a run. The
main one has a checkpoint to write first, for which it may need batches still.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

# How long a process lives on after SIGTERM or SIGHUP.
_GRACE_S = 30


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yields the batches of a loader whose `worker_init_fn` is `outlive_signals`.

    Raises:
        OSError: a process ended for want of shared memory.
    """
    try:
        yield from _started(loader)
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("shared memory", "bus error", "shm")):
            raise
        raise OSError(
            errno.ENOSPC,
            "an image loading process ended for want of shared memory; enlarge it (docker run "
            "--shm-size=2g), or give --workers 0",
            "/dev/shm",
        ) from error


def outlive_signals(_worker: int) -> None:
    """Lets a process go on for a while after a signal that may have gone to all."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return
    ending = _ending_signals()
    for number in ending:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.alarm(_GRACE_S))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Returns a loader's batches, its processes started with all such signals blocked.

    Until `outlive_signals` has run in them they would end at once; Ctrl-C stays blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_ending_signals()})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending_signals() -> set[signal.Signals]:
    return {signal.SIGTERM, signal.SIGHUP}
