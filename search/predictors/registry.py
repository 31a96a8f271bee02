"""The predictors by name: made, written to a file, read again.

* `mlp`: the paper's, one network on standardised labels.
* `mlp_ensemble`: five of them on the logarithm of the error, their mean is the score.
* `gp`: a Gaussian process on the same target.
* `auto`: `mlp_ensemble` or `gp`, whichever ranks the labels at hand better.
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


def _of(file: str, name: str) -> MakePredictor:
    """Returns what makes a predictor; its file is imported when the first is made."""

    def make(space: Space, *, target: str, seed: int, costs: CostsOf | None) -> Predictor:
        made: MakePredictor = getattr(import_module(f".{file}", __package__), name)
        return made(space, target=target, seed=seed, costs=costs)

    return make


PREDICTORS: dict[str, MakePredictor] = {
    "mlp": _of("mlp", "single_mlp"),
    "mlp_ensemble": _of("mlp", "mlp_ensemble"),
    "gp": _of("gp", "GpPredictor"),
    "auto": _of("auto", "AutoPredictor"),
}
# Names of 0.1.0, in older searches too.
ALIASES = {"paper": "mlp", "nars": "mlp_ensemble"}


def known_predictor(kind: str) -> str:
    """Returns the name of a predictor, that of today for an older one.

    Raises:
        ValueError: there is none of that name.
    """
    name = ALIASES.get(kind, kind)
    if name not in PREDICTORS:
        raise ValueError(f"unknown predictor {kind!r}; expected one of {', '.join(PREDICTORS)}")
    return name


def register_predictor(kind: str, make: MakePredictor) -> None:
    """Adds a predictor of one's own; a search may then name it, until the process ends.

    Raises:
        ValueError: the name is taken.
    """
    if kind in {*PREDICTORS, *ALIASES}:
        raise ValueError(f"there is a predictor {kind!r} already; give yours another name")
    PREDICTORS[kind] = make


def make_predictor(
    kind: str,
    space: Space,
    *,
    target: str = "log_error",
    seed: int = 0,
    costs: CostsOf | None = None,
) -> Predictor:
    """Returns a fresh predictor.

    Args:
        kind: "mlp", "mlp_ensemble", "gp", "auto", or another name of `PREDICTORS`.
        space: of the candidates.
        target: "log_error" for labels that are accuracies in percent, else "raw"; `mlp` always
            learns raw labels.
        seed: of everything random in it.
        costs: known costs of candidates; `gp` takes their logarithms as further inputs.

    Raises:
        ValueError: kind or target is unknown.
    """
    return PREDICTORS[known_predictor(kind)](space, target=target, seed=seed, costs=costs)


def save_predictor(predictor: Predictor, path: Path) -> None:
    """Writes a fitted predictor as safetensors, with its space, so that it can be read alone."""
    from safetensors.numpy import save

    held = predictor.chosen
    arrays, settings = held.state()
    about = {
        "schema": SCHEMA,
        "kind": held.kind,
        "settings": json.dumps(settings),
        "space": held.space.to_json(),
    }
    plain = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    write_atomically(path, save(plain, about))


def load_predictor(path: Path, *, costs: CostsOf | None = None) -> Predictor:
    """Returns the predictor of a file as `save_predictor` writes it.

    Args:
        path: the file.
        costs: known costs of candidates, for a `gp` that was fitted with them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no predictor of this version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no predictor at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None
    if about.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {about.get('schema')!r}; expected {SCHEMA!r}")
    settings = json.loads(about["settings"])
    if "scale" in about:  # files of 0.1.0 have it beside the settings
        settings["scale"] = json.loads(about["scale"])
    made = make_predictor(about["kind"], Space.from_json(about["space"]), costs=costs)
    made.restore(arrays, settings)
    return made
