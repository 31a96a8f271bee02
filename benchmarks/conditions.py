"""Where and with what a number was measured: machine, load, versions, commit, threads."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from fbnetv3.measure.latency import environment


def conditions() -> dict[str, Any]:
    """Returns what travels with every measured number."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        **environment(),
        "threads": torch.get_num_threads(),
        "commit": commit.stdout.strip() or "unknown",
    }
