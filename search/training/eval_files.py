"""What `eval --output` writes: tables as CSV, a record as JSON, and pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.files import write_atomically
from fbnetv3.deploy.confidence import reliability
from fbnetv3.search.data.image_set import ImageSet

from .answers import Answers
from .eval_pictures import draw_confidence, draw_confusion, draw_worst

_LEVELS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def class_table(confusion: NDArray[np.int64]) -> list[tuple[int, float, float, float]]:
    """Returns (images, precision, recall, F1) of each class, in percent, NaN where undefined.

    Precision is undefined for a class that is never the answer, recall for one without images, F1
    where either is.

    Args:
        confusion: (classes, classes) counts, row: right class, column: answer.
    """
    rows = []
    for number, (num, told) in enumerate(zip(confusion.sum(1), confusion.sum(0), strict=True)):
        hits = int(confusion[number, number])
        precision = 100 * hits / told if told else math.nan
        recall = 100 * hits / num if num else math.nan
        f1 = 200 * hits / (num + told) if told and num else math.nan
        rows.append((int(num), float(precision), float(recall), float(f1)))
    return rows


def accuracy_by_confidence(answers: Answers) -> list[tuple[float, int, float]]:
    """Returns (lowest probability, answers at least so sure, share of them right in percent)."""
    rows = []
    for level in _LEVELS:
        sure = answers.probabilities[:, 0] >= level
        right = 100 * float(answers.is_right[sure].mean()) if sure.any() else math.nan
        rows.append((level, int(sure.sum()), right))
    return rows


def write_eval_files(
    folder: Path, images: ImageSet, answers: Answers, record: dict[str, Any]
) -> None:
    """Writes all tables and pictures of an evaluation; files of the same names are replaced.

    Args:
        folder: created if missing.
        images: the set.
        answers: for its images.
        record: the figures, for `eval.json`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = images.classes
    confusion = answers.confusion(len(classes))
    write_atomically(folder / "eval.json", (json.dumps(record, indent=1) + "\n").encode())
    _write_table(
        folder / "confusion.csv",
        ("label", *classes),
        ((name, *row) for name, row in zip(classes, confusion.tolist(), strict=True)),
    )
    _write_table(
        folder / "classes.csv",
        ("class", "images", "precision_pct", "recall_pct", "f1_pct"),
        ((name, *row) for name, row in zip(classes, class_table(confusion), strict=True)),
    )
    _write_table(
        folder / "confidence.csv",
        ("probability_from", "images", "right_pct"),
        accuracy_by_confidence(answers),
    )
    _write_table(
        folder / "reliability.csv",
        ("answers", "mean_probability", "right"),
        reliability(answers.probabilities[:, 0], answers.is_right),
    )
    _write_photos(folder / "photos.csv", images, answers)
    draw_confusion(folder / "confusion.png", confusion, classes)
    draw_confidence(folder / "calibration.png", answers)
    draw_worst(folder / "worst.png", images, answers)


def _write_photos(path: Path, images: ImageSet, answers: Answers) -> None:
    num_guesses = answers.guesses.shape[1]
    columns = ["file", "label", "answer", "right", "probability", "label_probability", "energy"]
    columns += ["none_of_these"] if answers.none_of_these is not None else []
    for number in range(2, num_guesses + 1):
        columns += [f"answer_{number}", f"probability_{number}"]
    _write_table(path, columns, (_photo(images, answers, n) for n in range(len(answers.labels))))


def _photo(images: ImageSet, answers: Answers, number: int) -> list[object]:
    guesses = [images.classes[guess] for guess in answers.guesses[number]]
    shares = answers.probabilities[number].tolist()
    row: list[object] = [
        images.described(int(answers.indices[number])),
        images.classes[answers.labels[number]],
        guesses[0],
        int(answers.is_right[number]),
        shares[0],
        float(answers.right_probability[number]),
        float(answers.energy[number]),
    ]
    if answers.none_of_these is not None:
        row.append(int(answers.none_of_these[number]))
    for guess, share in zip(guesses[1:], shares[1:], strict=True):
        row += [guess, share]
    return row


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    # Names of files may hold bytes that are no UTF-8.
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
