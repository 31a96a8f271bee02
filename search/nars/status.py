"""The progress of a search, read from its store in well under a second whatever its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fbnetv3.search.execution.spec import plan_of
from fbnetv3.search.storage.lock import coordinator_of
from fbnetv3.search.storage.store import Store

from .config import SearchConfig
from .labels import SEARCH_KINDS
from .limit import limit_text
from .spending import spent_of


def status_of(store: Store) -> dict[str, Any]:
    """Returns the state of a search as plain JSON types."""
    config = plan_in(store)
    rounds = [batch for batch in store.batches() if batch.kind in SEARCH_KINDS]
    finished = store.stage("answers") is not None
    coordinator = coordinator_of(store.folder)
    counts = store.counts()
    if not coordinator:
        # They ended with their coordinator, and are trained when the search is resumed.
        counts["queued"] += counts.pop("leased")
        counts["leased"] = 0
    return {
        "state": "finished" if finished else "running" if coordinator else "stopped",
        "coordinator": coordinator,
        "rounds": len(rounds),
        # A search by time may end before the rounds that were planned.
        "of_rounds": len(rounds) if finished else max(len(config.sizes), len(rounds)),
        "trials": counts,
        "best": best_of(store),
        "early_stop": store.stage("early_stop"),
    }


def plan_in(store: Store) -> SearchConfig:
    """Returns a search's config, with the plan for its time once that was made."""
    spent = spent_of(store.folder) or {}
    return SearchConfig.from_dict(spent.get("plan") or plan_of(store.settings))


def best_of(store: Store) -> list[dict[str, Any]]:
    """Returns the value that counts within each limit of the search, None if there is none.

    Of a finished search it is the result's mean over seeds. Before, it is the best label after the
    epoch at which labels are compared: all of them, or fewer once early stopping has found them.
    """
    config = SearchConfig.from_dict(plan_of(store.settings))
    answers = store.stage("answers")
    if answers is not None:
        labels = [_mean(answer["contenders"]) for answer in answers["answers"]]
    else:
        early = store.stage("early_stop")
        epoch = config.epochs if early is None else int(early["epoch"])
        labels = [store.best_label(limit, epoch) for limit in config.limits]
    return [
        {"limit": limit_text(limit), "label": label}
        for limit, label in zip(config.limits, labels, strict=True)
    ]


def _mean(contenders: Sequence[Mapping[str, Any]]) -> float | None:
    return contenders[0]["mean"] if contenders else None
