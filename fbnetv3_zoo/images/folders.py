"""Folders of images: which files are images, which folders are train and val parts or classes.

One set of rules for every command:

- Files with an extension in `SUFFIXES` are images; other files are counted and reported.
- Hidden files and system files (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`, `Thumbs.db`) are
  ignored.
- Symbolic links are followed. A folder or file that is reached twice counts once, so that loops
  end.
- `train/` and `val/` are recognised by their usual names in any case, but only if they hold
  folders; a folder of images named "test" beside other classes is a class.
- A folder that holds nothing but one folder of folders is a wrapper; its content is used.

This file opens no image and does not depend on models.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fbnetv3._internal.messages import counted, escaped, one_line

from .parts import PART_NAMES, Part, part_of, part_word

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
_SYSTEM_FILES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)
_NUM_LISTED = 5
# A readme or a license beside photos is not worth a remark.
_TEXTS = frozenset({".md", ".txt"})


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files in a folder and its subfolders.

    Attributes:
        images: paths of the images, sorted.
        others: files without an image's extension, extension -> count.
    """

    images: tuple[Path, ...]
    others: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, a sentence each."""
        told = Counter({k: n for k, n in self.others.items() if k not in _TEXTS})
        num = sum(told.values())
        if not num:
            return ()
        kinds = ", ".join(f"{one_line(k)} {n}" for k, n in told.most_common(_NUM_LISTED))
        return (f"skipped {counted(num, 'file')} without an image's extension: {kinds}",)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Image files and their classes.

    Attributes:
        name: name of the source, for messages.
        classes: names of the classes.
        paths: paths of the images.
        labels: index into `classes` of each image; empty where images may have several labels.
        notes: remarks for the user, a sentence each.
        label_sets: the indices of each image where images may have several labels, or none.
    """

    name: str
    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()
    label_sets: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """The layout of a data set in a folder.

    Attributes:
        root: the folder, or the one inside its wrappers.
        parts: folders of the training and the validation part; empty without parts.
        notes: remarks for the user, a sentence each.
    """

    root: Path
    parts: Mapping[Part, Path]
    notes: tuple[str, ...]


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the image files (see `SUFFIXES`) in a folder and its subfolders, sorted.

    Hidden and system files are left out; links are followed, each target once.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the path is not a folder.
    """
    return list(find_images(folder).images)


def without_class(num: int, folder: Path) -> str:
    """Returns the remark that images beside the class folders of a folder were skipped."""
    return f"skipped {counted(num, 'image')} beside the class folders of {folder}, without a class"


def find_images(folder: str | os.PathLike[str]) -> Found:
    """Returns the images of `list_images`, and the other files.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the path is not a folder.
    """
    root = Path(folder)
    _check_folder(root)
    images: list[str] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    # Folders and the real paths of the folders above them: a link to one of these is a loop. Links
    # come last, so that an image inside the root is listed under its own path.
    folders = [(str(root), _ancestors(root))]
    linked_folders: list[tuple[str, set[str]]] = []
    linked_files: list[os.DirEntry[str]] = []
    while folders or linked_folders:
        here, above = folders.pop() if folders else linked_folders.pop(0)
        real = os.path.realpath(here)
        if real in seen or real in above:
            continue
        seen.add(real)
        for entry in _entries(here):
            if _is_folder(entry):
                if entry.is_symlink():
                    linked_folders.append((entry.path, above | _ancestors(Path(entry.path))))
                else:
                    folders.append((entry.path, above))
            elif entry.is_symlink():
                linked_files.append(entry)
            elif _is_image_file(entry):
                images.append(entry.path)
                seen.add(os.path.join(real, entry.name))
            else:
                others[_other(entry.name)] += 1
    for entry in linked_files:
        real = os.path.realpath(entry.path)
        if not _is_image_file(entry):
            others[_other(entry.name)] += 1
        elif real not in seen:
            seen.add(real)
            images.append(entry.path)
    return Found(images=tuple(sorted(map(Path, images))), others=others)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, or the system's, by its name."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields what matches a pattern of `Path.glob`, without hidden and system files and folders."""
    for path in folder.glob(pattern):
        if not any(map(is_hidden, path.relative_to(folder).parts)):
            yield path


