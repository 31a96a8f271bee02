"""Finds the files that a list names, under the name that they have on this machine."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from .folders import SUFFIXES, visible
from .parts import part_of, part_word

# Names of a list that are looked for, and folders that are looked into.
_NUM_TRIED, _MOST_FOLDERS = 20, 1000


def image_folders(listed: Path, names: Sequence[str], files: ListedFiles) -> list[Path]:
    """Returns the folders that the names of a list are relative to.

    That is the list's own folder if it has any of them; else those in it, or in its folders, which
    have some: `train_images/` beside `train.csv`. If one of these is named for the same part of the
    data as the list, only that one. Else it is the folder above, the current one, or
    `images/` and the like beside the list's. The list's own folder, if there is none.

    Args:
        listed: path of the list.
        names: its files.
        files: finds them.
    """
    own = listed.parent
    tried = names[:: max(1, len(names) // _NUM_TRIED)]

    def with_some(folders: Iterable[Path]) -> list[Path]:
        some = islice((path for path in folders if path.is_dir()), _MOST_FOLDERS)
        return [path for path in some if any(files.has(path / name) for name in tried)]

    if with_some([own]):
        return [own]
    homes = with_some([*sorted(visible(own, "*")), *sorted(visible(own, "*/*"))])
    part = part_of(listed.stem)
    of_part = [home for home in homes if part and part_of(home.name) == part]
    if homes:
        return of_part if len(of_part) == 1 else homes
    above = own.resolve().parent
    beside = [path for path in sorted(visible(above, "*")) if _is_for_images(path.name)]
    return with_some([above, Path.cwd(), *beside])[:1] or [own]


def _is_for_images(name: str) -> bool:
    """Returns whether a folder's name says that it has images, or those of a part."""
    return not part_word(name) or part_of(name) is not None


class ListedFiles:
    """Finds listed files at the cost of one look at each; folders are resolved and read once."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}
        self._names: dict[str, dict[str, set[str]]] = {}

    def __call__(self, path: Path) -> tuple[Path, str]:
        """Returns a file, if need be under another name that means the same, and its real path.

        The suffix may lack, and accents may be encoded otherwise or the case differ, if only one
        image is meant. A file that is not there comes back as it is.
        """
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        joined = os.path.join(self._real[folder], name)
        try:
            is_link = stat.S_ISLNK(os.lstat(joined).st_mode)
        except OSError:
            alike = self._alike(folder).get(plain_name(name), set())
            if len(alike) != 1:
                return path, joined
            return self(path.parent / next(iter(alike)))
        return path, os.path.realpath(joined) if is_link else joined

    def has(self, path: Path) -> bool:
        """Returns whether a file is there, if need be under another name that means the same."""
        return os.path.lexists(self(path)[1])

    def _alike(self, folder: str) -> dict[str, set[str]]:
        """Returns the images of a folder by their plain names, with and without the suffix."""
        if folder not in self._names:
            found: dict[str, set[str]] = {}
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    found.setdefault(plain_name(name), set()).add(name)
                    found.setdefault(plain_name(stem), set()).add(name)
            self._names[folder] = found
        return self._names[folder]


def plain_name(name: str) -> str:
    """Returns what files' names have in common that other systems take for the same.

    A Mac writes accents as characters of their own, and Windows does not tell cases apart.
    """
    return unicodedata.normalize("NFC", name).casefold()
