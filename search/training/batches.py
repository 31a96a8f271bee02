"""Batches of an image set: shuffled and augmented for training, in order for evaluation.

What a batch holds follows from the seed, the epoch and the step alone, so that a run resumes
anywhere without saved generators, and processes share a batch without communication. Images come
out normalised, (n, 3, side, side) float32, channels last.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from fbnetv3.images.preprocess import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
)
from fbnetv3.search.data.augment import NUM_DRAWS, augment
from fbnetv3.search.data.constants import constant
from fbnetv3.search.data.image_set import ImageSet, too_many_damaged

from .balance import balanced_order
from .loading import loaded, outlive_signals
from .parallel import World
from .photos import DecodedPhotos, Photo, PhotoTransform, normalised_photos
from .recipe import Recipe
from .seeds import derive_seed
from .workers import usable_workers

# What a training batch is made of: positions in the set and uniform draws of augmentation where the
# pixels are in memory, else the tensors of a finished `Batch`.
Sample = Sequence[Tensor]
# Steps whose draws are made, and copied to the device, at once.
_CHUNK_STEPS = 64


class Batch(NamedTuple):
    """Images (n, 3, side, side), labels (n,), and the images' positions in their set (n,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


def default_preprocess(images: ImageSet, resolution: int) -> Preprocess:
    """Returns what fits a set: small images whole, photos as ImageNet's with a crop of 224/242."""
    small = images.pixels is not None
    return Preprocess(
        resize=resolution if small else round(resolution * 242 / 224),
        crop=resolution,
        interpolation="bilinear",
        mean=CIFAR10_MEAN if small else IMAGENET_MEAN,
        std=CIFAR10_STD if small else IMAGENET_STD,
    )


