"""onnxruntime-web on this machine: one pinned release, fetched once, verified on every use.

It is what runs a network in a browser. The release is a tarball of the npm registry; it stays in
the cache as it was published, and its SHA-512 is the one that the registry states:
`npm view onnxruntime-web@VERSION dist.integrity`. The edge of this file: it starts no browser.
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
# npm's own variables: where a registry's mirror is used, it is set already. What comes is verified.
_REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")


@dataclass(frozen=True, kw_only=True)
class WebRuntime:
    """One release.

    Attributes:
        version: as the registry names it.
        sha512: of the tarball, in base64.
        files: what a page needs of `package/dist/`: the modules that it imports, and what they
            load.
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
        """Where the tarball lies."""
        found = (os.environ.get(name) for name in _REGISTRY_VARIABLES)
        registry = next(filter(None, found), _REGISTRY)
        return f"{registry.rstrip('/')}/onnxruntime-web/-/{self.filename}"


RUNTIME = WebRuntime(
    version="1.30.0",
    sha512="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    # One build for the GPU, and a smaller one that is faster without.
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
    """Returns the tarball, fetched if it is not on this machine, and verified.

    Args:
        runtime: which release.
        tarball: a copy to take instead of the cache's.
        cache_dir: as in `fbnetv3.create`.
        offline: as in `fbnetv3.create`.
        progress: show a bar where the error output is a terminal.

    Raises:
        FetchError: it is not here and cannot be fetched; says what to do.
        ValueError: the file is not the published one.
    """
    if tarball is not None:
        path = Path(tarball)
        if not path.is_file():
            raise FetchError(f"no file {path}; fetch it from {runtime.url}")
        return _verified(path, runtime)
    path = cache.cache_dir(cache_dir) / runtime.filename
    if not path.is_file():
        _bring(path, runtime, cache.is_offline(offline), progress)
    return _verified(path, runtime)


def unpack_runtime(tarball: Path, folder: Path, runtime: WebRuntime = RUNTIME) -> None:
    """Writes the release's files into `folder`, each in one step; no other member is touched.

    Args:
        tarball: from `fetch_runtime`.
        folder: exists.
        runtime: which release it is.

    Raises:
        ValueError: a file is not in the tarball, or is a link there.
        OSError: the folder cannot be written.
    """
    wanted = {f"package/dist/{name}": name for name in runtime.files}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            # Names are compared whole, so that none can lead out of the folder.
            name = wanted.get(member.name)
            content = archive.extractfile(member) if name and member.isreg() else None
            if name and content:
                write_atomically(folder / name, content.read())
                del wanted[member.name]
    if wanted:
        raise ValueError(f"{tarball} has no plain file {next(iter(wanted))}")


def _bring(path: Path, runtime: WebRuntime, offline: bool, progress: bool) -> None:
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
