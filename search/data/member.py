"""A file inside an uncompressed tar file, read from where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Member(NamedTuple):
    """Where a file lies in a tar file.

    Attributes:
        shard: the tar file.
        name: of the file in it.
        offset: of its first byte in the shard.
        num_bytes: its size.
    """

    shard: Path
    name: str
    offset: int
    num_bytes: int

    def read(self) -> bytes:
        """Returns the file's bytes; fewer where the shard was cut.

        Raises:
            OSError: the shard cannot be read.
        """
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"
