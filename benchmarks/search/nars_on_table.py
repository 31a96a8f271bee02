"""NARS on a table of trainings: whole, with early stopping, and over some groups of genes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.nars.early_stop import find_early_stop
from fbnetv3.search.nars.evolution import EvolutionSettings, evolve
from fbnetv3.search.nars.selection import select_batch
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.registry import make_predictor

from .table_task import POOL, Floats, Ints, Method, Task, run


@dataclass(frozen=True)
class Nars:
    """NARS: rounds of equal size, and stage 3 for the last of the budget.

    Attributes:
        batch: trainings of a round, a divisor of 48, until 48 are spent; then rounds are of 48.
        kind: predictor.
        bins: see `select`; "limits" takes the best within each limit in turn.
        pretrain: whether the encoder learns costs first.
        stage3: whether the last trainings are stage 3's; else rounds go on to the end.
    """

    batch: int = 48
    kind: str = "nars"
    bins: str = "equal"
    pretrain: bool = True
    stage3: bool = True

    def __call__(self, task: Task) -> None:
        """Runs the search; with one limit, also notes the answer at each multiple of 48."""
        predictor, pool = self.begin(task)
        for index in task.rng.permutation(pool)[: self.batch]:
            task.train(int(index))
        many = len(task.limits) > 1
        per_limit = (12 if many else 8) if self.stage3 else 0
        last = task.budget - (per_limit * len(task.limits) if many else 0)
        while task.spent < last and not task.taken()[pool].all():
            self._fit(task, predictor)
            scores = predictor.predict(task.rows[pool]).mean
            size = self.batch if task.spent < 48 else 48
            if not many and self.stage3 and (task.spent + size) % 48 == 0:
                self._final(task, predictor, pool, scores, min(per_limit, size // 3))
            for index in self.bins_of(task, pool, scores, min(size, int(last - task.spent))):
                task.train(index)
        if many and self.stage3:
            self._fit(task, predictor)
            for index in self.stage3_of(task, predictor, pool, task.taken(), per_limit):
                task.train(index)

    def begin(self, task: Task) -> tuple[Predictor, Ints]:
        """Stage 1: returns the pretrained predictor and the pool."""
        space, table = task.table.space, task.table
        costs = table.costs if self.kind in ("gp", "auto") else None
        predictor = make_predictor(
            self.kind, space, target=table.target, seed=task.seed, costs=costs
        )
        known = {k: v for k, v in table.known.items() if np.ptp(v) > 0}
        if self.pretrain and known:
            pool = np.random.default_rng(task.seed).permutation(len(task.rows))[:POOL]
            predictor.pretrain(task.rows[pool], {k: v[pool] for k, v in known.items()})
        feasible = np.flatnonzero(task.feasible)
        pool = feasible if len(feasible) <= POOL else task.rng.permutation(feasible)[:POOL]
        return predictor, pool

    def _fit(self, task: Task, predictor: Predictor) -> None:
        predictor.fit(task.rows[task.trained], np.array(task.labels))

    def bins_of(
        self,
        task: Task,
        pool: Ints,
        scores: Floats,
        num: int,
        taken: npt.NDArray[np.bool_] | None = None,
    ) -> list[int]:
        """Returns the next round: the best of each bin of the pool, those with a label left out."""
        held = task.taken() if taken is None else taken
        if self.bins == "limits":
            return self._limits(task, pool, scores, num, held[pool])
        name = "macs" if "macs" in task.table.known else next(iter(task.table.known))
        chosen = select_batch(
            scores,
            task.table.known[name][pool],
            num=num,
            bins=self.bins,
            taken=held[pool],
        )
        return [int(pool[n]) for n in chosen.indices]

    def _limits(
        self, task: Task, pool: Ints, scores: Floats, num: int, held: npt.NDArray[np.bool_]
    ) -> list[int]:
        """Returns the best within each limit in turn."""
        free, chosen = ~held, list[int]()
        for turn in range(num):
            inside = free & task.inside[turn % len(task.limits)][pool]
            if inside.any():
                best = int(np.argmax(np.where(inside, scores, -np.inf)))
                free[best] = False
                chosen.append(int(pool[best]))
        return chosen

    def _final(
        self, task: Task, predictor: Predictor, pool: Ints, scores: Floats, num: int
    ) -> None:
        """Notes what a search would have seen that ends with the round about to start."""
        budget = int(task.spent) + self.batch
        trained = [*task.trained, *self.bins_of(task, pool, scores, self.batch - num)]
        labels = [float(task.drawn[n]) for n in trained]
        predictor.fit(task.rows[trained], np.array(labels))
        taken = np.zeros(len(task.rows), np.bool_)
        taken[trained] = True
        more = self.stage3_of(task, predictor, pool, taken, num)
        task.finals[budget] = ([*trained, *more], [*labels, *(float(task.drawn[n]) for n in more)])

    def stage3_of(
        self,
        task: Task,
        predictor: Predictor,
        pool: Ints,
        taken: npt.NDArray[np.bool_],
        num: int,
    ) -> list[int]:
        """Returns the `num` best untrained candidates of stage 3 for each limit in turn."""
        table = task.table
        seen = table.space.hashes(table.rows[taken])
        found = evolve(
            table.space,
            lambda rows: predictor.predict(rows).mean,
            table.costs,
            task.limits,
            start=table.rows[pool],
            rng=np.random.default_rng([task.seed, int(task.spent)]),
            settings=EvolutionSettings(generations=20),
            allowed=lambda rows: table.allowed(rows) & ~np.isin(table.space.hashes(rows), seen),
        )
        chosen: list[int] = []
        for out in found:
            fresh = [int(n) for n in table.find(out.rows) if int(n) not in chosen]
            chosen += fresh[:num]
        return chosen


def early(task: Task) -> None:
    """NARS with the paper's early stopping: later rounds are as short as the first allows.

    The first 48 are trained in full. The last eight are those of stage 3, in full.
    """
    search = Nars()
    predictor, pool = search.begin(task)
    last, order = len(task.shares) - 1, task.rng.permutation(pool)
    for index in order[:48]:
        task.train_part(int(index), last)
    found = find_early_stop(task.curves[order[:48]], np.random.default_rng(task.seed))
    step = found.epoch - 1
    seen = [int(n) for n in order[:48]]
    while True:
        predictor.fit(task.rows[seen], task.curves[seen, step])
        taken = np.zeros(len(task.rows), np.bool_)
        taken[seen] = True
        left = task.budget - task.spent - 8
        num = min(48, int(left / task.shares[step] + 1e-9))
        if num < 1:
            break
        scores = predictor.predict(task.rows[pool]).mean
        for index in search.bins_of(task, pool, scores, num, taken):
            task.train_part(index, step)
            seen.append(index)
    short = {n for n in seen if task.reached[n] < last}
    taken[list(short)] = False
    for index in search.stage3_of(task, predictor, pool, taken, 8):
        task.train_part(index, last)


def within(groups: tuple[str, ...]) -> Method:
    """Returns NARS over some groups of genes, the others fixed as in the best of ten trainings.

    Two groups are searched one after the other, each with half of what is left of the budget.
    """

    def run_it(task: Task) -> None:
        space = task.table.space
        for index in task.rng.permutation(np.flatnonzero(task.inside[0]))[:10]:
            task.train(int(index))
        for number, group in enumerate(groups):
            best = task.rows[task.trained[int(np.argmax(task.labels))]]
            fixed = [n for n, gene in enumerate(space.genes) if gene.group != group]
            same = (task.rows[:, fixed] == best[fixed]).all(1)
            held = np.flatnonzero(same & task.feasible & ~task.taken())
            budget = int(task.budget - task.spent) // (len(groups) - number)
            table = TableObjective(
                space,
                task.rows[held],
                task.table.labels[held],
                {name: value[held] for name, value in task.table.known.items()},
                target=task.table.target,
            )
            part = Task(table, task.limits, min(budget, len(held)), task.seed)
            part.drawn = task.drawn[held]
            run(replace(Nars(), stage3=False), part)
            for index in part.trained:
                task.train(int(held[index]))

    return run_it
