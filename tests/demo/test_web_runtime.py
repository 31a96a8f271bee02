"""onnxruntime-web's tarball: brought once, verified, and unpacked without leaving the folder."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from fbnetv3._internal.errors import FetchError
from fbnetv3.demo.web_runtime import RUNTIME, WebRuntime, fetch_runtime, unpack_runtime

FILES = {"ort.mjs": b"export {};", "ort.wasm": b"\0asm"}


def pack(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> WebRuntime:
    """Writes a tarball and returns the release that it is."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    sha512 = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return WebRuntime(version="0.0.1", sha512=sha512, files=tuple(FILES))


def package() -> dict[str, bytes]:
    return {f"package/dist/{name}": content for name, content in FILES.items()}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[WebRuntime, Path]:
    """A registry of files, the release in it, and the cache's folder beside it."""
    place = tmp_path / "registry" / "onnxruntime-web" / "-"
    place.mkdir(parents=True)
    runtime = pack(place / "onnxruntime-web-0.0.1.tgz", package())
    for name in ("FBNETV3_OFFLINE", "HF_HUB_OFFLINE", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri())
    return runtime, tmp_path / "cache"


def test_it_is_fetched_once(
    registry: tuple[WebRuntime, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, cache = registry
    first = fetch_runtime(runtime, cache_dir=cache)
    assert first == cache / "onnxruntime-web-0.0.1.tgz"
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    assert fetch_runtime(runtime, cache_dir=cache) == first
    assert fetch_runtime(runtime, cache_dir=cache, offline=True) == first


def test_another_file_is_refused_and_not_kept(registry: tuple[WebRuntime, Path]) -> None:
    runtime, cache = registry
    other = WebRuntime(version="0.0.1", sha512="A" * 86 + "==", files=runtime.files)
    with pytest.raises(ValueError, match=r"SHA-512 .* expected AAAA"):
        fetch_runtime(other, cache_dir=cache)
    assert not list(cache.glob("*.tgz"))


def test_a_file_that_changed_in_the_cache_is_refused(registry: tuple[WebRuntime, Path]) -> None:
    runtime, cache = registry
    path = fetch_runtime(runtime, cache_dir=cache)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="delete the file"):
        fetch_runtime(runtime, cache_dir=cache)


def test_offline_names_the_file_and_its_place(registry: tuple[WebRuntime, Path]) -> None:
    runtime, cache = registry
    with pytest.raises(FetchError, match=r"offline, .*-0\.0\.1\.tgz at .*cache.*--runtime"):
        fetch_runtime(runtime, cache_dir=cache, offline=True)
    assert not cache.exists()


def test_an_unreachable_registry_says_what_to_do(
    registry: tuple[WebRuntime, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, cache = registry
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match=r"refused.*; put the file http.* or name a copy"):
        fetch_runtime(runtime, cache_dir=cache)


def test_a_given_file_is_verified_and_needs_no_network(registry: tuple[WebRuntime, Path]) -> None:
    runtime, cache = registry
    given = pack(cache.with_name("mine.tgz"), package() | {"package/x": b"x"})
    assert fetch_runtime(given, tarball=cache.with_name("mine.tgz"), offline=True).is_file()
    with pytest.raises(ValueError, match="SHA-512"):
        fetch_runtime(runtime, tarball=cache.with_name("mine.tgz"))
    with pytest.raises(FetchError, match="fetch it from"):
        fetch_runtime(runtime, tarball=cache / "none.tgz")


def test_only_its_own_files_are_unpacked(tmp_path: Path) -> None:
    hostile = {
        "../ort.mjs": b"bad",
        "package/dist/../../../ort.wasm": b"bad",
        str(tmp_path / "absolute.mjs"): b"bad",
        "package/dist/other.mjs": b"unasked",
    }
    runtime = pack(tmp_path / "x.tgz", hostile | package())
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    unpack_runtime(tmp_path / "x.tgz", folder, runtime)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {Path("x.tgz"), Path("a/b/ort.mjs"), Path("a/b/ort.wasm")}
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    members = package()
    del members["package/dist/ort.wasm"]
    runtime = pack(tmp_path / "x.tgz", members, {"package/dist/ort.wasm": "/etc/passwd"})
    with pytest.raises(ValueError, match=r"no plain file package/dist/ort\.wasm"):
        unpack_runtime(tmp_path / "x.tgz", tmp_path, runtime)
    assert not (tmp_path / "ort.wasm").exists()


def test_the_pinned_release_has_a_hash_and_comes_from_the_public_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    assert len(base64.b64decode(RUNTIME.sha512)) == 64
    assert RUNTIME.url.startswith("https://registry.npmjs.org/onnxruntime-web/-/")
