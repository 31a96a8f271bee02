"""How many processors there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_THREADS = "OMP_NUM_THREADS"


def available_cpus(cgroups: Path = _CGROUPS) -> int:
    """Returns how many processors this process may keep busy: affinity and container quota.

    Runtimes look at the machine instead and start too many threads in a container.

    Args:
        cgroups: where the system shows the quota, in either of its two versions.
    """
    quotas = [quota for quota in (_quota(cgroups), _first_quota(cgroups)) if quota is not None]
    return max(1, min([_allowed(), *(math.ceil(quota) for quota in quotas)]))


def heed_quota(cgroups: Path = _CGROUPS) -> None:
    """Has torch and numpy start no more threads than the container's quota keeps busy.

    More of them wait for each other: a training of 64 threads on 2 processors hardly moves. Of
    effect before they are imported. What OMP_NUM_THREADS says already is left.

    Args:
        cgroups: see `available_cpus`.
    """
    cpus = available_cpus(cgroups)
    if cpus < _allowed():
        os.environ.setdefault(_THREADS, str(cpus))


def _allowed() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _quota(cgroups: Path) -> float | None:
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _first_quota(cgroups: Path) -> float | None:
    """Returns the quota that the first version of cgroups shows, on older systems."""
    try:
        quota, period = (
            int((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text())
            for name in ("quota", "period")
        )
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None
