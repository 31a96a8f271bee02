"""An image set: labelled images, decoded in memory or still encoded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fbnetv3.images.reader import check_image, open_image

from .check_cache import CheckCache
from .member import Member

Source = Path | bytes | Member
# Takes how many files are checked, and of how many.
OnCheck = Callable[[int, int], None]
# Sides and bytes up to which a set is held decoded in memory.
MEMORY_SIDE, MEMORY_BYTES = 96, 2 << 30
# Share of a set that may be unreadable before a result on what is left would be dishonest.
MAX_DAMAGED_SHARE = 0.01
_NUM_LISTED = 5
# Files are checked by threads, a chunk at a time: they wait for the disk more than they compute.
_CHECK_THREADS, _CHECK_CHUNK = 8, 256
# From this many files on, what was found is kept for the next training.
_CACHED_FROM = 2000


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet:
    """Labelled images, decoded in memory or still encoded.

    Attributes:
        name: where they come from, for messages.
        classes: name of each label.
        labels: (N,) int64, from 0 to len(classes) - 1; or (N, len(classes)) bool of a multi-label
            set, in which an image may have several labels or none.
        pixels: (N, H, W, 3) uint8 RGB, or None.
        sources: one file, the bytes of one, or a member of a tar file, for each image where
            `pixels` is None.
        notes: what a user should know of how the set was read, a sentence each.
        damaged: files that were left out as they cannot be read, each with the reason.

    Raises:
        ValueError: a label is out of range, counts differ, or there is no image.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    pixels: Tensor | None = None
    sources: tuple[Source, ...] | None = None
    notes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.sources is None):
            raise ValueError(f"{self.name}: expected either pixels or sources, not both or none")
        images = self.sources if self.pixels is None else self.pixels
        assert images is not None
        if len(images) != len(self.labels):
            raise ValueError(
                f"{self.name} has {len(images)} images and {len(self.labels)} labels; expected "
                "one label for each image"
            )
        if not len(images):
            raise ValueError(f"{self.name} has no image; add some, or remove it")
        if self.multi_label:
            expected = (len(self.labels), len(self.classes)), torch.bool
            if (tuple(self.labels.shape), self.labels.dtype) != expected:
                raise ValueError(
                    f"{self.name}: labels are {tuple(self.labels.shape)} {self.labels.dtype}; "
                    f"expected {expected[0]} {expected[1]} of a multi-label set"
                )
            return
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

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    @property
    def counts(self) -> list[int]:
        """Number of images of each class."""
        counts = (
            self.labels.sum(0)
            if self.multi_label
            else self.labels.bincount(minlength=len(self.classes))
        )
        found: list[int] = counts.tolist()
        return found

    def with_classes(self, classes: Sequence[str]) -> ImageSet:
        """Returns the set with its labels renumbered for other classes, among which its own are."""
        if tuple(classes) == self.classes:
            return self
        order = torch.tensor([list(classes).index(name) for name in self.classes])
        if self.multi_label:
            labels = torch.zeros(len(self), len(classes), dtype=torch.bool)
            labels[:, order] = self.labels
        else:
            labels = order[self.labels]
        return dataclasses.replace(self, classes=tuple(classes), labels=labels)

    def need_single_label(self, what: str) -> None:
        """Refuses a multi-label set for what cannot train or judge with one.

        Raises:
            ValueError: an image may have several labels; names `what`.
        """
        if self.multi_label:
            raise ValueError(
                f"{self.name} has several labels per image; {what} needs one per image, as class "
                "folders or a list with --task single-label give"
            )

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
        return str(source) if isinstance(source, Path | Member) else f"image {index} of {self.name}"


