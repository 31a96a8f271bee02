"""What of a search stands in files beside its database: settings, and rounds as proposed.

With the results of workers they are all that `Store.rebuild` needs to make the database again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fbnetv3._internal.errors import StoreError
from fbnetv3._internal.json_record import read_object

from .results import write_json
from .trials import Batch, Proposal, Trial

SETTINGS, BATCHES = "search.json", "batches"
SCHEMA = "fbnetv3-search/1"


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new search."""
    write_json(folder / SETTINGS, {"schema": SCHEMA, **settings})


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of the search in a folder.

    Raises:
        FileNotFoundError: there is no search in the folder.
        StoreError: the file is damaged or of another version.
    """
    path = folder / SETTINGS
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no search ({SETTINGS} is missing); start one with "
                                "fbnetv3-search run")  # fmt: skip
    try:
        settings = read_object(path)
    except ValueError as error:
        raise _damaged(path, error) from None
    if settings.get("schema") != SCHEMA:
        raise StoreError(f"{path} has schema {settings.get('schema')!r}; expected {SCHEMA!r}")
    return settings


def way_to_resume(folder: Path) -> str:
    """Returns how the search in a folder is resumed: as it was started."""
    try:
        from_python = "call" in read_settings(folder)
    except (OSError, StoreError):
        from_python = False
    return "repeat the call that started it" if from_python else f"fbnetv3-search resume {folder}"


def write_batch(
    folder: Path, batch: Batch, trials: Sequence[Trial], imported: Mapping[int, float | None]
) -> None:
    """Writes a round with its trials, why some have failed, and labels that were imported.

    Args:
        folder: the search's.
        batch: the round.
        trials: of the round, in the order of their proposal.
        imported: number of a trial -> its label, of trials that the search did not make.
    """
    content = {
        "number": batch.number,
        "kind": batch.kind,
        "rng_state": batch.rng_state,
        "predictor": batch.predictor,
        "trials": [
            {
                "genes": list(t.genes), "costs": dict(t.costs), "epochs": t.epochs,
                "seed": t.seed, "slot": t.slot, "predicted": t.predicted, "origin": t.origin,
                **({"fidelity": t.fidelity} if t.fidelity < 1 else {}),
                **({"failed": t.reason} if t.state == "failed" else {}),
                **({"value": imported[t.seq]} if t.seq in imported else {}),
            }
            for t in trials
        ],
    }  # fmt: skip
    write_json(folder / BATCHES / f"{batch.number:05d}.json", content)


def read_batch(path: Path) -> tuple[Batch, list[Proposal], list[tuple[Proposal, str]]]:
    """Returns a round, its trials as proposed, and those that have failed with the reason.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        content = read_object(path)
        reasons = [trial.pop("failed", None) for trial in content["trials"]]
        proposals = [
            Proposal(**{**trial, "genes": tuple(trial["genes"])}) for trial in content["trials"]
        ]
        names = ("number", "kind", "rng_state", "predictor")
        batch = Batch(*(content[name] for name in names))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    failed = [(p, why) for p, why in zip(proposals, reasons, strict=True) if why is not None]
    return batch, proposals, failed


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} is damaged ({error}); restore it from a copy")
