"""COCO's average precision and recall, from pycocotools, with an interval over the images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.optional import missing

# In pycocotools' order. Small, medium and large are areas below 32 x 32, below 96 x 96, and above;
# the recalls are of the 1, 10 and 100 likeliest detections per image.
NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
Kind = Literal["bbox", "segm"]
# Of the bootstrap.
_RESAMPLES, _SEED = 200, 0
_THRESHOLDS = 10  # overlaps of 0.5, 0.55, ..., 0.95
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassScores:
    """The scores of a class.

    Attributes:
        name: its name.
        num_boxes: boxes in the truth, without crowds.
        ap: average precision from 0 to 1; None without boxes.
        ap50: the same at an overlap of 0.5.
        recall: average recall of the 100 likeliest detections per image.
        precision: precision at an overlap of 0.5 for recalls of 0, 0.01, ..., 1.
    """

    name: str
    num_boxes: int
    ap: float | None
    ap50: float | None
    recall: float | None
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """COCO's scores of detections.

    Attributes:
        values: `NAMES` -> score from 0 to 1; -1 where there is no box of such a size, as in
            COCO's own tools.
        intervals: "AP" and "AP50" -> 95 % interval: percentiles of a bootstrap over the images.
        classes: the classes, in the order of their ids.
        num_images: number of images.
        num_boxes: boxes in the truth, without crowds.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: tuple[ClassScores, ...]
    num_images: int
    num_boxes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types, without the curves."""
        kinds = ("name", "num_boxes", "ap", "ap50", "recall")
        return {
            **self.values,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "classes": [{key: getattr(one, key) for key in kinds} for one in self.classes],
            "num_images": self.num_images,
            "num_boxes": self.num_boxes,
        }


def score(coco: Any, found: Sequence[Mapping[str, Any]], kind: Kind = "bbox") -> Scores:
    """Returns the scores of detections in COCO's result format.

    Args:
        coco: the `pycocotools.coco.COCO` of the truth.
        found: `image_id`, `category_id`, `score`, and `bbox` (x, y, width, height) or
            `segmentation` (as pycocotools encodes masks) each.
        kind: compare boxes or masks.
    """
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise missing("pycocotools", error) from error

    with contextlib.redirect_stdout(io.StringIO()):
        results = coco.loadRes(list(found)) if found else _nothing(coco)
        scoring = COCOeval(coco, results, kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    values = dict(zip(NAMES, map(float, scoring.stats), strict=True))
    classes = _classes(coco, scoring.eval)
    return Scores(
        values=values,
        intervals=_intervals(scoring),
        classes=classes,
        num_images=len(scoring.params.imgIds),
        num_boxes=sum(one.num_boxes for one in classes),
    )


def _nothing(coco: Any) -> Any:
    """Returns results without a detection, which pycocotools' `loadRes` cannot read."""
    from pycocotools.coco import COCO

    results = COCO()
    results.dataset = {key: coco.dataset[key] for key in ("images", "categories")}
    results.dataset["annotations"] = []
    results.createIndex()
    return results


def _classes(coco: Any, table: Mapping[str, NDArray[np.float64]]) -> tuple[ClassScores, ...]:
    found = []
    for number, category in enumerate(coco.loadCats(sorted(coco.getCatIds()))):
        # Overlaps, recalls; of all areas, and the most detections per image.
        precision = table["precision"][:, :, number, 0, -1]
        recall = table["recall"][:, number, 0, -1]
        boxes = coco.loadAnns(coco.getAnnIds(catIds=[category["id"]], iscrowd=False))
        has = bool((precision > -1).any())
        found.append(
            ClassScores(
                name=category["name"],
                num_boxes=len(boxes),
                ap=float(precision.mean()) if has else None,
                ap50=float(precision[0].mean()) if has else None,
                recall=float(recall.mean()) if has else None,
                precision=tuple(precision[0].tolist()) if has else (),
            )
        )
    return tuple(found)


def _intervals(scoring: Any) -> dict[str, tuple[float, float]]:
    num_images = len(scoring.params.imgIds)
    rng = np.random.default_rng(_SEED)
    weights = rng.multinomial(num_images, np.full(num_images, 1 / num_images), _RESAMPLES)
    precisions = weighted_precisions(scoring, weights)
    found = {}
    for name, values in (("AP", precisions.mean(1)), ("AP50", precisions[:, 0])):
        known = values[~np.isnan(values)]
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (0.0, 0.0)
        found[name] = float(low), float(high)
    return found


def weighted_precisions(scoring: Any, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the average precision (N, 10) per overlap if images were there several times.

    Equal to what pycocotools accumulates over so many copies of each image, at a cost that allows
    hundreds of samples.

    Args:
        scoring: a `COCOeval` after `evaluate`.
        weights: (N, images) how often each image counts.
    """
    ids = scoring.params
    num_areas, num_images = len(ids.areaRng), len(ids.imgIds)
    by_class = []
    for number in range(len(ids.catIds)):
        start = number * num_areas * num_images  # the first area is that of all sizes
        by_class.append(_of_class(scoring.evalImgs[start : start + num_images], weights))
    every = np.stack(by_class)
    counted = ~np.isnan(every)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(counted, every, 0).sum(0) / counted.sum(0)
    return means


def _of_class(
    images: Sequence[Mapping[str, Any] | None], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns (N, 10) average precisions of a class, NaN where it has no box."""
    truth = np.array([0 if one is None else int((one["gtIgnore"] == 0).sum()) for one in images])
    totals = weights @ truth
    found = np.full((len(weights), _THRESHOLDS), np.nan)
    parts = [(n, one) for n, one in enumerate(images) if one is not None and len(one["dtScores"])]
    if not parts:
        found[totals > 0] = 0.0
        return found
    scores = np.concatenate([one["dtScores"] for _, one in parts])
    order = np.argsort(-scores, kind="mergesort")
    image = np.concatenate([np.full(len(one["dtScores"]), n) for n, one in parts])[order]
    matched = np.concatenate([one["dtMatches"] for _, one in parts], axis=1)[:, order] > 0
    counts = np.concatenate([one["dtIgnore"] for _, one in parts], axis=1)[:, order] == 0
    for sample, total in enumerate(totals):
        if total:
            found[sample] = _area(
                matched & counts, ~matched & counts, weights[sample, image], total
            )
    return found


def _area(
    hits: NDArray[np.bool_], misses: NDArray[np.bool_], weights: NDArray[np.int64], total: int
) -> NDArray[np.float64]:
    """Returns COCO's area under the precision for each overlap, from (10, detections)."""
    right, wrong = np.cumsum(hits * weights, axis=1), np.cumsum(misses * weights, axis=1)
    precision = right / np.maximum(right + wrong, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    areas = []
    for recall, best in zip(right / total, envelope, strict=True):
        index = np.searchsorted(recall, _RECALLS, side="left")
        reached = index < len(best)
        areas.append(best[index[reached]].sum() / len(_RECALLS))
    return np.array(areas)
