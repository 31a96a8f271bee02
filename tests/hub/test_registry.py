"""Names to models: every form that `create` takes, and the look-ups around it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

import fbnetv3
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub import registry
from fbnetv3.hub.license_policy import VARIABLE
from fbnetv3.hub.loading import adapt_stem, build_from_state
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.models.features import FeaturePyramid
from fbnetv3.models.model import FBNetV3
from tests.archs import TINY

Make = Callable[..., FBNetV3]
NANO = ARCHS["fbnetv3_nano"]
pytestmark = pytest.mark.filterwarnings("ignore:.*non-commercial use only")

# timm's types say less than its models have.
data_config: Any = importlib.import_module("timm.data").resolve_model_data_config


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, an empty cache, no policy, and no networks registered by other tests."""
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr("fbnetv3.hub.license_policy._warned", set())


def images(channels: int = 3, side: int = 64) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(images() if x is None else x)
    return found


# What create takes


def test_a_name_makes_its_network_in_training_mode() -> None:
    model = fbnetv3.create("fbnetv3_nano")
    assert isinstance(model, FBNetV3)
    assert model.arch == NANO
    assert model.training
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 1000
    assert model.default_cfg is model.pretrained_cfg


def test_a_tag_makes_the_network_that_its_weights_fit() -> None:
    official = fbnetv3.create("fbnetv3_b.meta_in1k", device="meta")
    assert official.arch == ARCHS["fbnetv3_b"] == fbnetv3.create("fbnetv3_b", device="meta").arch
    timms = fbnetv3.create("fbnetv3_b.ra2_in1k", device="meta")
    assert timms.arch == ARCHS["fbnetv3_b"].same_padding()
    assert data_config(timms)["input_size"] == (3, 256, 256)
    assert data_config(official)["input_size"] == (3, 248, 248)


def test_a_table_and_its_file_make_the_same_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(TINY.to_json())
    for source in (TINY, path, str(path)):
        model = fbnetv3.create(source, num_classes=4, device="meta")
        assert model.arch == TINY
        assert model.num_classes == model.pretrained_cfg["num_classes"] == 4
        assert data_config(model)["input_size"] == (3, 32, 32)


