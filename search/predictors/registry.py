"""The predictors by name: making, saving and loading them.

* `mlp`: the paper's, one network on standardised labels.
* `mlp_ensemble`: the mean of five of them, on the logarithm of the error.
* `gp`: a Gaussian process on the same target.
* `auto`: `mlp_ensemble` or `gp`, whichever ranks the labels better.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np

from fbnetv3._internal.files import write_atomically
from fbnetv3.search.space.space import CostsOf, Space

from .protocol import MakePredictor, Predictor

SCHEMA = "fbnetv3-predictor/1"


def _lazy(file: str, name: str) -> MakePredictor:
    """Returns a factory that imports the predictor's file when it is first called."""

    def make(space: Space, *, target: str, seed: int, costs: CostsOf | None) -> Predictor:
        made: MakePredictor = getattr(import_module(f".{file}", __package__), name)
        return made(space, target=target, seed=seed, costs=costs)

    return make


PREDICTORS: dict[str, MakePredictor] = {
    "mlp": _lazy("mlp", "single_mlp"),
    "mlp_ensemble": _lazy("mlp", "mlp_ensemble"),
    "gp": _lazy("gp", "GpPredictor"),
    "auto": _lazy("auto", "AutoPredictor"),
}
# Names in version 0.1.0 and in its stored searches.
ALIASES = {"paper": "mlp", "nars": "mlp_ensemble"}


def known_predictor(kind: str) -> str:
    """Returns the name of a predictor, the current one for an older alias.

    Raises:
        ValueError: the name is unknown.
    """
    name = ALIASES.get(kind, kind)
    if name not in PREDICTORS:
        raise ValueError(f"unknown predictor {kind!r}; expected one of {', '.join(PREDICTORS)}")
    return name


def register_predictor(kind: str, make: MakePredictor) -> None:
    """Registers a custom predictor, which searches of this process can then name.

    Raises:
        ValueError: the name is taken.
    """
    if kind in {*PREDICTORS, *ALIASES}:
        raise ValueError(f"predictor {kind!r} already exists; choose another name")
    PREDICTORS[kind] = make


def make_predictor(
    kind: str,
    space: Space,
    *,
    target: str = "log_error",
    seed: int = 0,
    costs: CostsOf | None = None,
) -> Predictor:
    """Returns an unfitted predictor.

    Args:
        kind: "mlp", "mlp_ensemble", "gp", "auto", or another name of `PREDICTORS`.
        space: the search space of the candidates.
        target: "log_error" for labels that are accuracies in percent, else "raw"; `mlp` always
            fits raw labels.
        seed: random seed.
        costs: known costs of candidates; `gp` uses their logarithms as further inputs.

    Raises:
        ValueError: kind or target is unknown.
    """
    return PREDICTORS[known_predictor(kind)](space, target=target, seed=seed, costs=costs)


def save_predictor(predictor: Predictor, path: str | Path) -> None:
    """Writes a fitted predictor and its space as one safetensors file."""
    path = Path(path)
    from safetensors.numpy import save

    chosen = predictor.chosen
    arrays, settings = chosen.state()
    metadata = {
        "schema": SCHEMA,
        "kind": chosen.kind,
        "settings": json.dumps(settings),
        "space": chosen.space.to_json(),
    }
    contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    write_atomically(path, save(contiguous, metadata))


def load_predictor(path: str | Path, *, costs: CostsOf | None = None) -> Predictor:
    """Returns the predictor of a file that `save_predictor` wrote.

    Args:
        path: the file.
        costs: known costs of candidates, for a `gp` that was fitted with them.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a predictor of this version.
    """
    path = Path(path)
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no predictor at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if metadata.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {metadata.get('schema')!r}; expected {SCHEMA!r}")
    settings = json.loads(metadata["settings"])
    if "scale" in metadata:  # files of 0.1.0 store it outside the settings
        settings["scale"] = json.loads(metadata["scale"])
    predictor = make_predictor(metadata["kind"], Space.from_json(metadata["space"]), costs=costs)
    predictor.restore(arrays, settings)
    return predictor
