"""The progress of a search, read from its store in well under a second whatever its size."""

from __future__ import annotations

import json
from typing import Any

from fbnetv3.search.storage.lock import OWNER
from fbnetv3.search.storage.store import Store

from .config import SearchConfig
from .limit import limit_text
from .rounds import SEARCH_KINDS


def status_of(store: Store) -> dict[str, Any]:
    """Returns the state of a search as plain JSON types."""
    config = SearchConfig.from_dict(store.settings["plan"])
    rounds = [batch for batch in store.batches() if batch.kind in SEARCH_KINDS]
    finished = store.stage("answers") is not None
    owner = store.folder / OWNER
    coordinator = ""
    if owner.exists():
        found = json.loads(owner.read_text())
        coordinator = f"process {found['pid']} on host {found['host']}"
    return {
        "state": "finished" if finished else "running" if coordinator else "stopped",
        "coordinator": coordinator,
        "rounds": len(rounds),
        "of_rounds": config.rounds + 1,
        "trials": store.counts(),
        "best": best_of(store),
        "early_stop": store.stage("early_stop"),
    }


def best_of(store: Store) -> list[dict[str, Any]]:
    """Returns the best label within each limit of the search, None if there is none."""
    config = SearchConfig.from_dict(store.settings["plan"])
    return [
        {
            "limit": limit_text(limit),
            "label": store.best_label(limit),
        }
        for limit in config.limits
    ]
