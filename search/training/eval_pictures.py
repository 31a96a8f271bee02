"""Pictures of an evaluation: confusion, calibration, and the photos that were most surely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbnetv3.deploy.confidence import reliability
from fbnetv3.images.reader import open_image
from fbnetv3.search.data.image_set import ImageSet, readable

from .answers import Answers

# More classes than the first cannot be read in one picture; up to the second cells have numbers.
_MAX_CLASSES, _MAX_NUMBERED = 40, 20
_WORST_COLUMNS, _WORST_ROWS = 6, 4
_THUMBNAIL = 224
_NAME_LENGTH = 18


def draw_confusion(path: Path, confusion: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Draws the share of each class's images that got each answer.

    Of more than 40 classes, those with the most errors are drawn.

    Args:
        path: a PNG or SVG file.
        confusion: (classes, classes) counts, row: right class, column: answer.
        classes: their names.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    shown = np.arange(len(classes))
    title = "Share of each class's images, %"
    if len(classes) > _MAX_CLASSES:
        errors = confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal()
        shown = np.sort(np.argsort(-errors, kind="stable")[:_MAX_CLASSES])
        title += f"; the {_MAX_CLASSES} of {len(classes)} classes with the most errors"
    shares = 100 * confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    shares = shares[np.ix_(shown, shown)]
    side = 2.6 + max(0.42 * len(shown), 2.2) if len(shown) <= _MAX_NUMBERED else 11
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    # Darker than in proportion: a few percent are what one looks for.
    drawn = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    names = [_short(classes[number]) for number in shown.tolist()]
    axis.set_xticks(range(len(shown)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(shown)), names, fontsize=8)
    axis.set_xlabel("answer")
    axis.set_ylabel("label")
    axis.set_title(title, fontsize=9)
    axis.tick_params(length=0)
    for edge in axis.spines.values():
        edge.set_visible(False)
    if len(shown) <= _MAX_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 1:
                colour = "white" if share > 40 else "black"
                axis.text(
                    column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8
                )
    figure.colorbar(drawn, ax=axis, shrink=0.7)
    figure.savefig(path, dpi=130)


def draw_confidence(path: Path, answers: Answers) -> None:
    """Draws how often answers of each probability are right, and accuracy by confidence.

    Args:
        path: a PNG or SVG file.
        answers: of a whole set.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_reliability(left, answers)
    order = np.argsort(-answers.probabilities[:, 0], kind="stable")
    counted = np.arange(1, len(order) + 1)
    accuracy = 100 * np.cumsum(answers.is_right[order]) / counted
    # The first few images say nothing of a share.
    first = min(len(order) - 1, max(20, len(order) // 100))
    right.plot(100 * counted[first:] / len(order), accuracy[first:], color="tab:blue")
    right.set_xlabel("share of images answered, the surest first, %")
    right.set_ylabel("of them right, %")
    right.set_xlim(0, 100)
    right.grid(alpha=0.3)
    right.set_title("Accuracy by confidence", fontsize=10)
    figure.savefig(path, dpi=130)


def _draw_reliability(axis: Any, answers: Answers) -> None:
    bins = reliability(answers.probabilities[:, 0], answers.is_right)
    width = 100 / len(bins)
    filled = [(n, count, share) for n, (count, _, share) in enumerate(bins) if count]
    most = max(count for _, count, _ in filled)
    axis.plot((0, 100), (0, 100), color="grey", linestyle="--", linewidth=1, label="calibrated")
    for number, count, share in filled:
        # Bins of few images are pale.
        axis.bar(
            (number + 0.5) * width,
            100 * share,
            width=0.92 * width,
            color="tab:blue",
            alpha=0.25 + 0.75 * count / most,
        )
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("probability of the answer, %")
    axis.set_ylabel("of such answers right, %")
    axis.set_title(
        f"Calibration: ECE {answers.calibration_error_pct:.1f} %, pale bars: few images",
        fontsize=10,
    )
    axis.legend(loc="upper left", frameon=False)


def draw_worst(path: Path, images: ImageSet, answers: Answers) -> None:
    """Draws the wrong answers with the highest probability, as a contact sheet.

    Args:
        path: a PNG or SVG file.
        images: the set.
        answers: for its images.
    """
    from matplotlib.figure import Figure

    wrong = np.flatnonzero(~answers.is_right)
    order = wrong[np.argsort(-answers.probabilities[wrong, 0], kind="stable")]
    worst = order[: _WORST_COLUMNS * _WORST_ROWS]
    rows = max(1, -(-len(worst) // _WORST_COLUMNS))
    figure = Figure(figsize=(1.9 * _WORST_COLUMNS, 2.35 * rows + 0.4), layout="constrained")
    figure.suptitle(
        f"The surest of {len(wrong)} wrong answers among {len(answers.labels)}"
        if len(wrong)
        else f"All {len(answers.labels)} answers are right",
        fontsize=10,
    )
    axes = figure.subplots(rows, _WORST_COLUMNS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, number in zip(axes, worst, strict=False):
        axis.imshow(_thumbnail(images, int(answers.indices[number])))
        answer = _short(images.classes[answers.guesses[number, 0]])
        label = _short(images.classes[answers.labels[number]])
        share = 100 * answers.probabilities[number, 0]
        # Names are not mathematics, whatever signs they hold.
        axis.set_title(f"{answer} {share:.0f} %\nis {label}", fontsize=8, parse_math=False)
    figure.savefig(path, dpi=110)


def _thumbnail(images: ImageSet, index: int) -> NDArray[np.uint8]:
    if images.pixels is not None:
        return images.pixels[index].numpy()
    assert images.sources is not None
    image = open_image(readable(images.sources[index]))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."
