"""Finds the files that a list names, under the name that they have on this machine."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from .folders import SUFFIXES


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
