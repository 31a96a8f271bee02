"""CIFAR-10 for the kit: from its Python batches, from mosaics that travel, or noise for a dry run.

A mosaic is a lossless WebP image of 100 x 100 pictures in their order, `data_batch_1.webp`, with a
text file beside it, `data_batch_1.tsv`, whose lines begin with the labels: 16 MiB for each 10,000.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fbnetv3.images.labels import class_names
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet

_CLASSES = class_names("cifar10")
_GRID, _SIDE = 100, 32


def open_cifar10(folder: Path | None) -> tuple[ImageSet, ImageSet]:
    """Returns training and test images; noise of 256 and 64 pictures without a folder."""
    if folder is None:
        return _noise(256, seed=0), _noise(64, seed=1)
    if not (folder / "test_batch.webp").is_file():
        return open_train_val(folder)
    return _from_mosaics(folder, "data_batch_*.webp"), _from_mosaics(folder, "test_batch.webp")


def _from_mosaics(folder: Path, pattern: str) -> ImageSet:
    from PIL import Image

    pixels, labels = [], []
    for path in sorted(folder.glob(pattern)):
        mosaic = np.asarray(Image.open(path).convert("RGB"))
        tiles = mosaic.reshape(_GRID, _SIDE, _GRID, _SIDE, 3).swapaxes(1, 2)
        pixels.append(tiles.reshape(-1, _SIDE, _SIDE, 3))
        lines = path.with_suffix(".tsv").read_text(encoding="ascii").splitlines()
        labels += [int(line.split("\t")[0]) for line in lines if line]
    return ImageSet(
        name=f"CIFAR-10 {pattern}",
        classes=_CLASSES,
        labels=torch.tensor(labels),
        pixels=torch.from_numpy(np.concatenate(pixels)),
    )


def _noise(num: int, *, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    return ImageSet(
        name="noise",
        classes=_CLASSES,
        labels=torch.randint(len(_CLASSES), (num,), generator=generator),
        pixels=torch.randint(256, (num, _SIDE, _SIDE, 3), generator=generator).byte(),
    )
