"""What a run leaves on disk for people and for `fbnetv3.create`: curves, weights, their records."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.optional import need
from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3

from .multi_label import MultiLabelScore
from .recipe import Recipe
from .scoring import Score

# Percentage points that show in a line.
_DIFFERENT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLog:
    """One epoch of a run.

    Attributes:
        epoch: from 1.
        steps: optimiser steps so far in the run.
        lr: at the epoch's last step, on the scale of the recipe's `lr`.
        loss: mean over the epoch's training batches.
        seconds: training only, over all the processes that the epoch took.
        images_per_s: all processes together.
        val_loss: cross-entropy of the raw weights on the validation set; None where not validated.
        top1_pct: raw weights, in percent.
        top5_pct: raw weights.
        ema_top1_pct: averaged weights, None without.
        ema_top5_pct: averaged weights, None without.
        macro_recall_pct: mean of the classes' recalls with the weights to use: averaged ones where
            there are any. It differs from top-1 where classes have unequal numbers of images.
        damaged: images that could not be read so far, replaced by others.
        map_pct: of a multi-label set the mean of the classes' average precisions, raw weights.
        ema_map_pct: averaged weights, None without.
        macro_f1_pct: mean of the classes' F1 with the weights to use, at the thresholds that are
            best for these validation images and therefore a little too high.
    """

    epoch: int
    steps: int
    lr: float
    loss: float
    seconds: float
    images_per_s: float
    val_loss: float | None = None
    top1_pct: float | None = None
    top5_pct: float | None = None
    ema_top1_pct: float | None = None
    ema_top5_pct: float | None = None
    macro_recall_pct: float | None = None
    damaged: int = 0
    map_pct: float | None = None
    ema_map_pct: float | None = None
    macro_f1_pct: float | None = None

    @property
    def accuracy_pct(self) -> float | None:
        """Top-1 or, of a multi-label set, mAP of the weights to use. None if not validated."""
        found = (self.ema_top1_pct, self.ema_map_pct, self.top1_pct, self.map_pct)
        return next((value for value in found if value is not None), None)

    def line(self) -> str:
        """Returns the epoch as one line of text."""
        shown = [f"epoch {self.epoch}: loss {self.loss:.4f}"]
        for name, value in (
            ("top1", self.top1_pct),
            ("ema", self.ema_top1_pct),
            ("mAP", self.map_pct),
            ("ema", self.ema_map_pct),
            ("macro F1", self.macro_f1_pct),
        ):
            if value is not None:
                shown.append(f"{name} {value:.2f} %")
        recall = self.macro_recall_pct
        if recall is not None and abs(recall - (self.accuracy_pct or 0.0)) >= _DIFFERENT:
            shown.append(f"macro recall {self.macro_recall_pct:.2f} %")
        shown += [f"lr {self.lr:.4g}", f"{self.images_per_s:.0f} images/s"]
        return ", ".join(shown + ([f"{self.damaged} images damaged"] if self.damaged else []))


def best_of(curve: Sequence[EpochLog]) -> EpochLog | None:
    """Returns the last epoch of the highest accuracy, None if none was validated.

    A few validation images are soon all answered as well as they will be, long before others are.
    """
    validated = [log for log in curve if log.accuracy_pct is not None]
    return max(validated, key=lambda log: (log.accuracy_pct or 0.0, log.epoch), default=None)


def write_curve(folder: Path, curve: Sequence[EpochLog]) -> None:
    """Writes `log.json` and `log.csv`, a row an epoch.

    Raises:
        OSError: the disk is full or not writable; the files before are whole.
    """
    rows = [dataclasses.asdict(log) for log in curve]
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(EpochLog)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "log.json", json.dumps(rows, indent=1).encode())
    write_atomically(folder / "log.csv", text.getvalue().encode())


def write_classes(folder: Path, classes: Sequence[str], score: Score | MultiLabelScore) -> None:
    """Writes `classes.csv`: each class's validation images and recall, "" for one without images.

    Of a multi-label set average precision, F1 and the threshold in place of the recall.

    Raises:
        OSError: the disk is full or not writable; the file before is whole.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns: Sequence[Sequence[float]]
    if isinstance(score, MultiLabelScore):
        names: tuple[str, ...] = ("average_precision_pct", "f1_pct", "threshold")
        f1 = score.f1_pct(score.thresholds).tolist()
        columns = (score.average_precisions_pct.tolist(), f1, score.thresholds)
        counts = score.targets.sum(0).tolist()
    else:
        names, columns = ("recall_pct",), (score.recalls_pct.tolist(),)
        counts = score.confusion.sum(1).tolist()
    writer.writerow(("class", "images", *names))
    for name, num, *values in zip(classes, counts, *columns, strict=True):
        writer.writerow((name, num, *(f"{value:.4g}" if num else "" for value in values)))
    write_atomically(folder / "classes.csv", text.getvalue().encode())


def plot_curve(path: Path, curve: Sequence[EpochLog]) -> None:
    """Draws loss and accuracy over epochs into a PNG or SVG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    need("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([log.epoch for log in curve], [log.loss for log in curve], label="training")
    for axis, field, label in (
        (left, "val_loss", "validation"),
        (right, "top1_pct", "raw weights"),
        (right, "ema_top1_pct", "averaged weights"),
        (right, "map_pct", "raw weights"),
        (right, "ema_map_pct", "averaged weights"),
    ):
        points = [(log.epoch, getattr(log, field)) for log in curve]
        points = [(epoch, value) for epoch, value in points if value is not None]
        if points:
            axis.plot(*zip(*points, strict=True), label=label)
    multi_label = any(log.map_pct is not None for log in curve)
    for axis, name in ((left, "loss"), (right, "mAP, %" if multi_label else "top-1, %")):
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.legend()
    figure.savefig(path)


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    preprocess: Preprocess,
    classes: Sequence[str],
    thresholds: Sequence[float] = (),
    license: str | None = None,
) -> None:
    """Writes weights as safetensors whose head has preprocessing, class names and thresholds.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    head: dict[str, Any] = {"preprocess": preprocess.to_dict(), "labels": list(classes)}
    if thresholds:
        head["thresholds"] = list(thresholds)
    metadata = {"fbnetv3": json.dumps(head)} | ({"license": license.lower()} if license else {})
    write_tensors(path, tensors, metadata)


def write_network(
    folder: Path,
    model: nn.Module,
    *,
    preprocess: Preprocess,
    classes: Sequence[str],
    thresholds: Sequence[float] = (),
    license: str | None = None,
) -> None:
    """Writes the weights to use; a network of this package as a folder for `fbnetv3.create`.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, FBNetV3):
        save_pretrained(
            model,
            folder,
            license=license,
            labels=classes,
            preprocess=preprocess,
            thresholds=thresholds,
        )
        return
    write_weights(
        folder / "model.safetensors",
        model.state_dict(),
        preprocess=preprocess,
        classes=classes,
        thresholds=thresholds,
        license=license,
    )


def write_setting(folder: Path, model: nn.Module, recipe: Recipe) -> None:
    """Writes `recipe.json`, and `arch.json` where the model is of this package."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "recipe.json", recipe.to_json().encode())
    arch = getattr(model, "arch", None)
    if isinstance(arch, Arch):
        write_atomically(folder / "arch.json", arch.to_json().encode())
