"""Optimisers of other libraries on a table of trainings: samplers of Optuna, and SMAC3.

SMAC3 is optional: `uv pip install smac`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .table_task import SpentError, Task

# Repeated and infeasible candidates cost nothing, so that a sampler that only repeats must end.
ASKED = 3


def ask(task: Task, trial: Any) -> int:
    """Returns the candidate of an Optuna trial, the nearest one where the table is a sample."""
    space = task.table.space
    row = np.zeros(len(space.genes), np.int16)
    for column, gene in enumerate(space.genes):
        if gene.kind == "choice":
            row[column] = trial.suggest_categorical(gene.name, list(range(len(gene.values))))
        else:
            row[column] = trial.suggest_int(gene.name, 0, len(gene.values) - 1)
    return nearest(task, row)


def nearest(task: Task, row: Any) -> int:
    """Returns the table's index of a candidate, or of the one with the most equal genes."""
    row = np.asarray(row, np.int16)
    place = int(task.table.find(row[None])[0])
    return place if place >= 0 else int((task.rows != row).sum(1).argmin())


def optuna_single(task: Task, *, sampler: str) -> None:
    """One of Optuna's samplers; a repeated candidate gives its label again and costs nothing."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    made: optuna.samplers.BaseSampler = (
        optuna.samplers.GPSampler(seed=task.seed)
        if sampler == "gp"
        else optuna.samplers.TPESampler(seed=task.seed, multivariate=True)
    )
    study = optuna.create_study(direction="maximize", sampler=made)
    for _ in range(ASKED * task.budget):
        trial = study.ask()
        index = ask(task, trial)
        if not task.feasible[index]:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            value = task.known[index] if index in task.known else task.train(index)
            study.tell(trial, value)


def smac(task: Task) -> None:
    """SMAC3's facade for hyperparameters: a random forest, expected improvement, local search."""
    import ConfigSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    space = ConfigSpace.ConfigurationSpace(seed=task.seed)
    for gene in task.table.space.genes:
        indices = list(range(len(gene.values)))
        made = (
            ConfigSpace.Categorical(gene.name, indices)
            if gene.kind == "choice"
            else ConfigSpace.Integer(gene.name, (0, indices[-1]))
        )
        space.add(made)
    worst = float(np.nanmin(task.drawn))
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            output_directory=Path(folder),
            deterministic=True,
            n_trials=ASKED * task.budget,
            seed=task.seed,
        )
        design = HyperparameterOptimizationFacade.get_initial_design(
            scenario, n_configs=max(2, min(task.budget // 4, 10 * len(task.table.space.genes)))
        )
        facade = HyperparameterOptimizationFacade(
            scenario,
            lambda config, seed=0: 0.0,
            initial_design=design,
            overwrite=True,
            logging_level=False,
        )
        for _ in range(ASKED * task.budget):
            info = facade.ask()
            index = nearest(task, [info.config[gene.name] for gene in task.table.space.genes])
            value = worst
            if task.feasible[index]:
                value = task.known[index] if index in task.known else task.train(index)
            facade.tell(info, TrialValue(cost=-value))
    raise SpentError