class TrainBatches:
    """A process's share of the shuffled, augmented batches of every epoch.

    An image that cannot be decoded is replaced by the next readable one, counted in `damaged` and
    named in a warning; above 1 % of the set training stops. Images left over behind the last whole
    batch wait for another epoch's order.

    Args:
        images: the training set.
        recipe: its batch size, per node, and augmentation.
        preprocess: its crop, mean and std.
        seed: of order and augmentation.
        world: which share is this process's.
        device: where batches are made and come out.
        workers: processes that decode images which are not in memory.

    Raises:
        ValueError: the set is smaller than a batch, or a batch does not divide by processes.
    """

    def __init__(
        self,
        images: ImageSet,
        recipe: Recipe,
        preprocess: Preprocess,
        *,
        seed: int,
        world: World,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.total = recipe.batch_size * world.nodes
        if self.total % world.size:
            raise ValueError(
                f"a batch of {self.total} does not divide by {world.size} processes; "
                "choose a batch_size that does"
            )
        self.steps = len(images) // self.total
        if not self.steps:
            raise ValueError(
                f"{images.name} has {len(images)} images, less than one batch of {self.total}; "
                "choose a smaller batch_size"
            )
        self.damaged: set[int] = set()
        self._images, self._recipe, self._preprocess = images, recipe, preprocess
        self._seed, self._device = seed, device
        share = self.total // world.size
        self._transform = None if images.sources is None else PhotoTransform(recipe, preprocess)
        self._workers = 0
        if self._transform is not None:
            self._workers = usable_workers(workers, self._transform.bytes_of(share))
        self._mine = slice(world.rank * share, (world.rank + 1) * share)
        self._labels = images.labels.to(device)
        self._pixels = None if images.pixels is None else images.pixels.to(device)
        self._samples: list[list[Photo]] = []
        self._loader: DataLoader[Any] | None = None

    def close(self) -> None:
        """Ends the processes that decode images; another epoch starts new ones."""
        self._loader = None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch from a step on."""
        return map(self.made, self.samples(epoch, first_step))

    def samples(self, epoch: int, first_step: int = 0) -> Iterator[Sample]:
        """Yields what the batches of an epoch are made of, from a step on; see `made`."""
        order = self._order(epoch)
        if self._pixels is None:
            yield from self._decoded(epoch, order, first_step)
            return
        for first in range(first_step, self.steps, _CHUNK_STEPS):
            steps = range(first, min(first + _CHUNK_STEPS, self.steps))
            picked = torch.stack([order[self._share_of(step)] for step in steps])
            draws = torch.stack([self._draws(epoch, step) for step in steps])
            yield from zip(self._on_device(picked), self._on_device(draws), strict=True)

    def made(self, sample: Sample) -> Batch:
        """Returns the batch of what `epoch` yields. Nothing here waits for a GPU."""
        if self._pixels is None:
            return Batch(*sample)
        indices, draws = sample
        pixels = self._pixels.index_select(0, indices)
        pixels = augment(pixels, draws, self._recipe.augment)
        x = normalised(pixels, self._preprocess, self._preprocess.crop)
        return Batch(x, self._labels[indices], indices)

    def _share_of(self, step: int) -> slice:
        """Returns where an epoch's order has this process's share of a step's batch."""
        first = step * self.total
        return slice(first + self._mine.start, first + self._mine.stop)

    def _draws(self, epoch: int, step: int) -> Tensor:
        generator = _generator(self._seed, "augment", epoch, step)
        return torch.rand(self.total, NUM_DRAWS, generator=generator)[self._mine]

    def _on_device(self, values: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)

    def _order(self, epoch: int) -> Tensor:
        generator = _generator(self._seed, "order", epoch)
        if self._recipe.balance == "sampler":
            return balanced_order(self._images, generator)
        return torch.randperm(len(self._images), generator=generator)

    def _decoded(self, epoch: int, order: Tensor, first_step: int) -> Iterator[Batch]:
        self._samples[:] = [
            [
                (index, derive_seed(self._seed, "augment", epoch, index))
                for index in order[self._share_of(step)].tolist()
            ]
            for step in range(first_step, self.steps)
        ]
        if self._loader is None:
            assert self._transform is not None
            self._loader = DataLoader(
                DecodedPhotos(self._images, self._transform, self._preprocess.crop),
                # Filled again for every epoch, so that its processes live as long as the run.
                batch_sampler=self._samples,
                num_workers=self._workers,
                worker_init_fn=outlive_signals,
                persistent_workers=self._workers > 0,
                pin_memory=self._device.type == "cuda",
            )
        for decoded, indices, asked, reasons in loaded(self._loader):
            self._count(_damaged(asked, reasons))
            labels = self._images.labels[indices].to(self._device, non_blocking=True)
            on_device = decoded.to(self._device, non_blocking=True)
            x = normalised_photos(on_device, self._preprocess)
            yield Batch(x, labels, indices.to(self._device))

    def _count(self, damaged: dict[int, str]) -> None:
        for index in damaged.keys() - self.damaged:
            warnings.warn(f"another image is trained on: {damaged[index]}", stacklevel=2)
        self.damaged |= damaged.keys()
        if too_many_damaged(len(self.damaged), len(self._images)):
            names = ", ".join(self._images.described(i) for i in sorted(self.damaged)[:5])
            raise ValueError(
                f"{len(self.damaged)} of the {len(self._images)} images of {self._images.name} "
                f"cannot be read, above 1 %; remove or replace them: {names}"
            )


def eval_batches(
    images: ImageSet,
    preprocess: Preprocess,
    *,
    batch_size: int,
    world: World,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yields this process's share of a set, every image once over all processes, in order.

    Pixels are those of `preprocess` called with the image, however the set is held. An image that
    cannot be decoded is left out and named in a warning.
    """
    mine = torch.arange(len(images))[world.rank :: world.size]
    if images.pixels is not None:
        for indices in torch.split(mine, batch_size):
            x = _as_preprocessed(images.pixels.index_select(0, indices), preprocess, device)
            yield Batch(x, images.labels[indices].to(device), indices.to(device))
        return
    transform = PhotoTransform(None, preprocess)
    loader = DataLoader(
        DecodedPhotos(images, transform, preprocess.crop),
        batch_sampler=[[(i, None) for i in part] for part in _lists(mine, batch_size)],
        num_workers=usable_workers(workers, transform.bytes_of(batch_size)),
        worker_init_fn=outlive_signals,
    )
    for batch in loaded(loader):
        decoded, indices, asked, reasons = batch
        damaged = _damaged(asked, reasons)
        for reason in damaged.values():
            warnings.warn(f"an image is left out: {reason}", stacklevel=2)
        if damaged:
            kept = torch.tensor([index not in damaged for index in indices.tolist()])
            decoded, indices = decoded[kept], indices[kept]
        if len(indices):
            x = normalised_photos(decoded.to(device), preprocess)
            yield Batch(x, images.labels[indices].to(device), indices.to(device))


def _damaged(asked: Tensor, reasons: list[str]) -> dict[int, str]:
    return {index: why for index, why in zip(asked.tolist(), reasons, strict=True) if why}


def _as_preprocessed(pixels: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Returns (n, 3, crop, crop) float32 of (n, H, W, 3) uint8: as `preprocess` has them.

    Images that need no resizing are normalised by torch, to within a last bit; the others go
    through Pillow one by one, since torch resizes to slightly other pixels.
    """
    if pixels.shape[1:3] == (preprocess.resize,) * 2 == (preprocess.crop,) * 2:
        return normalised(pixels.to(device), preprocess, preprocess.crop)
    from PIL import Image

    done = [torch.from_numpy(preprocess(Image.fromarray(image))) for image in pixels.numpy()]
    return torch.stack(done).to(device, memory_format=torch.channels_last)


def normalised(pixels: Tensor, preprocess: Preprocess, side: int) -> Tensor:
    """Returns (n, 3, side', side') float32 of (n, H, W, 3) uint8, the shorter side being `side`."""
    x = pixels.permute(0, 3, 1, 2).float()
    height, width = x.shape[2:]
    if min(height, width) != side:
        scale = side / min(height, width)
        size = [round(height * scale), round(width * scale)]
        aligned = None if preprocess.interpolation == "nearest" else False
        x = F.interpolate(
            x,
            size,
            mode=preprocess.interpolation,
            align_corners=aligned,
            antialias=aligned is not None,
        )
    mean = constant(preprocess.mean, x.device).view(1, 3, 1, 1) * 255
    scale_by = 1 / (constant(preprocess.std, x.device).view(1, 3, 1, 1) * 255)
    return x.sub_(mean).mul_(scale_by)


def _lists(indices: Tensor, size: int) -> list[list[int]]:
    return [part.tolist() for part in torch.split(indices, size)]


def _generator(seed: int, *words: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *words))
