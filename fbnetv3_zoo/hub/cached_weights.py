"""Weights in the cache: fetched once, verified on every use, read in our layout.

For weights named NAME the cache holds

* `NAME.pth` or `NAME.safetensors`: the published file. Without a network, users can put it there.
* `NAME.fbnetv3.safetensors`: the same weights converted to our layout, if the published file is a
  pickle; written on first use.
* `NAME.json`: the SHA-256 of both, and the commit of a hub file. If the record has no hash, the
  hash of the first download is recorded and required from then on.
"""

from __future__ import annotations

import json
import warnings
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import sha256_of, write_atomically
from fbnetv3._internal.json_record import read_json
from fbnetv3.checkpoints.checkpoint import read_tensors, write_tensors
from fbnetv3.checkpoints.convert import to_fbnetv3

from . import cache
from .download import download
from .hub_repo import download_hub_file, find_hub_file
from .license_policy import check_terms
from .weights import Embedded, HubFile, Url, Weights

if TYPE_CHECKING:
    from torch import Tensor

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
        self._hub_cache = cache_dir
        source = record.source
        if isinstance(source, Url):
            filename, self._origin = urlparse(source.url).path, source.url
        else:
            filename, self._origin = source.filename, f"{source.filename} of {record.origin}"
        folder = cache.cache_dir(cache_dir)
        self._published = folder / f"{self.name}{PurePosixPath(filename).suffix}"
        self._converted = folder / f"{self.name}.fbnetv3.safetensors"
        self._facts = folder / f"{self.name}.json"

    def find(self) -> Path | None:
        """Returns the published file if it is on this machine, else None; needs no network."""
        source = self.record.source
        if isinstance(source, Embedded):
            # The package is always installed as plain files.
            return Path(str(resources.files("fbnetv3"))) / "data" / source.filename
        if self._published.is_file():
            return self._published
        if isinstance(source, HubFile):
            return find_hub_file(source, self._revision(source), self._hub_cache)
        return None

    def path(self) -> Path:
        """Returns the published file, verified, after downloading it if necessary.

        Of several processes that ask at once, one downloads.

        Raises:
            FetchError: the file cannot be downloaded; the message says where to put it by hand.
            ValueError: the hash is not that of the record or of the first download.
        """
        path = self.find()
        if path is not None:
            self.verify(path)
            return path
        if cache.is_offline(self._offline):
            raise FetchError(
                f"offline, and {self.name} is not on this machine; put the file {self._origin} at "
                f"{self._published}"
            )
        with cache.locked(self._published):
            # Another process may have downloaded it meanwhile.
            path = self.find() or self._fetch()
            self.verify(path)
            return path

    def verify(self, path: Path) -> str:
        """Returns the SHA-256 of a published file, checked against record or first download.

        If neither is known, the hash is recorded.

        Raises:
            ValueError: the hash differs.
        """
        found = sha256_of(path)
        known, recorded = self.record.source.sha256, self._read_facts().get("published_sha256")
        expected = known or recorded
        if expected is None:
            self._write_facts(published_sha256=found)
        elif found != expected:
            raise ValueError(
                f"{path} has SHA-256 {found}, expected {expected}"
                f"{'' if known else f' as recorded in {self._facts}'}; delete the file and "
                "download it again"
            )
        return found

    def tensors(self, *, license: str | None = None) -> dict[str, Tensor]:
        """Returns the tensors in our layout, for a model of `arch`.

        A pickle is converted once; later calls read the converted safetensors file.

        Args:
            license: "commercial" refuses weights that forbid commercial use; None reads
                FBNETV3_LICENSE.

        Raises:
            FetchError: as in `path`.
            ValueError: as in `path`, or the licence is refused, or the file is damaged.
        """
        check_terms(self.name, self.record.license, license)
        is_pickle = isinstance(self.record.source, Url)
        if is_pickle and self._converted.is_file() and self._is_current():
            return read_tensors(self._converted)
        path = self.path()
        try:
            state = to_fbnetv3(read_tensors(path), self.arch, self.record.dialect)
        except ValueError:
            # Forget the recorded hash, so that another file can replace this one.
            self._facts.unlink(missing_ok=True)
            raise
        if is_pickle:
            self._save_converted(state)
        return state

    def _fetch(self) -> Path:
        source = self.record.source
        if isinstance(source, Url):
            download(
                source.url,
                self._published,
                sha256=source.sha256,
                timeout_s=self._timeout_s,
                progress=self._progress,
            )
            return self._published
        assert isinstance(source, HubFile), "embedded files are always present"
        path, commit = download_hub_file(
            source,
            self._revision(source),
            self._hub_cache,
            timeout_s=self._timeout_s,
            manual_path=self._published,
        )
        self._write_facts(commit=commit)
        return path

    def _is_current(self) -> bool:
        """Whether the converted file is intact and was made from the current published file."""
        facts = self._read_facts()
        if self.record.source.sha256 not in (None, facts.get("published_sha256")):
            return False
        wanted = (self.arch.sha256, sha256_of(self._converted))
        return wanted == (facts.get("arch_sha256"), facts.get("converted_sha256"))

    def _save_converted(self, state: dict[str, Tensor]) -> None:
        arch_sha256 = self.arch.sha256
        metadata = {
            "fbnetv3.weights": self.name,
            "fbnetv3.arch_sha256": arch_sha256,
            "fbnetv3.source": self._origin,
            "fbnetv3.source_sha256": self._read_facts().get("published_sha256", ""),
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
        if isinstance(self.record.source, Embedded):
            return
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
