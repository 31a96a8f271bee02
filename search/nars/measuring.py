"""One training of each rung, measured before a search plans how to spend its time.

The trainings are not lost: their labels are learnt from like others. A rung that the plan would use
is then tried: in trainings that are too short no candidate learns anything, and such a rung shows
nothing, however many are made of it.
"""

from __future__ import annotations

import statistics

import numpy as np

from fbnetv3._internal.errors import TrialError
from fbnetv3.search.space.space import Floats
from fbnetv3.search.storage.trials import Batch, Proposal, Trial

from .budget import FEWEST_ON_A_RUNG
from .labels import MEASURED
from .rounds import Optimizer
from .spending import Spending

# Winners are often near their limit, and larger candidates take longer: not the median of the pool.
_QUANTILE = 0.75
# A rung on which a dozen labels are within this share of what a full training gains over them shows
# nothing. Guesses of one class in ten on 10,000 images are within 1 point, on 2,000 within 2.3.
_CHANCE = 0.1


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
    number = min(one.number for one in store.batches() if one.kind == MEASURED)
    whole = [trial for trial in store.trials(batch=number) if trial.fidelity == 1]
    if all(trial.state == "failed" for trial in whole):
        # An earlier process has seen all of them fail; what made them may have been mended.
        proposal = _in_place_of(optimizer, whole[-1])
        if proposal is not None:
            store.add_replacement(whole[-1], proposal)
    with spending.measuring():
        optimizer.coordinator.complete(
            lambda trial: _in_place_of(optimizer, trial) if trial.fidelity == 1 else None,
            optimizer.report,
        )
    took: dict[float, list[float]] = {}
    done = store.trials("done", batch=number)
    for trial in done:
        seconds = spending.took(trial)
        if seconds is not None:
            took.setdefault(trial.fidelity, []).append(seconds)
    if 1.0 not in took and any(trial.fidelity == 1 for trial in done):
        # Too much, which the next full trainings correct.
        took[1.0] = [spending.spent_s()]
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


def shows_nothing(optimizer: Optimizer, spending: Spending, share: float) -> str:
    """Tries a rung, and returns why it shows nothing; empty if it may show something.

    Trains as many on it as a plan would at least, those of `measure` included.
    """
    store, index = optimizer.store, optimizer.config.rungs.index(share)
    numbers = [batch.number for batch in store.batches() if batch.kind == MEASURED]
    first, *later = ([t for t in store.trials(batch=n) if t.fidelity == share] for n in numbers)
    missing = FEWEST_ON_A_RUNG - sum(trial.state != "failed" for trial in first)
    if missing > 0 and not any(later):
        rows = [_usual(optimizer, len(first) + n) for n in range(missing)]
        number = max(batch.number for batch in store.batches()) + 1
        batch = Batch(number, MEASURED, {}, "")
        store.add_batch(batch, [optimizer.proposal(row, limit, index) for row, limit in rows])
    with spending.measuring():
        optimizer.coordinator.complete(lambda _trial: None, optimizer.report)
    return nothing_shown(optimizer.labels(fidelity=share).values, optimizer.labels().values)


def nothing_shown(short: Floats, full: Floats) -> str:
    """Returns why labels of short trainings show nothing of what full ones will; else empty.

    Args:
        short: (n,) labels of short trainings of different candidates.
        full: (m,) labels of full trainings.
    """
    short, full = short[np.isfinite(short)], full[np.isfinite(full)]
    if len(short) < FEWEST_ON_A_RUNG or not len(full):
        return ""
    gained = float(full.mean() - np.median(short))
    if not np.ptp(short) < _CHANCE * gained:
        return ""
    return (
        f"{len(short)} of them show nothing, with {short.min():.4g} to {short.max():.4g} where a "
        f"full training has {full.mean():.4g}"
    )


def _proposals(optimizer: Optimizer, num: int) -> list[Proposal]:
    """Returns `num` trials of each rung, and of full trainings, of candidates of usual cost."""
    config = optimizer.config
    rows = [_usual(optimizer, number) for number in range(2 * num)]
    lengths = range(len(config.rungs) + 1)
    warm = rows[num:] if config.rungs else []
    return [
        *(optimizer.proposal(row, limit, 0) for row, limit in warm),
        *(optimizer.proposal(row, limit, n) for n in lengths for row, limit in rows[:num]),
    ]


def _in_place_of(optimizer: Optimizer, failed: Trial) -> Proposal | None:
    """Returns a full training of another candidate, of less cost: the failed may be too large."""
    trials = optimizer.store.trials(batch=failed.batch)
    known = {trial.genes for trial in trials if trial.fidelity == 1}
    num = sum(trial.state == "failed" and trial.fidelity == 1 for trial in trials)
    length = len(optimizer.config.rungs)
    for number in range(len(known), len(known) + len(optimizer.pool)):
        row, limit = _usual(optimizer, number, _QUANTILE / 2**num)
        if tuple(optimizer.pool.rows[row].tolist()) not in known:
            return optimizer.proposal(row, limit, length)
    return None


def _usual(optimizer: Optimizer, number: int, quantile: float = _QUANTILE) -> tuple[int, int]:
    """Returns a candidate of usual cost as its index in the pool, and the limit that it is for."""
    limit = number % len(optimizer.config.limits)
    pool = optimizer.pool
    inside = np.flatnonzero(pool.inside[limit])
    costs = pool.costs.get(pool.bin_by, np.arange(len(pool), dtype=float))
    order = inside[np.argsort(costs[inside], kind="stable")]
    return int(order[min(int(quantile * len(order)) + number, len(order) - 1)]), limit
