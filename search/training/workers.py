"""How many processes decode photos for a training."""

from __future__ import annotations

import os
import tempfile
import warnings

from fbnetv3._internal.processors import available_cpus

# More processes than this give a single GPU no more images.
_MOST = 16
# Batches that each process of a torch DataLoader makes ahead.
_AHEAD = 2
_SHARED_MEMORY = "/dev/shm"  # where Linux has it
# What Python's multiprocessing puts behind the temporary folder's path for a socket, and the length
# that systems allow: 107 bytes on Linux, 103 on macOS.
_SOCKET_BYTES = len("/pymp-12345678/listener-12345678")
_MOST_SOCKET_BYTES = 103


def default_workers(
    device_type: str,
    batch_size: int,
    side: int,
    *,
    cpus: int | None = None,
    shared_bytes: int | None = None,
) -> int:
    """Returns the number of decoding processes for a training.

    On a GPU as many as there are CPUs, up to 16; beside a training on the CPU at most two, and none
    with one CPU. Fewer where shared memory, 64 MB in a container by default, does not hold the
    batches that they make ahead.

    Args:
        device_type: "cpu", "cuda", ...
        batch_size: images.
        side: of an image, in pixels.
        cpus: None: those that this process may use.
        shared_bytes: free shared memory; None: as it is now.
    """
    cpus = available_cpus() if cpus is None else cpus
    shared = _free_shared_bytes() if shared_bytes is None else shared_bytes
    wanted = min(_MOST, cpus) if device_type != "cpu" else min(2, cpus - 1)
    # One more batch is on its way to the training; half the memory is left to others.
    batch_bytes = 4 * 3 * side * side * batch_size
    fitting = (shared // 2 // batch_bytes - 1) // _AHEAD
    return max(0, min(wanted, fitting))


def usable_workers(workers: int, batch_bytes: int, *, shared_bytes: int | None = None) -> int:
    """Returns the number of decoding processes that can hand over their images; a warning says why.

    They pass tensors through sockets in the temporary folder. If its path is too long for one, they
    would wait forever; and in shared memory, where a batch that does not fit ends them. Images are
    then decoded by fewer of them, or by the caller itself.

    Args:
        workers: how many are asked for.
        batch_bytes: size of a batch of decoded images.
        shared_bytes: free shared memory; None: as it is now.
    """
    if not workers or os.name == "nt":
        return workers
    longest = len(os.fsencode(tempfile.gettempdir())) + _SOCKET_BYTES
    if longest > _MOST_SOCKET_BYTES:
        warnings.warn(
            f"images are decoded without processes of their own: the path of "
            f"{tempfile.gettempdir()} is too long for their sockets, by "
            f"{longest - _MOST_SOCKET_BYTES} characters; set TMPDIR to a shorter one",
            stacklevel=3,
        )
        return 0
    shared = _free_shared_bytes() if shared_bytes is None else shared_bytes
    fitting = max(0, (shared // batch_bytes - 1) // _AHEAD)
    if fitting < workers:
        warnings.warn(
            f"images are decoded by {fitting} processes instead of {workers}: {_SHARED_MEMORY} has "
            f"{shared / 1e6:.0f} MB left and a batch takes {batch_bytes / 1e6:.0f}; enlarge it "
            "(docker run --shm-size=2g), or use a smaller batch",
            stacklevel=3,
        )
    return min(workers, fitting)


def _free_shared_bytes() -> int:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except (OSError, AttributeError):  # not on macOS and Windows, which have no such limit
        return 1 << 62
    return found.f_bavail * found.f_frsize
