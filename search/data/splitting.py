"""Holding images out: of every class a share, or a number of any class, drawn by a seed."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fbnetv3._internal.messages import counted

from .image_set import ImageSet


def split_by_class(images: ImageSet, *, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Returns (rest, `share` of every class drawn by seed), at least one image each.

    Raises:
        ValueError: `share` is not between 0 and 1, or a class has a single image; of a multi-label
            set, whose classes with one image are not held out, the set has.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}; expected a number between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    held = (_held_of_sets if images.multi_label else _held_of_classes)(images, share, generator)
    parts = (images.subset(part.nonzero().flatten()) for part in (~held, held))
    train, val = parts
    return (
        dataclasses.replace(train, name=f"{images.name} (training part)"),
        dataclasses.replace(val, name=f"{images.name} (validation part)"),
    )


def _held_of_classes(images: ImageSet, share: float, generator: torch.Generator) -> Tensor:
    held = torch.zeros(len(images), dtype=torch.bool)
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"class {name!r} of {images.name} has {counted(len(members), 'image')}; expected "
                "at least 2, one to train on and one to validate on; or give train and val folders"
            )
        members = members[torch.randperm(len(members), generator=generator)]
        num_held = min(len(members) - 1, max(1, round(share * len(members))))
        held[members[:num_held]] = True
    return held


def _held_of_sets(images: ImageSet, share: float, generator: torch.Generator) -> Tensor:
    """Returns the images held out of a multi-label set: `share` of each class, rare ones first.

    That is iterative stratification (Sechidis et al. 2011) for two parts: an image that was dealt
    for a rare class counts for its others. Images without labels are dealt last.
    """
    if len(images) < 2:
        raise ValueError(f"{images.name} has 1 image; expected at least 2, one to validate on")
    held = torch.zeros(len(images), dtype=torch.bool)
    dealt = torch.zeros(len(images), dtype=torch.bool)
    order = sorted(range(len(images.classes)), key=lambda label: images.counts[label])
    groups = [images.labels[:, label] for label in order] + [~images.labels.any(1)]
    for group in groups:
        num = int(group.sum())
        wanted = min(num - 1, max(1, round(share * num))) - int((group & held).sum())
        members = (group & ~dealt).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held[members[: max(0, wanted)]] = True
        dealt |= group
    if not held.any():
        held[int(torch.randint(len(images), (), generator=generator))] = True
    return held


def hold_out(images: ImageSet, num_held: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Returns (rest, `num_held` images drawn by seed), each in the original order.

    Raises:
        ValueError: `num_held` leaves nothing on one side.
    """
    if not 0 < num_held < len(images):
        raise ValueError(f"num_held is {num_held}; expected 1 to {len(images) - 1}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, rest = order[:num_held].sort().values, order[num_held:].sort().values
    return images.subset(rest), images.subset(held)
