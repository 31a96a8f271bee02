"""A search's trials and answers for others: architecture and recipe JSON, Optuna; labels coming in.

Labels of an earlier search or another tool come as CSV: a column for each gene that has a meaning,
holding the gene's value, and a column `label`.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fbnetv3._internal.optional import missing
from fbnetv3.arch.arch import Arch
from fbnetv3.search.space.space import CostsOf, Matrix, Space
from fbnetv3.search.storage.results import write_json
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal
from fbnetv3.search.training.recipe import SCHEMA as RECIPE_SCHEMA
from fbnetv3.search.training.recipe import Recipe

if TYPE_CHECKING:
    from .run import Answer

LABEL = "label"
WEIGHTS = "model.safetensors"


def write_answers(store: Store, space: Space, answers: Sequence[Answer]) -> list[Path]:
    """Writes `answers/<number>/` with what each limit's winner is; returns the files.

    `candidate.json` has genes and figures, `recipe.json` the recipe, and `architecture.json`, where
    the space describes networks, what `fbnetv3.create` loads. Where networks were trained, the
    recipe is whole: what `fbnetv3 train --recipe` reads.
    """
    files: list[Path] = []
    for number, answer in enumerate(answers):
        place = store.folder / "answers" / str(number)
        contents: dict[str, Mapping[str, Any]] = {"candidate": describe(space, answer)}
        if answer.contenders:
            genes = np.array(answer.contenders[0].genes)
            contents["recipe"] = _recipe(space.recipe(genes), store.settings.get("objective", {}))
            if space.layout.arch is not None:
                contents["architecture"] = space.decode(genes)[0].to_dict()
        for name, content in contents.items():
            if content:
                write_json(place / f"{name}.json", content)
                files.append(place / f"{name}.json")
    return files


def _recipe(fields: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with what the objective adds to it."""
    if objective.get("kind") != "train":
        return dict(fields)
    fixed = {**objective.get("recipe", {}), "epochs": objective["epochs"]}
    return Recipe.from_dict({"schema": RECIPE_SCHEMA, **fields, **fixed}).to_dict()


def describe(space: Space, answer: Answer) -> dict[str, Any]:
    """Returns an answer as plain JSON types, winner first."""
    return {
        "limit": {
            name: [float(end) if np.isfinite(end) else None for end in ends]
            for name, ends in answer.limit.items()
        },
        "contenders": [
            {
                "genes": space.values(np.array(one.genes)),
                "indices": list(one.genes),
                "mean": one.mean if np.isfinite(one.mean) else None,
                "sd": one.sd if np.isfinite(one.sd) else None,
                "labels": [x if np.isfinite(x) else None for x in one.labels],
                "predicted": one.predicted,
                "costs": dict(one.costs),
            }
            for one in answer.contenders
        ],
        "nearest": dict(answer.nearest),
    }


def import_labels(store: Store, space: Space, costs: CostsOf, path: Path, *, epochs: int) -> int:
    """Reads labels of a CSV into the store as a finished round; returns how many are new.

    The labels must be of trainings like the search's own, as the predictor learns from both.

    Raises:
        ValueError: a column, a gene's value or a label is wrong; the message has the line.
        FileNotFoundError: there is no such file.
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
    """Returns the candidates (P, num_genes) of a CSV, `-` for standard input, or of a JSON.

    A JSON file is an architecture, as `Arch.to_json` writes it; recipe genes get their first value.

    Raises:
        ValueError: a column or value is wrong, or the network lies outside the space.
        FileNotFoundError: there is no such file.
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
    """Writes all finished trials' genes and last labels as CSV; returns how many."""
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


def copy_answers(store: Store, space: Space, out: Path) -> list[Path]:
    """Copies the answers' files to another folder; returns them.

    Where the search trained networks and kept weights, those of each winner's best seed go to
    `<number>/network`, a folder that `fbnetv3.create("local-dir:...", pretrained=True)` loads.

    Raises:
        ValueError: the search has not come to its end.
    """
    source = store.folder / "answers"
    files = sorted(source.glob("*/*.json"))
    if not files:
        raise ValueError(f"{store.folder} has no answers yet; resume the search first")
    copies = []
    for file in files:
        copy = out / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copies.append(copy)
        if file.name == "candidate.json" and (network := _network(store, space, file)):
            place = shutil.copytree(network, copy.parent / "network", dirs_exist_ok=True)
            copies.append(Path(place) / WEIGHTS)
    return copies


def _network(store: Store, space: Space, candidate: Path) -> Path | None:
    """Returns the folder with the weights of an answer's winner, None where there is none."""
    from fbnetv3.search.execution.train_objective import weights_name

    found = json.loads(candidate.read_text())["contenders"]
    kept = store.settings.get("objective", {}).get("checkpoints")
    if not found or not kept:
        return None
    genes = tuple(found[0]["indices"])
    labels = {}
    for trial in store.trials("done"):
        place = Path(kept) / weights_name(space, genes, trial.seed)
        value = store.curve(trial.seq)[-1] if trial.genes == genes else None
        if value is not None and (place / WEIGHTS).is_file():
            labels[place] = value
    return max(labels, key=lambda place: labels[place]) if labels else None


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
        FileNotFoundError: there is no such file.
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
            # A line that is cut short has None.
            value = float(fields[LABEL] or "")
        except ValueError:
            raise ValueError(f"{where}: the label is {fields[LABEL]!r}, no number") from None
        if not np.isfinite(value):
            raise ValueError(
                f"{where}: the label is {value}; expected a number, leave the "
                "line out where training diverged"
            )
        values.append(value)
    if not rows:
        raise ValueError(f"{path} holds no labels")
    return rows, values


def _lines(path: Path) -> list[dict[str, str | None]]:
    """Returns the lines of a CSV, of standard input for `-`, as column -> cell."""
    source = sys.stdin if str(path) == "-" else path.open(newline="", encoding="utf-8")
    try:
        with source as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV text: {error}") from None


def _parse(text: str, values: Sequence[Any]) -> Any:
    """Returns the value of a gene that a text means."""
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
        url: of Optuna's storage, such as `sqlite:///study.db`; the study has the folder's name.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: the storage has a study of that name.
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
        raise ValueError(f"{url} has a study {name!r} already; name another storage") from None
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
