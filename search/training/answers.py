"""What a network answers for each image of a set, and how honest its probabilities are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fbnetv3.deploy.confidence import (
    MIN_IMAGES,
    TRUE_ACCEPT_PCT,
    calibration_error_pct,
    energy,
    fit_confidence,
)
from fbnetv3.hub.confidence import Confidence
from fbnetv3.search.data.image_set import ImageSet

from .batches import Batch
from .config import Hardware
from .evaluate import evaluate, outputs_of
from .networks import Network

_NUM_GUESSES = 5
_SEED = 0
# Photos per pass.
_FOREIGN_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Answers:
    """The answers for n images, in the order of the set.

    Attributes:
        indices: (n,) positions in the set.
        labels: (n,) the right classes, as the set numbers them.
        guesses: (n, k) the likeliest classes, best first.
        probabilities: (n, k) theirs, at the temperature of the network.
        right_probability: (n,) that of the right class.
        energy: (n,) how likely the image is of one of the network's classes.
        none_of_these: (n,) whether the energy is below the threshold; None if there is none.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    guesses: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    right_probability: NDArray[np.float64]
    energy: NDArray[np.float64]
    none_of_these: NDArray[np.bool_] | None

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """(n,) whether the likeliest class is the right one."""
        right: NDArray[np.bool_] = self.guesses[:, 0] == self.labels
        return right

    @property
    def calibration_error_pct(self) -> float:
        """The expected calibration error (ECE) over 15 bins, in percent."""
        return calibration_error_pct(self.probabilities[:, 0], self.is_right)

    def confusion(self, num_classes: int) -> NDArray[np.int64]:
        """Returns (classes, classes) counts, row: right class, column: answer."""
        cells = self.labels * num_classes + self.guesses[:, 0]
        return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


class AnswerCollector:
    """Collects answers while `evaluate` runs: give `add` as its `on_logits`.

    Args:
        network: the network that is evaluated.
        images: the set.
        keep_logits: also keep all logits, for `fitted`; 200 MB for ImageNet's validation images.
    """

    def __init__(self, network: Network, images: ImageSet, *, keep_logits: bool = False) -> None:
        self._outputs = outputs_of(network, images)
        self._known = network.confidence
        self._keep = keep_logits
        self._parts: list[dict[str, NDArray[Any]]] = []

    def add(self, batch: Batch, logits: Tensor) -> None:
        """Takes a batch and its logits (n, outputs)."""
        wide = logits.detach().cpu().double()
        of_set = wide if self._outputs is None else wide[:, self._outputs]
        shares = (of_set / (self._known.temperature if self._known else 1.0)).softmax(1)
        best = shares.topk(min(_NUM_GUESSES, shares.shape[1]), 1)
        labels = batch.labels.cpu()
        part = {
            "indices": batch.indices.cpu().numpy(),
            "labels": labels.numpy(),
            "guesses": best.indices.numpy(),
            "probabilities": best.values.numpy(),
            "right_probability": shares.gather(1, labels.unsqueeze(1))[:, 0].numpy(),
            "energy": energy(wide.numpy()),
        }
        if self._keep:
            part["logits"] = logits.detach().float().cpu().numpy()
        self._parts.append(part)

    def answers(self) -> Answers:
        """Returns what was collected."""
        names = [name for name in self._parts[0] if name != "logits"]
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
        threshold = self._known.threshold if self._known else None
        none = None if threshold is None else joined["energy"] < threshold
        return Answers(**joined, none_of_these=none)

    def logits_and_outputs(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Returns all logits and the right output of each image."""
        logits = np.concatenate([part["logits"] for part in self._parts])
        labels = np.concatenate([part["labels"] for part in self._parts])
        return logits, labels if self._outputs is None else self._outputs.numpy()[labels]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted confidence and what it changes, measured on images it was not fitted on.

    Attributes:
        confidence: fitted on all images.
        before_pct: calibration error (ECE) at temperature 1.
        after_pct: the same with the temperature, fitted on the other half of the images.
    """

    confidence: Confidence
    before_pct: float
    after_pct: float


def fit(
    logits: NDArray[np.float32],
    outputs: NDArray[np.int64],
    *,
    others: NDArray[np.float32] | None = None,
    true_accept_pct: float | None = None,
    false_accept_pct: float | None = None,
) -> Fit:
    """Returns temperature and threshold; arguments as in `fit_confidence`.

    Raises:
        ValueError: see `fit_confidence`.
    """
    confidence = fit_confidence(
        logits,
        outputs,
        others=others,
        true_accept_pct=TRUE_ACCEPT_PCT if true_accept_pct is None else true_accept_pct,
        false_accept_pct=false_accept_pct,
    )
    right = logits.argmax(1) == outputs
    before = _first_probability(logits, 1.0)
    after = np.empty_like(before)
    order = np.random.default_rng(_SEED).permutation(len(logits))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    for mine, other in (halves, halves[::-1]):
        # A half of a small set is below the least number of images, but its figure only informs.
        repeated = np.resize(other, max(len(other), MIN_IMAGES))
        temperature = fit_confidence(logits[repeated], outputs[repeated]).temperature
        after[mine] = _first_probability(logits[mine], temperature)
    return Fit(
        confidence=confidence,
        before_pct=calibration_error_pct(before, right),
        after_pct=calibration_error_pct(after, right),
    )


def _first_probability(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    found: NDArray[np.float64] = np.exp(scaled.max(1) - energy(scaled))
    return found


def fit_on(
    network: Network, images: ImageSet, *, hardware: Hardware, workers: int = 0
) -> Confidence:
    """Returns temperature and threshold of a network, fitted on images it was not trained on.

    Raises:
        ValueError: there are too few images, or their classes do not fit the network's.
    """
    collector = AnswerCollector(network, images, keep_logits=True)
    evaluate(network, images, hardware=hardware, workers=workers, on_logits=collector.add)
    return fit_confidence(*collector.logits_and_outputs())


@torch.no_grad()
def foreign_logits(
    network: Network, sources: Sequence[Path], *, hardware: Hardware
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Returns the logits (n, outputs) of photos without labels, and why others cannot be read.

    Args:
        network: with its preprocessing.
        sources: the photos.
        hardware: how to compute.

    Raises:
        ValueError: the preprocessing is not known, or no photo can be read.
    """
    from fbnetv3.images.reader import open_image

    if network.preprocess is None:
        raise ValueError("the network does not define its preprocessing; expected one that does")
    model = network.model.to(hardware.device).eval()
    rows: list[NDArray[np.float32]] = []
    waiting: list[NDArray[Any]] = []
    damaged: list[str] = []

    def run() -> None:
        batch = torch.from_numpy(np.stack(waiting)).to(hardware.device)
        rows.append(model(batch).float().cpu().numpy())
        waiting.clear()

    for source in sources:
        try:
            waiting.append(network.preprocess(open_image(source)))
        except (OSError, ValueError) as error:
            text = str(error)
            damaged.append(text if str(source) in text else f"{source}: {text}")
        if len(waiting) == _FOREIGN_BATCH:
            run()
    if waiting:
        run()
    if not rows:
        raise ValueError(f"none of the {len(sources)} photos of none of the classes can be read")
    return np.concatenate(rows), tuple(damaged)
