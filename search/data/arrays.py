"""Image sets that come as arrays of pixels, and what makes an `ImageSet` of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fbnetv3.images.parts import Part

from .image_set import ImageSet

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A set of arrays on disk.

    Attributes:
        location: the folder or file.
        parts: name of what holds each part, for messages; empty of a set without parts.
        read: returns the images of a part; None is the validation part, or all of a set without
            parts. Raises FileNotFoundError for a part or a file that is not there, ValueError for
            a damaged one.
    """

    location: Path
    parts: Mapping[Part, str]
    read: Callable[[Part | None], ImageSet]


def images_of(
    name: str, images: Array, labels: Array, classes: Sequence[str], notes: Sequence[str] = ()
) -> ImageSet:
    """Returns the set of decoded images.

    Args:
        name: of the set, for messages.
        images: (N, H, W), (N, H, W, C) or (N, C, H, W) whole numbers from 0 to 255, of 1 channel
            (grey, which becomes RGB) or 3.
        labels: (N,) or (N, 1) whole numbers or names of classes; or (N, len(classes)) of 0 and 1
            of a multi-label set.
        classes: name of each label.
        notes: see `ImageSet`.

    Raises:
        ValueError: an array has another form, or other values.
    """
    return ImageSet(
        name=name,
        classes=tuple(classes),
        labels=_labels(name, labels, classes),
        pixels=_rgb(name, images),
        notes=tuple(notes),
    )


def _rgb(name: str, images: Array) -> Tensor:
    """Returns (N, H, W, 3) uint8."""
    if images.dtype.kind not in "iu" or (
        images.size and not 0 <= images.min() <= images.max() < 256
    ):
        values = f"{images.dtype}" + (f" up to {images.max():g}" if images.size else "")
        raise ValueError(f"{name}: images are {values}; expected whole numbers from 0 to 255")
    found = images[..., None] if images.ndim == 3 else images
    if found.ndim == 4 and found.shape[3] not in (1, 3) and found.shape[1] in (1, 3):
        found = found.transpose(0, 2, 3, 1)
    if found.ndim != 4 or found.shape[3] not in (1, 3):
        raise ValueError(
            f"{name}: images are of shape {images.shape}; expected (N, H, W), (N, H, W, 3) or "
            "(N, 3, H, W)"
        )
    wide = found if found.shape[3] == 3 else np.broadcast_to(found, (*found.shape[:3], 3))
    return torch.from_numpy(np.ascontiguousarray(wide, dtype=np.uint8))


def _labels(name: str, labels: Array, classes: Sequence[str]) -> Tensor:
    """Returns (N,) int64, or (N, C) bool of a multi-label set."""
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 1 and flat.dtype.kind == "U":
        number = {one: index for index, one in enumerate(classes)}
        return torch.tensor([number[value] for value in flat.tolist()])
    if flat.dtype.kind in "iub" and flat.ndim == 1:
        return torch.from_numpy(flat.astype(np.int64))
    if (
        flat.dtype.kind in "iub"
        and flat.ndim == 2
        and flat.size
        and flat.max() <= 1
        and flat.min() >= 0
    ):
        return torch.from_numpy(flat.astype(bool))
    raise ValueError(
        f"{name}: labels are {labels.dtype} of shape {labels.shape}; expected (N,) whole numbers "
        "or names, or (N, classes) of 0 and 1"
    )
