"""The clock of a search that has a time to keep to, also over stops and kills.

`budget.json` in the search's folder has the time spent so far, what a training of each rung was
measured to take, and the plan that was made from it. A search that is resumed goes on with that
plan; what a kill costs since the file was last written, less than `SAVED_S`, is not counted.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fbnetv3._internal.json_record import read_json
from fbnetv3.search.storage.results import write_json
from fbnetv3.search.storage.trials import Trial

BUDGET = "budget.json"
# Of `keep`: rungs that show nothing, as pairs of share and reason.
LEFT_OUT = "left_out"
SAVED_S = 10.0
# The slower of so many waits between rounds is expected again; they grow with the labels.
_LATEST = 2


class Spending:
    """Counts the time that a search takes.

    Args:
        folder: the search's.
        clock: returns seconds since any start.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / BUDGET, clock
        self._content: dict[str, Any] = {"spent_s": 0.0, "setup_s": 0.0, "between_s": []}
        if self._path.is_file():
            self._content |= read_json(self._path.read_bytes(), str(self._path))
        self._spent_s = float(self._content["spent_s"])
        self._since = self._saved = clock()
        # When the trainings of the round before ended; None if this process has not seen it.
        self._ended: float | None = None

    def spent_s(self) -> float:
        """Returns the seconds that the search has taken so far."""
        return self._spent_s + self._clock() - self._since

    def took(self, trial: Trial) -> float | None:
        """Returns the seconds that a trial of the search took, None if they are not known.

        Where no process saw its end, clocks tell that may have been set, or differ; but no trial
        takes longer than its search.
        """
        seconds = trial.seconds
        return seconds if seconds is None or seconds <= self.spent_s() + SAVED_S else None

    def overhead_s(self, most: float = math.inf) -> float:
        """Returns the seconds between the trainings of two rounds, as they have taken of late.

        Before there were any, those that the search took to start, or `most` if that is less.
        """
        between = self._content["between_s"][-_LATEST:]
        return float(max(between, default=min(most, self._content["setup_s"])))

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Counts the time inside as that of trainings to which nothing is fitted afterwards."""
        if not self._content["setup_s"]:
            self.keep(setup_s=self.spent_s())
        yield
        self.keep()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Counts the time inside as that of a round's trainings."""
        if self._ended is not None:
            gap = self._clock() - self._ended
            self.keep(between_s=[*self._content["between_s"][-_LATEST:], gap])
        yield
        self._ended = self._clock()
        self.keep()

    def beat(self) -> None:
        """Writes the time spent, if that was not done lately."""
        if self._clock() - self._saved >= SAVED_S:
            self.keep()

    def kept(self, name: str) -> Any:
        """Returns what `keep` was given under a name, also by an earlier process, or None."""
        return self._content.get(name)

    def keep(self, **fields: Any) -> None:
        """Writes the time spent and further fields."""
        self._saved = self._clock()
        self._content |= {**fields, "spent_s": self.spent_s()}
        write_json(self._path, self._content)


def spent_of(folder: Path) -> Mapping[str, Any] | None:
    """Returns the content of a search's `budget.json`, None if it has no time to keep to."""
    path = folder / BUDGET
    if not path.is_file():
        return None
    return dict(read_json(path.read_bytes(), str(path)))
