"""Search methods on a table of trainings, NARS among them, all under one rule.

A method may look at genes and costs of every candidate for nothing, and pays one training for each
label. Its answer is the candidate with the best label it has seen; the truth, the mean of all
trainings of a candidate, is never shown to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.evolve import Limit, Settings, evolve
from fbnetv3.search.objective import TableObjective
from fbnetv3.search.predictor import GpPredictor, Predictor, make_predictor
from fbnetv3.search.select import select_batch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
POOL = 20_000


class SpentError(Exception):
    """The budget is spent; ends a method."""


@dataclass
class Task:
    """One run: a table, the limit to search under, and a budget of trainings.

    Attributes:
        table: candidates, costs, labels.
        limits: cost bounds to find the best candidate for, one or several.
        budget: trainings.
        seed: of the labels that are drawn and of the method.
    """

    table: TableObjective
    limits: Sequence[Limit]
    budget: int
    seed: int
    trained: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    paid: list[int] = field(default_factory=list)
    spent: int = 0
    finals: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 77])
        runs = self.table.labels[:, :, -1]
        draw = np.argsort(np.where(np.isnan(runs), 2.0, rng.random(runs.shape)), axis=1)[:, 0]
        self.drawn: Floats = runs[np.arange(len(runs)), draw]
        self.rng = np.random.default_rng(self.seed)
        self.inside = [limit.violation(self.table.known) == 0 for limit in self.limits]
        self.feasible = np.any(self.inside, axis=0)
        self.known: dict[int, float] = {}

    @property
    def rows(self) -> npt.NDArray[np.int16]:
        """(N, num_genes) every candidate."""
        return self.table.rows

    def train(self, index: int) -> float:
        """Pays one training and returns its label; a candidate always has the same one.

        Raises:
            SpentError: the budget is used up.
        """
        if self.spent >= self.budget:
            raise SpentError
        self.spent += 1
        if index not in self.known:
            self.known[index] = float(self.drawn[index])
            self.trained.append(index)
            self.labels.append(self.known[index])
            self.paid.append(self.spent)
        return self.known[index]

    def taken(self) -> npt.NDArray[np.bool_]:
        """(N,) which candidates have a label."""
        mask = np.zeros(len(self.rows), np.bool_)
        mask[self.trained] = True
        return mask

    def neighbours(self, index: int) -> Ints:
        """Returns candidates one gene away, or the 24 nearest where the table is a sample."""
        space, row = self.table.space, self.rows[index]
        near = np.repeat(row[None], int(space.sizes.sum()), axis=0)
        columns = np.repeat(np.arange(len(space.sizes)), space.sizes)
        near[np.arange(len(near)), columns] = np.concatenate([np.arange(s) for s in space.sizes])
        place = np.unique(self.table.find(near))
        found = place[(place >= 0) & (place != index)]
        if len(found) < 8:
            found = np.argsort((self.rows != row).sum(1), kind="stable")[1:25]
        return np.asarray(found)


Method = Callable[[Task], None]


def random(task: Task) -> None:
    """Trains feasible candidates in random order."""
    for index in task.rng.permutation(np.flatnonzero(task.feasible)):
        task.train(int(index))


def _mutant(task: Task, index: int, allowed: npt.NDArray[np.bool_]) -> int:
    """Returns an untrained allowed neighbour, else an untrained allowed candidate."""
    near = [int(n) for n in task.neighbours(index) if allowed[n] and int(n) not in task.known]
    if near:
        return int(task.rng.choice(near))
    rest = [n for n in np.flatnonzero(allowed) if int(n) not in task.known]
    if not rest:
        raise SpentError
    return int(task.rng.choice(rest))


def evolution(task: Task) -> None:
    """Regularised evolution: population 48, tournaments of 12, each limit a share of the budget."""
    share = task.budget // len(task.limits)
    for allowed in task.inside:
        alive: list[int] = []
        for step in range(share):
            if step < min(48, share // 2 if len(task.limits) > 1 else 48):
                free = [n for n in np.flatnonzero(allowed) if int(n) not in task.known]
                child = int(task.rng.choice(free))
            else:
                few = task.rng.choice(alive, size=min(12, len(alive)), replace=False)
                parent = max((int(n) for n in few), key=lambda n: task.known[n])
                child = _mutant(task, parent, allowed)
            task.train(child)
            alive = [*alive, child][-48:]


def local(task: Task) -> None:
    """First-improvement hill climbing from random starts."""
    while True:
        free = [n for n in np.flatnonzero(task.feasible) if int(n) not in task.known]
        here = int(task.rng.choice(free))
        value, moved = task.train(here), True
        while moved:
            moved = False
            for near in task.rng.permutation(task.neighbours(here)):
                if not task.feasible[near]:
                    continue
                fresh = int(near) not in task.known
                label = task.train(int(near)) if fresh else task.known[int(near)]
                if label > value:
                    here, value, moved = int(near), label, True
                    break


def _ask(task: Task, trial: Any) -> int:
    """Returns the candidate of an Optuna trial, the nearest one where the table is a sample."""
    space = task.table.space
    row = np.zeros(len(space.genes), np.int16)
    for column, gene in enumerate(space.genes):
        if gene.kind == "choice":
            row[column] = trial.suggest_categorical(gene.name, list(range(len(gene.values))))
        else:
            row[column] = trial.suggest_int(gene.name, 0, len(gene.values) - 1)
    place = int(task.table.find(row[None])[0])
    return place if place >= 0 else int((task.rows != row).sum(1).argmin())


def _study(task: Task, sampler: str, directions: list[Any]) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=task.seed)
    if sampler == "nsga2":
        made = optuna.samplers.NSGAIISampler(seed=task.seed, population_size=48)
    return optuna.create_study(directions=directions, sampler=made)


def tpe(task: Task, *, free: bool) -> None:
    """Optuna's TPE with the limit as a constraint.

    As shipped every trial is a training, infeasible or repeated ones too. With `free`, costs are
    checked before training and a repeated candidate gives its label again; neither counts.
    """
    study = _study(task, "tpe", ["maximize"])
    worst = float(np.nanmin(task.drawn))
    for _ in range(40 * task.budget):
        trial = study.ask()
        index = _ask(task, trial)
        bounds = {name: value[[index]] for name, value in task.table.known.items()}
        trial.set_constraint("limit", float(task.limits[0].violation(bounds)[0]))
        if not free or (task.feasible[index] and index not in task.known):
            study.tell(trial, task.train(index))
        else:
            study.tell(trial, task.known.get(index, worst))


def optuna_many(task: Task, *, sampler: str) -> None:
    """Optuna with two objectives, label up and the limited cost down."""
    study = _study(task, sampler, ["maximize", "minimize"])
    name = next(iter(task.limits[0].bounds))
    while True:
        trial = study.ask()
        index = _ask(task, trial)
        study.tell(trial, [task.train(index), float(task.table.known[name][index])])


def gp_ei(task: Task, *, batch: int) -> None:
    """A Gaussian process with expected improvement, the best `batch` of each round."""
    from scipy.stats import norm

    share = task.budget // len(task.limits)
    for allowed in task.inside:
        own: list[int] = []
        while len(own) < share:
            free = np.flatnonzero(allowed & ~task.taken())
            free = free if len(free) <= POOL else task.rng.choice(free, POOL, replace=False)
            size = min(batch, share - len(own))
            if len(own) < 8:
                picks = task.rng.permutation(free)[:size]
            else:
                model = GpPredictor(task.table.space, target=task.table.target)
                held = np.flatnonzero(task.taken() & allowed)
                targets = model.scale.learn(np.array([task.known[int(n)] for n in held]))
                model.model.fit(task.rows[held], targets)
                mean, std = model.model.predict(task.rows[free])
                gain = (mean - targets.max()) / std
                score = std * (gain * norm.cdf(gain) + norm.pdf(gain))
                picks = free[np.argsort(-score, kind="stable")[:size]]
            for index in picks:
                task.train(int(index))
                own.append(int(index))


@dataclass(frozen=True)
class Nars:
    """NARS: rounds of 48, and stage 3 for the last of the budget.

    Attributes:
        kind: predictor.
        bins: see `select`.
        pretrain: whether the encoder learns costs first.
    """

    kind: str = "nars"
    bins: str = "equal"
    pretrain: bool = True

    def __call__(self, task: Task) -> None:
        """Runs the search; with one limit, also notes the answer at each multiple of 48."""
        space, table = task.table.space, task.table
        costs = table.costs if self.kind in ("gp", "auto") else None
        predictor = make_predictor(
            self.kind, space, target=table.target, seed=task.seed, costs=costs
        )
        if self.pretrain and hasattr(predictor, "pretrain"):
            pool = np.random.default_rng(task.seed).permutation(len(task.rows))[:POOL]
            predictor.pretrain(task.rows[pool], {k: v[pool] for k, v in table.known.items()})
        feasible = np.flatnonzero(task.feasible)
        pool = feasible if len(feasible) <= POOL else task.rng.permutation(feasible)[:POOL]
        for index in task.rng.permutation(pool)[:48]:
            task.train(int(index))
        many = len(task.limits) > 1
        per_limit = 12 if many else 8
        last = task.budget - (per_limit * len(task.limits) if many else 0)
        while task.spent < last:
            self._fit(task, predictor)
            scores = predictor.predict(task.rows[pool]).mean
            if not many:
                self._final(task, predictor, pool, scores, per_limit)
            for index in self._bins(task, pool, scores, min(48, last - task.spent)):
                task.train(index)
        if many:
            self._fit(task, predictor)
            for index in self._stage3(task, predictor, pool, task.taken(), per_limit):
                task.train(index)

    def _fit(self, task: Task, predictor: Predictor) -> None:
        predictor.fit(task.rows[task.trained], np.array(task.labels))

    def _bins(self, task: Task, pool: Ints, scores: Floats, num: int) -> list[int]:
        name = "macs" if "macs" in task.table.known else next(iter(task.table.known))
        chosen = select_batch(
            scores,
            task.table.known[name][pool],
            num=num,
            bins=self.bins,
            taken=task.taken()[pool],
        )
        return [int(pool[n]) for n in chosen.indices]

    def _final(
        self, task: Task, predictor: Predictor, pool: Ints, scores: Floats, num: int
    ) -> None:
        """Notes what a search would have seen that ends with the round about to start."""
        budget = task.spent + 48
        trained = [*task.trained, *self._bins(task, pool, scores, 48 - num)]
        labels = [float(task.drawn[n]) for n in trained]
        predictor.fit(task.rows[trained], np.array(labels))
        taken = np.zeros(len(task.rows), np.bool_)
        taken[trained] = True
        more = self._stage3(task, predictor, pool, taken, num)
        task.finals[budget] = ([*trained, *more], [*labels, *(float(task.drawn[n]) for n in more)])

    def _stage3(
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
            rng=np.random.default_rng([task.seed, task.spent]),
            settings=Settings(generations=20),
            allowed=lambda rows: table.allowed(rows) & ~np.isin(table.space.hashes(rows), seen),
        )
        chosen: list[int] = []
        for out in found:
            fresh = [int(n) for n in table.find(out.rows) if int(n) not in chosen]
            chosen += fresh[:num]
        return chosen


METHODS: Mapping[str, Method] = {
    "random": random,
    "evolution": evolution,
    "local": local,
    "tpe": lambda task: tpe(task, free=False),
    "tpe_free": lambda task: tpe(task, free=True),
    "gp_ei_8": lambda task: gp_ei(task, batch=8),
    "gp_ei_48": lambda task: gp_ei(task, batch=48),
    "nars": Nars(),
    "nars_scratch": Nars(pretrain=False),
    "nars_nobins": Nars(bins="none"),
    "nars_quantile": Nars(bins="quantile"),
    "nars_paper": Nars(kind="paper"),
    "nars_gp": Nars(kind="gp"),
    "nars_gp_quantile": Nars(kind="gp", bins="quantile"),
    "nars_auto": Nars(kind="auto"),
}
MANY: Mapping[str, Method] = {
    "random": random,
    "evolution": evolution,
    "optuna_tpe": lambda task: optuna_many(task, sampler="tpe"),
    "optuna_nsga2": lambda task: optuna_many(task, sampler="nsga2"),
    "gp_ei_12": lambda task: gp_ei(task, batch=12),
    **{name: run for name, run in METHODS.items() if isinstance(run, Nars)},
}


def run(method: Method, task: Task) -> None:
    """Runs a method until it ends or its budget is spent."""
    try:
        method(task)
    except SpentError:
        return