def open_data_folder(folder: Path) -> DataFolder:
    """Returns the train and val folders of a data set, or the folder of its classes.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the path is not a folder, or folders may be parts as well as classes.
    """
    _check_folder(folder)
    root = _unwrapped(folder)
    children = [Path(entry.path) for entry in _entries(root) if _is_folder(entry)]
    named = {child: part for child in children if (part := part_of(child.name))}
    parts = {child: part for child, part in named.items() if _holds(child, _is_folder)}
    classes = [child for child in children if child not in named]
    if named and not parts and not classes:
        names = " and ".join(repr(child.name) for child in named)
        raise ValueError(
            f"{root} holds only {names}, without class folders inside; expected one folder of "
            f"images for each class, inside these or under other names{_or_a_list(root)}"
        )
    beside = [child.name for child in classes if parts and _holds(child, _is_image_file)]
    if beside and len(set(parts.values())) == 1:
        child = next(iter(parts))
        raise ValueError(
            f"{child} looks like a part of a data set, but is beside folders of images such as "
            f"{beside[0]!r}; rename it if it is a class (its name is reserved), or move those away"
        )
    notes = [] if root == folder else [f"{folder} only wraps {root}, which was used"]
    chosen = _chosen(parts)
    flat = [child.name for child in named if parts and child not in chosen.values()]
    if beside or flat:
        names = ", ".join((flat + beside)[:_NUM_LISTED])
        notes.append(f"folders of {root} beside its train and val folders were skipped: {names}")
    inner = {part: _unwrapped(child, is_part=True) for part, child in chosen.items()}
    outer = {part: child for part, child in chosen.items() if child != inner[part]}
    notes += [f"{child} only wraps {inner[part]}, which was used" for part, child in outer.items()]
    return DataFolder(root=root, parts=inner, notes=tuple(notes))


def _is_in_class_folder(inner: Path, folder: Path) -> bool:
    """Returns whether a folder of images is a class folder of `folder`, or `images/` in one."""
    return inner.parent == folder or (inner.parent.parent == folder and not part_word(inner.name))


def _or_a_list(folder: Path) -> str:
    """Returns how to give a list of images that lies in a folder, if there is one."""
    lists = sorted(visible(folder, "*.csv")) or sorted(visible(folder, "*/*.csv"))
    return f"; or give a list of images itself, as in --data {lists[0]}" if lists else ""


def class_names_in(folder: Path) -> tuple[str, ...]:
    """Returns the names of the class folders in a folder, sorted.

    Raises:
        ValueError: a name is not UTF-8, so that no file of weights could state it.
    """
    names = tuple(entry.name for entry in _entries(folder) if _is_folder(entry))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name of the class folder {escaped(str(folder / name))} is not UTF-8, or not "
                f"in this locale ({sys.getfilesystemencoding()}); rename it, or set PYTHONUTF8=1"
            ) from None
    return names


def images_by_class(folder: Path) -> dict[str, Found]:
    """Returns the files of each class folder by its name, sorted."""
    return {name: find_images(folder / name) for name in class_names_in(folder)}


