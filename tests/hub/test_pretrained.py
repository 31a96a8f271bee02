"""Models as folders and repositories, read by us, by timm, and from a hub played on loopback."""

import base64
import contextlib
import dataclasses
import hashlib
import importlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fbnetv3
from fbnetv3._internal.errors import FetchError
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.checkpoints.convert import detect_dialect
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained import from_pretrained, push_to_hub, read_pretrained, save_pretrained
from fbnetv3.hub.weights import WEIGHTS, HubFile, Weights
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.archs import TINY

NANO = ARCHS["fbnetv3_nano"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def shaken(model: nn.Module) -> Any:
    """The model with every number moved away from its start, in evaluation mode."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype)
                tensor.add_(noise, alpha=0.1 if tensor.ndim == 1 else 0.01)
    return model.eval()


def logits(model: nn.Module, in_chans: int = 3) -> Tensor:
    images = torch.randn(2, in_chans, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found: Tensor = model(images)
    return found / found.abs().max()


def test_a_folder_with_pickled_weights_is_read_without_executing_them(tmp_path: Path) -> None:
    model = shaken(build(NANO, num_classes=5))
    folder = save_pretrained(model, tmp_path / "saved")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    read = create(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits(read.eval()), logits(model))


@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv3_a0", "fbnetv2_l3", "fbnetv3_nano"])
def test_our_own_round_trip_keeps_every_bit(tmp_path: Path, name: str) -> None:
    model = shaken(build(ARCHS[name], num_classes=7, in_chans=4, bn_eps=1e-3))
    save_pretrained(model, tmp_path, license="Apache-2.0")
    back = from_pretrained(tmp_path)
    assert back.arch == model.arch
    assert (back.num_classes, back.in_chans) == (7, 4)
    assert not back.training
    assert torch.equal(logits(back, 4), logits(model, 4))


def test_a_searched_network_round_trips(tmp_path: Path) -> None:
    rows = (*NANO.rows[:-1], dataclasses.replace(NANO.rows[-1], channels=80))
    model = shaken(build(dataclasses.replace(NANO, rows=rows), num_classes=3))
    save_pretrained(model, tmp_path)
    assert torch.equal(logits(from_pretrained(f"local-dir:{tmp_path}")), logits(model))


def test_a_fine_tuned_model_goes_to_timm_and_comes_back(tmp_path: Path) -> None:
    arch = ARCHS["fbnetv3_b"].same_padding()
    model = shaken(build(arch, num_classes=10))
    preprocess = Preprocess(
        resize=269,
        crop=256,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    labels = [f"class {n}" for n in range(10)]
    save_pretrained(model, tmp_path / "ours", preprocess=preprocess, labels=labels)
    assert detect_dialect(read_tensors(tmp_path / "ours" / "model.safetensors")) == "timm"

    # timm's types say less than its models have.
    theirs: Any = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert type(theirs).__module__.startswith("timm.")
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-5)
    resolve: Any = importlib.import_module("timm.data").resolve_model_data_config
    data = resolve(theirs)
    assert tuple(data["input_size"]) == (3, 256, 256)
    assert data["crop_pct"] == preprocess.crop_pct
    assert theirs.pretrained_cfg["label_names"] == labels

    timm.models.save_for_hf(theirs, str(tmp_path / "theirs"), safe_serialization=True)
    back = from_pretrained(tmp_path / "theirs")
    assert back.arch == arch
    torch.testing.assert_close(logits(back), logits(model), rtol=0, atol=1e-5)
    assert Preprocess.from_timm_cfg(back.pretrained_cfg) == preprocess


def test_a_model_tuned_in_timm_comes_to_us(tmp_path: Path) -> None:
    theirs = shaken(timm.create_model("fbnetv3_d", num_classes=5, in_chans=1))
    timm.models.save_for_hf(theirs, str(tmp_path), safe_serialization=True)
    model = from_pretrained(tmp_path)
    assert (model.num_classes, model.in_chans) == (5, 1)
    assert model.arch == ARCHS["fbnetv3_d"]
    torch.testing.assert_close(logits(model, 1), logits(theirs, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "same", "architecture", "dialect"),
    [
        ("fbnetv3_a", False, "meta_fbnetv3_a", "fbnetv3"),
        ("fbnetv3_b", False, "meta_fbnetv3_b", "fbnetv3"),
        ("fbnetv3_b", True, "fbnetv3_b", "timm"),
        ("fbnetv3_e", True, "fbnetv3", "fbnetv3"),
        ("fbnetv3_g", False, "fbnetv3_g", "timm"),
        ("fbnetv3_20g", False, "fbnetv3_20g", "fbnetv3"),
        ("fbnetv3_nano", False, "fbnetv3_nano", "fbnetv3"),
    ],
)
def test_the_architecture_is_what_can_build_it(
    name: str, same: bool, architecture: str, dialect: str
) -> None:
    from fbnetv3.hub.pretrained import _timm_name

    arch = ARCHS[name].same_padding() if same else ARCHS[name]
    assert _timm_name(arch) == (architecture, dialect)
    larger = dataclasses.replace(arch, resolution=999)
    assert _timm_name(larger)[1] == dialect


def _exchanged_activation() -> FBNetV3:
    return build(NANO, act_layer="silu")


def _exchanged_norm() -> FBNetV3:
    return build(NANO, norm_layer=lambda channels: nn.GroupNorm(1, channels))


def _dilated() -> FBNetV3:
    return build(NANO, output_stride=16)


def _pruned() -> FBNetV3:
    model = build(NANO)
    model.prune_intermediate_layers([2])
    return model


@pytest.mark.parametrize("make", [_exchanged_activation, _exchanged_norm, _dilated, _pruned])
def test_a_model_that_is_not_its_table_is_not_saved(tmp_path: Path, make: Any) -> None:
    with pytest.raises(ValueError, match="not those of its architecture"):
        save_pretrained(make(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, AveragedModel, lambda model: torch.compile(nn.DataParallel(model))],
    ids=["parallel", "averaged", "compiled"],
)
def test_what_wraps_a_model_is_no_hindrance(wrap: Any, tmp_path: Path) -> None:
    model = build(TINY, num_classes=4).eval()
    save_pretrained(wrap(model), tmp_path)
    saved = from_pretrained(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(saved[name], tensor), name
    with pytest.raises(ValueError, match=r"model is a DataParallel; expected an FBNetV3"):
        save_pretrained(nn.DataParallel(nn.Linear(2, 2)), tmp_path)  # type: ignore[arg-type]


def test_a_classifier_put_in_by_hand_is_refused_with_the_way_to_do_it(tmp_path: Path) -> None:
    model = build(TINY, num_classes=10)
    model.classifier = nn.Linear(model.head_hidden_size, 4)
    with pytest.raises(ValueError, match=r"linear one for 10 classes; .*reset_classifier"):
        save_pretrained(model, tmp_path)


def test_stochastic_depth_is_no_hindrance(tmp_path: Path) -> None:
    model = shaken(build(NANO, drop_path_rate=0.2, drop_rate=0.1))
    save_pretrained(model, tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path)), logits(model))


def test_the_licence_travels_and_is_enforced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbnetv3.hub.license_policy._warned", set())
    model = build(NANO, num_classes=2)
    model.pretrained_cfg["license"] = "cc-by-nc-4.0"
    model.pretrained_cfg["url"] = "https://somewhere"
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["fbnetv3"]["license"] == "cc-by-nc-4.0"
    assert "url" not in config["pretrained_cfg"]
    assert "license: cc-by-nc-4.0" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match="no commercial use"):
        from_pretrained(tmp_path, license="commercial")
    with pytest.warns(UserWarning, match="non-commercial"):
        from_pretrained(tmp_path)


def test_classes_can_be_exchanged_on_reading(tmp_path: Path) -> None:
    save_pretrained(build(NANO, num_classes=2), tmp_path)
    assert from_pretrained(tmp_path, num_classes=5).num_classes == 5
    with pytest.raises(ValueError, match="3 labels for 2 classes"):
        save_pretrained(build(NANO, num_classes=2), tmp_path, labels=["a", "b", "c"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fbnetv3": {}, "architecture": "resnet50"}, "resnet50"),
        ({"fbnetv3": {"arch": {"schema": "x"}}}, "schema"),
        ({"fbnetv3": []}, None),
    ],
)
def test_a_foreign_config_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    save_pretrained(build(NANO, num_classes=2), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if reason is None:
        assert read_pretrained(tmp_path).arch == NANO
        return
    with pytest.raises(ValueError, match=reason):
        read_pretrained(tmp_path)


def test_a_config_that_is_no_text_is_named(tmp_path: Path) -> None:
    save_pretrained(build(NANO, num_classes=2), tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_pretrained(tmp_path)


def test_what_is_neither_folder_nor_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor ORG/REPO"):
        from_pretrained("nano")
    with pytest.raises(ValueError, match=r"use create\('fbnetv3_nano.cifar10', pretrained=True\)"):
        from_pretrained("fbnetv3_nano.cifar10")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="not valid JSON"):
        from_pretrained(tmp_path)


class Hub(ThreadingHTTPServer):
    """Plays a model hub that holds the files of one repository, in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.made: list[dict[str, Any]] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.refusals:
            status, headers = self.server.refusals.pop(0)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        content = self.server.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    do_GET = do_HEAD = _file  # noqa: N815  # the standard library's names

    def do_POST(self) -> None:  # the standard library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            answer: dict[str, Any] = {"url": f"{self.server.url}/me/tuned", "name": "me/tuned"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kept = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            answer = {"files": [{"path": file["path"], **kept} for file in files]}
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[entry["value"]["path"]] = content
            commit_url = f"{self.server.url}/me/tuned/commit/{COMMIT}"
            answer = {"commitUrl": commit_url, "commitOid": COMMIT, "success": True}
        else:
            answer = {}
        self._answer(json.dumps(answer).encode(), Content_Type="application/json")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    for name in ("HF_HUB_OFFLINE", "FBNETV3_OFFLINE", "FBNETV3_LICENSE"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def hub_record() -> Weights:
    return dataclasses.replace(
        WEIGHTS["fbnetv3_b.ra2_in1k"],
        model="fbnetv3_nano",
        tag="test",
        source=HubFile(repo="me/tuned", filename="model.safetensors", revision="main"),
        dialect="fbnetv3",
        num_classes=4,
    )


def test_a_pushed_model_is_read_back_from_the_hub(remote: Hub, tmp_path: Path) -> None:
    model = shaken(build(NANO, num_classes=4))
    url = push_to_hub(model, "me/tuned", license="Apache-2.0", private=True, endpoint=remote.url)
    assert url.endswith(COMMIT)
    made = remote.made[0]
    assert made.get("visibility") == "private" or made.get("private") is True
    assert set(remote.files) == {"config.json", "model.safetensors", "README.md"}
    back = from_pretrained("hf-hub:me/tuned@main", cache_dir=tmp_path)
    assert torch.equal(logits(back), logits(model))
    # The tensors are asked for at the commit that the configuration came from.
    assert f"GET /me/tuned/resolve/{COMMIT}/model.safetensors" in remote.requests

    before = len(remote.requests)
    again = from_pretrained("me/tuned", revision=COMMIT, cache_dir=tmp_path, offline=True)
    assert torch.equal(logits(again), logits(model))
    created = create(f"hf-hub:me/tuned@{COMMIT}", pretrained=True, cache_dir=tmp_path, offline=True)
    assert created.training
    assert torch.equal(logits(created.eval()), logits(model))
    assert len(remote.requests) == before
    fresh = create("hf_hub:me/tuned", cache_dir=tmp_path)
    assert fresh.num_classes == 4
    assert not torch.equal(logits(fresh.eval()), logits(model))


def test_a_hub_file_is_pinned_by_its_first_use(remote: Hub, tmp_path: Path) -> None:
    model = shaken(build(NANO, num_classes=4))
    remote.files["model.safetensors"] = (
        save_pretrained(model, tmp_path / "m") / "model.safetensors"
    ).read_bytes()
    weights = hub_record()
    assert CachedWeights(weights, cache_dir=tmp_path).find() is None
    state = CachedWeights(weights, cache_dir=tmp_path).tensors()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    noted = json.loads((tmp_path / "fbnetv3_nano.test.json").read_text())
    assert noted["commit"] == COMMIT
    content = remote.files["model.safetensors"]
    assert noted["published_sha256"] == hashlib.sha256(content).hexdigest()

    requests = list(remote.requests)
    path = CachedWeights(weights, cache_dir=tmp_path).path()
    assert remote.requests == requests
    assert CachedWeights(weights, cache_dir=tmp_path, offline=True).path() == path
    target = path.resolve()
    target.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match="as recorded in"):
        CachedWeights(weights, cache_dir=tmp_path).path()


def pushed(remote: Hub) -> FBNetV3:
    model: FBNetV3 = shaken(build(NANO, num_classes=4))
    push_to_hub(model, "me/tuned", license="Apache-2.0", endpoint=remote.url)
    return model


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """A hub that takes connections and never answers: its URL, and the connections."""
    taken: list[socket.socket] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(listening.accept()[0])

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
    for connection in [listening, *taken]:
        connection.close()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "FBNETV3_OFFLINE"])
