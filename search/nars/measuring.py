"""One training of each rung, measured before a search plans how to spend its time.

The trainings are not lost: their labels are learnt from like others.
"""

from __future__ import annotations

import statistics

import numpy as np

from fbnetv3._internal.errors import TrialError
from fbnetv3.search.storage.trials import Batch, Proposal

from .labels import MEASURED
from .rounds import Optimizer
from .spending import Spending

# Winners are often near their limit, and larger candidates take longer: not the median of the pool.
_QUANTILE = 0.75


def measure(optimizer: Optimizer, spending: Spending, *, parallel: int) -> dict[float, float]:
    """Returns share of the final training -> seconds that such a training takes.

    As many are trained of each as will be trained at a time, which slows each of them down. Of the
    shortest rung as many come before, as the first training of a worker also has it start.

    Raises:
        TrialError: no full training succeeded.
    """
    store, config = optimizer.store, optimizer.config
    if not any(batch.kind == MEASURED for batch in store.batches()):
        numbers = [batch.number for batch in store.batches()]
        batch = Batch(max(numbers, default=-1) + 1, MEASURED, {}, "")
        store.add_batch(batch, _proposals(optimizer, parallel))
    with spending.measuring():
        optimizer.coordinator.complete(lambda _trial: None, optimizer.report)
    [number] = [batch.number for batch in store.batches() if batch.kind == MEASURED]
    took: dict[float, list[float]] = {}
    for trial in store.trials("done", batch=number):
        if trial.started is not None and trial.ended is not None:
            took.setdefault(trial.fidelity, []).append(trial.ended - trial.started)
    if 1.0 not in took:
        raise TrialError(
            "the full training that should show how long one takes failed; give --cost or "
            "--trainings in place of --time, or fix the objective"
        )
    for rung in config.rungs[:1]:
        if len(took.get(rung, ())) > parallel:
            took[rung] = took[rung][parallel:]
    full = statistics.mean(took[1.0])
    # Where a rung's own training failed, its share is the best guess.
    return {
        share: statistics.mean(took[share]) if share in took else share * full
        for share in (*config.rungs, 1.0)
    }


def _proposals(optimizer: Optimizer, num: int) -> list[Proposal]:
    """Returns `num` trials of each rung, and of full trainings, of candidates of usual cost."""
    config = optimizer.config
    rows = [_usual(optimizer, number) for number in range(2 * num)]
    lengths = range(len(config.rungs) + 1)
    warm = rows[num:] if config.rungs else []
    return [
        *(optimizer.proposal(row, limit, None, 0) for row, limit in warm),
        *(optimizer.proposal(row, limit, None, n) for n in lengths for row, limit in rows[:num]),
    ]


def _usual(optimizer: Optimizer, number: int) -> tuple[int, int]:
    """Returns a candidate of usual cost as its index in the pool, and the limit that it is for."""
    limit = number % len(optimizer.config.limits)
    inside = np.flatnonzero(optimizer.inside[limit])
    costs = optimizer.costs.get(optimizer.bin_by, np.arange(len(optimizer.pool), dtype=float))
    order = inside[np.argsort(costs[inside], kind="stable")]
    return int(order[min(int(_QUANTILE * len(order)) + number, len(order) - 1)]), limit
