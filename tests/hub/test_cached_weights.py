"""Fetching from a web server on loopback that behaves well, badly, and worse."""

import base64
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fbnetv3.hub.download
import fbnetv3.hub.license_policy
from fbnetv3._internal.errors import FetchError
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_metadata, read_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub import cached_weights
from fbnetv3.hub.cache import cache_dir
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.license_policy import check_license
from fbnetv3.hub.loading import build_from_state
from fbnetv3.hub.weights import WEIGHTS, Embedded, Url, Weights
from fbnetv3.models.model import build

pytestmark = pytest.mark.filterwarnings("ignore:.*non-commercial use only")


@functools.cache
def nano_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build(ARCHS["fbnetv3_nano"], num_classes=10).state_dict())


class Stranger:
    """A class that the reader does not know, beside the tensors."""


@functools.cache
def checkpoint() -> bytes:
    """A training checkpoint of nano in the official layout, as torch wrote it in 2020."""
    official = from_fbnetv3(nano_state(), ARCHS["fbnetv3_nano"], "official")
    averaged = {f"module.{name}": tensor for name, tensor in official.items()}
    buffer = io.BytesIO()
    torch.save(
        {"model_ema": averaged, "state_dict": {}, "stranger": Stranger()},
        buffer,
        _use_new_zipfile_serialization=False,
    )
    return buffer.getvalue()


