"""Photos as a process decodes them: opened, cropped and augmented at random, or for evaluation.

They leave the process as bytes, (side, side, 3) uint8, and are normalised by the batch; only random
erasing, which fills with noise of normalised pixels, needs float32, (3, side, side). In training a
JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its random crop has at least as many pixels
then as the network takes; evaluation always decodes all of it, as inference does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import open_image, open_reduced
from fbnetv3.search.data.constants import constant
from fbnetv3.search.data.image_set import ImageSet, named_error, readable

from .recipe import Recipe
from .seeds import seed_all

# An image's position in its set, and the seed of its augmentation; None is for evaluation.
Photo = tuple[int, int | None]


class Decoded(NamedTuple):
    """A photo as its process hands it over.

    Attributes:
        image: (side, side, 3) uint8, or (3, side, side) float32 that is normalised already.
        used: position of the image in its set.
        asked: the position that was asked for; another image takes a damaged one's place.
        why: why the image that was asked for cannot be read; "" if it can.
    """

    image: Tensor
    used: int
    asked: int
    why: str


class PhotoTransform:
    """Opens a photo and makes it a tensor, see `Decoded.image`. Sent to other processes.

    Args:
        recipe: of a training; None is for evaluation.
        preprocess: crop, interpolation, mean and std.
    """

    def __init__(self, recipe: Recipe | None, preprocess: Preprocess) -> None:
        from timm.data.transforms_factory import create_transform
        from torchvision import transforms

        kind = "none" if recipe is None else recipe.augment
        self._preprocess = preprocess
        self._gives_floats = kind == "cutout"
        self._crop: Any = None
        self._rest: Any = transforms.RandomHorizontalFlip() if kind == "flip" else None
        if kind in ("none", "flip"):
            return
        first, policy, self._last = create_transform(
            preprocess.crop,
            is_training=True,
            interpolation=preprocess.interpolation,
            mean=preprocess.mean,
            std=preprocess.std,
            color_jitter=0.0,
            auto_augment="original" if kind == "autoaugment" else None,
            re_prob=0.25 if kind == "cutout" else 0.0,
            re_mode="pixel",
            separate=True,
        )
        trivial = [transforms.TrivialAugmentWide()] if kind == "trivial" else []
        self._crop, *flip = first.transforms
        self._rest = transforms.Compose([*flip, *policy.transforms, *trivial])

    def bytes_of(self, num_images: int) -> int:
        """Returns how much memory so many tensors take."""
        return (4 if self._gives_floats else 1) * 3 * self._preprocess.crop**2 * num_images

    def __call__(self, source: Path | bytes) -> Tensor:
        """Returns the tensor of a photo.

        Raises:
            OSError: the file is not there.
            ValueError: it cannot be read.
        """
        image = open_image(source) if self._crop is None else self._cropped(source)
        if self._rest is not None:
            image = self._rest(image)
        if self._crop is None:
            return torch.from_numpy(self._preprocess.pixels(image).copy())
        if self._gives_floats:
            normal: Tensor = self._last(image)
            return normal
        return _pixels_of(image)

    def _cropped(self, source: Path | bytes) -> Any:
        """Returns a random part of a photo, resized to the network's side."""
        from PIL.Image import Resampling

        side, box, full = self._preprocess.crop, (0, 0, 1, 1), (1, 1)

        def drawn(size: tuple[int, int]) -> int:
            nonlocal box, full
            full = size
            # Of an image timm looks at nothing but its size, as a tensor's too.
            alike = torch.empty((1, size[1], size[0]), device="meta")
            top, left, height, width = self._crop.get_params(
                alike, self._crop.scale, self._crop.ratio
            )
            box = (left, top, left + width, top + height)
            return int(max(1, min(height, width) // side))

        image = open_reduced(source, drawn)
        if image.size != full:
            box = _scaled(box, image.width / full[0], image.height / full[1])
        resample = Resampling[self._preprocess.interpolation.upper()]
        return image.crop(box).resize((side, side), resample)


def normalised_photos(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Returns (n, 3, side, side) float32, channels last, of n images of a `PhotoTransform`.

    Bytes take the steps of calling `preprocess`, in its order, so that the bits are equal.
    """
    if images.dtype != torch.uint8:
        return images.contiguous(memory_format=torch.channels_last)
    x = images.permute(0, 3, 1, 2).float().mul_(1.0 / 255)
    x.sub_(constant(preprocess.mean, x.device).view(1, 3, 1, 1))
    return x.div_(constant(preprocess.std, x.device).view(1, 3, 1, 1))


class DecodedPhotos(Dataset[Decoded]):
    """The photos of a set, decoded one by one; a damaged one is replaced in training only.

    Args:
        images: still encoded.
        transform: of training or of evaluation.
        side: of what the transform gives, in pixels.
    """

    def __init__(self, images: ImageSet, transform: PhotoTransform, side: int) -> None:
        self._images, self._transform, self._side = images, transform, side

    def __getitem__(self, photo: Photo) -> Decoded:
        index, seed = photo
        assert self._images.sources is not None
        why = ""
        for tried in range(len(self._images)):
            use = (index + tried) % len(self._images)
            if seed is not None:
                seed_all(seed)
            try:
                image = self._transform(readable(self._images.sources[use]))
            except (OSError, ValueError) as error:
                why = why or named_error(self._images, use, error)
                if seed is None:
                    # A blank one, which is not to be counted.
                    blank = torch.zeros(self._side, self._side, 3, dtype=torch.uint8)
                    return Decoded(blank, index, index, why)
                continue
            return Decoded(image, use, index, why)
        raise ValueError(f"no image of {self._images.name} can be read; the first: {why}")


def _scaled(
    box: tuple[int, int, int, int], across: float, down: float
) -> tuple[int, int, int, int]:
    """Returns a box of at least one pixel in an image of another size."""
    left, top, right, bottom = box
    new_left, new_top = round(left * across), round(top * down)
    return (
        new_left,
        new_top,
        max(new_left + 1, round(right * across)),
        max(new_top + 1, round(bottom * down)),
    )


def _pixels_of(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image))
