"""The results of a search for each limit, and their files.

`answers/<number>/` has `candidate.json` with genes and figures, `recipe.json`, and, if the space
describes networks, `architecture.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.json_record import read_json
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.results import write_json
from fbnetv3.search.storage.store import Store
from fbnetv3.search.training.recipe import SCHEMA as RECIPE_SCHEMA
from fbnetv3.search.training.recipe import Recipe

from .labels import FINAL

WEIGHTS = "model.safetensors"
_CANDIDATE = "candidate.json"


@dataclass(frozen=True)
class Contender:
    """A candidate that was retrained at full length.

    Attributes:
        genes: canonical gene indices.
        labels: labels after the last epoch, one for each seed.
        costs: known costs.
        predicted: predicted label.
        prior: name of the prior whose recipe it has; empty if it has none.
    """

    genes: tuple[int, ...]
    labels: tuple[float, ...]
    costs: Mapping[str, float]
    predicted: float
    prior: str = ""

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN if a training diverged, minus infinity if there is none."""
        return float(np.mean(self.labels)) if self.labels else -np.inf

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; 0 for one seed."""
        return float(np.std(self.labels, ddof=1)) if len(self.labels) > 1 else 0.0


@dataclass(frozen=True)
class Answer:
    """The result of a search for one limit.

    Attributes:
        limit: cost -> (lowest, highest).
        contenders: best mean first; empty if no candidate within the limit was found.
        nearest: costs of the candidate nearest to a limit that is out of reach, else empty.
    """

    limit: Mapping[str, tuple[float, float]]
    contenders: tuple[Contender, ...]
    nearest: Mapping[str, float]


def write_answers(store: Store, space: Space, answers: Sequence[Answer]) -> list[Path]:
    """Writes `answers/<number>/` for the winner of each limit; returns the files.

    `candidate.json` has genes and figures, `recipe.json` the recipe, and `architecture.json`, if
    the space describes networks, an architecture that `fbnetv3.create` loads. If networks were
    trained, the recipe is complete, for `fbnetv3 train --recipe`.
    """
    files: list[Path] = []
    for number, answer in enumerate(answers):
        folder = store.folder / "answers" / str(number)
        contents: dict[str, Mapping[str, Any]] = {"candidate": describe(space, answer)}
        if answer.contenders:
            genes = np.array(answer.contenders[0].genes)
            contents["recipe"] = _recipe(space.recipe(genes), store.settings.get("objective", {}))
            if space.layout.arch is not None:
                contents["architecture"] = space.decode(genes)[0].to_dict()
        for name, content in contents.items():
            if content:
                write_json(folder / f"{name}.json", content)
                files.append(folder / f"{name}.json")
    return files


def restore_answers(store: Store) -> bool:
    """Reads the results of a finished search in again, after `Store.rebuild` has lost them.

    Returns:
        Whether the search has finished: there is a result for every limit, and no trial is open.
    """
    num = len(store.settings.get("plan", {}).get("limits", ()))
    paths = [store.folder / "answers" / str(number) / _CANDIDATE for number in range(num)]
    counts = store.counts()
    ended = any(batch.kind == FINAL for batch in store.batches())
    if not paths or not ended or counts["queued"] + counts["leased"]:
        return False
    if not all(path.is_file() for path in paths):
        return False
    found = [read_json(path.read_bytes(), str(path)) for path in paths]
    store.set_stage("answers", {"answers": found})
    return True


def _recipe(fields: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with the fields that the objective adds to it."""
    if objective.get("kind") != "train":
        return dict(fields)
    fixed = {**objective.get("recipe", {}), "epochs": objective["epochs"]}
    return Recipe.from_dict({"schema": RECIPE_SCHEMA, **fields, **fixed}).to_dict()


def describe(space: Space, answer: Answer) -> dict[str, Any]:
    """Returns a result as plain JSON types, winner first."""
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
                "prior": one.prior,
            }
            for one in answer.contenders
        ],
        "nearest": dict(answer.nearest),
    }


def copy_answers(store: Store, space: Space, out: str | Path) -> list[Path]:
    """Copies the result files to another folder; returns the copies.

    If the search trained networks and kept their weights, those of each winner's best seed are
    copied to `<number>/network`, which `fbnetv3.create("local-dir:...", pretrained=True)` loads.

    Raises:
        ValueError: the search has not finished, or the folder has other results, which would then
            be mixed with these.
    """
    out = Path(out)
    source = store.folder / "answers"
    files = sorted(source.glob("*/*.json"))
    if not files:
        raise ValueError(f"{store.folder} has no results yet; resume the search first")
    for other in sorted(out.glob(f"*/{_CANDIDATE}")):
        same = source / other.relative_to(out)
        if not same.is_file() or same.read_bytes() != other.read_bytes():
            raise ValueError(
                f"{other.parent} has a result of another search, or of this one before it went on; "
                f"remove the results in {out}, or name another folder"
            )
    copies = []
    for file in files:
        copy = out / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copies.append(copy)
        if file.name == _CANDIDATE and (network := _network(store, space, file)):
            copied = shutil.copytree(network, copy.parent / "network", dirs_exist_ok=True)
            copies.append(Path(copied) / WEIGHTS)
    return copies


def _network(store: Store, space: Space, candidate: Path) -> Path | None:
    """Returns the folder with the weights of a result's winner, None if there is none."""
    from fbnetv3.search.execution.train_objective import weights_name

    found = json.loads(candidate.read_text())["contenders"]
    kept = store.settings.get("objective", {}).get("checkpoints")
    if not found or not kept:
        return None
    genes = tuple(found[0]["indices"])
    labels = {}
    for trial in store.trials("done"):
        folder = Path(kept) / weights_name(space, genes, trial.seed)
        full = trial.genes == genes and trial.fidelity == 1
        value = store.curve(trial.seq)[-1] if full else None
        if value is not None and (folder / WEIGHTS).is_file():
            labels[folder] = value
    return max(labels, key=lambda folder: labels[folder]) if labels else None