class Host(ThreadingHTTPServer):
    """A web server that holds one file and counts what it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = checkpoint()
        self.etag: str | None = '"one"'
        self.ranges = True
        self.requests: list[str | None] = []
        self.statuses: list[int] = []
        self.cut_at: list[int] = []
        self.pause_s = 0.0
        self.hang = False
        self.with_length = True
        self.headers: dict[str, str] = {}  # further ones of all answers
        self.resumed: dict[str, str] | None = None  # those of a range, in place of right ones
        self.stall_s = 0.0
        self.logins: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/FBNetV3_X/model.pth"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # the standard library's name
        host = self.server
        asked = self.headers.get("Range")
        host.requests.append(asked)
        host.logins.add(self.headers.get("Authorization"))
        if host.hang:
            time.sleep(5)
            return
        if host.statuses:
            self.send_error(host.statuses.pop(0))
            return
        content, start = host.content, 0
        if asked and host.ranges and self.headers.get("If-Range") == host.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            last, length = len(content) - 1, len(content)
            right = {"Content-Range": f"bytes {start}-{last}/{length}"}
            for name, value in (right if host.resumed is None else host.resumed).items():
                self.send_header(name, value.format(last=last, length=length))
        else:
            self.send_response(200)
        if host.with_length:
            self.send_header("Content-Length", str(len(content) - start))
        if host.etag:
            self.send_header("ETag", host.etag)
        for name, value in host.headers.items():
            self.send_header(name, value)
        self.end_headers()
        stop = start + host.cut_at.pop(0) if host.cut_at else len(content)
        step = 1 << 16
        for position in range(start, min(stop, len(content)), step):
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[position : min(position + step, stop)])
                self.wfile.flush()
            time.sleep(host.pause_s)
        if stop < len(content):
            time.sleep(host.stall_s)


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbnetv3.hub.download, "_PAUSE_S", 0.01)
    monkeypatch.setattr(fbnetv3.hub.license_policy, "_warned", set())
    for name in ("FBNETV3_HOME", "FBNETV3_OFFLINE", "HF_HUB_OFFLINE", "FBNETV3_LICENSE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def record(url: str, **changes: Any) -> Weights:
    changed: dict[str, Any] = {
        "model": "fbnetv3_nano",
        "tag": "test",
        "source": Url(url=url),
        "variant": "published",
        "num_classes": 10,
        **changes,
    }
    return dataclasses.replace(WEIGHTS["fbnetv3_a.meta_in1k"], **changed)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def assert_loaded(state: dict[str, Tensor]) -> None:
    assert state.keys() == nano_state().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in nano_state().items())
    build_from_state(ARCHS["fbnetv3_nano"], state, source="test")


def test_a_whole_file_is_fetched_once_and_converted_once(host: Host, tmp_path: Path) -> None:
    weights = record(host.url)
    assert CachedWeights(weights, cache_dir=tmp_path).find() is None
    assert_loaded(CachedWeights(weights, cache_dir=tmp_path).tensors())
    assert names(tmp_path) == {
        "fbnetv3_nano.test.pth",
        "fbnetv3_nano.test.json",
        "fbnetv3_nano.test.fbnetv3.safetensors",
    }
    path = CachedWeights(weights, cache_dir=tmp_path).find()
    assert path is not None
    assert path.read_bytes() == host.content
    sha256 = hashlib.sha256(host.content).hexdigest()
    noted = json.loads((tmp_path / "fbnetv3_nano.test.json").read_text())
    assert noted["published_sha256"] == sha256
    metadata = read_metadata(tmp_path / "fbnetv3_nano.test.fbnetv3.safetensors")
    assert metadata["fbnetv3.source_sha256"] == sha256
    assert metadata["fbnetv3.arch_sha256"] == ARCHS["fbnetv3_nano"].sha256
    assert metadata["license"] == "CC-BY-NC-4.0"

    # The second time neither the server nor the pickle is needed.
    path.unlink()
    assert_loaded(CachedWeights(weights, cache_dir=tmp_path, offline=True).tensors())
    assert host.requests == [None]


def test_a_cut_download_is_resumed(host: Host, tmp_path: Path) -> None:
    host.cut_at = [200_000, 100_000]
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert host.requests == [None, "bytes=200000-", "bytes=300000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(host: Host, tmp_path: Path) -> None:
    host.cut_at = [100_000, 0, 0, 0]
    with pytest.raises(FetchError, match=r"after 100000 of \d+ bytes \(4 attempts\)"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    assert names(tmp_path) == {"fbnetv3_nano.test.pth.part", "fbnetv3_nano.test.pth.part.json"}
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert host.requests[-1] == "bytes=100000-"


def test_a_file_that_changed_meanwhile_is_not_patched_together(host: Host, tmp_path: Path) -> None:
    host.content, host.etag = bytes(len(checkpoint())), '"zeros"'
    host.cut_at = [100_000, 0, 0, 0]
    with pytest.raises(FetchError):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    host.content, host.etag = checkpoint(), '"one"'
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())


@pytest.mark.parametrize("etag", [None, 'W/"weak"', '"strong"'])
def test_a_server_that_cannot_resume_sends_all_again(
    host: Host, tmp_path: Path, etag: str | None
) -> None:
    host.ranges, host.etag, host.cut_at = False, etag, [100_000]
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert len(host.requests) == 2


def test_a_file_that_always_comes_short_is_one_error(host: Host, tmp_path: Path) -> None:
    host.cut_at, host.ranges = [1000] * 9, False
    with pytest.raises(FetchError, match="the connection ended after 1000 of"):
        CachedWeights(record(host.url), cache_dir=tmp_path).tensors()
    assert len(host.requests) == 4
    assert "fbnetv3_nano.test.pth" not in names(tmp_path)


def test_without_length_or_hash_nothing_is_taken(host: Host, tmp_path: Path) -> None:
    host.with_length = False
    with pytest.raises(FetchError, match="has no length or hash"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    sha256 = hashlib.sha256(host.content).hexdigest()
    known = record(host.url, source=Url(url=host.url, sha256=sha256))
    assert CachedWeights(known, cache_dir=tmp_path).path().read_bytes() == host.content


def test_a_wrong_hash_leaves_nothing(host: Host, tmp_path: Path) -> None:
    weights = record(host.url, source=Url(url=host.url, sha256="0" * 64))
    with pytest.raises(ValueError, match=f"SHA-256 [0-9a-f]+, expected {'0' * 64}"):
        CachedWeights(weights, cache_dir=tmp_path).path()
    assert names(tmp_path) == set()


def test_a_file_that_is_not_the_one_of_the_first_use_is_refused(host: Host, tmp_path: Path) -> None:
    weights = record(host.url)
    path = CachedWeights(weights, cache_dir=tmp_path).path()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"as recorded in .*fbnetv3_nano\.test\.json"):
        CachedWeights(weights, cache_dir=tmp_path).path()
    path.unlink()
    host.content = host.content[:-1] + b"y"
    with pytest.raises(ValueError, match="as recorded in"):
        CachedWeights(weights, cache_dir=tmp_path).path()


def test_a_damaged_conversion_is_made_again(host: Host, tmp_path: Path) -> None:
    weights = record(host.url)
    CachedWeights(weights, cache_dir=tmp_path).tensors()
    converted = tmp_path / "fbnetv3_nano.test.fbnetv3.safetensors"
    whole = converted.read_bytes()
    converted.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_loaded(CachedWeights(weights, cache_dir=tmp_path, offline=True).tensors())
    assert_loaded(read_tensors(converted))


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_one_error_at_once(host: Host, tmp_path: Path, status: int) -> None:
    host.statuses = [status]
    with pytest.raises(FetchError, match=f"answered {status}"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    assert len(host.requests) == 1
    assert names(tmp_path) == set()


def test_a_busy_server_is_asked_again(host: Host, tmp_path: Path) -> None:
    host.statuses = [500, 503]
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert len(host.requests) == 3


def test_a_server_that_hangs_is_given_up(host: Host, tmp_path: Path) -> None:
    host.hang = True
    with pytest.raises(FetchError, match=r"timed out.*4 attempts"):
        CachedWeights(record(host.url), cache_dir=tmp_path, timeout_s=0.2).path()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("url", ["http://host.invalid/m.pth", "http://127.0.0.1:9/m.pth"])
def test_no_such_host_is_one_error_that_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is tried again"))
    with pytest.raises(FetchError, match="check the network"):
        CachedWeights(record(url), cache_dir=tmp_path).path()


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("whole", [True, False], ids=["alone", "beside tensors"])
def test_a_hostile_pickle_does_not_run(host: Host, tmp_path: Path, whole: bool) -> None:
    witness, cache = tmp_path / "witness", tmp_path / "cache"
    hostile = Hostile(witness)
    if whole:
        host.content = pickle.dumps(hostile)
        with pytest.raises(ValueError, match="cannot read checkpoint"):
            CachedWeights(record(host.url), cache_dir=cache).tensors()
        # Neither the file nor its hash is kept: the right one may take its place.
        host.content = checkpoint()
        assert names(cache) == set()
    else:
        buffer = io.BytesIO()
        official = from_fbnetv3(nano_state(), ARCHS["fbnetv3_nano"], "official")
        torch.save({"state_dict": official, "hook": hostile}, buffer)
        host.content = buffer.getvalue()
    assert_loaded(CachedWeights(record(host.url), cache_dir=cache).tensors())
    assert not witness.exists()


PAGE = b"<!DOCTYPE html><html><title>Sign in to the network</title></html>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PAGE, "it is a web page"),
        (b"", "the file is empty"),
        (gzip.compress(PAGE), "it is packed with gzip"),
        (b"PK\x05\x06" + bytes(18), "it is not a checkpoint"),
        (checkpoint()[:-9], "cannot read checkpoint"),
    ],
    ids=["web page", "empty", "compressed", "zip", "half"],
)
def test_what_a_proxy_sends_in_the_place_of_weights_is_not_kept(
    content: bytes, said: str, host: Host, tmp_path: Path
) -> None:
    host.content = content
    with pytest.raises(
        ValueError, match=r"the download of fbnetv3_nano\.test is refused"
    ) as caught:
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    assert said in str(caught.value)
    assert names(tmp_path) == set()
    host.content, host.etag = checkpoint(), '"two"'
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())


@pytest.mark.parametrize(
    "mirror",
    [
        *["host/folder", "/folder", "ftp://host/x", "http://", "file:folder", "https://a b/c"],
        *["file://host/folder", "file://~/folder", "https://host/x?y", "https://host/x#y", "C:/x"],
        "http://[::1/x",
    ],
)
def test_a_mirror_that_is_no_address_is_named(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_MIRROR", mirror)
    weights = CachedWeights(WEIGHTS["fbnetv3_a.meta_in1k"], cache_dir=tmp_path)
    said = f"FBNETV3_MIRROR is {mirror!r}; expected an address"
    with pytest.raises(ValueError, match=re.escape(said)):
        weights.path()


@pytest.mark.parametrize(
    "mirror",
    ["file://{folder}", "file://localhost{folder}//", "FILE://{folder}/", " {uri}/\n"],
)
@pytest.mark.parametrize("name", ["two words", "ü", "100%", "a#b?c"])
def test_a_mirror_may_be_a_folder_of_any_name(
    name: str, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = WEIGHTS["fbnetv3_a.meta_in1k"].source
    assert isinstance(source, Url)
    folder = tmp_path / name
    file = folder / source.url.removeprefix("https://dl.fbaipublicfiles.com/")
    file.parent.mkdir(parents=True)
    file.write_bytes(checkpoint())
    address = mirror.format(folder=folder, uri=folder.as_uri())
    monkeypatch.setenv("FBNETV3_MIRROR", address)
    path = CachedWeights(record("", source=source), cache_dir=tmp_path / "cache").path()
    assert path.read_bytes() == checkpoint()


def test_the_password_of_a_mirror_is_sent_and_never_shown(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = host.url.replace("http://", "HTTP://me%40work:se:cret@").removesuffix("/model.pth")
    monkeypatch.setenv("FBNETV3_MIRROR", address)
    source = WEIGHTS["fbnetv3_a.meta_in1k"].source
    weights = CachedWeights(record("", source=source), cache_dir=tmp_path)
    host.cut_at = [1000, 0, 0, 0]
    with pytest.raises(FetchError) as caught:
        weights.path()
    assert "cret" not in str(caught.value)
    assert all("cret" not in path.read_text(errors="replace") for path in tmp_path.iterdir())
    assert weights.path().read_bytes() == host.content
    assert host.logins == {"Basic " + base64.b64encode(b"me@work:se:cret").decode()}
    monkeypatch.setenv("FBNETV3_MIRROR", "https://me:cret@host/x?y")
    with pytest.raises(ValueError, match=r"is 'https://me:\*\*\*@host/x\?y'"):
        CachedWeights(record("", source=source), cache_dir=tmp_path / "new").path()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 1000-1999/*"},
        {"Content-Range": "bytes 500-1999/2000"},
        {},
        {"Content-Range": "bytes 1000-{last}/{length}", "ETag": '"another version"'},
    ],
)
def test_a_server_that_resumes_wrongly_sends_all_again(
    host: Host, tmp_path: Path, headers: dict[str, str]
) -> None:
    host.cut_at, host.resumed = [1000], headers
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert host.requests == [None, "bytes=1000-", None]


def test_a_packed_answer_is_refused(host: Host, tmp_path: Path) -> None:
    host.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(FetchError, match="the server sent it packed as gzip"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("length", ["\xb2", "-5", "many"])
def test_a_length_that_is_no_number_is_none(host: Host, tmp_path: Path, length: str) -> None:
    host.with_length, host.headers = False, {"Content-Length": length}
    with pytest.raises(FetchError, match="has no length or hash"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()


def test_the_bytes_of_a_connection_that_stalls_are_kept(host: Host, tmp_path: Path) -> None:
    host.cut_at, host.stall_s = [1000, 1000], 1.0
    weights = CachedWeights(record(host.url), cache_dir=tmp_path, timeout_s=0.2)
    assert weights.path().read_bytes() == host.content
    assert host.requests == [None, "bytes=1000-", "bytes=2000-"]


def test_a_mirror_without_the_file_is_one_error_that_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is tried again"))
    monkeypatch.setenv("FBNETV3_MIRROR", f" {tmp_path.as_uri()}/%20/ ")
    with pytest.raises(FetchError, match="No such file or directory"):
        CachedWeights(WEIGHTS["fbnetv3_a.meta_in1k"], cache_dir=tmp_path).path()


def test_an_address_may_have_any_characters(host: Host, tmp_path: Path) -> None:
    url = host.url.replace("/FBNetV3_X/", "/ü %41 x/")
    assert_loaded(CachedWeights(record(url), cache_dir=tmp_path).tensors())


def test_weights_of_another_network_are_refused_by_name(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not belong to this architecture"):
        CachedWeights(record(host.url, model="fbnetv3_a"), cache_dir=tmp_path).tensors()


FETCH = """
import dataclasses, sys
from pathlib import Path
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.weights import WEIGHTS, Url
print("ready", flush=True)
sys.stdin.readline()
weights = dataclasses.replace(WEIGHTS["fbnetv3_a.meta_in1k"], model="fbnetv3_nano", tag="test",
    num_classes=10, source=Url(url=sys.argv[1]))
