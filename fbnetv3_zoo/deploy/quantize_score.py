"""Evaluates a quantized file on images: agreement with the float file, and accuracy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.errors import OverBudget
from fbnetv3.hub.confidence import Confidence
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import ImageSource, open_image

from .artefact import Artefact
from .backend import Backend, ExportedBackend
from .confidence import carried_over
from .multi_label import average_precisions, mean_of_known, same_answers

# Of each image its class or, for a multi-label model, its classes.
Labels: TypeAlias = Sequence[int] | Sequence[Sequence[int]]
_BATCH = 16
# Of their deviation over the classes. Logits that differ less between images do not depend on them.
_MIN_SPREAD = 1e-3


@dataclass
class Score:
    """Agreement with the float model, and accuracy if labels are known: top-1, or multi-label mAP.

    Multi-label files agree on an image where they give it the same classes. `confidence` is the
    float file's temperature and threshold, moved to the quantized file's logits.
    """

    agreement_pct: float
    top1_float_pct: float | None
    top1_pct: float | None
    num_images: int
    map_float_pct: float | None = None
    map_pct: float | None = None
    confidence: Confidence | None = None

    @property
    def drop_pct(self) -> float:
        """Points of accuracy lost; without labels every disagreement counts as lost."""
        for before, after in (
            (self.top1_float_pct, self.top1_pct),
            (self.map_float_pct, self.map_pct),
        ):
            if before is not None and after is not None:
                return before - after
        return 100 - self.agreement_pct


@dataclass(frozen=True)
class LayerError:
    """The error of quantizing one layer alone.

    Attributes:
        node: name in the graph, which is the module's name.
        error_of_std: mean over images of the largest change of a logit, in standard deviations of
            the image's logits.
        in_float: whether the layer was therefore kept in float.
    """

    node: str
    error_of_std: float
    in_float: bool


@dataclass(frozen=True)
class Int8Result:
    """A runtime's quantized file that meets the budget.

    Attributes:
        artefact: the metadata of the file.
        score: its quality.
        method: calibration method.
        methods: method -> (agreement in percent, mean error), on calibration images.
        layers: errors of single layers, most sensitive first.
    """

    artefact: Artefact
    score: Score
    method: str
    methods: dict[str, tuple[float, float]] = field(default_factory=dict)
    layers: tuple[LayerError, ...] = ()


class Reader:
    """Reads images in batches; unreadable ones are counted and skipped.

    Attributes:
        preprocess: the preprocessing.
        unreadable: path, or id of an image without one, -> why it cannot be read.
        num_read: number of images in each complete pass.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.unreadable: dict[str | int, str] = {}
        self.num_read: list[int] = []

    def batches(self, images: Iterable[ImageSource]) -> Iterator[NDArray[np.float32]]:
        """Yields float32 (N, C, H, W)."""
        for batch, _ in self.numbered(images):
            yield batch

    def numbered(
        self, images: Iterable[ImageSource]
    ) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
        """Yields batches with the indices of their images in `images`."""
        kept: list[NDArray[np.float32]] = []
        indices: list[int] = []
        number, error = 0, None
        for index, image in enumerate(images):
            try:
                kept.append(self.preprocess(open_image(image)))
            except (OSError, ValueError) as reason:
                error = error or reason
                key = os.fspath(image) if isinstance(image, str | os.PathLike) else id(image)
                self.unreadable[key] = str(reason)
                continue
            indices.append(index)
            number += 1
            if len(kept) == _BATCH:
                yield np.stack(kept), indices
                kept, indices = [], []
        if kept:
            yield np.stack(kept), indices
        if not number:
            raise ValueError(f"no calibration or evaluation image can be read; the first: {error}")
        self.num_read.append(number)


@dataclass(frozen=True)
class Evaluator:
    """Compares quantized files with the float one, on images.

    Attributes:
        float_model: the float file.
        reader: reads the images.
        images: the evaluation images.
        labels: the class of each, or the classes of each for a multi-label model; None if unknown.
    """

    float_model: ExportedBackend
    reader: Reader
    images: Sequence[ImageSource]
    labels: Labels | None

    def check_answers(self) -> None:
        """Raises ValueError if the logits of the float file do not depend on the image."""
        batch = next(self.reader.batches(self.images))
        if not np.ptp(batch, axis=0).any():
            return  # one image, or all equal: nothing can be said
        logits = self.float_model.run_batch(batch).astype(np.float64)
        if np.ptp(logits, axis=0).max() <= _MIN_SPREAD * logits.std(axis=1).max():
            raise ValueError(
                f"{self.float_model.path} gives the same logits for every image, as an untrained "
                "model does; export trained weights"
            )

    def score(self, quantized: Backend) -> Score:
        """Returns the score of a quantized model."""
        agreed: list[bool] = []
        seen: list[int] = []
        logits: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for batch, indices in self.reader.numbered(self.images):
            expected, got = self.float_model.run_batch(batch), quantized.run_batch(batch)
            agreed.extend(same_answers(expected, got, self.float_model.artefact.thresholds))
            logits.append((expected, got))
            seen += indices
        before, after = (np.concatenate(each) for each in zip(*logits, strict=True))
        known = self.float_model.artefact.confidence
        return Score(
            agreement_pct=100 * float(np.mean(agreed)),
            num_images=len(agreed),
            confidence=None if known is None else carried_over(known, before, after),
            **self._accuracies(before, after, seen),
        )

    def _accuracies(
        self, before: NDArray[Any], after: NDArray[Any], seen: Sequence[int]
    ) -> dict[str, float | None]:
        """Returns the fields of `Score` on accuracy.

        Args:
            before: logits of the float file.
            after: logits of the quantized file.
            seen: the positions of their images.
        """
        if self.labels is None:
            return {"top1_float_pct": None, "top1_pct": None}
        chosen = [self.labels[index] for index in seen]
        if not self.float_model.artefact.multi_label:
            truth = np.array(chosen)
            top1 = [100 * float(np.mean(each.argmax(1) == truth)) for each in (before, after)]
            return {"top1_float_pct": top1[0], "top1_pct": top1[1]}
        targets = np.zeros(before.shape, bool)
        for row, classes in zip(targets, chosen, strict=True):
            row[np.asarray(classes, int)] = True
        found = [100 * mean_of_known(average_precisions(each, targets)) for each in (before, after)]
        return {
            "top1_float_pct": None,
            "top1_pct": None,
            "map_float_pct": found[0],
            "map_pct": found[1],
        }


def over_budget(score: Score, max_drop_pct: float | None, tried: str) -> OverBudget:
    """Returns the error of a file over the budget, despite what was `tried`."""
    return OverBudget(
        f"int8 loses {score.drop_pct:.2f} points on {score.num_images} images, more than "
        f"max_drop_pct={max_drop_pct}, {tried}; nothing was written. Give more calibration images "
        "or a larger budget"
    )