def test_a_repository_used_once_loads_offline_by_the_same_name(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    model = pushed(remote)
    from_pretrained("me/tuned", cache_dir=tmp_path)
    before = len(remote.requests)
    monkeypatch.setenv(variable, "1")
    back = from_pretrained("me/tuned", cache_dir=tmp_path)
    assert torch.equal(logits(back), logits(model))
    assert len(remote.requests) == before


def test_weights_that_timm_downloaded_need_no_hub(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pushed(remote)
    # As timm does, into huggingface_hub's own cache.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hf_hub_download("me/tuned", "model.safetensors", endpoint=remote.url)
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    before = len(remote.requests)
    state = read_tensors(CachedWeights(hub_record(), offline=True).path())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert len(remote.requests) == before


def test_a_repository_used_once_loads_while_the_hub_is_silent(
    remote: Hub,
    silent: tuple[str, list[socket.socket]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = pushed(remote)
    from_pretrained("me/tuned", cache_dir=tmp_path)
    url, connections = silent
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is tried again"))
    with pytest.warns(UserWarning, match=r"config\.json of me/tuned is from the cache.*0\.5 s"):
        back = from_pretrained("me/tuned", cache_dir=tmp_path)
    assert torch.equal(logits(back), logits(model))
    assert len(connections) == 1


def test_a_newer_commit_of_a_branch_is_loaded_while_the_hub_answers(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(remote)
    from_pretrained("me/tuned", cache_dir=tmp_path)
    newer = shaken(build(NANO, num_classes=6))
    push_to_hub(newer, "me/tuned", license="Apache-2.0", endpoint=remote.url)
    monkeypatch.setattr(sys.modules[__name__], "COMMIT", "f" * 40)
    back = from_pretrained("me/tuned", cache_dir=tmp_path)
    assert torch.equal(logits(back), logits(newer))


def test_a_hub_whose_cache_and_token_may_not_be_read_is_used_all_the_same(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file in the place of the home directory is as closed as another user's folder.
    home = tmp_path / "home"
    home.write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "own"))
    model = fbnetv3.create("fbnetv3_nano", num_classes=4)
    save_pretrained(model, tmp_path / "saved")
    remote.files["model.safetensors"] = (tmp_path / "saved" / "model.safetensors").read_bytes()
    assert CachedWeights(hub_record()).path().is_relative_to(tmp_path / "own" / "hub")
    assert CachedWeights(hub_record(), offline=True).find() is not None


def test_a_gated_repository_is_refused_in_the_words_of_the_hub(remote: Hub, tmp_path: Path) -> None:
    words = "Access to model me/tuned is restricted. Visit the model page to ask for access."
    remote.refusals = [(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": words})]
    with pytest.raises(FetchError, match="check the repository and the token") as caught:
        from_pretrained("me/tuned", cache_dir=tmp_path)
    assert words.rstrip(".") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(remote.requests) == 1


def test_a_busy_hub_is_asked_again(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbnetv3.hub.hub_repo._PAUSE_S", 0.01)
    model = pushed(remote)
    remote.refusals = [(503, {}), (500, {})]
    assert torch.equal(logits(from_pretrained("me/tuned", cache_dir=tmp_path)), logits(model))
    remote.refusals = [(503, {})] * 3
    with pytest.raises(FetchError, match="503"):
        from_pretrained("me/tuned", cache_dir=tmp_path / "other")
    assert remote.refusals == []


def test_a_file_that_the_hub_lacks_is_one_error(remote: Hub, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"404.*put the file at"):
        CachedWeights(hub_record(), cache_dir=tmp_path).path()
    with pytest.raises(FetchError, match="404"):
        from_pretrained("me/tuned", cache_dir=tmp_path)


@pytest.mark.parametrize("endpoint", ["http://hub.invalid", "http://127.0.0.1:9"])
def test_a_hub_out_of_reach_is_one_error_that_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    for name in ("HF_HUB_OFFLINE", "FBNETV3_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it is tried again"))
    with pytest.raises(FetchError, match="check the network, or put the file at"):
        CachedWeights(hub_record(), cache_dir=tmp_path).path()


def test_offline_a_repository_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"offline, and config\.json of me/tuned"):
        from_pretrained("me/tuned", cache_dir=tmp_path, offline=True)


def test_timm_loads_a_saved_model_of_any_architecture(tmp_path: Path) -> None:
    fbnetv3.register_timm()
    model = shaken(build(ARCHS["fbnetv3_a"].small_image(32), num_classes=4))
    save_pretrained(model, tmp_path)
    theirs: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert theirs.training  # as all models of timm, and those of `create`
    assert create(f"local-dir:{tmp_path}", pretrained=True).training
    assert torch.equal(logits(theirs.eval()), logits(model))
    assert torch.equal(logits(from_pretrained(tmp_path)), logits(model))
    maps: Any = timm.create_model(
        f"local-dir:{tmp_path}", features_only=True, out_indices=(0, 1, 2, 3)
    )
    assert [m.shape[1] for m in maps(torch.zeros(1, 3, 32, 32))] == maps.feature_info.channels()
    with pytest.raises(ValueError, match="'fbnetv3' stands for models saved by"):
        timm.create_model("fbnetv3")
