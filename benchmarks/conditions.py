"""Where and with what a number was measured: machine, load, versions, commit, threads."""

from __future__ import annotations

import contextlib
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fbnetv3.measure.environment import environment


def conditions() -> dict[str, Any]:
    """Returns what travels with every measured number."""
    commit = ""
    with contextlib.suppress(OSError):  # no git, as on a machine that got a copy
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    found = environment()
    for package in ("scipy", "optuna"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {
        **found,
        "threads": torch.get_num_threads(),
        "commit": commit or "unknown",
    }
