"""Image sets: what is read from disk before training, and how it is split.

Layouts are told apart by what lies in the folder: `packed` knows WebDataset shards and Hugging
Face's parquet and Arrow files, `downloads` what torchvision unpacks (CIFAR, MNIST, SVHN), `npz`
files of arrays; all else is class folders, by the rules of `fbnetv3.images.folders`, or a CSV file
in their place, by those of `fbnetv3.images.listing`. `splitting` holds images out. Every file is
checked before it is used. Sets of small images of one size are decoded once into memory; others
stay encoded and `batches` decodes them. The edge of this file: it augments nothing and batches
nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fbnetv3._internal.messages import counted
from fbnetv3.arch.arch import Arch
from fbnetv3.images.classes import outputs_by_name
from fbnetv3.images.folders import (
    DataFolder,
    LabelledImages,
    class_names_in,
    open_data_folder,
    read_class_folders,
)
from fbnetv3.images.listing import TASKS, Task, is_list, listed_parts, read_list
from fbnetv3.images.part_lists import list_inside, part_lists, remarks_on_lists
from fbnetv3.images.parts import PART_NAMES, Part

from .arrays import Arrays
from .downloads import find_download
from .formats import read_labelled, read_tables
from .image_set import ImageSet, OnCheck
from .npz import open_npz
from .packed import Packed, find_packed
from .shards import find_shards, is_shards, read_shards
from .splitting import hold_out, split_by_class

_NUM_LISTED = 5
# A file that is a whole set.
_FILES = {".parquet", ".arrow", ".npz"}
# Of packed folders; a .tar may be a WebDataset shard.
_ARCHIVES = {".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}


def open_images(
    folder: Path,
    split: str | None = None,
    *,
    task: Task = "auto",
    on_check: OnCheck = lambda _done, _total: None,
    any_damaged: bool = False,
) -> ImageSet:
    """Returns the images of a folder, whichever layout it has.

    Args:
        folder: class folders, `train`/`val` folders of these, what torchvision downloads of
            CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST or SVHN, a Hugging Face data set of parquet
            files or as `save_to_disk` writes it, WebDataset shards (a folder of .tar files, or a
            range as in `shards/{000..099}.tar`), an `.npz` file, or a CSV file that lists images,
            see `fbnetv3.images.listing`.
        split: "train" or "val"; None is everything where there are no parts, else the "val" part.
        task: "single-label", "multi-label", or "auto" for what the data say.
        on_check: called with how many files of folders or a list are checked, and of how many.
        any_damaged: leave out damaged files however many there are, not only up to 1 %.

    Raises:
        FileNotFoundError: the folder or the part is not there.
        ValueError: no layout is recognised, a file is damaged, a label is out of range, or the
            images are not for the task.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f"split is {split!r}; expected 'train', 'val' or None")
    part: Part = "train" if split == "train" else "val"
    if is_list(folder):
        with_parts = bool(listed_parts(folder, task))
        if split is not None and not with_parts:
            raise ValueError(f"{folder} has no split column; expected one with train and val")
        listed = read_list(folder, part if with_parts else None, task)
        return read_labelled(listed, on_check, any_damaged=any_damaged)
    opened = _open_folder(folder, split, part, task, on_check, any_damaged=any_damaged)
    return _for_task(opened, task)


def _open_folder(
    folder: Path, split: str | None, part: Part, task: Task, on_check: OnCheck, *, any_damaged: bool
) -> ImageSet:
    packed = find_packed(folder)
    if packed is not None:
        mine = part if packed.parts or split else None
        images = _read_packed(packed, mine, on_check, any_damaged=any_damaged)
        return _with_notes(images, packed.notes)
    check_folder(folder)
    arrays = _find_arrays(folder)
    if arrays is not None:
        return arrays.read(part if arrays.parts or split else None)
    lists, notes = part_lists(folder, task)
    if lists:
        if part not in lists:
            raise FileNotFoundError(f"{folder} has no list for {part}, only {lists['train']}")
        listed = read_list(lists[part], None, task)
        return _with_notes(read_labelled(listed, on_check, any_damaged=any_damaged), notes)
    data = open_data_folder(folder)
    if split is None and part not in data.parts:
        if data.parts:
            raise FileNotFoundError(_no_part(data, part))
        found = read_class_folders(data.root)
        remarks = remarks_on_lists(data.root, found.classes, len(found.labels))
        notes = (*data.notes, *remarks)
        return _with_notes(read_labelled(found, on_check, any_damaged=any_damaged), notes)
    return _read_part(data, part, on_check, any_damaged=any_damaged)


