"""Calls a program's functions as a search goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store

from .found import finished_trial
from .records import Finished, FinishedRound

OnTrial = Callable[[Finished], object]
OnRound = Callable[[FinishedRound], object]


class Watcher:
    """Receives the events of a search.

    Args:
        store: the search; trials that are done already are not reported.
        space: its space.
        on_trial: called with every trial that was trained.
        on_round: called with every round that has ended.
    """

    def __init__(
        self,
        store: Store,
        space: Space,
        *,
        on_trial: OnTrial | None = None,
        on_round: OnRound | None = None,
    ) -> None:
        self._store, self._space = store, space
        self._on_trial, self._on_round = on_trial, on_round
        self._seen = {trial.seq for trial in store.trials("done")}

    def note(self, name: str, fields: Mapping[str, Any]) -> None:
        """Receives one event, see `run_search`."""
        if name == "progress" and self._store.counts()["done"] > len(self._seen):
            self._trials()
        elif name == "closed" and self._on_round is not None:
            self._on_round(
                FinishedRound(
                    fields["index"],
                    fields["trials"],
                    math.nan if fields["best"] is None else fields["best"],
                    fields.get("tau"),
                    fields.get("fidelity", 1.0),
                )
            )

    def _trials(self) -> None:
        for trial in self._store.trials("done"):
            if trial.seq in self._seen:
                continue
            self._seen.add(trial.seq)
            if self._on_trial is not None:
                kind = self._store.batch(trial.batch).kind
                self._on_trial(finished_trial(self._store, self._space, trial, kind))
