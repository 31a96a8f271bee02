"""Which labels of a search are learnt from, and at which length candidates are compared."""

from __future__ import annotations

import numpy as np

from fbnetv3.search.space.space import Floats
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Labels

from .config import FEWEST, SearchConfig

SEARCH_KINDS = ("random", "bins")
# One training of each rung, see `measuring`.
MEASURED = "measure"
# Batches that the predictor is fitted to: rounds, and labels of earlier searches.
LABEL_KINDS = (*SEARCH_KINDS, MEASURED, "import")


def compared_epoch(store: Store, config: SearchConfig) -> int:
    """Returns after which epoch full trainings are compared: early stopping's, or the last."""
    found = store.stage("early_stop")
    return config.epochs if found is None else int(found["epoch"])


def labels_of(
    store: Store,
    config: SearchConfig,
    *,
    before: int | None = None,
    fidelity: float | None = 1.0,
) -> Labels:
    """Returns the labels that a predictor is fitted to.

    Args:
        store: the search.
        config: its config.
        before: keeps those of batches below this number; None: all.
        fidelity: keeps those of this share of the final training; None: all.
    """
    epoch = compared_epoch(store, config)
    return store.labels(
        epoch, kinds=LABEL_KINDS, before=before, seed=config.seed, fidelity=fidelity
    )


def usable(labels: Labels) -> Floats:
    """Returns the labels to fit; a diverged training gets the worst finite one of its length.

    Raises:
        ValueError: there is no finite label.
    """
    finite = labels.values[np.isfinite(labels.values)]
    if not len(finite):
        raise ValueError(
            f"all {len(labels.values)} labels are NaN, so there is nothing to learn from; lower "
            "the learning rates of the space, or fix the labels"
        )
    values = labels.values.copy()
    for share in np.unique(labels.fidelity):
        own = labels.fidelity == share
        known = values[own & np.isfinite(values)]
        values[own & ~np.isfinite(values)] = (known if len(known) else finite).min()
    return values


def compared(shares: Floats) -> float:
    """Returns the share of the final training at which candidates are compared.

    It is the highest of the labels' (N,) that has enough of them: a few labels of the next rung say
    less than many of this one.
    """
    if not len(shares):
        return 1.0
    known, counts = np.unique(shares, return_counts=True)
    enough = known[counts >= FEWEST]
    return float(enough.max() if len(enough) else known[np.argmax(counts)])
