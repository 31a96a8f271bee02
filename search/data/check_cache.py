"""Sizes of image files that were found complete, kept for the next training on the same files.

A file whose path, length and time of change are as they were is not opened again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from fbnetv3._internal.files import write_atomically
from fbnetv3.hub.cache import cache_dir

_SCHEMA = "fbnetv3-checked/1"


class CheckCache:
    """The files of one image set. Losing it, or not being able to write it, costs only time.

    Args:
        name: of the set.
        folder: where caches are; None: `images/` in the package's cache.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._path = (folder or cache_dir() / "images") / f"{digest}.json"
        self._known: dict[str, list[int]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(self._path.read_bytes())
            if content["schema"] == _SCHEMA:
                self._known = dict(content["files"])

    def size(self, path: Path) -> tuple[int, int] | None:
        """Returns (width, height) of a file that was complete and has not changed, else None."""
        known = self._known.get(str(path))
        if known is None or len(known) != 4 or known[:2] != _stamp(path):
            return None
        return known[2], known[3]

    def add(self, path: Path, size: tuple[int, int]) -> None:
        """Notes a complete file's (width, height); threads may do so at once."""
        stamp = _stamp(path)
        if stamp is not None:
            self._known[str(path)] = [*stamp, *size]
            self._changed = True

    def save(self) -> None:
        """Writes what is new."""
        if not self._changed:
            return
        content = json.dumps({"schema": _SCHEMA, "files": self._known})
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, content)


def _stamp(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
