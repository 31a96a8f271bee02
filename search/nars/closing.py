"""What is done with the labels of a round: where to stop early, and what the report shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels

from .config import SearchConfig
from .early_stop import FEWEST_NETWORKS, EarlyStop, find_early_stop
from .gene_effects import gene_effects
from .labels import compared, usable
from .problem import Problem
from .round_quality import round_quality


def early_stop_of(
    store: Store, config: SearchConfig, first: Batch, rng: np.random.Generator
) -> EarlyStop | None:
    """Finds and stores after how many epochs later rounds may stop, once per search.

    Args:
        store: the search.
        config: its config.
        first: its first round.
        rng: draws the bootstrap samples.

    Returns:
        What was found; None if it is known already, or was not to be found.
    """
    if store.stage("early_stop") is not None:
        return None
    trials = store.trials("done", batch=first.number)
    full = config.epochs
    imported = any(one.kind == "import" for one in store.batches())
    # Imported labels are of full trainings; shorter ones could not be compared with them.
    stops = config.early_stop and config.policy == "early_stop"
    if not stops or full == 1 or len(trials) < FEWEST_NETWORKS or imported:
        store.set_stage("early_stop", {"epoch": full, "found": False, "tried": False})
        return None
    curves = np.full((len(trials), full), np.nan)
    for row, trial in enumerate(trials):
        curve = store.curve(trial.seq)
        curves[row, : len(curve)] = [np.nan if v is None else v for v in curve]
    found = find_early_stop(curves, rng, threshold=config.threshold)
    store.set_stage("early_stop", {**dataclasses.asdict(found), "tried": True})
    return found


def figures_of(
    problem: Problem,
    config: SearchConfig,
    known: Labels,
    predictor: Predictor,
    unpretrained: Predictor | None,
    bin_by: str,
) -> dict[str, Any]:
    """Returns the figures of a round as plain JSON types.

    Args:
        problem: the problem.
        config: config of the search.
        known: all labels up to this round.
        predictor: the predictor, fitted; it is left as it was.
        unpretrained: the same without pretraining, for comparison.
        bin_by: name of the cost that the predictor should outrank; empty for none.
    """
    share = compared(known.fidelity)
    known = known.where(known.fidelity <= share)
    labels = known.where(known.fidelity == share)
    values = usable(labels)
    costs = {k: np.asarray(v, np.float64) for k, v in problem.costs(known.matrix).items()}
    longest = known.fidelity == share
    return {
        "trials": len(values),
        "best": float(values.max()) if np.isfinite(labels.values).any() else None,
        "effects": gene_effects(
            problem.space, labels.matrix, values, {k: v[longest] for k, v in costs.items()}
        ),
        **({"fidelity": share} if config.rungs else {}),
        **round_quality(
            predictor,
            unpretrained,
            known.matrix,
            usable(known),
            costs[bin_by] if bin_by else None,
            seed=config.seed,
            shares=known.fidelity,
        ),
    }
