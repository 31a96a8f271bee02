"""Maps class folders to the outputs of a model: by name, else by number."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .folders import find_images, images_by_class, open_data_folder, without_class
from .labels import CLASS_LISTS, class_ids
from .labels import class_names as listed
from .listing import Task, is_list, listed_parts, read_list
from .parts import Part

_NUM_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class NetworkImages:
    """Images for an existing model.

    Attributes:
        paths: paths of the images.
        labels: the model's output for each; None if the folders are not named after classes, or
            images have several labels.
        notes: remarks for the user, a sentence each.
        label_sets: the model's outputs for each, of a list with several labels per image.
    """

    paths: list[Path]
    labels: list[int] | None
    notes: tuple[str, ...]
    label_sets: list[tuple[int, ...]] | None = None


def match_classes(
    folders: Sequence[str], known: Sequence[Sequence[str]] | None, num_classes: int | None = None
) -> list[int] | None:
    """Returns the model's output for each class folder; None if no folder matches a class.

    Names are compared exactly, then without case and with "_" and "-" as spaces, numbers without
    leading zeros. If no name matches and all folders are numbers, they are the indices of the
    outputs, from 0.

    Args:
        folders: names of the class folders.
        known: the names of each output; None if they are unknown.
        num_classes: number of outputs, if `known` is None.

    Raises:
        ValueError: only some folders match, two match the same output, or numbers may be names as
            well as indices.
    """
    if not folders:
        return None
    outputs = outputs_by_name(folders, known or ())
    missing = [name for name, output in zip(folders, outputs, strict=True) if output is None]
    total = num_classes if known is None else len(known)
    numbered = all(name.isdecimal() for name in folders)
    if missing and numbered:
        numbers = [int(name) for name in folders]
        if len(missing) < len(folders):
            raise ValueError(
                "the class folders are numbers, of which some are names of the model's classes "
                f"and {', '.join(missing[:_NUM_LISTED])} are not; name all folders after classes"
            )
        if total is not None and max(numbers) >= total:
            raise ValueError(
                f"class folders are numbered {min(numbers)} to {max(numbers)}; the model's classes "
                f"are 0 to {total - 1}: number them from 0, or name them after the classes"
            )
        outputs, missing = list(numbers), []
    if len(missing) == len(folders):
        return None
    if missing:
        raise ValueError(
            f"{len(folders) - len(missing)} of the {len(folders)} class folders are named after "
            f"classes of the model, but not {', '.join(missing[:_NUM_LISTED])}; rename those"
        )
    found = [output for output in outputs if output is not None]
    for index, output in enumerate(found):
        if output in found[:index]:
            raise ValueError(
                f"class folders {folders[found.index(output)]!r} and {folders[index]!r} are the "
                f"same class of the model, number {output}; merge them"
            )
    return found


def known_names(class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the names that each class goes by: for a known list also its identifiers.

    Args:
        class_names: names in the order of the outputs; () gives ().
    """
    for name in CLASS_LISTS:
        if tuple(class_names) == listed(name):
            return list(zip(class_names, class_ids(name), strict=True))
    return [(name,) for name in class_names]


def labelled_images(
    folder: Path, class_names: Sequence[str], *, part: Part = "val", multi_label: bool = False
) -> NetworkImages:
    """Returns the images of a folder, and their classes if its folders are named after classes.

    Args:
        folder: images; or a folder for each class, named by its name, its number or, for ImageNet,
            its WordNet identifier; or a data set with train and val folders; or a list, see
            `listing`.
        class_names: class names of the model.
        part: the part to use, if the data set has it.
        multi_label: whether the model gives an image several classes: labels are those of a list.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder holds no images, or only some of its folders match classes.
    """
    if is_list(folder):
        return _listed_images(folder, class_names, part, multi_label)
    data = open_data_folder(folder)
    root, notes = data.parts.get(part, data.root), list(data.notes)
    if root != data.root:
        notes.append(f"of {folder}, only {root} was used")
    found = find_images(root)
    if not found.images:
        raise ValueError(
            f"no images in {folder}; see fbnetv3.images.folders.SUFFIXES"
            + "".join(f" ({note})" for note in (*notes, *found.notes))
        )
    notes += found.notes
    inside = {name: of.images for name, of in images_by_class(root).items() if of.images}
    outputs = None if multi_label else match_classes(tuple(inside), known_names(class_names))
    if outputs is None:
        return NetworkImages(paths=list(found.images), labels=None, notes=tuple(notes))
    loose = sum(path.parent == root for path in found.images)
    if loose:
        notes.append(without_class(loose, root))
    return NetworkImages(
        paths=[path for images in inside.values() for path in images],
        labels=[
            output for output, images in zip(outputs, inside.values(), strict=True) for _ in images
        ],
        notes=tuple(notes),
    )


def _listed_images(
    path: Path, class_names: Sequence[str], part: Part, multi_label: bool
) -> NetworkImages:
    task: Task = "multi-label" if multi_label else "single-label"
    found = read_list(path, part if listed_parts(path, task) else None, task)
    outputs = match_classes(found.classes, known_names(class_names))
    labels: list[int] | None = None
    label_sets: list[tuple[int, ...]] | None = None
    if outputs is not None and found.label_sets is not None:
        label_sets = [tuple(outputs[label] for label in labels) for labels in found.label_sets]
    elif outputs is not None:
        labels = [outputs[label] for label in found.labels]
    return NetworkImages(
        paths=list(found.paths), labels=labels, notes=found.notes, label_sets=label_sets
    )


def outputs_by_name(folders: Sequence[str], known: Sequence[Sequence[str]]) -> list[int | None]:
    """Returns the output that each folder names, compared as in `match_classes`; None of no one.

    Args:
        folders: names of folders.
        known: the names of each output.
    """
    exact: dict[str, int] = {}
    plain: dict[str, set[int]] = {}
    for output, names in enumerate(known):
        for name in names:
            exact.setdefault(name, output)
            plain.setdefault(_plain(name), set()).add(output)
    found: list[int | None] = []
    for folder in folders:
        alike = plain.get(_plain(folder), set())
        found.append(exact.get(folder, next(iter(alike)) if len(alike) == 1 else None))
    return found


def nearly_equal(names: Iterable[str]) -> list[list[str]]:
    """Returns the names that differ only in case, accents' encoding, or "_", "-" and spaces."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_plain(name), []).append(name)
    return [group for group in alike.values() if len(group) > 1]


def _plain(name: str) -> str:
    # A Mac writes accents as characters of their own.
    plain = unicodedata.normalize("NFC", name).strip().lower().replace("_", " ").replace("-", " ")
    return str(int(plain)) if plain.isdecimal() else plain