print(len(CachedWeights(weights, cache_dir=Path(sys.argv[2])).tensors()))
"""


def process(host: Host, folder: Path) -> subprocess.Popen[str]:
    """Starts a process that fetches as soon as it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, host.url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )


def test_two_processes_at_once_fetch_once(host: Host, tmp_path: Path) -> None:
    host.pause_s = 0.02
    both = [process(host, tmp_path) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    outputs = []
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        outputs.append(one.communicate(timeout=120)[0])
        assert one.returncode == 0
    assert outputs == [f"{len(nano_state())}\n"] * 2
    assert host.requests == [None]


def test_a_killed_download_is_resumed(host: Host, tmp_path: Path) -> None:
    host.pause_s = 0.2
    killed = process(host, tmp_path)
    assert killed.stdin is not None
    killed.stdin.write("go\n")
    killed.stdin.flush()
    part = tmp_path / "fbnetv3_nano.test.pth.part"
    deadline = time.monotonic() + 120
    while not part.exists() or part.stat().st_size < 300_000:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert "fbnetv3_nano.test.pth" not in names(tmp_path)
    host.pause_s = 0
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    last = host.requests[-1]
    assert last is not None
    assert int(last.removeprefix("bytes=").removesuffix("-")) >= 300_000


def test_a_full_disk_is_one_error_and_a_bigger_one_resumes(host: Host, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(FetchError, match="cannot write"):
            CachedWeights(record(host.url), cache_dir=tmp_path).tensors()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "fbnetv3_nano.test.pth" not in names(tmp_path)
    assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own; skips where this user may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(("size=1m", *options)), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_no_space_left_is_one_error(host: Host, tmp_path: Path) -> None:
    assert len(host.content) > 1 << 20
    with mounted(tmp_path / "small"):
        with pytest.raises(FetchError, match=r"No space left.*FBNETV3_HOME"):
            CachedWeights(record(host.url), cache_dir=tmp_path / "small").tensors()
        assert "fbnetv3_nano.test.pth" not in names(tmp_path / "small")


def test_no_space_for_the_conversion_still_loads(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached_weights, "write_tensors", full)
    with pytest.warns(UserWarning, match="converted again next time"):
        assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path).tensors())
    assert "fbnetv3_nano.test.fbnetv3.safetensors" not in names(tmp_path)


