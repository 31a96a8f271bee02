"""Our networks through timm's front door, and timm's own left as they were."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models
import torch
from timm.models import _registry
from torch import Tensor, nn

import fbnetv3
import fbnetv3.timm_models
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.integrations import timm_entrypoints
from fbnetv3.integrations.timm_entrypoints import NAMES, OFFICIAL_NAMES, register_timm
from fbnetv3.models.model import FBNetV3, build
from tests.taught import teach

Make = Callable[..., FBNetV3]
TIMMS_OWN = ("fbnetv3_b", "fbnetv3_d", "fbnetv3_g")
# timm's types say less than its models have.
data_config: Any = importlib.import_module("timm.data").resolve_model_data_config

pytestmark = pytest.mark.filterwarnings("ignore:.*non-commercial use only")


def images(channels: int = 3, side: int = 64) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module, x: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(images() if x is None else x)
    return found


def made(name: str, **kwargs: Any) -> Any:
    """What timm makes; its types say less than its models have."""
    return timm.create_model(name, **kwargs)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry of timm as it is now, put back afterwards."""
    tables = [name for name in vars(_registry) if name.startswith(("_model", "_module"))]
    saved = {
        name: table.copy()
        for name in tables
        if isinstance(table := getattr(_registry, name), dict | set)
    }
    # Of the sets inside one is changed in place.
    members = {module: names.copy() for module, names in _registry._module_to_models.items()}
    yield
    for name, table in saved.items():
        live = getattr(_registry, name)
        live.clear()
        live.update(table)
    for module, names in members.items():
        _registry._module_to_models[module] = names


