"""Pictures of what a detector finds, and of its precision over recall."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fbnetv3._internal.optional import need

from .detections import Detections

if TYPE_CHECKING:
    from fbnetv3.integrations.coco_scores import Scores

# More curves than this cannot be told apart.
_MAX_CURVES = 10


def with_boxes(image: Image.Image, found: Detections) -> Image.Image:
    """Returns a copy of an image with the boxes, classes and scores drawn on it."""
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    side = max(drawn.size)
    width, font = max(1, round(side / 300)), ImageFont.load_default(max(10, side / 45))
    # The likeliest last, on top.
    rows = zip(
        found.boxes.tolist(), found.labels.tolist(), found.scores, found.names(), strict=True
    )
    for box, label, score, name in reversed(list(rows)):
        color = _color(label)
        canvas.rectangle(box, outline=color, width=width)
        text = f"{name} {100 * float(score):.0f} %"
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        x = min(max(0, box[0]), max(0, drawn.width - right))
        y = box[1] - bottom if box[1] >= bottom else box[1]
        canvas.rectangle((x + left, y + top, x + right, y + bottom), fill=color)
        canvas.text((x, y), text, fill="white", font=font)
    return drawn


def _color(label: int) -> tuple[int, int, int]:
    """Returns a dark color; neighbouring labels are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.9, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def plot_precision_recall(path: Path, scores: Scores) -> None:
    """Draws the precision over recall at an overlap of 0.5, of the classes with most boxes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    need("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    classes = sorted((one for one in scores.classes if one.precision), key=lambda o: -o.num_boxes)
    for one in classes[:_MAX_CURVES]:
        label = f"{one.name}: AP50 {100 * (one.ap50 or 0):.1f} %"
        axis.plot(np.linspace(0, 1, len(one.precision)), one.precision, label=label)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    if classes:
        axis.legend(fontsize="small")
    left = len(classes) - _MAX_CURVES
    title = f"AP50 {100 * scores.values['AP50']:.1f} % over {len(classes)} classes"
    axis.set_title(title + (f", {left} of them not shown" if left > 0 else ""))
    figure.savefig(path)