class Server(ThreadingHTTPServer):
    """Answers every request with the same bytes."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # the standard library's name
        if self.path.startswith("/garbage"):
            self.wfile.write(b"no web server\r\n\r\n")
        elif self.path.startswith("/missing"):
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.answer)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], Server]]:
    monkeypatch.delenv("FBNETV3_OFFLINE")
    servers = []

    def start(answer: bytes) -> Server:
        server = Server(answer)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_address_of_a_table_makes_its_network(serve: Callable[[bytes], Server]) -> None:
    url = f"{serve(TINY.to_json().encode()).url}/mine.json"
    assert fbnetv3.create(url, device="meta").arch == TINY
    with pytest.raises(FileNotFoundError, match=r"offline, so http.*give the path of a copy"):
        fbnetv3.create(url, offline=True)


@pytest.mark.parametrize(
    ("answer", "place", "error", "message"),
    [
        (b"", "missing.json", FileNotFoundError, "cannot fetch http.*404.*check the URL"),
        (b"", "garbage.json", FileNotFoundError, "cannot fetch http.*: no web server; check"),
        (b"{", "cut.json", ValueError, "not valid JSON"),
        (b" " * (1 << 20) + b"{}", "large.json", ValueError, "larger than 1048576 bytes"),
    ],
)
def test_an_address_that_gives_no_table_is_one_error(
    serve: Callable[[bytes], Server], answer: bytes, place: str, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        fbnetv3.create(f"{serve(answer).url}/{place}")


def test_no_server_at_the_address_is_one_error(serve: Callable[[bytes], Server]) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot fetch http://127\.0\.0\.1:9/a\.json"):
        fbnetv3.create("http://127.0.0.1:9/a.json")


def test_a_folder_makes_its_network_with_and_without_weights(
    golden_network: Make, tmp_path: Path
) -> None:
    saved = golden_network(TINY, num_classes=4, in_chans=2, global_pool="max")
    fbnetv3.save_pretrained(saved, tmp_path)
    loaded = fbnetv3.create(f"local-dir:{tmp_path}", pretrained=True)
    fresh = fbnetv3.create(f"local-dir:{tmp_path}")
    for model in (loaded, fresh):
        assert model.training
        assert (model.num_classes, model.in_chans, model.pool_type) == (4, 2, "max")
        assert model.pretrained_cfg["num_classes"] == 4
    x = images(2)
    assert torch.equal(logits(loaded, x), logits(saved, x))
    assert not torch.equal(logits(fresh, x), logits(saved, x))


@pytest.mark.parametrize("dialect", ["fbnetv3", "official", "timm"])
def test_a_checkpoint_of_any_layout_is_loaded(
    golden_network: Make, tmp_path: Path, dialect: Any
) -> None:
    # The other layouts have names for such rows as the published ones, with same padding.
    rows = tuple(dataclasses.replace(row, repeats=1) for row in ARCHS["fbnetv3_d"].rows)
    arch = dataclasses.replace(ARCHS["fbnetv3_d"], rows=rows)
    saved = golden_network(arch, num_classes=5)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": from_fbnetv3(saved.state_dict(), arch, dialect)}, path)
    model = fbnetv3.create(arch, checkpoint=path)
    assert model.num_classes == 5
    torch.testing.assert_close(logits(model), logits(saved), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dialect", ["fbnetv3", "official", "timm"])
def test_the_weights_of_another_network_are_known(dialect: Any, tmp_path: Path) -> None:
    arch, path = ARCHS["fbnetv3_nano"], tmp_path / "model.pth"
    state = dict(fbnetv3.create(arch, num_classes=3).state_dict())
    torch.save(from_fbnetv3(state, arch, dialect, force=True), path)
    with pytest.raises(ValueError, match=r"model\.pth.*\. These are weights of fbnetv3_nano$"):
        fbnetv3.create("fbnetv3_f", checkpoint=path)
    with pytest.raises(ValueError, match="in_chans") as caught:
        fbnetv3.create("fbnetv3_nano", checkpoint=path, in_chans=0)
    assert "These are" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit_is_named(golden_network: Make, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    torch.save(golden_network(TINY).state_dict(), path)
    with pytest.raises(ValueError, match=r"tiny\.pth do(es)? not fit|tiny\.pth"):
        fbnetv3.create("fbnetv3_nano", checkpoint=path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*nowhere\.pth"):
        fbnetv3.create("fbnetv3_nano", checkpoint=tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["model.pth", "checkpoint-best.pth.tar", "last.ckpt"])
def test_a_checkpoint_given_as_a_model_says_how_it_is_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    for model in (name, str(tmp_path / name)):
        with pytest.raises(ValueError, match=r"a checkpoint; give its model's name, and the file"):
            fbnetv3.create(model)


def test_features_only_makes_a_pyramid() -> None:
    pyramid = fbnetv3.create("fbnetv3_nano", features_only=True, out_indices=[1, -1])
    assert isinstance(pyramid, FeaturePyramid)
    assert pyramid.out_indices == [1, 4]
    found = pyramid(images())
    assert [tuple(f.shape[1:]) for f in found] == [(24, 16, 16), (88, 2, 2)]
    named = fbnetv3.create("fbnetv3_nano", features_only=True, feature_cls="dict")
    assert list(named(images())) == ["stages.0", "stages.1", "stages.2", "stages.4", "stages.5"]


def test_options_reach_the_network_and_none_means_the_default() -> None:
    model = fbnetv3.create(
        "fbnetv3_nano",
        num_classes=3,
        in_chans=1,
        drop_rate=0.1,
        drop_path_rate=None,
        output_stride=16,
        act_layer=None,
        device="meta",
        dtype=torch.bfloat16,
    )
    assert (model.num_classes, model.in_chans, model.drop_rate) == (3, 1, 0.1)
    assert model.feature_info.reduction()[-1] == 16
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (["fbnetv3_h"], {}, r"unknown model 'fbnetv3_h'; did you mean 'fbnetv3_.'\? See `fbnetv3"),
        (["fbnetv3_anno"], {}, "did you mean 'fbnetv3_nano'"),
        (["FBNetV3_E"], {}, "did you mean 'fbnetv3_e'"),
        (["fbnetv3-g"], {}, "did you mean 'fbnetv3_g'"),
        (["E"], {}, "did you mean 'fbnetv3_e'"),
        (["fbnetv3_a.in1k"], {}, "unknown model 'fbnetv3_a.in1k'; its tags are meta_in1k"),
        (["qqq"], {}, r"unknown model 'qqq'\. See `fbnetv3 list` or fbnetv3\.list_models\(\)"),
        (["x/y"], {}, "model is 'x/y'; expected a name, or a path .* 'hf-hub:ORG/REPO'"),
        (["x\\y"], {}, "expected a name, or a path"),
        (["hf-hub:nano"], {}, "neither a folder nor ORG/REPO"),
        ([7], {}, "model is a int; expected a name, an Arch, or the path"),
        ([None], {}, "model is a NoneType"),
        ([NANO, True], {}, "an Arch has no pretrained weights; give checkpoint="),
        (
            ["fbnetv3_20g", True],
            {},
            "'fbnetv3_20g' has no pretrained weights; models with weights: ",
        ),
        (["fbnetv3_a", True], {"checkpoint": "a.pth"}, "exclude each other"),
        (["fbnetv3_a"], {"pad_type": "valid"}, "pad_type is 'valid'; expected 'same'"),
        (["fbnetv3_a"], {"out_indices": [1]}, "it needs features_only=True"),
        (["fbnetv3_a"], {"features_only": True, "feature_cls": "fx"}, "feature_cls is 'fx'"),
        (["fbnetv3_a"], {"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_what_cannot_be_made_says_what_is_wrong(
    args: list[Any], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fbnetv3.create(*args, **kwargs)


def test_an_argument_of_torchvision_leads_to_ours() -> None:
    with pytest.raises(TypeError, match=r"unknown argument 'weights'.*did you mean 'pretrained'"):
        fbnetv3.create("fbnetv3_a", weights="DEFAULT")


@pytest.mark.parametrize("place", ["nowhere.json", "local-dir:nowhere"])
def test_a_place_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fbnetv3.create(place)


def test_weights_that_are_not_here_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"put the file .* at .*cache/fbnetv3_a\.meta_in1k"):
        fbnetv3.create("fbnetv3_a", pretrained=True)


# Licences


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv3_b.meta_in1k"])
def test_a_commercial_policy_refuses_restricted_weights_before_fetching(
    monkeypatch: pytest.MonkeyPatch, by_variable: bool, name: str
) -> None:
    if by_variable:
        monkeypatch.setenv(VARIABLE, "commercial")
    policy = None if by_variable else "commercial"
    with pytest.raises(ValueError, match=r"CC-BY-NC-4\.0: no commercial use"):
        fbnetv3.create(name, pretrained=True, license=policy)
    assert fbnetv3.create(name, license=policy, device="meta").num_classes == 1000


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="license policy is 'free'; expected 'commercial'"):
        fbnetv3.create("fbnetv3_a", pretrained=True, license="free")


# Tensors in a network


@pytest.fixture
def no_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a random number is drawn."""

    def refuse(tensor: Tensor, *args: object, **kwargs: object) -> None:
        assert tensor.is_meta, "weights are drawn although tensors are there"

    for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, refuse)
    state = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize("kwargs", [{}, {"in_chans": 1}, {"num_classes": 0}])
