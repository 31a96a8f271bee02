"""Search methods on a table of trainings, NARS among them, all under the rule of `table_task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.predictors.gp import GpPredictor

from .fidelity_peers import curve_gp, pbt
from .library_peers import ask, optuna_single, smac
from .nars_on_table import Nars, early, within
from .table_task import POOL, Method, SpentError, Task, run


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
        index = ask(task, trial)
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
        index = ask(task, trial)
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
        index = ask(task, trial)
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


METHODS: Mapping[str, Method] = {
    "random": random,
    "evolution": evolution,
    "local": local,
    "tpe": lambda task: tpe(task, free=False),
    "tpe_free": lambda task: tpe(task, free=True),
    "optuna_tpe_multivariate": lambda task: optuna_single(task, sampler="tpe"),
    "optuna_gp": lambda task: optuna_single(task, sampler="gp"),
    "smac": smac,
    "gp_ei_1": lambda task: gp_ei(task, batch=1),
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
    "pbt": pbt,
    "curve_gp": curve_gp,
    "nars_early": early,
    "nars_confirmed": confirmed(Nars()),
    "evolution_confirmed": confirmed(evolution),
    "gp_ei_48_confirmed": confirmed(lambda task: gp_ei(task, batch=48)),
}
# These plan for their budget, so that each budget is a run of its own.
PLANNED = ("pbt", "nars_early", "nars_confirmed", "evolution_confirmed", "gp_ei_48_confirmed")
# For tables with curves, with recipe genes, and with several seeds of each candidate.
CURVES = ("asha", "hyperband", "pbt", "curve_gp", "nars_early")
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
