"""Accuracy predictors behind one protocol, their figures by cross-validation, and the choice.

* `paper`: as the text has it, one network on standardised labels.
* `nars`: five of them on the logarithm of the error, mean as score.
* `gp`: a Gaussian process on the same target.
* `auto`: `nars` or `gp`, whichever ranks the labels at hand better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fbnetv3._internal.files import write_atomically
from fbnetv3.search.space.space import CostsOf, Floats, Matrix, Space

from .quality import FOLDS, cross_validate

if TYPE_CHECKING:
    from .mlp import Pretraining

KINDS = ("paper", "nars", "gp", "auto")
SCHEMA = "fbnetv3-predictor/1"
# Labels in percent are best seen as the logarithm of their error.
TARGETS = ("raw", "log_error")


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of P candidates, in the labels' unit.

    Attributes:
        mean: (P,) the expected label.
        std: (P,) how unsure that is; 0 where the predictor cannot tell.
    """

    mean: Floats
    std: Floats


class Predictor(Protocol):
    """What every predictor offers. `fit` replaces what was learnt from labels before."""

    kind: str

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Learns from labels (n,) of candidates (n, num_genes), higher is better."""

    def predict(self, rows: Matrix) -> Prediction:
        """Returns what it expects of candidates (P, num_genes)."""

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns all that was learnt: arrays, and JSON settings."""

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: dict[str, Any]) -> None:
        """Takes over what `state` returned."""


class Scale:
    """Between labels and standardised targets."""

    def __init__(self, target: str) -> None:
        if target not in TARGETS:
            raise ValueError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
        self.target, self.mean, self.std = target, 0.0, 1.0

    def learn(self, labels: Floats) -> Floats:
        """Returns standardised targets of labels (n,).

        Raises:
            ValueError: fewer than two labels, or one that is NaN or not in the target's range.
        """
        values = np.asarray(labels, np.float64)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"{values.size} labels; expected two or more to learn from")
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} labels are NaN or infinite")
        if self.target == "log_error":
            if values.max() > 100 or values.min() < 0:
                raise ValueError("log_error expects labels in percent, 0 to 100; use target 'raw'")
            values = -np.log(100 - np.minimum(values, 99.99))
        self.mean, self.std = float(values.mean()), float(max(values.std(), 1e-9))
        return np.asarray((values - self.mean) / self.std)

    def invert(self, mean: Floats, std: Floats) -> Prediction:
        """Returns standardised mean and deviation in the labels' unit."""
        value, spread = mean * self.std + self.mean, std * self.std
        if self.target == "raw":
            return Prediction(value, spread)
        error = np.exp(-value)
        return Prediction(100 - error, error * spread)


class MlpPredictor:
    """`paper` and `nars`: see `mlp`."""

    def __init__(
        self,
        space: Space,
        *,
        kind: str = "nars",
        target: str = "log_error",
        members: int = 5,
        seed: int = 0,
        freeze: bool = True,
    ) -> None:
        from .mlp import MlpModel

        self.kind, self.space, self.scale = kind, space, Scale(target)
        self.model = MlpModel(space, members=members, seed=seed, freeze=freeze)

    def pretrain(self, pool: Matrix, costs: Mapping[str, npt.NDArray[Any]]) -> Pretraining:
        """Trains the encoder on the costs of a pool; returns `mlp.Pretraining`."""
        return self.model.pretrain(pool, costs)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Learns from labels (n,) of candidates (n, num_genes)."""
        self.model.fit(rows, self.scale.learn(labels))

    def predict(self, rows: Matrix) -> Prediction:
        """Returns mean and spread of the members."""
        members = self.model.predict(rows)
        return self.scale.invert(members.mean(0), members.std(0))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns weights and settings."""
        parts = {"encoder": self.model.encoder, "head": self.model.head}
        arrays = {f"{p}.{k}": v.numpy() for p, held in parts.items() for k, v in held.items()}
        settings = {
            "members": self.model.members,
            "seed": self.model.seed,
            "freeze": self.model.freeze,
            "proxies": list(self.model.proxies),
        }
        return arrays, settings

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        import torch

        self.model.proxies = tuple(settings["proxies"])
        for part, held in (("encoder", self.model.encoder), ("head", self.model.head)):
            held.clear()
            for key, value in arrays.items():
                if key.startswith(part + "."):
                    held[key[len(part) + 1 :]] = torch.from_numpy(value.copy())