def read_class_folders(folder: Path, classes: tuple[str, ...] | None = None) -> LabelledImages:
    """Returns the images of a folder with one folder for each class, which may have subfolders.

    Args:
        folder: the folder.
        classes: names of the classes, some of which may have no images; None: all folders, at
            least two, each with an image.

    Raises:
        ValueError: there are too few classes, a folder is none of `classes`, or class folders hold
            only folders.
    """
    names = class_names_in(folder)
    if not names:
        raise ValueError(
            f"{folder} holds no class folders; expected one folder of images for each class, "
            "train and val folders of those, CIFAR's or MNIST's files, parquet or Arrow files, or "
            "WebDataset's .tar files"
            + _or_a_list(folder)
            + "".join(f" ({note})" for note in find_images(folder).notes)
        )
    if classes is None and len(names) == 1:
        raise ValueError(
            f"{folder} holds only one class, {names[0]!r}; expected one folder of images for each "
            "of two classes or more"
        )
    order = names if classes is None else classes
    paths: list[Path] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name, found in images_by_class(folder).items():
        others += found.others
        if not found.images and classes is None:
            raise ValueError(
                f"class folder {folder / name} holds no image; add some or remove it"
                + "".join(f" ({note})" for note in found.notes)
            )
        paths += found.images
        labels += [order.index(name)] * len(found.images)
    if paths and not any(_is_in_class_folder(path.parent, folder) for path in paths):
        raise ValueError(
            f"the folders in {folder} hold only folders, such as {paths[0].parent}, and no images; "
            "give the folder that holds the class folders"
        )
    return LabelledImages(
        name=str(folder),
        classes=order,
        paths=tuple(paths),
        labels=tuple(labels),
        notes=(*Found(images=(), others=others).notes, *_skipped_beside_classes(folder)),
    )


def _skipped_beside_classes(folder: Path) -> list[str]:
    """Returns the remarks on links and images that lie beside class folders."""
    loose = [entry.name for entry in _entries(folder) if _is_image_file(entry)]
    lost = [
        entry.name
        for entry in _entries(folder)
        if entry.is_symlink() and not os.path.exists(entry.path) and entry.name not in loose
    ]
    notes = []
    if lost:
        said = f"skipped {counted(len(lost), 'broken link')} in {folder}"
        notes.append(f"{said}: {one_line(', '.join(lost[:_NUM_LISTED]))}")
    if loose:
        said = without_class(len(loose), folder)
        notes.append(f"{said}: {one_line(', '.join(loose[:_NUM_LISTED]))}")
    return notes


def _unwrapped(folder: Path, *, is_part: bool = False) -> Path:
    """Returns the folder inside all wrappers: folders with one folder of folders and no image.

    A folder called like a part is no wrapper, unless inside of one: `train/train/cat`.
    """
    inner, seen = folder, set[str]()
    while os.path.realpath(inner) not in seen:
        seen.add(os.path.realpath(inner))
        folders = [entry for entry in _entries(inner) if _is_folder(entry)]
        named = not is_part and any(part_of(entry.name) for entry in folders)
        if len(folders) != 1 or named or _holds(inner, _is_image_file):
            break
        only = Path(folders[0].path)
        if not _holds(only, _is_folder) or _holds(only, _is_image_file):
            break
        inner = only
    return inner


def _chosen(parts: Mapping[Path, Part]) -> dict[Part, Path]:
    """Returns the folder of each part; if there are several, the one with the likeliest name."""
    found: dict[Part, Path] = {}
    for part, names in PART_NAMES.items():
        mine = [child for child, kind in parts.items() if kind == part]
        mine.sort(key=lambda child: names.index(part_word(child.name)))
        if len(mine) > 1 and part_word(mine[0].name) == part_word(mine[1].name):
            raise ValueError(
                f"{mine[0]} and {mine[1].name!r} name the same part of a data set; keep one of them"
            )
        if mine:
            found[part] = mine[0]
    return found


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}; check the path")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; open_image() reads a single file")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name, without hidden and system files."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not is_hidden(entry.name)]
    return sorted(kept, key=lambda entry: entry.name)


def _holds(folder: Path, kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    return any(map(kind, _entries(folder)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir() raises for a link to itself.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image by its name; also a broken link, which the reader then reports."""
    regular = entry.is_symlink() or entry.is_file()
    return regular and _suffix(entry.name) in SUFFIXES and not _is_folder(entry)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no extension"


def _other(name: str) -> str:
    """Returns what to count what is no image file under, by its name."""
    suffix = _suffix(name)
    return "not a regular file" if suffix in SUFFIXES else suffix


def _ancestors(folder: Path) -> set[str]:
    """Returns the real paths of the folders above a folder, and above its target for a link."""
    above = list(folder.resolve().parents)
    if ".." not in folder.parts:  # the parents of "labels/.." by its name are below it
        above += folder.absolute().parents
    return {os.path.realpath(path) for path in above}
