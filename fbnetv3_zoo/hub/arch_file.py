"""The table of a JSON file, on this machine or at an address."""

from __future__ import annotations

import http.client
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from fbnetv3.arch.arch import Arch

from .cache import is_offline

_MAX_BYTES = 1 << 20
_TIMEOUT_S = 20.0


def read_arch(place: str, *, offline: bool | None = None) -> Arch:
    """Returns the table of a file's path, or of an address of http or https.

    Args:
        place: where it is.
        offline: ask no network; None takes it from HF_HUB_OFFLINE or FBNETV3_OFFLINE.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be fetched.
        ValueError: it is no architecture.
    """
    return Arch.from_json(_read(place, offline))


def _read(place: str, offline: bool | None) -> bytes:
    if urlparse(place).scheme not in ("http", "https"):
        path = Path(place)
        if not path.is_file():
            raise FileNotFoundError(f"no architecture file at {path}; check the path")
        return path.read_bytes()
    if is_offline(offline):
        raise FileNotFoundError(f"offline, so {place} is not fetched; give the path of a copy")
    try:
        with urllib.request.urlopen(place, timeout=_TIMEOUT_S) as response:  # scheme checked above
            content: bytes = response.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error).strip() or type(error).__name__
        raise FileNotFoundError(f"cannot fetch {place}: {reason}; check the address") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{place} is larger than {_MAX_BYTES} bytes; no architecture is")
    return content