def test_a_read_only_cache_serves_what_it_has(host: Host, tmp_path: Path) -> None:
    with mounted(tmp_path / "cache", "size=8m"):
        CachedWeights(record(host.url), cache_dir=tmp_path / "cache").tensors()
        remount = ["mount", "-o", "remount,ro", str(tmp_path / "cache")]
        subprocess.run(remount, check=True)
        assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path / "cache").tensors())
        with pytest.raises(FetchError, match=r"cannot write in.*FBNETV3_HOME"):
            CachedWeights(record(host.url, tag="other"), cache_dir=tmp_path / "cache").tensors()


def test_a_read_only_cache_with_the_published_file_alone_still_loads(
    host: Host, tmp_path: Path
) -> None:
    with mounted(tmp_path / "cache", "size=8m"):
        (tmp_path / "cache" / "fbnetv3_nano.test.pth").write_bytes(host.content)
        remount = ["mount", "-o", "remount,ro", str(tmp_path / "cache")]
        subprocess.run(remount, check=True)
        with pytest.warns(UserWarning, match="not recorded"):
            assert_loaded(CachedWeights(record(host.url), cache_dir=tmp_path / "cache").tensors())
    assert host.requests == []


@pytest.mark.parametrize("variable", ["FBNETV3_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("name", ["fbnetv3_a.meta_in1k", "fbnetv3_b.ra2_in1k"])
def test_offline_nobody_is_asked_and_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a host is asked"))
    with pytest.raises(FetchError, match=f"offline, and {name}") as caught:
        CachedWeights(WEIGHTS[name]).tensors()
    suffix = ".pth" if "meta" in name else ".safetensors"
    assert str(tmp_path / "home" / f"{name}{suffix}") in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_a_file_put_in_the_cache_by_hand_is_taken(tmp_path: Path) -> None:
    (tmp_path / "fbnetv3_nano.test.pth").write_bytes(checkpoint())
    weights = record("http://127.0.0.1:9/model.pth")
    assert_loaded(CachedWeights(weights, cache_dir=tmp_path, offline=True).tensors())


def test_an_embedded_file_is_verified_and_needs_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "absent"))
    weights = record("", source=Embedded(filename="LICENSES.txt", sha256="0" * 64))
    with pytest.raises(ValueError, match=r"LICENSES\.txt has SHA-256"):
        CachedWeights(weights, offline=True).path()
    path = CachedWeights(weights).find()
    assert path is not None
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    right = record("", source=Embedded(filename="LICENSES.txt", sha256=sha256))
    assert CachedWeights(right, offline=True).path() == path
    assert not (tmp_path / "absent").exists()