def test_no_weights_are_drawn_where_tensors_are_there(
    golden_network: Make, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    path = tmp_path / "nano.pth"
    torch.save(golden_network(TINY, num_classes=6).state_dict(), path)
    model = fbnetv3.create(TINY, checkpoint=path, **kwargs)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


def test_other_classes_get_a_fresh_classifier_and_the_log_says_so(
    golden_network: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = golden_network(TINY, num_classes=6)
    with caplog.at_level(logging.INFO, logger="fbnetv3"):
        model = build_from_state(TINY, source.state_dict(), source="here", num_classes=3).eval()
    assert "here: dropped classifier.weight, classifier.bias for 6 classes" in caplog.text
    assert "classifier for 3 classes is new" in caplog.text
    x = images()
    assert torch.equal(model.forward_features(x), source.forward_features(x))
    assert logits(model).shape == (2, 3)


def test_a_grey_image_gives_what_it_gave_as_rgb(golden_network: Make) -> None:
    source = golden_network(TINY, num_classes=6)
    grey = build_from_state(TINY, source.state_dict(), source="here", in_chans=1)
    x = images(1)
    expected = logits(source, x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(logits(grey, x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("stored", "in_chans"),
    [(stored, asked) for stored in (3, 1, 4) for asked in (1, 2, 3, 4, 7) if stored != asked],
)
def test_stems_are_adapted_as_timm_does(stored: int, in_chans: int) -> None:
    weight = torch.randn(8, stored, 3, 3, generator=torch.Generator().manual_seed(0))
    if stored != 3 and "base_chans" not in inspect.signature(adapt_input_conv).parameters:
        pytest.skip("this timm adapts RGB stems only")
    expected = adapt_input_conv(in_chans, weight, **({} if stored == 3 else {"base_chans": stored}))
    torch.testing.assert_close(adapt_stem(weight, in_chans), expected)


@pytest.mark.parametrize("kwargs", [{"dtype": torch.float64}, {"device": "meta"}])
def test_loaded_weights_go_where_they_are_asked_to(
    golden_network: Make, kwargs: dict[str, Any]
) -> None:
    state = golden_network(TINY, num_classes=6).state_dict()
    model = build_from_state(TINY, state, source="here", num_classes=2, in_chans=4, **kwargs)
    like = torch.empty(0, **kwargs)
    assert {(p.device, p.dtype) for p in model.parameters()} == {(like.device, like.dtype)}
    assert model.stem.bn.state_dict()["num_batches_tracked"].dtype == torch.int64


def test_a_foreign_norm_keeps_its_own_numbers(golden_network: Make) -> None:
    class Norm(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.register_buffer("gain", torch.full((1,), 2.0), persistent=False)

    state = golden_network(TINY, num_classes=6).state_dict()
    model: Any = build_from_state(TINY, state, source="here", norm_layer=Norm)
    assert float(model.stem.bn.gain) == 2.0
    assert torch.equal(model.stem.bn.weight, state["stem.bn.weight"])


# Look-ups


def test_models_are_listed_sorted_and_by_pattern() -> None:
    names = fbnetv3.list_models()
    assert names == sorted(ARCHS)
    assert fbnetv3.list_models("fbnetv2*") == ["fbnetv2_l3"]
    assert fbnetv3.list_models(["*_a", "*_nano"]) == ["fbnetv3_a", "fbnetv3_nano"]
    assert fbnetv3.list_models("resnet*") == []


def test_weights_are_listed_by_pattern_and_licence() -> None:
    every = fbnetv3.list_weights()
    assert every == sorted(WEIGHTS) == fbnetv3.list_models(pretrained=True)
    of_b = [name for name in every if name.startswith("fbnetv3_b.")]
    assert {"fbnetv3_b.meta_in1k", "fbnetv3_b.ra2_in1k"} <= set(of_b)
    assert fbnetv3.list_weights("fbnetv3_b") == fbnetv3.list_weights("fbnetv3_b.*") == of_b
    commercial = fbnetv3.list_models(license="commercial")
    assert "fbnetv3_b.ra2_in1k" in commercial
    assert not any(name.endswith("meta_in1k") for name in commercial)
    assert fbnetv3.list_weights(license="CC-BY-NC-4.0") == [
        f"fbnetv3_{letter}.meta_in1k" for letter in "abcdefg"
    ]
    with pytest.raises(ValueError, match="license is 'MIT'; expected 'commercial' or one of"):
        fbnetv3.list_weights(license="MIT")


def test_find_keeps_to_its_limits_and_puts_the_best_first() -> None:
    every = fbnetv3.find()
    names = [row.name for row in every]
    assert set(names) == {name for name, w in WEIGHTS.items() if w.labels == "imagenet1k"}
    assert names[0] == "fbnetv3_g.meta_in1k"
    assert [row.top1_pct for row in every] == sorted((r.top1_pct for r in every), reverse=True)
    limited = fbnetv3.find(max_macs=600e6, max_params=10e6, min_top1=79.9)
    assert [row.name for row in limited] == ["fbnetv3_c.meta_in1k", "fbnetv3_b.meta_in1k"]
    assert limited[1].macs_paper == 461_550_136
    free = fbnetv3.find(license="commercial")
    assert {row.license for row in free} == {"Apache-2.0"}
    assert fbnetv3.find(min_top1=99) == []


def test_tables_and_records_are_found_by_both_names() -> None:
    assert fbnetv3.get_arch("fbnetv3_b") is ARCHS["fbnetv3_b"]
    assert fbnetv3.get_arch("fbnetv3_b.ra2_in1k") == ARCHS["fbnetv3_b"].same_padding()
    assert fbnetv3.get_weights("fbnetv3_b").name == "fbnetv3_b.meta_in1k"
    assert fbnetv3.get_weights("fbnetv3_b.ra2_in1k").license == "Apache-2.0"
    for look_up in (fbnetv3.get_arch, fbnetv3.get_weights):
        with pytest.raises(ValueError, match="did you mean 'fbnetv3_"):
            look_up("fbnet_b")


def test_the_table_of_a_file_is_had_as_create_has_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(TINY.to_json())
    assert fbnetv3.get_arch(str(path)) == TINY
    assert fbnetv3.flops(str(path)).macs_paper == fbnetv3.count(TINY).macs_paper
    with pytest.raises(FileNotFoundError, match="no architecture file at mine"):
        fbnetv3.get_arch("mine.json")


def test_a_registered_table_is_a_model_like_any_other() -> None:
    fbnetv3.register("mine", TINY)
    fbnetv3.register("mine", TINY)  # the same again is no mistake
    assert "mine" in fbnetv3.list_models()
    assert fbnetv3.get_arch("mine") == TINY
    assert fbnetv3.create("mine", device="meta").arch == TINY
    with pytest.raises(ValueError, match="did you mean 'mine'"):
        fbnetv3.create("mime")
    with pytest.raises(ValueError, match="'mine' has no pretrained weights"):
        fbnetv3.create("mine", pretrained=True)


@pytest.mark.parametrize("name", ["mine", "fbnetv3_a"])
def test_a_name_means_one_network(name: str) -> None:
    fbnetv3.register("mine", TINY)
    other: Arch = dataclasses.replace(TINY, head_channels=64)
    with pytest.raises(ValueError, match=f"'{name}' is already another architecture"):
        fbnetv3.register(name, other)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "hf-hub:a"])
def test_a_name_that_create_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a name without '\.', '/' and ':'"):
        fbnetv3.register(name, TINY)


def test_timm_reads_what_our_models_say_of_themselves() -> None:
    model = fbnetv3.create("fbnetv3_e.meta_in1k", device="meta")
    config = data_config(model)
    weights = WEIGHTS["fbnetv3_e.meta_in1k"]
    assert config["input_size"] == (3, 264, 264)
    assert round(264 / config["crop_pct"]) == weights.preprocess.resize
    assert config["interpolation"] == "bilinear"
    assert config["mean"] == weights.preprocess.mean


def test_a_limit_that_was_meant_in_millions_is_refused() -> None:
    with pytest.raises(ValueError, match="max_macs is 600; expected a count: 600e6 for millions"):
        fbnetv3.find(max_macs=600)
    with pytest.raises(ValueError, match=r"max_params is 8\.5; expected a count"):
        fbnetv3.find(max_params=8.5)
