"""Image sets: what is read from disk before training, and how it is split.

Four layouts are told apart by what lies in the folder: CIFAR-10 as torchvision unpacks it, class
folders of images, Hugging Face parquet files, and `train`/`val` folders of any of the last two;
`fbnetv3.images.folders` has the rules for folders, `listing` those for a CSV file in a folder's
place. Every file is checked before it is used. Sets of
small images of one size are decoded once into memory; others stay encoded and `batches` decodes
them. The edge of this file: it augments nothing and batches nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from fbnetv3.arch.arch import Arch
from fbnetv3.images.folders import (
    PART_NAMES,
    DataFolder,
    Part,
    class_names_in,
    open_data_folder,
    read_class_folders,
)

from .formats import read_cifar10, read_labelled, read_parquet
from .image_set import ImageSet, OnCheck
from .listing import has_split, is_list, read_list

# What the names of parquet files, or of folders above them, begin with.
_PARQUET_NAMES: dict[Part, tuple[str, ...]] = {"train": ("train",), "val": ("val", "test")}
CIFAR10_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
_NUM_LISTED = 5


def open_images(
    folder: Path,
    split: str | None = None,
    *,
    on_check: OnCheck = lambda _done, _total: None,
    any_damaged: bool = False,
) -> ImageSet:
    """Returns the images of a folder, whichever layout it has.

    Args:
        folder: `cifar-10-batches-py` or its parent, class folders, `train`/`val` folders, a Hugging
            Face data set of parquet files, or a CSV file that lists images, see `listing`.
        split: "train" or "val"; None is everything where there are no parts, else the "val" part.
        on_check: called with how many files of folders or a list are checked, and of how many.
        any_damaged: leave out damaged files however many there are, not only up to 1 %.

    Raises:
        FileNotFoundError: the folder or the part is not there.
        ValueError: no layout is recognised, a file is damaged, or a label is out of range.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f"split is {split!r}; expected 'train', 'val' or None")
    part: Part = "train" if split == "train" else "val"
    if is_list(folder):
        with_parts = has_split(folder)
        if split is not None and not with_parts:
            raise ValueError(f"{folder} has no split column; expected one with train and val")
        listed = read_list(folder, part if with_parts else None)
        return read_labelled(listed, on_check, any_damaged=any_damaged)
    _check_folder(folder)
    cifar = _cifar10_in(folder)
    if cifar is not None:
        return read_cifar10(cifar, CIFAR10_TRAIN if part == "train" else ("test_batch",))
    if _has_parquet(folder):
        return read_parquet(folder, _PARQUET_NAMES[part], any_damaged=any_damaged)
    data = open_data_folder(folder)
    if split is None and part not in data.parts:
        if data.parts:
            raise FileNotFoundError(_no_part(data, part))
        found = read_class_folders(data.root)
        return _with_notes(read_labelled(found, on_check, any_damaged=any_damaged), data.notes)
    return _read_part(data, part, on_check, any_damaged=any_damaged)


def open_training(folder: Path) -> ImageSet:
    """Returns the training images of a folder: its train part, or all where it has no parts.

    Raises:
        FileNotFoundError: see `open_images`.
        ValueError: see `open_images`.
    """
    return open_images(folder, None if _has_no_parts(folder) else "train")


def open_train_val(
    folder: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    on_check: OnCheck = lambda _done, _total: None,
) -> tuple[ImageSet, ImageSet]:
    """Returns (training images, validation images) of a folder.

    A folder that has no parts of its own is split by `seed`, with `val_share` of every class, and
    at least one image of it, going to validation. A class that a validation part lacks is named in
    its notes.

    Args:
        folder: see `open_images`.
        val_share: see above.
        seed: see above.
        on_check: see `open_images`.

    Raises:
        FileNotFoundError: see `open_images`.
        ValueError: see `open_images`; or validation has a class that training has not.
    """
    if _has_no_parts(folder):
        return split_by_class(open_images(folder, on_check=on_check), share=val_share, seed=seed)
    train, val = (open_images(folder, part, on_check=on_check) for part in ("train", "val"))
    extra = sorted(set(val.classes) - set(train.classes))
    if extra:
        raise ValueError(
            f"{train.name} and {val.name} differ in their classes: only in validation "
            f"{extra[:_NUM_LISTED]}; give both the same class folders"
        )
    if train.classes != val.classes:
        order = torch.tensor([train.classes.index(name) for name in val.classes])
        val = dataclasses.replace(val, classes=train.classes, labels=order[val.labels])
    counts = val.labels.bincount(minlength=len(val.classes)).tolist()
    missing = [name for name, num in zip(val.classes, counts, strict=True) if not num]
    if missing:
        listed = ", ".join(map(repr, missing[:_NUM_LISTED]))
        note = f"{val.name} has no image of {len(missing)} class(es), not measured: {listed}"
        val = _with_notes(val, (note,))
    return train, val