class GpPredictor:
    """`gp`: see `gp`."""

    kind = "gp"

    def __init__(
        self, space: Space, *, target: str = "log_error", costs: CostsOf | None = None
    ) -> None:
        from .gp import GpModel

        self.space, self.scale, self.model = space, Scale(target), GpModel(space, costs)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Learns from labels (n,) of candidates (n, num_genes)."""
        self.model.fit(rows, self.scale.learn(labels))

    def predict(self, rows: Matrix) -> Prediction:
        """Returns the posterior's mean and standard deviation."""
        return self.scale.invert(*self.model.predict(rows))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns the posterior."""
        model = self.model
        arrays = {
            "theta": model.theta,
            "rows": model.rows,
            "alpha": model.alpha,
            "inverse": model.inverse,
        }
        return {key: np.ascontiguousarray(value) for key, value in arrays.items()}, {}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        for key in ("theta", "rows", "alpha", "inverse"):
            setattr(self.model, key, arrays[key])


class AutoPredictor:
    """`auto`: whichever of `nars` and `gp` ranks the labels better, asked again at every fit."""

    def __init__(
        self,
        space: Space,
        *,
        target: str = "log_error",
        seed: int = 0,
        costs: CostsOf | None = None,
    ) -> None:
        self.seed = seed
        self.members: dict[str, Predictor] = {
            "nars": MlpPredictor(space, target=target, seed=seed),
            "gp": GpPredictor(space, target=target, costs=costs),
        }
        self.kind = "nars"

    def pretrain(self, pool: Matrix, costs: Mapping[str, npt.NDArray[Any]]) -> Pretraining:
        """Trains the encoder of `nars` on the costs of a pool."""
        nars = self.members["nars"]
        assert isinstance(nars, MlpPredictor)
        return nars.pretrain(pool, costs)

    def fit(self, rows: Matrix, labels: Floats) -> None:
        """Compares both by five-fold tau, then fits the better one to all labels."""
        if len(labels) >= 2 * FOLDS:
            taus = {
                kind: cross_validate(partial(_itself, member), rows, labels, seed=self.seed).tau
                for kind, member in self.members.items()
            }
            self.kind = max(taus, key=lambda kind: taus[kind])
        self.members[self.kind].fit(rows, labels)

    def predict(self, rows: Matrix) -> Prediction:
        """Returns what the better one expects."""
        return self.members[self.kind].predict(rows)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Returns the better one's state."""
        arrays, settings = self.members[self.kind].state()
        return arrays, {**settings, "chosen": self.kind}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], settings: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.kind = settings["chosen"]
        self.members[self.kind].restore(arrays, settings)


def _itself(predictor: Predictor) -> Predictor:
    return predictor


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
        kind: "paper", "nars", "gp" or "auto".
        space: of the candidates.
        target: "log_error" for labels that are accuracies in percent, else "raw"; `paper` always
            learns raw labels.
        seed: of everything random in it.
        costs: known costs of candidates; `gp` takes their logarithms as further inputs.

    Raises:
        ValueError: kind or target is unknown.
    """
    if kind == "paper":
        return MlpPredictor(space, kind=kind, target="raw", members=1, seed=seed)
    if kind == "nars":
        return MlpPredictor(space, kind=kind, target=target, seed=seed)
    if kind == "gp":
        return GpPredictor(space, target=target, costs=costs)
    if kind == "auto":
        return AutoPredictor(space, target=target, seed=seed, costs=costs)
    raise ValueError(f"unknown predictor {kind!r}; expected one of {', '.join(KINDS)}")


def save_predictor(predictor: Predictor, path: Path) -> None:
    """Writes a fitted predictor as safetensors, with its space, so that it can be read alone."""
    from safetensors.numpy import save

    held = predictor
    arrays, settings = predictor.state()
    scaled = held.members[held.kind] if isinstance(held, AutoPredictor) else held
    assert isinstance(scaled, MlpPredictor | GpPredictor)
    scale = {"target": scaled.scale.target, "mean": scaled.scale.mean, "std": scaled.scale.std}
    about = {
        "schema": SCHEMA,
        "kind": scaled.kind,
        "settings": json.dumps(settings),
        "scale": json.dumps(scale),
        "space": scaled.space.to_json(),
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
    space, settings = Space.from_json(about["space"]), json.loads(about["settings"])
    scale = json.loads(about["scale"])
    made: MlpPredictor | GpPredictor
    if about["kind"] == "gp":
        made = GpPredictor(space, target=scale["target"], costs=costs)
    else:
        kept = {key: settings[key] for key in ("members", "seed", "freeze")}
        made = MlpPredictor(space, kind=about["kind"], target=scale["target"], **kept)
    made.scale.mean, made.scale.std = scale["mean"], scale["std"]
    made.restore(arrays, settings)
    return made