def is_packed(location: Path) -> bool:
    """Returns whether images are not files of their own: in shards, tables or arrays."""
    return not is_list(location) and bool(find_packed(location) or _find_arrays(location))


def parts_of(folder: Path, task: Task = "auto") -> Mapping[Part, str]:
    """Returns the parts of a data set, with a name of each for messages; {} if it has none.

    Raises:
        FileNotFoundError: see `open_images`.
        ValueError: see `open_images`.
    """
    if is_list(folder):
        return {part: f"the rows for {part}" for part in listed_parts(folder, task)}
    packed = find_packed(folder)
    if packed is not None:
        return {part: f"the {packed.kind} of {part}" for part in packed.parts}
    check_folder(folder)
    arrays = _find_arrays(folder)
    if arrays is not None:
        return arrays.parts
    lists, _ = part_lists(folder, task)
    if lists:
        return {part: str(path) for part, path in lists.items()}
    return {part: str(path) for part, path in open_data_folder(folder).parts.items()}


def _read_packed(
    packed: Packed, part: Part | None, on_check: OnCheck, *, any_damaged: bool
) -> ImageSet:
    name = f"{packed.location} ({part})" if part else str(packed.location)
    files = packed.of(part)
    if packed.kind == "shards":
        return read_shards(files, name, on_check, any_damaged=any_damaged)
    return read_tables(name, files, packed.files, any_damaged=any_damaged)


def open_training(folder: Path) -> ImageSet:
    """Returns the training images of a folder: its train part, or all where it has no parts.

    Raises:
        FileNotFoundError: see `open_images`.
        ValueError: see `open_images`.
    """
    return open_images(folder, "train" if parts_of(folder) else None)


def open_train_val(
    folder: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    task: Task = "auto",
    on_check: OnCheck = lambda _done, _total: None,
) -> tuple[ImageSet, ImageSet]:
    """Returns (training images, validation images) of a folder.

    A folder that has no parts of its own, or only `train`, is split by `seed`, with `val_share` of
    every class, and at least one image of it, going to validation. A class that a validation part
    lacks is named in its notes.

    Args:
        folder: see `open_images`.
        val_share: see above.
        seed: see above.
        task: see `open_images`.
        on_check: see `open_images`.

    Raises:
        FileNotFoundError: see `open_images`.
        ValueError: see `open_images`; or validation has a class that training has not.
    """
    parts = parts_of(folder, task)
    if set(parts) <= {"train"}:
        images = open_images(folder, "train" if parts else None, task=task, on_check=on_check)
        if parts:
            note = f"{folder} has no validation images: part of {parts['train']} validates"
            images = _with_notes(images, (note,))
        train, val = split_by_class(images, share=val_share, seed=seed)
        return train, _with_missing_noted(val) if val.multi_label else val
    train, val = (
        open_images(folder, part, task=task, on_check=on_check) for part in ("train", "val")
    )
    extra = sorted(set(val.classes) - set(train.classes))
    if extra:
        raise ValueError(
            f"{train.name} and {val.name} differ in their classes: only in validation "
            f"{extra[:_NUM_LISTED]}; give both the same class folders"
        )
    return train, _with_missing_noted(val.with_classes(train.classes))


def _with_missing_noted(val: ImageSet) -> ImageSet:
    missing = [name for name, num in zip(val.classes, val.counts, strict=True) if not num]
    if not missing:
        return val
    listed = ", ".join(map(repr, missing[:_NUM_LISTED]))
    classes = counted(len(missing), "class", "classes")
    note = f"{val.name} has no image of {classes}, not measured: {listed}"
    return _with_notes(val, (note,))


def _for_task(images: ImageSet, task: Task) -> ImageSet:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected {', '.join(TASKS)}")
    if task == "single-label":
        images.need_single_label("--task single-label")
    if task == "multi-label" and not images.multi_label:
        raise ValueError(
            f"{images.name} has one label per image; --task multi-label expects a CSV list of "
            "file,labels, or parquet with lists of labels"
        )
    return images