def split_by_class(images: ImageSet, *, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Returns (rest, `share` of every class drawn by seed), at least one image each.

    Raises:
        ValueError: `share` is not between 0 and 1, or a class has a single image.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}; expected a number between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    rest, held = [], []
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(
                f"class {name!r} of {images.name} has {len(members)} image(s); expected at least "
                "2, one to train on and one to validate on; or give train and val folders"
            )
        members = members[torch.randperm(len(members), generator=generator)]
        num_held = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(members[:num_held])
        rest.append(members[num_held:])
    parts = (torch.cat(part).sort().values for part in (rest, held))
    train, val = (images.subset(part) for part in parts)
    return (
        dataclasses.replace(train, name=f"{images.name} (training part)"),
        dataclasses.replace(val, name=f"{images.name} (validation part)"),
    )


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


def search_split(
    images: ImageSet, *, num_classes: int = 200, num_held: int = 10_000, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Returns the paper's search set of ImageNet's training images: (training, validation).

    `num_classes` classes are drawn by seed, and `num_held` of their images held out (the paper: 200
    and 10,000, section 4.1). Labels are renumbered from 0 in the order of the class names.

    Raises:
        ValueError: the set has fewer classes or images.
    """
    if not 1 < num_classes <= len(images.classes):
        raise ValueError(f"num_classes is {num_classes}; expected 2 to {len(images.classes)}")
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(images.classes), generator=generator)[:num_classes].sort().values
    renumber = torch.full((len(images.classes),), -1)
    renumber[kept] = torch.arange(num_classes)
    members = (renumber[images.labels] >= 0).nonzero().flatten()
    chosen = images.subset(members)
    chosen = dataclasses.replace(
        chosen,
        classes=tuple(images.classes[i] for i in kept),
        labels=renumber[chosen.labels],
    )
    return hold_out(chosen, num_held, seed=seed + 1)


def cifar_arch(arch: Arch) -> Arch:
    """Returns the network for CIFAR-10: `arch.small_image` at 32 px per 224 px of its own input.

    The paper gives 32 for the base network and larger inputs to larger ones, no figures. Here the
    side is resolution * 32 / 224, to the nearest even pixel: A 32, B, C and D 36, E and F 38, G 46.
    A network that was made for small images, of up to 64 px, stays as it is.
    """
    if arch.resolution <= 64:
        return arch
    return arch.small_image(max(8, 2 * math.floor(arch.resolution * 32 / 224 / 2 + 0.5)))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no data folder at {folder}; expected class folders of images, or a .csv list of them"
        )


def _cifar10_in(folder: Path) -> Path | None:
    folders = (folder, folder / "cifar-10-batches-py")
    return next((f for f in folders if (f / "test_batch").is_file()), None)


def _has_parquet(folder: Path) -> bool:
    return next(folder.rglob("*.parquet"), None) is not None


def _has_no_parts(folder: Path) -> bool:
    """Returns whether it is class folders or a list, with no part for training or validation."""
    if is_list(folder):
        return not has_split(folder)
    _check_folder(folder)
    if _cifar10_in(folder) is not None or _has_parquet(folder):
        return False
    return not open_data_folder(folder).parts


def _read_part(data: DataFolder, part: Part, on_check: OnCheck, *, any_damaged: bool) -> ImageSet:
    """Returns the images of a part; validation has training's classes, unless it has others too."""
    if part not in data.parts:
        raise FileNotFoundError(_no_part(data, part))
    folder, classes = data.parts[part], None
    if part == "val" and "train" in data.parts:
        classes = class_names_in(folder)
        of_training = class_names_in(data.parts["train"])
        if set(classes) <= set(of_training):
            classes = of_training
    found = read_class_folders(folder, classes)
    return _with_notes(read_labelled(found, on_check, any_damaged=any_damaged), data.notes)


def _no_part(data: DataFolder, part: Part) -> str:
    noted = "".join(f" ({note})" for note in data.notes)
    return f"{data.root} has no {part} part; expected {' or '.join(PART_NAMES[part])}{noted}"


def _with_notes(images: ImageSet, notes: Sequence[str]) -> ImageSet:
    return dataclasses.replace(images, notes=(*notes, *images.notes))
