"""Weights in the cache: fetched once, verified on every use, read in our layout.

For weights named NAME the cache holds

* `NAME.pth` or `NAME.safetensors`: the published file. Without a network, users can put it there.
* `NAME.fbnetv3.safetensors`: the same weights converted to our layout, if the published file is a
  pickle; written on first use.
* `NAME.json`: what is required from the first use on: the SHA-256 of each file that the record does
  not state, the commit of a hub file, and the SHA-256 of the tensors, which must be the same from
  every source. It is written once the weights know the package's photos (`meaning`); a download
  that does not is deleted, so that a proxy's web page never stays in the place of weights.

Weights inside the package need none of these, and no cache folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import sha256_of, write_atomically
from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import shown
from fbnetv3.checkpoints.checkpoint import read_tensors, write_tensors
from fbnetv3.checkpoints.convert import to_fbnetv3

from . import cache
from .download import download
from .hub_repo import FIRST_ANSWER_S, download_hub_file, find_hub_file, stated_sha256
from .license_policy import check_terms
from .meaning import check_meaning
from .weights import MIRROR, OFFICIAL_HOST, Embedded, HubFile, Url, Weights

if TYPE_CHECKING:
    from torch import Tensor

# Who states a SHA-256, apart from the record of the first use.
PUBLISHED, HUB, NOBODY = "published", "stated by the hub", "stated by nobody"
_TIMEOUT_S = 20.0


class CachedWeights:
    """The file and tensors of trained weights; nothing is read or fetched until asked for.

    Args:
        record: the record of the weights.
        cache_dir: folder to use instead of the default cache, also for hub files.
        offline: do not use the network; None reads HF_HUB_OFFLINE or FBNETV3_OFFLINE.
        progress: show a progress bar if stderr is a terminal.
        timeout_s: seconds without data from the server after which an attempt fails.

    Attributes:
        record: the record of the weights.
        name: the full name, `model.tag`.
        arch: their architecture.
    """

    def __init__(
        self,
        record: Weights,
        *,
        cache_dir: str | Path | None = None,
        offline: bool | None = None,
        progress: bool = True,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self.record, self.name, self.arch = record, record.name, record.arch
        self._offline, self._progress, self._timeout_s = offline, progress, timeout_s
        self._cache_dir = cache_dir
        source = record.source
        if isinstance(source, Url):
            filename, self._origin = urlparse(source.url).path, source.url
        else:
            filename, self._origin = source.filename, f"{source.filename} of {record.origin}"
        self._suffix = PurePosixPath(filename).suffix

    @functools.cached_property
    def _folder(self) -> Path:
        return cache.cache_dir(self._cache_dir)

    @property
    def _published(self) -> Path:
        return self._folder / f"{self.name}{self._suffix}"

    @property
    def _second(self) -> Path:
        return self._folder / f"{self.name}.pth"

    @property
    def _converted(self) -> Path:
        return self._folder / f"{self.name}.fbnetv3.safetensors"

    @property
    def _facts(self) -> Path:
        return self._folder / f"{self.name}.json"

    def find(self) -> Path | None:
        """Returns the published file if it is on this machine, else None; needs no network."""
        source = self.record.source
        if isinstance(source, Embedded):
            # The package is always installed as plain files.
            return Path(str(resources.files("fbnetv3"))) / "data" / source.filename
        if self._published.is_file():
            return self._published
        if isinstance(source, HubFile):
            found = find_hub_file(source, self._revision(source), self._cache_dir)
            if found is not None:
                return found
        return self.find_second()

    def find_second(self) -> Path | None:
        """Returns the file of the second source if it is on this machine, else None."""
        has_one = self.record.second is not None and self._second.is_file()
        return self._second if has_one else None

    def path(self) -> Path:
        """Returns the published file, verified, after downloading it if necessary.

        Weights whose hash is not published must know the package's photos when they are first used.
        Of several processes that ask at once, one downloads.

        Raises:
            FetchError: the file cannot be downloaded; the message says where to put it by hand.
            ValueError: the hash is not that of the record or of the first download, or the file is
                damaged or does not have the published weights.
        """
        path = self.find()
        if path is not None:
            self._accept(path)
            return path
        if cache.is_offline(self._offline):
            raise FetchError(
                f"offline, and {self.name} is not on this machine; put the file {self._origin} at "
                f"{self._published}"
            )
        with cache.locked(self._published):
            # Another process may have downloaded it meanwhile.
            path = self.find()
            if path is not None:
                self._accept(path)
                return path
            path = self._fetch_any()
            try:
                self._accept(path)
            except ValueError as error:
                # What the hub's library has written is its own.
                if path.parent == self._folder:
                    path.unlink(missing_ok=True)
                raise ValueError(f"the download of {self.name} is refused: {error}") from error
            return path

    def verify(self, path: Path) -> str:
        """Returns the SHA-256 of a file that `find` returned, checked against record or first use.

        Raises:
            ValueError: the hash differs.
        """
        found = sha256_of(path)
        expected, origin = self.expected_sha256(path)
        if not found.startswith(expected or ""):
            raise ValueError(
                f"{path} has SHA-256 {found}, expected {expected}"
                f"{'' if origin == PUBLISHED else f' as {origin}'}; delete the file and "
                "download it again"
            )
        return found

    def _accept(self, path: Path) -> None:
        """Checks a file by its hash, and one used for the first time by its tensors; records both.

        Raises:
            ValueError: as in `path`.
        """
        found, fact = self.verify(path), self._fact_of(path)
        # Of embedded files the whole hash is in the package.
        if isinstance(self.record.source, Embedded) or self._read_facts().get(fact) == found:
            return
        self._recognise(self._read(path), path)
        self._write_facts(**{fact: found})

    def _read(self, path: Path) -> dict[str, Tensor]:
        return to_fbnetv3(read_tensors(path), self.arch, self.record.dialect)

    def expected_sha256(self, path: Path) -> tuple[str | None, str]:
        """Returns the SHA-256 that a file must have, or its first digits, and who states it.

        (None, NOBODY) for a file that is used for the first time, whose hash nobody states.
        """
        source = self.record.source if path != self._second_or_none() else self.record.second
        published = source.sha256 if source is not None else None
        if published is not None:
            return published, PUBLISHED
        recorded = self._read_facts().get(self._fact_of(path))
        if recorded is not None:
            return recorded, f"recorded in {self._facts}"
        stated = stated_sha256(path) if isinstance(source, HubFile) else None
        return stated, HUB if stated else NOBODY

    def tensors(self, *, license: str | None = None) -> dict[str, Tensor]:
        """Returns the tensors in our layout, for a model of `arch`.

        A pickle is converted once; later calls read the converted safetensors file. Weights whose
        hash is not published must know the package's photos when they are first used.

        Args:
            license: "commercial" refuses weights that forbid commercial use; None reads
                FBNETV3_LICENSE.

        Raises:
            FetchError: as in `path`.
            ValueError: as in `path`, or the licence is refused, or the file is damaged or does not
                have the published weights.
        """
        check_terms(self.name, self.record.license, license)
        if isinstance(self.record.source, Embedded):
            return self._read(self.path())
        if self._converted.is_file() and self._is_current():
            state = read_tensors(self._converted)
            # Converted before there was a record of tensors.
            if "tensors_sha256" not in self._read_facts():
                self._recognise(state, self._converted)
            return state
        path = self.path()
        state = self._read(path)
        if path.suffix != ".safetensors":
            self._save_converted(state, path)
        return state

    def _recognise(self, state: dict[str, Tensor], path: Path) -> None:
        """Checks that tensors are those of the first use; then, that they are trained ones."""
        found, known = tensors_sha256(state), self._read_facts().get("tensors_sha256")
        if known not in (None, found):
            raise ValueError(
                f"{path} has other tensors than {self.name} had at its first use, as recorded in "
                f"{self._facts}; delete the file and download it again"
            )
        if known is None:
            try:
                check_meaning(self.record, state)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self._write_facts(tensors_sha256=found)

    def _second_or_none(self) -> Path | None:
        return None if self.record.second is None else self._second

    def _fact_of(self, path: Path) -> str:
        return "second_sha256" if path == self._second_or_none() else "published_sha256"

    def _fetch_any(self) -> Path:
        try:
            return self._fetch()
        except FetchError as error:
            second = self.record.second
            if second is None:
                raise
            try:
                download(
                    second.url,
                    self._second,
                    sha256=second.sha256,
                    timeout_s=min(self._timeout_s, FIRST_ANSWER_S),
                    progress=self._progress,
                    num_attempts=1,
                )
            except FetchError as other:
                raise FetchError(f"{error}. The second source: {other}") from error
            warnings.warn(
                f"{self.name} comes from its second source, {second.url}: {error}", stacklevel=5
            )
            return self._second

    def _fetch(self) -> Path:
        source = self.record.source
        if isinstance(source, Url):
            download(
                _mirrored(source.url),
                self._published,
                sha256=source.sha256,
                timeout_s=self._timeout_s,
                progress=self._progress,
            )
            return self._published
        assert isinstance(source, HubFile), "embedded files are always present"
        found = download_hub_file(
            source,
            self._revision(source),
            self._cache_dir,
            timeout_s=self._timeout_s,
            manual_path=self._published,
        )
        self._accept(found.path)
        self._write_facts(commit=found.commit)
        return found.path

    def _is_current(self) -> bool:
        """Whether the converted file is intact and was made from the current published file."""
        facts = self._read_facts()
        # A pickle of the first source; of the second the hash is published in part only.
        published = self.record.source.sha256
        if published and not str(facts.get("published_sha256", published)).startswith(published):
            return False
        wanted = (self.arch.sha256, sha256_of(self._converted))
        return wanted == (facts.get("arch_sha256"), facts.get("converted_sha256"))

    def _save_converted(self, state: dict[str, Tensor], source: Path) -> None:
        arch_sha256 = self.arch.sha256
        metadata = {
            "fbnetv3.weights": self.name,
            "fbnetv3.arch_sha256": arch_sha256,
            "fbnetv3.source": self._origin,
            "fbnetv3.source_sha256": sha256_of(source),
            "license": self.record.license,
            "license_url": self.record.license_url,
        }
        path = self._converted
        try:
            with cache.locked(path):
                write_tensors(path, state, metadata)
                self._write_facts(converted_sha256=sha256_of(path), arch_sha256=arch_sha256)
        except OSError as error:
            warnings.warn(
                f"{path} cannot be written ({error}); {self.name} is converted again next time",
                stacklevel=3,
            )

    def _revision(self, source: HubFile) -> str:
        commit = self._read_facts().get("commit")
        return commit if isinstance(commit, str) else source.revision

    def _read_facts(self) -> dict[str, Any]:
        path = self._facts
        try:
            facts = read_json(path.read_text(), path.name)
        except FileNotFoundError:
            return {}
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise ValueError(
                f"{path} is damaged; delete it and the weights beside it, and download them again"
            )
        return facts

    def _write_facts(self, **facts: str) -> None:
        path = self._facts
        content = self._read_facts() | {"source": self._origin} | facts
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            warnings.warn(
                f"{path} cannot be written ({error}); the hash of {self.name} is not recorded",
                stacklevel=3,
            )


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of names, shapes, types and bytes of tensors, sorted by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(numbers.data)
    return digest.hexdigest()


def _mirrored(url: str) -> str:
    """Returns the URL at the mirror of the official host in FBNETV3_MIRROR, if there is one.

    Raises:
        ValueError: the variable is not an address.
    """
    mirror = os.environ.get(MIRROR, "").strip()
    if not mirror or not url.startswith(f"{OFFICIAL_HOST}/"):
        return url
    rest = url.removeprefix(OFFICIAL_HOST)
    if mirror.isprintable():
        if folder := re.fullmatch(r"file://(?:localhost)?(/.*)", mirror, re.IGNORECASE):
            # What would end the path of a URL is part of the folder's name.
            path = folder[1].rstrip("/").replace("?", "%3F").replace("#", "%23")
            return f"file://{path}{rest}"
        host = re.fullmatch(r"(https?)(://[^/\s]+(?:/[^?#]*)?)", mirror, re.IGNORECASE)
        if host and _is_url(mirror):
            return f"{host[1].lower()}{host[2].rstrip('/')}{rest}"
    raise ValueError(
        f"{MIRROR} is {shown(_without_password(mirror))}; expected an address such as "
        "https://host/folder, or file:///folder for a folder of this machine"
    )


def _is_url(address: str) -> bool:
    try:
        return bool(urlparse(address).netloc)
    except ValueError:  # half an IPv6 address
        return False


def _without_password(address: str) -> str:
    return re.sub(r"(?<=:)[^:@/]*(?=@)", "***", address)
