"""Packed image sets, WebDataset shards and tables: which files are of which part.

A file belongs to the part that its name states in a word, else the folder above it, by the rules
of `fbnetv3.images.parts`; where no name states one, the set has no parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fbnetv3._internal.messages import one_line
from fbnetv3.images.folders import SUFFIXES, visible
from fbnetv3.images.parts import Part, left_out, part_of_word, word_in_path

from .shards import find_shards, is_shards

# A table is a parquet file, or an Arrow file that Hugging Face's `save_to_disk` writes.
Kind = Literal["shards", "parquet", "arrow"]
# What messages call a file of each kind, and how its name ends.
_FILES: Mapping[Kind, tuple[str, str]] = {
    "shards": ("shards", ".tar"),
    "parquet": ("parquet file", ".parquet"),
    "arrow": ("Arrow file", ".arrow"),
}
_NUM_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The files of a packed image set.

    Attributes:
        location: where they lie.
        kind: what they are.
        files: those that are used, in order.
        parts: those of each part; empty without parts.
        notes: remarks for the user, a sentence each.
    """

    location: Path
    kind: Kind
    files: tuple[Path, ...]
    parts: Mapping[Part, tuple[Path, ...]]
    notes: tuple[str, ...]

    def of(self, part: Part | None) -> tuple[Path, ...]:
        """Returns the files of a part; None: all.

        Raises:
            FileNotFoundError: there are none.
        """
        if part is None:
            return self.files
        if part not in self.parts:
            kind, what = _FILES[self.kind]
            raise FileNotFoundError(
                f"{self.location} has no {kind} named {part}-*{what}; it has "
                + one_line(", ".join(file.name for file in self.files[:_NUM_LISTED]))
            )
        return self.parts[part]


def find_packed(location: Path) -> Packed | None:
    """Returns the shards or tables of a path; None if it is something else.

    Args:
        location: a folder, a file, or a range of shards such as `data-{000..099}.tar`.

    Raises:
        FileNotFoundError: a shard of a range is missing.
    """
    if is_shards(location):
        return _packed(location, "shards", find_shards(location))
    tables: tuple[Kind, ...] = ("parquet", "arrow")
    if location.is_file():
        kind = next((one for one in tables if location.suffix.lower() == f".{one}"), None)
        return _packed(location, kind, [location]) if kind else None
    if not location.is_dir() or _has_folders_of_images(location):
        return None
    for kind in tables:
        # The datasets library leaves the results of its own steps beside a set.
        files = [f for f in visible(location, f"**/*.{kind}") if not f.name.startswith("cache-")]
        if files:
            return _packed(location, kind, sorted(files))
    return None


def _packed(location: Path, kind: Kind, files: Sequence[Path]) -> Packed:
    if not location.is_dir():
        return Packed(location=location, kind=kind, files=tuple(files), parts={}, notes=())
    words = {file: word_in_path(file.relative_to(location)) for file in files}
    unused = left_out({word for word in words.values() if word})
    parts: dict[Part, tuple[Path, ...]] = {}
    for file, word in words.items():
        part = part_of_word(word or "")
        if part is not None and word not in unused:
            parts[part] = (*parts.get(part, ()), file)
    used = tuple(file for of_part in parts.values() for file in of_part) or tuple(files)
    others = [file.name for file in files if file not in set(used)]
    notes = (
        f"{len(others)} of the {len(files)} files of {location} are for neither training nor "
        f"validation and were left out: {one_line(', '.join(others[:_NUM_LISTED]))}",
    )
    return Packed(
        location=location, kind=kind, files=used, parts=parts, notes=notes if others else ()
    )


def _has_folders_of_images(location: Path) -> bool:
    """Returns whether a folder has two folders of images or more, beside which a parquet may lie.

    One may hold the pictures of a readme.
    """
    found: set[Path] = set()
    for path in visible(location, "**/*"):
        if os.path.splitext(path.name)[1].lower() in SUFFIXES and path.parent != location:
            found.add(path.parent)
            if len(found) > 1:
                return True
    return False