def test_the_cache_is_where_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/fbnetv3")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/fbnetv3")
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("FBNETV3_HOME", "~/weights")
    assert cache_dir() == Path("/home/someone/weights")
    assert cache_dir("elsewhere") == Path("elsewhere")


def test_a_damaged_record_is_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "fbnetv3_nano.test.json").write_text("[")
    with pytest.raises(ValueError, match=r"fbnetv3_nano\.test\.json is damaged"):
        CachedWeights(record(host.url), cache_dir=tmp_path).path()


def _by_argument(policy: str, _: pytest.MonkeyPatch) -> str | None:
    return policy


def _by_variable(policy: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setenv("FBNETV3_LICENSE", policy)
    return None


@pytest.mark.parametrize("given", [_by_argument, _by_variable])
def test_a_commercial_policy_refuses_restricted_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Callable[[str, pytest.MonkeyPatch], str | None],
) -> None:
    policy = given("commercial", monkeypatch)
    with pytest.raises(ValueError, match=r"fbnetv3_e\.meta_in1k is licensed CC-BY-NC-4\.0"):
        CachedWeights(WEIGHTS["fbnetv3_e.meta_in1k"], cache_dir=tmp_path).tensors(license=policy)
    check_license(WEIGHTS["fbnetv3_b.ra2_in1k"], policy)
    with pytest.raises(ValueError, match="policy is 'comercial'"):
        check_license(WEIGHTS["fbnetv3_b.ra2_in1k"], given("comercial", monkeypatch))


@pytest.mark.filterwarnings("default")
def test_without_a_policy_restricted_weights_say_so_once() -> None:
    with pytest.warns(UserWarning, match="non-commercial use only"):
        check_license(WEIGHTS["fbnetv3_e.meta_in1k"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_license(WEIGHTS["fbnetv3_e.meta_in1k"])
        check_license(WEIGHTS["fbnetv3_b.ra2_in1k"])


def test_the_cached_safetensors_are_read_like_any_other(host: Host, tmp_path: Path) -> None:
    CachedWeights(record(host.url), cache_dir=tmp_path).tensors()
    assert_loaded(read_tensors(tmp_path / "fbnetv3_nano.test.fbnetv3.safetensors"))
