"""Weights on this machine: fetched once, verified on every use, read in our layout.

The cache is one folder: `FBNETV3_HOME`, else `XDG_CACHE_HOME/fbnetv3`, else `~/.cache/fbnetv3`.
For weights named NAME it holds

* `NAME.pth` or `NAME.safetensors`: the file as published. Whoever has no network may put it there.
* `NAME.fbnetv3.safetensors`: the same weights in our layout, where the published file is a
  pickle; written once, read ever after.
* `NAME.json`: the SHA-256 of both, and the commit a hub file came from. Where the table knows no
  hash, the first use decides: what is fetched then is what every later use has to be.

Files of the Hugging Face hub stay in its own cache, shared with timm.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import write_atomically
from fbnetv3.checkpoints.checkpoint import read_tensors, sha256_of, write_tensors
from fbnetv3.checkpoints.convert import to_fbnetv3

from .download import download
from .hub_repo import download_hub_file, find_hub_file, is_offline
from .license_policy import check_license
from .pretrained import from_pretrained, push_to_hub, save_pretrained
from .weights import Embedded, HubFile, Url, Weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cache_dir",
    "cached",
    "check_license",
    "fetch",
    "from_pretrained",
    "is_offline",
    "load_state",
    "locked",
    "push_to_hub",
    "save_pretrained",
    "verify_file",
]

_TIMEOUT_S = 20.0
# Long enough for another process to bring 40 MB over a slow line.
_LOCK_TIMEOUT_S = 1800.0


def cache_dir(folder: str | Path | None = None) -> Path:
    """Returns the folder of the cache, which may not exist yet; `folder` overrides it."""
    if folder is not None:
        return Path(folder)
    home = os.environ.get("FBNETV3_HOME")
    if home:
        return Path(home)
    parent = os.environ.get("XDG_CACHE_HOME")
    return (Path(parent) if parent else Path.home() / ".cache") / "fbnetv3"


def cached(weights: Weights, *, cache_dir: str | Path | None = None) -> Path | None:
    """Returns the published file if it is on this machine, else None; asks no network."""
    if isinstance(weights.source, Embedded):
        return _embedded(weights.source)
    path = _place(weights, cache_dir)
    if path.is_file():
        return path
    if isinstance(weights.source, HubFile):
        return find_hub_file(weights.source, _revision(weights, cache_dir), cache_dir)
    return None


def fetch(
    weights: Weights,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    progress: bool = True,
    timeout_s: float = _TIMEOUT_S,
) -> Path:
    """Returns the published file, fetched if it is not on this machine, and verified.

    Two processes that ask at once fetch once.

    Args:
        weights: what to fetch.
        cache_dir: folder in place of `cache_dir()`; hub files then go there as well.
        offline: ask no network; None takes it from HF_HUB_OFFLINE or FBNETV3_OFFLINE.
        progress: show a bar where the error output is a terminal.
        timeout_s: silence of a server in seconds that ends an attempt.

    Raises:
        FetchError: it is not here and cannot be fetched; says where to put it by hand.
        ValueError: the file is not the one that the table names, or the first use recorded.
    """
    path = cached(weights, cache_dir=cache_dir)
    if path is None:
        place = _place(weights, cache_dir)
        if is_offline(offline):
            raise FetchError(
                f"offline, and {weights.name} is not on this machine; put the file "
                f"{_address(weights)} at {place}"
            )
        with locked(place):
            path = cached(weights, cache_dir=cache_dir)
            if path is None:
                path = _bring(weights, place, cache_dir, progress, timeout_s)
            verify_file(weights, path, cache_dir=cache_dir)
            return path
    verify_file(weights, path, cache_dir=cache_dir)
    return path


def verify_file(weights: Weights, path: Path, *, cache_dir: str | Path | None = None) -> str:
    """Returns the SHA-256 of a file of these weights, which is what the table or first use says.

    Where neither does, this is the first use, and it is recorded.

    Raises:
        ValueError: it is another file.
    """
    found = sha256_of(path)
    known = weights.source.sha256 if path != _converted(weights, cache_dir) else None
    kind = "converted" if path == _converted(weights, cache_dir) else "published"
    record = _read_record(weights, cache_dir)
    expected = known or record.get(f"{kind}_sha256")
    if expected is not None and found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found}, expected {expected}"
            f"{'' if known else f' as recorded in {_record(weights, cache_dir)}'}; delete the "
            "file and fetch it again"
        )
    if expected is None:
        _write_record(weights, cache_dir, **{f"{kind}_sha256": found})
    return found


def load_state(
    weights: Weights,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    progress: bool = True,
    policy: str | None = None,
) -> dict[str, Tensor]:
    """Returns the tensors in our layout, for a model of `weights.arch`.

    A pickle is converted once; later calls read safetensors.

    Args:
        weights: what to load.
        cache_dir: as in `fetch`.
        offline: as in `fetch`.
        progress: as in `fetch`.
        policy: as in `check_license`.

    Raises:
        FetchError: as in `fetch`.
        ValueError: as in `fetch` and `check_license`, or the file is damaged.
    """
    check_license(weights, policy)
    is_pickle = isinstance(weights.source, Url)
    converted = _converted(weights, cache_dir)
    if is_pickle and converted.is_file() and _is_current(weights, cache_dir):
        return read_tensors(converted)
    path = fetch(weights, cache_dir=cache_dir, offline=offline, progress=progress)
    try:
        state = to_fbnetv3(read_tensors(path), weights.arch, weights.dialect)
    except ValueError:
        # Its hash is worth nothing; forgotten, so that another file may take its place.
        _record(weights, cache_dir).unlink(missing_ok=True)
        raise
    if is_pickle:
        _keep_converted(weights, state, cache_dir)
    return state


def _is_current(weights: Weights, cache_dir: str | Path | None) -> bool:
    """Whether the converted file is whole, and made of the published file that is asked for."""
    record = _read_record(weights, cache_dir)
    if weights.source.sha256 not in (None, record.get("published_sha256")):
        return False
    wanted = (weights.arch.sha256, sha256_of(_converted(weights, cache_dir)))
    return wanted == (record.get("arch_sha256"), record.get("converted_sha256"))


def _keep_converted(
    weights: Weights, state: dict[str, Tensor], cache_dir: str | Path | None
) -> None:
    path = _converted(weights, cache_dir)
    source_sha256 = _read_record(weights, cache_dir).get("published_sha256", "")
    metadata = {
        "fbnetv3.weights": weights.name,
        "fbnetv3.arch_sha256": weights.arch.sha256,
        "fbnetv3.source": _address(weights),
        "fbnetv3.source_sha256": source_sha256,
        "license": weights.license,
        "license_url": weights.license_url,
    }
    try:
        with locked(path):
            write_tensors(path, state, metadata)
            _write_record(
                weights,
                cache_dir,
                converted_sha256=sha256_of(path),
                arch_sha256=weights.arch.sha256,
            )
    except OSError as error:
        warnings.warn(
            f"{path} cannot be written ({error}); {weights.name} is converted again next time",
            stacklevel=3,
        )


def _bring(
    weights: Weights,
    place: Path,
    cache_dir: str | Path | None,
    progress: bool,
    timeout_s: float,
) -> Path:
    source = weights.source
    if isinstance(source, Url):
        download(source.url, place, sha256=source.sha256, timeout_s=timeout_s, progress=progress)
        return place
    assert isinstance(source, HubFile), "embedded files are always here"
    path, commit = download_hub_file(
        source, _revision(weights, cache_dir), cache_dir, timeout_s=timeout_s, place=place
    )
    _write_record(weights, cache_dir, commit=commit)
    return path


def _embedded(source: Embedded) -> Path:
    # The package is always installed as files: it holds its data as such.
    return Path(str(resources.files("fbnetv3"))) / "data" / source.filename


def _place(weights: Weights, folder: str | Path | None) -> Path:
    """Where the published file goes, or may be put by hand."""
    source = weights.source
    name = source.filename if isinstance(source, HubFile | Embedded) else urlparse(source.url).path
    return cache_dir(folder) / f"{weights.name}{PurePosixPath(name).suffix}"


def _converted(weights: Weights, folder: str | Path | None) -> Path:
    return cache_dir(folder) / f"{weights.name}.fbnetv3.safetensors"


def _record(weights: Weights, folder: str | Path | None) -> Path:
    return cache_dir(folder) / f"{weights.name}.json"


def _address(weights: Weights) -> str:
    source = weights.source
    if isinstance(source, Url):
        return source.url
    return f"{source.filename} of {weights.origin}"


def _revision(weights: Weights, folder: str | Path | None) -> str:
    assert isinstance(weights.source, HubFile), "only hub files have revisions"
    commit = _read_record(weights, folder).get("commit")
    return commit if isinstance(commit, str) else weights.source.revision


def _read_record(weights: Weights, folder: str | Path | None) -> dict[str, Any]:
    path = _record(weights, folder)
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged; delete it and the files beside it, and fetch again")
    return record


def _write_record(weights: Weights, folder: str | Path | None, **entries: str) -> None:
    if isinstance(weights.source, Embedded):
        return
    record = _read_record(weights, folder) | {"source": _address(weights)} | entries
    path = _record(weights, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        warnings.warn(
            f"{path} cannot be written ({error}); the hash of {weights.name} is not recorded",
            stacklevel=3,
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of one file of the cache, so that processes take turns.

    Raises:
        FetchError: its folder cannot be written, or another process holds it too long.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_LOCK_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FetchError(
            f"another process has held {lock.lock_file} for {_LOCK_TIMEOUT_S:.0f} s; end it, or "
            "choose another folder with the environment variable FBNETV3_HOME"
        ) from None
    except OSError as error:
        raise FetchError(
            f"cannot write in {path.parent}: {error.strerror or error}; choose another folder "
            "with the environment variable FBNETV3_HOME"
        ) from error
    try:
        yield
    finally:
        lock.release()
