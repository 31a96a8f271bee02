"""Lists of a data set's parts: `train.csv` and `val.csv`, or `val/val_annotations.txt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .folders import visible
from .listing import Task, is_list, listed_folders, read_list
from .parts import Part, left_out, part_of, part_of_word, part_word


def part_lists(folder: Path, task: Task = "auto") -> tuple[Mapping[Part, Path], tuple[str, ...]]:
    """Returns the list of each part that is used, and remarks for the user.

    There are none without a list for training, or beside class folders. A list for testing that has
    no labels, as those of Kaggle's competitions, is left out.

    Args:
        folder: the data set.
        task: see `read_list`.

    Raises:
        ValueError: two lists are for one part.
    """
    lists = [path for path in sorted(visible(folder, "*")) if is_list(path) and part_of(path.stem)]
    if not any(part_of(path.stem) == "train" for path in lists) or _has_class_folders(folder):
        return {}, ()
    unused = left_out({part_word(path.stem) for path in lists})
    parts: dict[Part, Path] = {}
    notes = []
    for path in lists:
        word = part_word(path.stem)
        part = part_of_word(word)
        assert part is not None
        if word in unused:
            notes.append(f"{path} is for neither training nor validation and was left out")
        elif part == "val" and not _has_labels(path, task):
            notes.append(f"{path} has no labels and was left out")
        elif part in parts:
            raise ValueError(
                f"{parts[part]} and {path} are both for {part}; give the list that is meant"
            )
        else:
            parts[part] = path
    return parts, tuple(notes)


def list_inside(folder: Path) -> Path | None:
    """Returns the list in the folder of a part, whose images lie in `images/` beside it.

    As in Tiny ImageNet's `val/`. None if there is none, or another than one, or class folders.
    """
    lists = [path for path in visible(folder, "*") if is_list(path)]
    named = any(part_word(path.name) for path in visible(folder, "*") if path.is_dir())
    return lists[0] if len(lists) == 1 and not named else None


def remarks_on_lists(folder: Path, classes: Sequence[str], num_images: int) -> tuple[str, ...]:
    """Says which lists in a folder name most images of its class folders, with other classes.

    Such folders may be those of a large download, `images_part_1` and so on, and no classes.

    Args:
        folder: the folder.
        classes: its class folders.
        num_images: number of images in them.
    """
    own = [folder / name for name in classes]
    remarks = []
    for path in sorted(visible(folder, "*.csv")):
        try:
            homes = [home for home in listed_folders(path, num_images // 2) if home in own]
        except (OSError, ValueError):
            continue  # a table of something else
        if len(homes) > 1 and _classes_of(path) != set(classes):
            remarks.append(
                f"the folders of {folder} were taken for the classes, but {path.name} lists images "
                f"of {homes[0].name} and {homes[1].name}; if it has the classes, give --data {path}"
            )
    return tuple(remarks)


def _classes_of(path: Path) -> set[str] | None:
    try:
        return set(read_list(path).classes)
    except ValueError:
        return None


def _has_class_folders(folder: Path) -> bool:
    """Returns whether a folder, or one in it for a part or for images, has other folders in it."""
    for child in visible(folder, "*"):
        if child.is_dir():
            own_name = part_word(child.name) and part_of(child.name) is None
            if own_name or any(path.is_dir() for path in visible(child, "*")):
                return True
    return False


def _has_labels(path: Path, task: Task) -> bool:
    try:
        read_list(path, None, task)
    except ValueError:
        return False
    return True
