"""Exports trials as CSV and to Optuna; imports candidates and labels.

Labels of an earlier search or another tool are a CSV with a column of values for each gene that has
a meaning, and a column `label`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.optional import missing
from fbnetv3.arch.arch import Arch
from fbnetv3.search.space.space import CostsOf, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

LABEL = "label"


def import_labels(store: Store, space: Space, costs: CostsOf, path: Path, *, epochs: int) -> int:
    """Imports labels from a CSV into the store as a finished round; returns how many are new.

    Their trainings must be like the search's own, because the predictor is fitted to both.

    Raises:
        ValueError: a column, a gene's value or a label is wrong; the message has the line.
        FileNotFoundError: the file does not exist.
    """
    rows, values = read_labels(space, path)
    matrix = np.stack(rows)
    known = {name: np.asarray(cost, np.float64) for name, cost in costs(matrix).items()}
    proposals = [
        Proposal(
            genes=tuple(genes.tolist()),
            costs={name: float(cost[row]) for name, cost in known.items()},
            epochs=epochs,
            seed=-1,
            origin=path.name,
            value=value,
        )
        for row, (genes, value) in enumerate(zip(matrix, values, strict=True))
    ]
    batches = store.batches()
    number = batches[-1].number + 1 if batches else 0
    return store.add_batch(Batch(number, "import", {}, ""), proposals)


def read_candidates(space: Space, path: Path) -> Matrix:
    """Returns the candidates (P, num_genes) of a CSV file, `-` for standard input, or a JSON file.

    A JSON file is an architecture as `Arch.to_json` writes it; recipe genes get their first value.

    Raises:
        ValueError: a column or value is wrong, or the architecture is outside the space.
        FileNotFoundError: the file does not exist.
    """
    if str(path) != "-" and not path.is_file():
        raise FileNotFoundError(f"no candidates at {path}; expected a CSV or an architecture JSON")
    if path.suffix == ".json":
        return space.locate(Arch.from_json(path.read_bytes()))[None]
    rows = [
        _row(space, fields, f"{path}, line {line}") for line, fields in enumerate(_lines(path), 2)
    ]
    if not rows:
        raise ValueError(f"{path} holds no candidates")
    return np.stack(rows)


def write_csv(store: Store, space: Space, path: Path) -> int:
    """Writes the genes and last label of every finished trial as CSV; returns how many."""
    labels = store.labels()
    names = [gene.name for gene in space.genes]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names, LABEL], restval="")
        table.writeheader()
        count = 0
        for row, value in zip(labels.matrix, labels.values, strict=True):
            if np.isfinite(value):
                table.writerow({**space.values(row), LABEL: float(value)})
                count += 1
    return count


def _row(space: Space, fields: Mapping[str, str | None], where: str) -> Any:
    try:
        return space.from_values(
            {
                gene.name: _parse(cell, gene.values)
                for gene in space.genes
                if (cell := fields.get(gene.name))
            }
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def read_labels(space: Space, path: Path) -> tuple[list[Any], list[float]]:
    """Returns the candidates of a CSV, (num_genes,) each, and their labels.

    Raises:
        ValueError: a column, a gene's value or a label is wrong; the message has the line.
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no labels at {path}; expected a CSV, see `export --csv`")
    rows, values = [], []
    for line, fields in enumerate(_lines(path), 2):
        where = f"{path}, line {line}"
        if LABEL not in fields:
            raise ValueError(f"{path} has no column {LABEL!r}; it has {list(fields)}")
        rows.append(_row(space, fields, where))
        try:
            # DictReader gives None for cells that a short line lacks.
            value = float(fields[LABEL] or "")
        except ValueError:
            raise ValueError(
                f"{where}: the label is {fields[LABEL]!r}; expected a number"
            ) from None
        if not np.isfinite(value):
            raise ValueError(
                f"{where}: the label is {value}; expected a number; leave out lines of diverged "
                "trainings"
            )
        values.append(value)
    if not rows:
        raise ValueError(f"{path} holds no labels")
    return rows, values


def _lines(path: Path) -> list[dict[str, str | None]]:
    """Returns the lines of a CSV file, or of standard input for `-`, as column -> cell."""
    source = sys.stdin if str(path) == "-" else path.open(newline="", encoding="utf-8")
    try:
        with source as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV text file: {error}") from None


def _parse(text: str, values: Sequence[Any]) -> Any:
    """Returns the gene value that a cell's text stands for."""
    for value in values:
        if text == str(value) or text.lower() == json.dumps(value).strip('"').lower():
            return value
    try:
        return float(text)
    except ValueError:
        return text


def to_optuna(store: Store, space: Space, url: str) -> int:
    """Writes all finished trials to an Optuna study, for its dashboard; returns how many.

    Args:
        store: the search.
        space: its space.
        url: URL of Optuna's storage, such as `sqlite:///study.db`; the study is named after the
            search's folder.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: the storage already has a study of that name.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing("optuna", error) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = store.folder.resolve().name
    try:
        study = optuna.create_study(study_name=name, storage=url, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError:
        raise ValueError(f"{url} already has a study {name!r}; use another storage") from None
    states = optuna.trial.TrialState
    choices = {
        gene.name: optuna.distributions.CategoricalDistribution(gene.values) for gene in space.genes
    }
    trials = []
    for trial in store.trials("done"):
        params = space.values(np.array(trial.genes))
        curve = store.curve(trial.seq)
        diverged = curve[-1] is None
        trials.append(
            optuna.trial.create_trial(
                state=states.FAIL if diverged else states.COMPLETE,
                params=params,
                distributions={key: choices[key] for key in params},
                value=None if diverged else curve[-1],
                intermediate_values={k: v for k, v in enumerate(curve, 1) if v is not None},
                user_attrs={"id": trial.id, "seed": trial.seed, **dict(trial.costs)},
            )
        )
    study.add_trials(trials)
    return len(trials)
