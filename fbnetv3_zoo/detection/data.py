"""Opens annotated images for training and scoring, and augments them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fbnetv3._internal.messages import counted, shown
from fbnetv3.images.classes import nearly_equal
from fbnetv3.integrations.coco_folder import CocoFolder, Target
from fbnetv3.integrations.coco_records import Annotated, checked
from fbnetv3.integrations.detection_layouts import find_annotations, read_annotations
from fbnetv3.search.training.seeds import derive_seed

AUGMENTATIONS = ("none", "flip", "crop")
# Classes that a remark names.
_NUM_LISTED = 5


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
        ValueError: annotations are wrong, there is nothing to train on, or the split to validate
            on has a class that the other has not.
    """
    found = find_annotations(location)
    if "train" not in found and "" not in found:
        raise ValueError(f"{location} has only {', '.join(found)}; expected a split to train on")
    train = found["train" if "train" in found else ""]()
    other = next((name for name in ("val", "test") if name in found), None)
    if other is None:
        train, held = _held_out(train, val_share, seed)
    else:
        held = found[other]()
        known, named = ({c["name"] for c in part.content["categories"]} for part in (train, held))
        if named - known:
            raise ValueError(
                f"{held.where()} has the classes {shown(sorted(named))}, {train.where()} "
                f"{shown(sorted(known))}; expected none that are not trained"
            )
    images, val_images = CocoFolder(train), CocoFolder(held, empty=True)
    images.notes += tuple(_remarks(images, val_images))
    return images, val_images


def _remarks(images: CocoFolder, val_images: CocoFolder) -> Iterator[str]:
    """Yields what a person may not expect of the images to train on."""
    left_out = len(images.coco.imgs) - len(images)
    if left_out:
        yield f"{images.path}: left out {counted(left_out, 'image')} without a box to train on"
    boxes = {item["category_id"] for item in images.coco.anns.values() if not item["iscrowd"]}
    pairs = zip(images.category_ids, images.class_names, strict=True)
    unused = [name for number, name in pairs if number not in boxes]
    if unused:
        listed = ", ".join(map(shown, unused[:_NUM_LISTED]))
        classes = counted(len(images.class_names), "class", "classes")
        yield f"{images.path}: no box to train on of {len(unused)} of {classes}, such as {listed}"
    for alike in nearly_equal(images.class_names)[:_NUM_LISTED]:
        yield (
            f"{images.path}: the names of classes {' and '.join(map(shown, alike))} are nearly "
            "equal; if they are one class, give them one name"
        )
    mine, theirs = (
        {one.image_path(index).resolve() for index in range(len(one))}
        for one in (images, val_images)
    )
    if both := sorted(mine & theirs):
        yield (
            f"{val_images.path}: {counted(len(both), 'image')} to validate on are also trained on, "
            f"such as {both[0].name}; the AP is too high then"
        )


def open_scored(location: str | Path, split: str | None = None) -> CocoFolder:
    """Returns the images to score a detector on: a split, or "val", "test" or the only one."""
    found = find_annotations(location)
    if split is None and len(found) > 1:
        split = next((name for name in ("val", "test", "") if name in found), None)
    return CocoFolder(read_annotations(location, split), empty=True)


def _held_out(annotated: Annotated, share: float, seed: int) -> tuple[Annotated, Annotated]:
    if not 0 < share < 1:
        raise ValueError(f"val_share is {share}; expected a share between 0 and 1")
    # Of the whole, because annotations of an unknown image are in neither part.
    whole = checked(annotated, masks=False)
    boxed = {item["image_id"] for item in whole.content["annotations"] if not item["iscrowd"]}
    if len(boxed) < 2:
        why = f": {'; '.join(whole.notes)}" if whole.notes else ""
        raise ValueError(
            f"{annotated.path} has {counted(len(boxed), 'image')} with boxes; expected at least 2, "
            f"one to hold out{why}"
        )
    ids = sorted(image["id"] for image in whole.content["images"])
    generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
    order = [ids[index] for index in torch.randperm(len(ids), generator=generator).tolist()]
    # The same share of the images with boxes and of the others, so that both parts have boxes.
    full = [image for image in order if image in boxed]
    empty = [image for image in order if image not in boxed]
    count = min(len(full) - 1, max(1, round(share * len(full))))
    held = {*full[:count], *empty[: round(share * len(empty))]}
    return whole.with_images(set(ids) - held), whole.with_images(held)


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
