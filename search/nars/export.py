"""Exports trials as CSV and to Optuna; imports candidates and labels.

Labels of an earlier search or another tool are a CSV with a column of values for each gene that has
a meaning, and a column `label`. A column `epochs` says how long each training was, a column
`fidelity` which share of the final training's steps its schedule has (a rung below 1), and a
column `seed` tells trainings of one candidate apart; `write_csv` writes all three. The
column of a gene that is called as one of these is `gene:epochs` and so on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.csv_text import read_csv
from fbnetv3._internal.optional import missing
from fbnetv3.arch.arch import Arch
from fbnetv3.search.execution.objective import GENE, gene_column
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import CostsOf, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

LABEL, EPOCHS, SEED, FIDELITY = "label", "epochs", "seed", "fidelity"
STEPS = "steps"


@dataclass(frozen=True)
class Imported:
    """What was read of a file of labels.

    Attributes:
        new: number of labels that the search did not have.
        taken: number of lines that were used.
        left_out: number of lines that are of trainings of another length.
    """

    new: int
    taken: int
    left_out: int


def import_labels(
    store: Store, space: Space, costs: CostsOf, path: str | Path, *, epochs: int
) -> Imported:
    """Imports labels from a CSV into the store as a finished round.

    Their trainings must be like the search's own, because the predictor is fitted to both. Labels
    of a rung count where the search has this very rung. Lines of any other length are left out.
    Several labels of one candidate and length count as their mean.

    Args:
        store: the search, opened for writing.
        space: its space.
        costs: known costs of candidates.
        path: the CSV.
        epochs: length of the full trainings whose labels the search compares, see `label_epochs`.

    Raises:
        ValueError: a column, a gene's value or a label is wrong; the message has the line. Or no
            label is of a training of a length that the search has, or the labels' lengths are not
            given although the search has stopped trainings early.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    lines = read_labels(space, path)
    full = store.settings["plan"]["epochs"]
    unknown = any(one.epochs is None for one in lines)
    if store.stage("early_stop") is not None and unknown and epochs < full:
        raise ValueError(
            f"{path} has no column {EPOCHS!r}, and this search compares labels after {epochs} "
            f"of {full} epochs; add the column, with the epochs of each training"
        )
    lengths = {1.0: epochs, **_rungs_of(store)}
    taken = [
        one
        for one in lines
        if one.fidelity in lengths and one.epochs in (None, lengths[one.fidelity])
    ]
    if not taken:
        raise ValueError(f"{path} {_other_lengths(lines, epochs, list(lengths)[1:])}")
    target = store.settings["plan"].get("target") or "log_error"
    check_percent(np.array([one.label for one in taken]), target)
    values: dict[tuple[tuple[int, ...], float], list[float]] = {}
    for one in taken:
        values.setdefault((one.genes, one.fidelity), []).append(one.label)
    matrix = np.array([genes for genes, _ in values], np.int16)
    known = {name: np.asarray(cost, np.float64) for name, cost in costs(matrix).items()}
    proposals = [
        Proposal(
            genes=genes,
            costs={name: float(cost[row]) for name, cost in known.items()},
            epochs=lengths[fidelity],
            seed=-1,
            origin=path.name,
            value=float(np.mean(labels)),
            fidelity=fidelity,
        )
        for row, ((genes, fidelity), labels) in enumerate(values.items())
    ]
    batches = store.batches()
    number = batches[-1].number + 1 if batches else 0
    new = store.add_batch(Batch(number, "import", {}, ""), proposals)
    return Imported(new, len(taken), len(lines) - len(taken))


def _rungs_of(store: Store) -> dict[float, int]:
    """Returns share of the final training -> number of labels, of the rungs of a search."""
    plan = store.settings["plan"]
    return dict(zip(plan.get("rungs", ()), plan.get("rung_epochs", ()), strict=True))


def _other_lengths(lines: Sequence[LabelLine], epochs: int, rungs: Sequence[float]) -> str:
    """Returns why no line of a file of labels can be used."""
    own = f", or of its rungs {', '.join(f'{share:g}' for share in rungs)}" if rungs else ""
    full = [one for one in lines if one.fidelity == 1]
    if not full:
        return (
            "has only labels of rungs, shorter than the final training; expected labels with "
            f"fidelity 1{own}"
        )
    found = sorted({one.epochs for one in full if one.epochs is not None})
    return (
        f"has labels of trainings of {', '.join(map(str, found))} epochs; expected {epochs}, as in "
        f"this search{own}"
    )


def label_epochs(store: Store) -> int:
    """Returns after how many epochs a search compares labels: where early stopping put it."""
    found = store.stage("early_stop")
    return int(store.settings["plan"]["epochs"] if found is None else found["epoch"])


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
    rows = [_row(space, fields, f"{path}, line {line}") for line, fields in _lines(path)]
    if not rows:
        raise ValueError(f"{path} holds no candidates")
    return np.stack(rows)


