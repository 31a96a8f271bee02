"""How many processors there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus() -> int:
    """Returns how many processors this process may keep busy: affinity and container quota.

    Runtimes look at the machine instead and start too many threads in a container.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no such limit here
    return max(1, allowed)
