"""Search methods on a table of trainings, NARS among them, all under one rule.

A method may look at genes and costs of every candidate for nothing, and pays one training for each
label. Its answer is the candidate with the best label it has seen, unless it has trained some again
with other seeds: then the best mean of those. The truth, the mean of all trainings of a candidate,
is never shown to it. Where a table has curves, a training may be stopped early and costs its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.earlystop import find_early_stop
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
        shares: what each point of the table's curves costs, the last being 1, a whole training.
        trained: candidates in the order in which their labels came.
        labels: of these, after the last epoch.
        paid: trainings spent when each label came.
        again: candidate -> its labels with other seeds.
        finals: budget -> what a search would have seen that ends there.
    """

    table: TableObjective
    limits: Sequence[Limit]
    budget: int
    seed: int
    shares: tuple[float, ...] = (1.0,)
    trained: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    paid: list[float] = field(default_factory=list)
    again: dict[int, list[float]] = field(default_factory=dict)
    spent: float = 0
    finals: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 77])
        runs = self.table.labels[:, :, -1]
        order = np.argsort(np.where(np.isnan(runs), 2.0, rng.random(runs.shape)), axis=1)
        self.seeds: Ints = order
        self.curves: Floats = self.table.labels[np.arange(len(runs)), order[:, 0]]
        self.drawn: Floats = self.curves[:, -1]
        self.reached: dict[int, int] = {}
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
        self._pay(1)
        return self._learn(index)

    def train_part(self, index: int, step: int) -> float:
        """Pays for a training up to a point of its curve, and returns the label there.

        What was paid for this candidate before counts: training goes on from where it stopped.

        Raises:
            SpentError: the budget is used up.
        """
        done = self.reached.get(index, -1)
        if step > done:
            self._pay(self.shares[step] - (self.shares[done] if done >= 0 else 0))
            self.reached[index] = step
        if step == len(self.shares) - 1:
            self._learn(index)
        return float(self.curves[index, step])

    def train_again(self, index: int) -> None:
        """Pays one more training of a candidate, with a seed that was not used for it.

        Raises:
            SpentError: the budget is used up.
        """
        self._pay(1)
        held = self.again.setdefault(index, [])
        held.append(float(self.table.labels[index, self.seeds[index, 1 + len(held)], -1]))

    def answers(self) -> tuple[list[int], list[float]]:
        """Returns candidates and what they are judged by; those trained again come first."""
        if not self.again:
            return self.trained, self.labels
        held = [n for n in self.trained if n in self.again]
        return held, [float(np.mean([self.known[n], *self.again[n]])) for n in held]

    def _pay(self, share: float) -> None:
        if self.spent + share > self.budget + 1e-9:
            raise SpentError
        self.spent += share

    def _learn(self, index: int) -> float:
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


def halving(task: Task, *, pruner: str) -> None:
    """Stops poor trainings early: Optuna's successive halving (ASHA) or Hyperband.

    ASHA draws at random, as its authors do; Hyperband stands beside TPE, as Optuna advises.
    Infeasible candidates cost nothing, repeated ones go on from where they were stopped.
    """
    import optuna

    epochs = np.rint(np.array(task.shares) / task.shares[0]).astype(int)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=task.seed)
    made: optuna.pruners.BasePruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=2
    )
    if pruner == "hyperband":
        sampler = optuna.samplers.TPESampler(seed=task.seed)
        made = optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=int(epochs[-1]), reduction_factor=2
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=made)
    for _ in range(40 * task.budget):
        trial = study.ask()
        index = _ask(task, trial)
        if not task.feasible[index]:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        value, stopped = 0.0, False
        for step, epoch in enumerate(epochs):
            value = task.train_part(index, step)
            trial.report(value, int(epoch))
            stopped = step + 1 < len(epochs) and trial.should_prune()
            if stopped:
                break
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, value)


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
        if self.pretrain and known and hasattr(predictor, "pretrain"):
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
            settings=Settings(generations=20),
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


def confirmed(method: Method) -> Method:
    """Returns a method that keeps of its budget what trains its three best thrice in all."""

    def run_it(task: Task) -> None:
        kept, whole = 6 * len(task.limits), task.budget
        task.budget = whole - kept
        run(method, task)
        task.budget = whole
        place, labels = np.array(task.trained), np.array(task.labels)
        for inside in task.inside:
            held = inside[place]
            for index in place[held][np.argsort(-labels[held], kind="stable")][:3]:
                while len(task.again.get(int(index), [])) < 2:
                    task.train_again(int(index))

    return run_it


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
    "nars_limits": Nars(bins="limits"),
    "nars_gp_limits": Nars(kind="gp", bins="limits"),
    "nars_auto_12": Nars(batch=12, kind="auto"),
    "nars_paper": Nars(kind="paper"),
    "nars_gp": Nars(kind="gp"),
    "nars_gp_quantile": Nars(kind="gp", bins="quantile"),
    "nars_auto": Nars(kind="auto"),
    "nars_stage2": Nars(stage3=False),
    "arch_only": within(("arch",)),
    "recipe_only": within(("recipe",)),
    "arch_then_recipe": within(("arch", "recipe")),
    "asha": lambda task: halving(task, pruner="asha"),
    "hyperband": lambda task: halving(task, pruner="hyperband"),
    "nars_early": early,
    "nars_confirmed": confirmed(Nars()),
    "evolution_confirmed": confirmed(evolution),
    "gp_ei_48_confirmed": confirmed(lambda task: gp_ei(task, batch=48)),
}
# These plan for their budget, so that each budget is a run of its own.
PLANNED = ("nars_early", "nars_confirmed", "evolution_confirmed", "gp_ei_48_confirmed")
# For tables with curves, with recipe genes, and with several seeds of each candidate.
CURVES = ("asha", "hyperband", "nars_early")
JOINT = ("arch_only", "recipe_only", "arch_then_recipe")
SEEDS = tuple(name for name in METHODS if name.endswith("_confirmed"))
MANY: Mapping[str, Method] = {
    "random": random,
    "evolution": evolution,
    "optuna_tpe": lambda task: optuna_many(task, sampler="tpe"),
    "optuna_nsga2": lambda task: optuna_many(task, sampler="nsga2"),
    "gp_ei_12": lambda task: gp_ei(task, batch=12),
    **{name: run for name, run in METHODS.items() if isinstance(run, Nars)},
    **{name: METHODS[name] for name in ("nars_confirmed", "evolution_confirmed")},
    "nars_limits_confirmed": confirmed(Nars(bins="limits")),
    "gp_ei_12_confirmed": confirmed(lambda task: gp_ei(task, batch=12)),
}


def run(method: Method, task: Task) -> None:
    """Runs a method until it ends or its budget is spent."""
    try:
        method(task)
    except SpentError:
        return