def write_csv(store: Store, space: Space, path: str | Path) -> int:
    """Writes every finished trial as CSV: genes, epochs, seed, fidelity, last label.

    Returns how many. Labels of different fidelities are not comparable.

    A training that diverged has no label and is left out. An imported label has no seed.
    """
    path = Path(path)
    own = (EPOCHS, SEED, FIDELITY, LABEL)
    names = {g.name: f"{GENE}{g.name}" if g.name in own else g.name for g in space.genes}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names.values(), EPOCHS, SEED, FIDELITY, LABEL], restval="")
        table.writeheader()
        count = 0
        for trial in store.trials("done"):
            label = store.curve(trial.seq)[-1]
            if label is not None:
                seed = trial.seed if trial.origin == "search" else ""
                genes = space.values(np.array(trial.genes))
                values = {names[name]: value for name, value in genes.items()}
                about = {EPOCHS: trial.epochs, SEED: seed, FIDELITY: trial.fidelity}
                table.writerow({**values, **about, LABEL: label})
                count += 1
    return count


def _row(space: Space, fields: Mapping[str, str], where: str) -> Any:
    try:
        return space.from_values(
            {
                gene.name: _parse(cell, gene.values)
                for gene in space.genes
                if (cell := fields.get(gene_column(gene.name, fields)))
            }
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@dataclass(frozen=True)
class LabelLine:
    """One line of a file of labels.

    Attributes:
        genes: canonical gene indices.
        label: the label.
        epochs: length of the training; None if the file does not say it.
        fidelity: share of the final training's steps; 1 if the file does not say it.
    """

    genes: tuple[int, ...]
    label: float
    epochs: int | None
    fidelity: float = 1.0


def read_labels(space: Space, path: Path) -> list[LabelLine]:
    """Returns the lines of a CSV of labels.

    Raises:
        ValueError: a column, a gene's value, a label or a length is wrong; the message has the
            line.
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no labels at {path}; expected a CSV, see `export --csv`")
    found = []
    lines = _lines(path)
    _check_steps(path, [fields for _, fields in lines])
    for line, fields in lines:
        where = f"{path}, line {line}"
        if LABEL not in fields:
            raise ValueError(
                f"{path} has no column {LABEL!r}; it has {list(fields)}; expected the names of the "
                f"genes, such as {space.genes[0].name!r}, and {LABEL!r}, as `export --csv` writes"
            )
        genes = tuple(_row(space, fields, where).tolist())
        try:
            value = float(fields[LABEL])
        except ValueError:
            raise ValueError(
                f"{where}: the label is {fields[LABEL]!r}; expected a number"
            ) from None
        if not np.isfinite(value):
            raise ValueError(
                f"{where}: the label is {value}; expected a number; leave out lines of diverged "
                "trainings"
            )
        found.append(LabelLine(genes, value, _epochs(fields, where), _fidelity(fields, where)))
    if not found:
        raise ValueError(f"{path} holds no labels")
    return found


def _epochs(fields: Mapping[str, str], where: str) -> int | None:
    if EPOCHS not in fields:
        return None
    text = fields[EPOCHS]
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{where}: {EPOCHS} is {text!r}; expected a number of epochs, as 3")
    return int(text)


def _fidelity(fields: Mapping[str, str], where: str) -> float:
    text = fields.get(FIDELITY, "1")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(
            f"{where}: {FIDELITY} is {text!r}; expected a share of the final training, above 0 and "
            "up to 1"
        )
    return value


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Returns the lines of a CSV file, or of standard input for `-`: number, column -> cell."""
    names, lines = read_csv(path)
    return [(one.number, dict(zip(names, one.cells, strict=True))) for one in lines]


def _check_steps(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Refuses trainings of several lengths that only a table's column `steps` tells apart."""
    steps = sorted({line[STEPS] for line in lines if STEPS in line and EPOCHS not in line})
    if len(steps) > 1:
        raise ValueError(
            f"{path} has trainings of {', '.join(steps)} steps, whose labels cannot be compared; "
            f"keep the lines of one length, or add a column {EPOCHS!r}"
        )


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

    Trainings that early stopping shortened, and rungs, are pruned trials, which Optuna does not
    count among its best. Epochs, fidelity, seed and costs are user attributes.

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
    except Exception as error:  # of SQLAlchemy and of each database's own package
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Optuna cannot open the storage {url!r}: {reason}; expected a URL such as "
            "sqlite:///study.db"
        ) from error
    states = optuna.trial.TrialState
    choices = {
        gene.name: optuna.distributions.CategoricalDistribution(gene.values) for gene in space.genes
    }
    trials = []
    full = store.settings.get("plan", {}).get("epochs", 1)
    for trial in store.trials("done"):
        params = space.values(np.array(trial.genes))
        curve = store.curve(trial.seq)
        diverged = curve[-1] is None
        whole = trial.epochs >= full and trial.fidelity == 1
        ended = states.COMPLETE if whole else states.PRUNED
        trials.append(
            optuna.trial.create_trial(
                state=states.FAIL if diverged else ended,
                params=params,
                distributions={key: choices[key] for key in params},
                value=None if diverged else curve[-1],
                intermediate_values={k: v for k, v in enumerate(curve, 1) if v is not None},
                user_attrs={
                    "id": trial.id,
                    "epochs": trial.epochs,
                    "fidelity": trial.fidelity,
                    "seed": trial.seed,
                    **dict(trial.costs),
                },
            )
        )
    study.add_trials(trials)
    return len(trials)