def search_split(
    images: ImageSet, *, num_classes: int = 200, num_held: int = 10_000, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Returns the paper's search set of ImageNet's training images: (training, validation).

    `num_classes` classes are drawn by seed, and `num_held` of their images held out (the paper: 200
    and 10,000, section 4.1). Labels are renumbered from 0 in the order of the class names.

    Raises:
        ValueError: the set has fewer classes or images.
    """
    images.need_single_label("the search's split")
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


def check_folder(folder: Path) -> None:
    """Refuses a path that is neither a folder nor WebDataset shards.

    Raises:
        FileNotFoundError: there is none.
    """
    if is_shards(folder):
        find_shards(folder)
        return
    if folder.suffix.lower() in _FILES and folder.is_file():
        return
    if folder.suffix.lower() in _ARCHIVES and folder.is_file():
        raise FileNotFoundError(
            f"{folder} is an archive; unpack it, and give the folder with the class folders"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no data folder at {folder}; expected class folders of images, or a .csv list of them"
        )


def check_outside(data: Path, output: Path, option: str) -> None:
    """Refuses an output folder in a folder of classes, of which it would be one next time.

    Args:
        data: images, as in `open_images`.
        output: the folder to write.
        option: what names it, for the message.

    Raises:
        ValueError: it is the data folder, or in it where it has no train and val folders, or in
            one of these.
    """
    written = output.resolve()
    if not data.is_dir() or not written.is_relative_to(data.resolve()):
        return
    parts = parts_of(data).values()
    in_part = any(written.is_relative_to(Path(part).resolve()) for part in parts)
    if written == data.resolve() or in_part or not parts:
        raise ValueError(
            f"{option} {output} is in the data folder {data}, and would be read as images next "
            f"time; give a folder elsewhere, as in {option} {data.resolve().name}-{output.name}"
        )


def _find_arrays(location: Path) -> Arrays | None:
    if location.suffix.lower() == ".npz" and location.is_file():
        return open_npz(location)
    return find_download(location) if location.is_dir() else None


def _read_part(data: DataFolder, part: Part, on_check: OnCheck, *, any_damaged: bool) -> ImageSet:
    """Returns the images of a part; validation has training's classes, unless it has others too."""
    if part not in data.parts:
        raise FileNotFoundError(_no_part(data, part))
    folder, of_training = data.parts[part], None
    if part == "val" and "train" in data.parts:
        of_training = class_names_in(data.parts["train"])
    inside = list_inside(folder)
    if inside is not None:
        listed = read_labelled(read_list(inside), on_check, any_damaged=any_damaged)
        if set(listed.classes) <= set(of_training or ()):
            listed = listed.with_classes(of_training or ())
        return _with_notes(listed, data.notes)
    if of_training is None:
        found = read_class_folders(folder)
    else:
        own = class_names_in(folder)
        classes = of_training if set(own) <= set(of_training) else own
        found = _named_as(read_class_folders(folder, classes), of_training)
    return _with_notes(read_labelled(found, on_check, any_damaged=any_damaged), data.notes)


def _named_as(val: LabelledImages, classes: tuple[str, ...]) -> LabelledImages:
    """Returns validation images with training's names of classes, if these differ in spelling."""
    outputs = outputs_by_name(val.classes, [(name,) for name in classes])
    found = [output for output in outputs if output is not None]
    if val.classes == classes or not len(set(found)) == len(found) == len(val.classes):
        return val
    pairs = [
        (o, n) for o, n in zip(val.classes, (classes[i] for i in found), strict=True) if o != n
    ]
    listed = ", ".join(f"{own!r} as {name!r}" for own, name in pairs[:_NUM_LISTED])
    note = f"classes of {val.name} are spelt otherwise than for training, and taken: {listed}"
    return dataclasses.replace(
        val,
        classes=classes,
        labels=tuple(found[label] for label in val.labels),
        notes=(*val.notes, note) if pairs else val.notes,
    )


def _no_part(data: DataFolder, part: Part) -> str:
    noted = "".join(f" ({note})" for note in data.notes)
    return f"{data.root} has no {part} part; expected {' or '.join(PART_NAMES[part])}{noted}"


def _with_notes(images: ImageSet, notes: Sequence[str]) -> ImageSet:
    return dataclasses.replace(images, notes=(*notes, *images.notes))
