"""A run's epochs as TensorBoard's event files, in `tensorboard/` of the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARY = "tensorboard"
FOLDER = "tensorboard"


class TensorBoardLog:
    """A `log_writers.LogWriter`; arguments as in `log_writers.OpenWriter`."""

    id = ""

    def __init__(self, folder: Path, id: str, after: int, settings: Mapping[str, Any]) -> None:
        # torch's own writer would load tensorflow, if it is installed, in some seconds.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / FOLDER), purge_step=after + 1)
        if not after:
            text = json.dumps(settings, indent=1).replace("\n", "\n    ")
            self._writer.add_text("settings", f"    {text}", 0)

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Writes an epoch to disk."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Closes the file."""
        self._writer.close()
