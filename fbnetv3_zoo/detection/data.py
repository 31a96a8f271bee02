"""Opens annotated images for training and scoring, and augments them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3.integrations.coco_folder import CocoFolder, Target
from fbnetv3.integrations.coco_records import Annotated
from fbnetv3.integrations.detection_layouts import find_annotations, read_annotations
from fbnetv3.search.training.seeds import derive_seed

AUGMENTATIONS = ("none", "flip", "crop")


def open_train_val(
    location: str | Path, *, val_share: float = 0.1, seed: int = 0
) -> tuple[CocoFolder, CocoFolder]:
    """Returns the images to train and to validate on; those of the second may have no boxes.

    Without a split of its own, a share of the images is held out for validation.

    Args:
        location: as in `CocoFolder`.
        val_share: the share.
        seed: which ones.

    Raises:
        FileNotFoundError: there are no annotations, or an image is missing.
        ValueError: annotations are wrong, there is nothing to train on, or the splits have
            different classes.
    """
    found = find_annotations(location)
    if "train" not in found and "" not in found:
        raise ValueError(f"{location} has only {', '.join(found)}; expected a split to train on")
    train = found["train" if "train" in found else ""]()
    held = next((found[name]() for name in ("val", "test") if name in found), None)
    if held is None:
        train, held = _held_out(train, val_share, seed)
    elif held.content["categories"] != train.content["categories"]:
        names = [{c["id"]: c["name"] for c in part.content["categories"]} for part in (train, held)]
        if names[0] != names[1]:
            raise ValueError(
                f"{held.path} has the classes {names[1]}, {train.path} {names[0]}; expected the "
                "same, with the same ids"
            )
    return CocoFolder(train), CocoFolder(held, empty=True)


def open_scored(location: str | Path, split: str | None = None) -> CocoFolder:
    """Returns the images to score a detector on: a split, or "val", "test" or the only one."""
    found = find_annotations(location)
    if split is None and len(found) > 1:
        split = next((name for name in ("val", "test", "") if name in found), None)
    return CocoFolder(read_annotations(location, split), empty=True)


def _held_out(annotated: Annotated, share: float, seed: int) -> tuple[Annotated, Annotated]:
    if not 0 < share < 1:
        raise ValueError(f"val_share is {share}; expected a share between 0 and 1")
    ids = sorted(image["id"] for image in annotated.content["images"])
    if len(ids) < 2:
        raise ValueError(
            f"{annotated.path} has {len(ids)} images; expected at least 2, one to hold out"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
    order = torch.randperm(len(ids), generator=generator).tolist()
    count = min(len(ids) - 1, max(1, round(share * len(ids))))
    held = {ids[index] for index in order[:count]}
    return annotated.with_images(set(ids) - held), annotated.with_images(held)


class Augmented(Dataset[tuple[Tensor, Target]]):
    """The images of an epoch, each changed as its seed says.

    Args:
        data: the images.
        augment: "flip" mirrors half of them; "crop" also zooms out, crops and changes colours, as
            SSD's training does.
        seed: of the run.
        epoch: from 0.
    """

    def __init__(self, data: CocoFolder, augment: str, *, seed: int, epoch: int) -> None:
        self.data, self.seed, self.epoch = data, seed, epoch
        self.transforms = _transforms(augment)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        item = self.data[index]
        if self.transforms is None:
            return item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "augment", self.epoch, index))
            image, target = self.data.transformed(*item, self.transforms)
        return image.as_subclass(Tensor), {k: v.as_subclass(Tensor) for k, v in target.items()}


def _transforms(augment: str) -> Any:
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment is {augment!r}; expected one of {', '.join(AUGMENTATIONS)}")
    if augment == "none":
        return None
    from torchvision.transforms import v2

    flip = v2.RandomHorizontalFlip(0.5)
    if augment == "flip":
        return flip
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=0.5, side_range=(1.0, 2.0)),
            v2.RandomIoUCrop(),
            flip,
            v2.SanitizeBoundingBoxes(),
        ]
    )
