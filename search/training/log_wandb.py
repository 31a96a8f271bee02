"""A run's epochs at Weights & Biases, whose own variables (WANDB_PROJECT, ...) are heeded.

With WANDB_MODE=offline they are written to `wandb/` of the run's folder, for `wandb sync`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARY = "wandb"
PROJECT = "fbnetv3"


class WandbLog:
    """A `log_writers.LogWriter`; arguments as in `log_writers.OpenWriter`."""

    def __init__(self, folder: Path, id: str, after: int, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=folder.resolve().name,
            dir=str(folder),
            id=id or None,
            resume="allow" if id else None,
            config=dict(settings),
        )
        self.id = str(self._run.id)

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Hands an epoch over."""
        self._run.log(dict(values), step=number)

    def close(self, finished: bool) -> None:
        """Waits until all is written; a run that may be resumed is marked as failed."""
        self._run.finish(exit_code=0 if finished else 1)
