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
# The last stage, and those of before the search grew.
FINAL, EARLIER = "final", "earlier"
# So many trainings that all diverged show that nothing can be learnt.
PATIENCE = 10
_LARGEST = 1e100
# Batches that the predictor is fitted to: of this search, and labels of others.
LABEL_KINDS = (*SEARCH_KINDS, MEASURED, EARLIER, "import")


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

    Where the first few have all diverged, they are all 0, so that others are tried.

    Raises:
        ValueError: there are `PATIENCE` labels, none of them finite.
    """
    # The squares of larger ones are infinite; such a loss has diverged too.
    values = np.where(np.abs(labels.values) < _LARGEST, labels.values, np.nan)
    finite = values[np.isfinite(values)]
    if not len(finite):
        if len(values) >= PATIENCE:
            raise nothing_learnt(len(values))
        return np.zeros(len(values))
    for share in np.unique(labels.fidelity):
        own = labels.fidelity == share
        known = values[own & np.isfinite(values)]
        values[own & ~np.isfinite(values)] = (known if len(known) else finite).min()
    return values


def nothing_learnt(num: int) -> ValueError:
    """Returns the error of a search whose labels, `num` of them, are all NaN."""
    return ValueError(
        f"all {num} labels are NaN, so there is nothing to learn from; lower the learning rates "
        "of the space, or fix the labels"
    )


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
