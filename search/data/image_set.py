"""An image set: labelled images, decoded in memory or still encoded."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Source = Path | bytes
# Sides and bytes up to which a set is held decoded in memory.
MEMORY_SIDE, MEMORY_BYTES = 96, 2 << 30
_NUM_LISTED = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """Labelled images, decoded in memory or still encoded.

    Attributes:
        name: where they come from, for messages.
        classes: name of each label.
        labels: (N,) int64, from 0 to len(classes) - 1.
        pixels: (N, H, W, 3) uint8 RGB, or None.
        sources: one file, or the bytes of one, for each image where `pixels` is None.

    Raises:
        ValueError: a label is out of range, counts differ, or there is no image.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    pixels: Tensor | None = None
    sources: tuple[Source, ...] | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.sources is None):
            raise ValueError(f"{self.name}: expected either pixels or sources, not both or none")
        images = self.sources if self.pixels is None else self.pixels
        assert images is not None
        if len(images) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"{self.name} has {len(images)} images and {len(self.labels)} labels; expected "
                "one label for each image and at least one image"
            )
        wrong = ((self.labels < 0) | (self.labels >= len(self.classes))).nonzero().flatten()
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(
                f"{self.name}: image {first} has label {int(self.labels[first])}; expected 0 to "
                f"{len(self.classes) - 1}, as there are {len(self.classes)} classes "
                f"({len(wrong)} labels are out of range)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageSet:
        """Returns the images at `indices` (int64), in that order, with the same classes."""
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            pixels=None if self.pixels is None else self.pixels[indices],
            sources=None if self.sources is None else tuple(self.sources[i] for i in indices),
        )

    def described(self, index: int) -> str:
        """Returns the name of an image, for messages."""
        source = None if self.sources is None else self.sources[index]
        return str(source) if isinstance(source, Path) else f"image {index} of {self.name}"


def decode(source: Source) -> Tensor:
    """Returns an image as (H, W, 3) uint8 RGB.

    Raises:
        OSError: the image is damaged, cut short or no image.
    """
    from PIL import Image

    opened = source if isinstance(source, Path) else io.BytesIO(source)
    try:
        with Image.open(opened) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"no readable image: {error}") from error


def in_memory_if_small(
    name: str, classes: tuple[str, ...], sources: Sequence[Source], labels: list[int]
) -> ImageSet:
    """Returns the set decoded where images are small and of one size, else encoded."""
    from PIL import Image

    encoded = ImageSet(
        name=name, classes=classes, labels=torch.tensor(labels), sources=tuple(sources)
    )
    sizes, damaged = set(), []
    for source in sources:
        try:
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
                sizes.add(image.size)
        except (OSError, SyntaxError, ValueError):
            continue  # Named by whoever decodes it.
        if len(sizes) > 1 or max(image.size) > MEMORY_SIDE:
            return encoded
    width, height = sizes.pop() if sizes else (0, 0)
    if not width or len(sources) * width * height * 3 > MEMORY_BYTES:
        return encoded
    pixels = torch.empty(len(sources), height, width, 3, dtype=torch.uint8)
    for number, source in enumerate(sources):
        try:
            pixels[number] = decode(source)
        except OSError:
            damaged.append(encoded.described(number))
    if damaged:
        listed = ", ".join(damaged[:_NUM_LISTED])
        raise ValueError(f"{name}: {len(damaged)} damaged image(s), remove or replace: {listed}")
    return ImageSet(name=name, classes=classes, labels=encoded.labels, pixels=pixels)
