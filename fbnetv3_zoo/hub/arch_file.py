"""Reading an architecture from a JSON file or URL."""

from __future__ import annotations

import http.client
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from fbnetv3._internal.messages import one_line
from fbnetv3.arch.arch import Arch

from .cache import is_offline

_MAX_BYTES = 1 << 20
_TIMEOUT_S = 20.0


def read_arch(location: str, *, offline: bool | None = None) -> Arch:
    """Returns the architecture of a JSON file.

    Args:
        location: path, or http or https URL.
        offline: do not use the network; None reads HF_HUB_OFFLINE or FBNETV3_OFFLINE.

    Raises:
        FileNotFoundError: the file does not exist or cannot be fetched.
        ValueError: the file does not hold an architecture.
    """
    try:
        return Arch.from_json(_read(location, offline))
    except ValueError as error:
        raise ValueError(f"{one_line(location)}: {error}") from error


def _read(location: str, offline: bool | None) -> bytes:
    if urlparse(location).scheme not in ("http", "https"):
        path = Path(location)
        if not path.is_file():
            raise FileNotFoundError(f"no architecture file at {path}; check the path")
        return path.read_bytes()
    if is_offline(offline):
        raise FileNotFoundError(f"offline, so {location} is not fetched; give the path of a copy")
    try:
        with urllib.request.urlopen(
            location, timeout=_TIMEOUT_S
        ) as response:  # scheme checked above
            content: bytes = response.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error).strip() or type(error).__name__
        raise FileNotFoundError(f"cannot fetch {location}: {reason}; check the URL") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{location} is larger than {_MAX_BYTES} bytes; expected an architecture")
    return content