def read_images(
    name: str,
    classes: tuple[str, ...],
    sources: Sequence[Source],
    labels: Tensor,
    notes: Sequence[str] = (),
    on_check: OnCheck = lambda _done, _total: None,
    *,
    any_damaged: bool = False,
) -> ImageSet:
    """Returns the set of image files, decoded where they are small and of one size.

    Every file is checked first; damaged ones are left out and named in the notes.

    Args:
        name: of the set.
        classes: name of each label.
        sources: for each image, see `ImageSet`.
        labels: see `ImageSet`.
        notes: remarks that the set begins with.
        on_check: called with how many files are checked, and of how many.
        any_damaged: go on however many files are damaged, while one is left.

    Raises:
        ValueError: more than one file and 1 % of all are damaged; names them.
    """
    encoded = ImageSet(
        name=name,
        classes=classes,
        labels=labels,
        sources=tuple(sources),
        notes=tuple(notes),
    )
    sizes, damaged = _checked(encoded, on_check)
    if len(set(sizes)) != 1 or max(sizes[0]) > MEMORY_SIDE:
        return without_damaged(encoded, damaged, any_damaged=any_damaged)
    width, height = sizes[0]
    if len(sources) * width * height * 3 > MEMORY_BYTES:
        return without_damaged(encoded, damaged, any_damaged=any_damaged)
    pixels = torch.empty(len(sources), height, width, 3, dtype=torch.uint8)
    for number, source in enumerate(sources):
        if number in damaged:
            continue
        try:
            image = open_image(readable(source))
        except (OSError, ValueError) as error:
            damaged[number] = named_error(encoded, number, error)
            continue
        if image.size != sizes[0]:  # turned by its EXIF
            return without_damaged(encoded, damaged, any_damaged=any_damaged)
        pixels[number] = torch.from_numpy(np.array(image))
    in_memory = dataclasses.replace(encoded, sources=None, pixels=pixels)
    return without_damaged(in_memory, damaged, any_damaged=any_damaged)


def readable(source: Source) -> Path | bytes:
    """Returns a source as `open_image` takes it."""
    return source.read() if isinstance(source, Member) else source


def without_damaged(
    images: ImageSet, damaged: Mapping[int, str], *, any_damaged: bool = False
) -> ImageSet:
    """Returns the set without some images, which its notes then name.

    Args:
        images: the set.
        damaged: their positions, and why each cannot be read.
        any_damaged: allow any number of them that leaves one image.

    Raises:
        ValueError: they are more than one and 1 % of the set.
    """
    if not damaged:
        return images
    listed = "; ".join(damaged[number] for number in sorted(damaged)[:_NUM_LISTED])
    counted = f"{len(damaged)} of the {len(images)} images of {images.name} cannot be read"
    if len(damaged) == len(images):
        raise ValueError(f"no image of {images.name} can be read: {listed}")
    if not any_damaged and too_many_damaged(len(damaged), len(images)):
        raise ValueError(f"{counted}, above 1 %; remove or replace them: {listed}")
    kept = torch.tensor([number for number in range(len(images)) if number not in damaged])
    note = f"{counted} and were left out: {listed}"
    return dataclasses.replace(
        images.subset(kept),
        notes=(*images.notes, note),
        damaged=(*images.damaged, *(damaged[number] for number in sorted(damaged))),
    )


def too_many_damaged(num_damaged: int, num_images: int) -> bool:
    """Returns whether unreadable images spoil a set: more than one, and than 1 %."""
    return num_damaged > max(1, MAX_DAMAGED_SHARE * num_images)


def _checked(images: ImageSet, on_check: OnCheck) -> tuple[list[tuple[int, int]], dict[int, str]]:
    """Returns the size of every readable image, and why each other one cannot be read."""
    assert images.sources is not None
    sources = images.sources
    cache = CheckCache(images.name) if len(sources) >= _CACHED_FROM else None

    def checked(source: Source) -> tuple[int, int]:
        if cache is None or not isinstance(source, Path):
            return check_image(readable(source))
        known = cache.size(source)
        if known is None:
            known = check_image(source)
            cache.add(source, known)
        return known

    def check(start: int) -> list[tuple[int, int] | str]:
        found: list[tuple[int, int] | str] = []
        for number in range(start, min(start + _CHECK_CHUNK, len(sources))):
            try:
                found.append(checked(sources[number]))
            except (OSError, ValueError) as error:
                found.append(named_error(images, number, error))
        return found

    with ThreadPoolExecutor(min(_CHECK_THREADS, 4 * (os.cpu_count() or 1))) as pool:
        chunks = pool.map(check, range(0, len(sources), _CHECK_CHUNK))
        results: list[tuple[int, int] | str] = []
        for chunk in chunks:
            results += chunk
            on_check(len(results), len(sources))
    if cache is not None:
        cache.save()
    sizes = [result for result in results if not isinstance(result, str)]
    damaged = {n: result for n, result in enumerate(results) if isinstance(result, str)}
    return sizes, damaged


def named_error(images: ImageSet, number: int, error: Exception) -> str:
    """Returns why an image cannot be read, with its name."""
    name, text = images.described(number), str(error)
    return text if name in text else f"{name}: {text}"
