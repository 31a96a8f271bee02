"""Peers that use learning curves: population-based training, and a process over partial curves."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from fbnetv3.search.predictors.gp import GpPredictor

from .library_peers import nearest
from .table_task import Floats, Task

# Of a population, those that take over weights, and those that these are taken from.
QUARTER = 0.25
# Chance that a recipe gene is drawn anew, and not moved to a value beside it.
RESAMPLED = 0.25
# Candidates whose curve a step of `curve_gp` may begin.
FRESH = 1000


def pbt(task: Task) -> None:
    """Population-based training with a population as large as the budget.

    At every point of the curves, the worst quarter takes over network and weights of one of the
    best quarter, and its recipe with every gene moved by one value or, with a chance of a quarter,
    drawn anew (Jaderberg et al. 2017, arXiv 1711.09846). A table has no trainings whose recipe
    changes; such a member goes on as if it had been trained with the new recipe so far.
    """
    space, feasible = task.table.space, np.flatnonzero(task.feasible)
    recipe = [n for n, gene in enumerate(space.genes) if gene.group == "recipe"]
    members = [int(n) for n in task.rng.permutation(feasible)[: task.budget]]
    for step in range(len(task.shares)):
        values = np.array([task.go_on(index, step) for index in members])
        if step + 1 == len(task.shares):
            return
        order = np.argsort(values, kind="stable")
        some = max(1, int(QUARTER * len(members)))
        for loser in order[:some]:
            row = task.rows[members[int(task.rng.choice(order[-some:]))]].copy()
            for column in recipe:
                size = len(space.genes[column].values)
                if task.rng.random() < RESAMPLED:
                    row[column] = task.rng.integers(size)
                else:
                    row[column] = np.clip(row[column] + task.rng.choice((-1, 1)), 0, size - 1)
            index = nearest(task, space.canonical(row[None])[0])
            members[int(loser)] = index if task.feasible[index] else members[int(loser)]


def curve_gp(task: Task, *, batch: int = 8) -> None:
    """Chooses which training to begin or to go on with by expected improvement at its next point.

    A Gaussian process has genes and length as inputs and is fitted to all points seen, as in DyHPO
    (Wistuba et al. 2022, arXiv 2202.09774) without its deep kernel; `batch` steps are taken between
    fits. The first quarter of the budget, at most 10 trainings, is random and in full.
    """
    last, feasible = len(task.shares) - 1, np.flatnonzero(task.feasible)
    seen: dict[tuple[int, int], float] = {}

    def advance(index: int, step: int) -> None:
        for point in range(step + 1):
            if (index, point) not in seen:
                seen[index, point] = task.train_part(index, point)

    for index in task.rng.permutation(feasible)[: max(2, min(10, task.budget // 4))]:
        advance(int(index), last)
    while True:
        model = GpPredictor(task.table.space, target=task.table.target, costs=task.table.costs)
        pairs = sorted(seen)[-1500:] if len(seen) > 1500 else list(seen)
        labels = np.array([seen[pair] for pair in pairs])
        shares = np.array([task.shares[step] for _, step in pairs])
        targets, length = model.scale.learn_rungs(labels, shares)
        model.model.fit(task.rows[[index for index, _ in pairs]], targets, length)
        begun = {index: max(s for i, s in seen if i == index) for index in {i for i, _ in seen}}
        options = [index for index, step in begun.items() if step < last]
        fresh = [int(n) for n in task.rng.permutation(feasible)[:FRESH] if int(n) not in begun]
        options += fresh
        mean, std = model.model.predict(task.rows[options])
        best = max(targets[n] for n, (_, step) in enumerate(pairs) if step == last)
        gain: Floats = (mean - best) / std
        score = std * (gain * norm.cdf(gain) + norm.pdf(gain))
        for pick in np.argsort(-score, kind="stable")[:batch]:
            index = options[int(pick)]
            advance(index, begun.get(index, -1) + 1)