@pytest.fixture
def official_a(golden_network: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FBNetV3:
    """A network whose weights lie in the cache as if A's official file had been fetched."""
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    monkeypatch.delenv("FBNETV3_LICENSE", raising=False)
    monkeypatch.setattr("fbnetv3.hub.license_policy._warned", set())
    (tmp_path / "cache").mkdir()
    model = golden_network(ARCHS["fbnetv3_a"])
    teach(model, WEIGHTS["fbnetv3_a.meta_in1k"].preprocess, "tabby", "espresso", "missile")
    state = from_fbnetv3(model.state_dict(), model.arch, "official")
    path = tmp_path / "cache" / "fbnetv3_a.meta_in1k.pth"
    torch.save({"model_ema": state}, path)
    return model


def test_all_seven_are_listed_under_our_names_and_the_free_ones() -> None:
    letters = "abcdefg"
    assert timm.list_models("meta_fbnetv3*") == [f"meta_fbnetv3_{x}" for x in letters]
    # "fbnetv3" is any architecture, for saved folders; the others have no official weights.
    others = {"fbnetv3", "fbnetv3_nano", "fbnetv3_a0", "fbnetv3_20g"}
    assert set(timm.list_models("fbnetv3*")) == {*others, *(f"fbnetv3_{x}" for x in letters)}
    trained = timm.list_models("*fbnetv3*", pretrained=True)
    assert {f"meta_fbnetv3_{x}.meta_in1k" for x in letters} <= set(trained)
    assert {f"fbnetv3_{x}.meta_in1k" for x in "acef"} <= set(trained)
    assert {f"fbnetv3_{x}.ra2_in1k" for x in "bdg"} <= set(trained)
    assert set(timm.list_models(module="timm_entrypoints")) == {"fbnetv3", *NAMES}


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_every_name_makes_the_official_network(name: str) -> None:
    model = made(name, device="meta")
    own_name = name.removeprefix("meta_").removeprefix("same_")
    pad_type = "same" if name.startswith("same_") else ""
    ours = fbnetv3.create(own_name, device="meta", pad_type=pad_type)
    assert isinstance(model, FBNetV3)
    assert model.arch == ours.arch
    weights = WEIGHTS[f"{own_name}.meta_in1k"]
    cfg = model.pretrained_cfg
    assert (cfg["architecture"], cfg["tag"], cfg["license"]) == (name, "meta_in1k", "cc-by-nc-4.0")
    config = data_config(model)
    assert config["input_size"] == (3, weights.preprocess.crop, weights.preprocess.crop)
    assert int(weights.preprocess.crop / config["crop_pct"]) == weights.preprocess.resize
    assert (config["mean"], config["std"]) == (weights.preprocess.mean, weights.preprocess.std)


def test_same_padding_halves_every_map_where_the_published_padding_does_not() -> None:
    sizes = {}
    for name, fields in (
        ("meta_fbnetv3_a", {}),
        ("meta_fbnetv3_a", {"pad_type": "same"}),
        ("same_fbnetv3_a", {}),
    ):
        model = made(name, features_only=True, **fields)
        with torch.inference_mode():
            maps = model(torch.zeros(1, 3, 96, 96))
        sizes[name, bool(fields)] = [m.shape[2] for m in maps]
    halved = [48, 24, 12, 6, 3]
    assert sizes["meta_fbnetv3_a", False] != halved
    assert sizes["meta_fbnetv3_a", True] == sizes["same_fbnetv3_a", False] == halved


def test_another_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pad_type is 'tf'; expected 'same'"):
        made("meta_fbnetv3_a", pad_type="tf")


TIMMS_OWN_SCRIPT = """
import torch, timm
def facts():
    found = []
    for name in ("fbnetv3_b", "fbnetv3_d", "fbnetv3_g"):
        cfg = timm.models.get_pretrained_cfg(name + ".ra2_in1k")
        found += [timm.models.model_entrypoint(name), str(cfg)]
    torch.manual_seed(0)
    model = timm.create_model("fbnetv3_b.ra2_in1k").eval()
    with torch.inference_mode():
        found.append(model(torch.ones(1, 3, 64, 64)).double().sum().item())
    return found
names = set(timm.list_models("*fbnetv3*"))
before = facts()
import fbnetv3
assert set(timm.list_models("*fbnetv3*")) == names, "import fbnetv3 registers"
fbnetv3.register_timm()
assert facts() == before
assert names < set(timm.list_models("*fbnetv3*"))
"""


def test_timms_own_networks_are_the_same_before_and_after() -> None:
    # In a fresh process: here they are registered already.
    done = subprocess.run(
        [sys.executable, "-c", TIMMS_OWN_SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TIMMS_OWN)
def test_timms_own_names_cannot_be_taken(name: str) -> None:
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"name is '{name}'; expected some of meta_fbnetv3_a"):
            register_timm([name], overwrite=overwrite)
    assert timm.models.model_entrypoint(name).__module__.startswith("timm.")


@pytest.mark.usefixtures("registry")
def test_registering_again_changes_nothing_and_says_nothing() -> None:
    entrypoints = dict(_registry._model_entrypoints)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register_timm() == NAMES
        assert register_timm("meta_fbnetv3_a") == ("meta_fbnetv3_a",)
        importlib.reload(fbnetv3.timm_models)
        importlib.reload(timm_entrypoints)
        assert timm_entrypoints.register_timm() == NAMES
    assert _registry._model_entrypoints == entrypoints
    assert timm.list_models("meta_fbnetv3*") == [f"meta_fbnetv3_{x}" for x in "abcdefg"]


@pytest.mark.usefixtures("registry")
def test_some_names_are_registered_alone() -> None:
    for name in NAMES:
        del _registry._model_entrypoints[name]
        _registry._module_to_models[_registry._model_to_module.pop(name)].discard(name)
    assert register_timm(["meta_fbnetv3_c"]) == ("meta_fbnetv3_c",)
    assert timm.list_models("*fbnetv3*") == ["fbnetv3", *TIMMS_OWN, "meta_fbnetv3_c"]
    assert register_timm() == NAMES
    assert timm.models.is_model_pretrained("meta_fbnetv3_g")


@pytest.mark.usefixtures("registry")
def test_a_name_that_someone_else_registered_is_taken_only_when_told() -> None:
    def fbnetv3_e(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return nn.Identity()

    with pytest.warns(UserWarning, match="Overwriting fbnetv3_e"):
        timm.models.register_model(fbnetv3_e)
    assert "fbnetv3_e" not in register_timm()
    assert isinstance(made("fbnetv3_e"), nn.Identity)
    with pytest.raises(ValueError, match=r"'fbnetv3_e' is registered in timm by .*overwrite=True"):
        register_timm(["meta_fbnetv3_e", "fbnetv3_e"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert register_timm(["fbnetv3_e"], overwrite=True) == ("fbnetv3_e",)
    assert isinstance(made("fbnetv3_e", device="meta"), FBNetV3)
    assert "fbnetv3_e.meta_in1k" in timm.list_models("fbnetv3_e*", pretrained=True)


def test_arguments_reach_the_network() -> None:
    model = made(
        "meta_fbnetv3_a",
        num_classes=7,
        in_chans=1,
        global_pool="max",
        drop_rate=0.1,
        drop_path_rate=0.2,
        output_stride=16,
        act_layer="relu",
        norm_layer=None,
        bn_eps=1e-3,
        device="meta",
        dtype=torch.bfloat16,
    )
    assert (model.num_classes, model.in_chans, model.pool_type) == (7, 1, "max")
    assert (model.drop_rate, model.stem.bn.eps) == (0.1, 1e-3)
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16]
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert model.pretrained_model_args == {}
    assert made("meta_fbnetv3_a", num_classes=0, global_pool="", device="meta").pool_type == ""


@pytest.mark.parametrize("feature_cls", ["getter", "list", "dict", "hook", "fx"])
def test_every_feature_class_of_timm_gives_the_bottlenecks(feature_cls: str) -> None:
    model = made("meta_fbnetv3_d", features_only=True, feature_cls=feature_cls, output_stride=16)
    assert model.feature_info.channels() == [16, 24, 40, 128, 240]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16]
    with torch.inference_mode():
        found = model.eval()(images())
    maps = list(found.values()) if isinstance(found, dict) else found
    for feature, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert feature.shape == (2, channels, 64 // reduction, 64 // reduction)


def test_out_indices_choose_the_features() -> None:
    model = made("meta_fbnetv3_a", features_only=True, out_indices=(1, 3), in_chans=1)
    assert model.feature_info.channels() == [24, 120]
    assert [f.shape[1] for f in model(images(1))] == [24, 120]
    assert not any(name.startswith("model.stages.5") for name in model.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (4, 2), (-1, 0, 2)])
def test_feature_maps_are_scripted_as_those_of_timms_own(out_indices: tuple[int, ...]) -> None:
    model = made("fbnetv3_nano", features_only=True, out_indices=out_indices).eval()
    channels = [(16, 24, 32, 64, 88)[n] for n in out_indices]
    scripted: Any = torch.jit.script(model)
    with torch.inference_mode():
        maps, expected = scripted(images()), model(images())
    assert [one.shape[1] for one in maps] == channels
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_feature_maps_may_be_recomputed() -> None:
    model = made("fbnetv3_nano", features_only=True, out_indices=(2,)).eval()
    x = images()

    def kept() -> tuple[int, Tensor]:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            (found,) = model(x)
        return count, found

    whole, expected = kept()
    model.set_grad_checkpointing()
    few, found = kept()
    assert few < whole / 5
    assert torch.equal(found, expected)


def test_pretrained_weights_come_through_our_cache(official_a: FBNetV3) -> None:
    model = made("meta_fbnetv3_a", pretrained=True)
    assert torch.equal(logits(model), logits(official_a))
    assert "state_dict" not in model.pretrained_cfg
    assert torch.equal(logits(made("fbnetv3_a.meta_in1k", pretrained=True)), logits(official_a))
    ours = fbnetv3.create("fbnetv3_a", pretrained=True)
    assert torch.equal(logits(ours), logits(official_a))


def test_pretrained_weights_are_adapted_as_ours(official_a: FBNetV3) -> None:
    model = made("meta_fbnetv3_a", pretrained=True, num_classes=5, in_chans=1)
    ours: Any = fbnetv3.create("fbnetv3_a", pretrained=True, num_classes=5, in_chans=1)
    x = images(1)
    with torch.inference_mode():
        features = [m.eval().forward_features(x) for m in (model, ours)]
    torch.testing.assert_close(features[0], features[1])
    assert logits(model, x).shape == (2, 5)
    pyramid = made("meta_fbnetv3_a", pretrained=True, features_only=True, out_indices=[4])
    expected = official_a.forward_intermediates(images(), [4], intermediates_only=True)
    assert torch.equal(pyramid.eval()(images())[0], expected[0])


def test_a_file_of_the_users_own_is_loaded_in_any_layout(
    golden_network: Make, tmp_path: Path
) -> None:
    model = golden_network(ARCHS["fbnetv3_a"])
    for dialect in ("official", "fbnetv3"):
        path = tmp_path / f"{dialect}.pth"
        torch.save(from_fbnetv3(model.state_dict(), model.arch, dialect), path)
        found = made("meta_fbnetv3_a", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        assert torch.equal(logits(found), logits(model))
    found = made("meta_fbnetv3_a", checkpoint_path=str(tmp_path / "fbnetv3.pth"))
    assert torch.equal(logits(found), logits(model))


def test_weights_for_non_commercial_use_are_refused_by_the_policy(
    official_a: FBNetV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    with pytest.raises(ValueError, match="no commercial use"):
        made("meta_fbnetv3_a", pretrained=True)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_saved_network_goes_to_timm_and_comes_back(
    golden_network: Make, tmp_path: Path, letter: str
) -> None:
    model = golden_network(ARCHS[f"fbnetv3_{letter}"], num_classes=6)
    fbnetv3.save_pretrained(model, tmp_path / "ours", labels=[f"thing {n}" for n in range(6)])
    theirs = made(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
    assert isinstance(theirs, FBNetV3)
    assert theirs.pretrained_cfg["architecture"] == f"meta_fbnetv3_{letter}"
    assert theirs.pretrained_cfg["label_names"][5] == "thing 5"
    assert torch.equal(logits(theirs), logits(model))

    theirs.reset_classifier(4)  # as fine-tuning does
    fresh: Any = theirs.get_classifier()
    with torch.no_grad():
        fresh.weight.normal_(generator=torch.Generator().manual_seed(1))
    timm.models.save_for_hf(theirs, str(tmp_path / "theirs"), safe_serialization=True)
    for back in (
        made(f"local-dir:{tmp_path / 'theirs'}", pretrained=True),
        fbnetv3.from_pretrained(tmp_path / "theirs"),
        fbnetv3.create(f"local-dir:{tmp_path / 'theirs'}", pretrained=True),
    ):
        assert back.num_classes == 4
        assert back.arch.same_padding() == model.arch.same_padding()
        assert torch.equal(logits(back), logits(theirs))


@pytest.mark.parametrize("name", ["fbnetv3_nano", "nars_cifar_s"])
def test_a_saved_network_outside_a_to_g_has_a_name_in_timm(
    golden_network: Make, tmp_path: Path, name: str
) -> None:
    model = golden_network(ARCHS[name], num_classes=3)
    fbnetv3.save_pretrained(model, tmp_path, labels=["a", "b", "c"])
    back = made(f"local-dir:{tmp_path}", pretrained=True)
    assert back.pretrained_cfg["architecture"] == name
    x = images(side=ARCHS[name].resolution)
    assert torch.equal(logits(back, x), logits(model, x))
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        made(name, pretrained=True)


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", ["fbnetv3_nano", "nars_cifar_s", "own"])
def test_transformers_loads_a_saved_network(
    golden_network: Make, tmp_path: Path, name: str
) -> None:
    import transformers

    nano = ARCHS["fbnetv3_nano"]
    arch = ARCHS.get(name, dataclasses.replace(nano, stem_channels=24))
    model = golden_network(arch, num_classes=3)
    fbnetv3.save_pretrained(model, tmp_path, labels=["a", "b", "c"])
    back = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x = images(side=arch.resolution)
    with torch.inference_mode():
        # Another build of the same layers may add in another order.
        torch.testing.assert_close(back(x).logits, logits(model, x), rtol=1e-4, atol=1e-5)
    assert list(back.config.id2label.values()) == ["a", "b", "c"]
    # What transformers saves goes to timm and back to us.
    back.save_pretrained(tmp_path / "again")
    for create in (timm.create_model, fbnetv3.create):
        again = create(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
        torch.testing.assert_close(logits(again, x), logits(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not hasattr(importlib.import_module("timm.models._hub"), "_get_global_pool"),
    reason="this timm saves the pooling of its own models only",
)
def test_timm_saves_a_pooling_that_was_changed_later(tmp_path: Path) -> None:
    model = made("meta_fbnetv3_a", num_classes=2)
    model.reset_classifier(2, "max")
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    x = images(side=112)  # the last map has several pixels
    for back in (
        made(f"local-dir:{tmp_path}", pretrained=True),
        fbnetv3.create(f"local-dir:{tmp_path}", pretrained=True),
    ):
        assert back.pool_type == "max"
        assert torch.equal(logits(back, x), logits(model, x))


def test_a_model_of_another_kind_is_not_filtered() -> None:
    with pytest.raises(ValueError, match="model is a Identity; expected FBNetV3"):
        timm_entrypoints.checkpoint_filter_fn({}, nn.Identity())
    state = build(ARCHS["fbnetv3_a0"], num_classes=2).state_dict()
    model = build(ARCHS["fbnetv3_a0"], num_classes=2)
    filtered = timm_entrypoints.checkpoint_filter_fn({"state_dict": state}, model)  # type: ignore[dict-item]  # a checkpoint around the tensors
    assert list(filtered) == list(state)
