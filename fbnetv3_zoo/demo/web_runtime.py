"""onnxruntime-web, which runs models in a browser: one pinned release, downloaded and verified.

The release is a tarball of the npm registry. It is kept in the cache as published and verified on
every use; its SHA-512 is the registry's: `npm view onnxruntime-web@VERSION dist.integrity`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import write_atomically
from fbnetv3.hub import cache
from fbnetv3.hub.download import download

_TIMEOUT_S = 20.0
_REGISTRY = "https://registry.npmjs.org"
# npm's variables for a mirror of the registry. The download is verified in any case.
_REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")


@dataclass(frozen=True, kw_only=True)
class WebRuntime:
    """A release of onnxruntime-web.

    Attributes:
        version: version in the registry.
        sha512: SHA-512 of the tarball, in base64.
        files: files of `package/dist/` that a page needs: the modules that it imports, and the
            files that these load.
    """

    version: str
    sha512: str
    files: tuple[str, ...]

    @property
    def filename(self) -> str:
        """The tarball's name in the registry and in the cache."""
        return f"onnxruntime-web-{self.version}.tgz"

    @property
    def url(self) -> str:
        """The URL of the tarball."""
        found = (os.environ.get(name) for name in _REGISTRY_VARIABLES)
        registry = next(filter(None, found), _REGISTRY)
        return f"{registry.rstrip('/')}/onnxruntime-web/-/{self.filename}"


RUNTIME = WebRuntime(
    version="1.30.0",
    sha512="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    # One build for the GPU, and a smaller one that is faster on the CPU.
    files=(
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
)


def fetch_runtime(
    runtime: WebRuntime = RUNTIME,
    *,
    tarball: str | Path | None = None,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    progress: bool = True,
) -> Path:
    """Returns the verified tarball, downloaded if necessary.

    Args:
        runtime: the release.
        tarball: a copy to use instead of the cache's.
        cache_dir: see `fbnetv3.create`.
        offline: see `fbnetv3.create`.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        FetchError: the tarball is not here and cannot be downloaded; the message says what to do.
        ValueError: the file is not the published one.
    """
    if tarball is not None:
        path = Path(tarball)
        if not path.is_file():
            raise FetchError(f"no file {path}; fetch it from {runtime.url}")
        return _verified(path, runtime)
    path = cache.cache_dir(cache_dir) / runtime.filename
    if not path.is_file():
        _download(path, runtime, cache.is_offline(offline), progress)
    return _verified(path, runtime)


def unpack_runtime(tarball: Path, folder: Path, runtime: WebRuntime = RUNTIME) -> None:
    """Writes the release's files into a folder, each atomically; ignores other files.

    Args:
        tarball: the tarball of `fetch_runtime`.
        folder: an existing folder.
        runtime: the release.

    Raises:
        ValueError: a file is missing in the tarball, or is a link.
        OSError: the folder cannot be written.
    """
    wanted = {f"package/dist/{name}": name for name in runtime.files}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            # Only exact names are extracted, so that none can lead out of the folder.
            name = wanted.get(member.name)
            content = archive.extractfile(member) if name and member.isreg() else None
            if name and content:
                write_atomically(folder / name, content.read())
                del wanted[member.name]
    if wanted:
        raise ValueError(f"{tarball} has no plain file {next(iter(wanted))}")


def _download(path: Path, runtime: WebRuntime, offline: bool, progress: bool) -> None:
    by_hand = f"put the file {runtime.url} at {path}, or name a copy with --runtime"
    if offline:
        raise FetchError(
            f"offline, and onnxruntime-web {runtime.version} is not on this machine; {by_hand}"
        )
    with cache.locked(path):
        if path.is_file():
            return
        try:
            download(runtime.url, path, sha256=None, timeout_s=_TIMEOUT_S, progress=progress)
        except FetchError as error:
            raise FetchError(f"{str(error).partition(';')[0]}; {by_hand}") from error
        try:
            _verified(path, runtime)
        except ValueError:
            path.unlink()
            raise


def _verified(path: Path, runtime: WebRuntime) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = base64.b64encode(digest).decode()
    if found != runtime.sha512:
        raise ValueError(
            f"{path} has SHA-512 {found}, expected {runtime.sha512} of {runtime.filename}; delete "
            "the file and fetch it again"
        )
    return path
