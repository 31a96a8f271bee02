"""Features for dense prediction: which maps they are, their real sizes, dilation, the pyramid."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import timm.models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.features import FeaturePyramid
from fbnetv3.models.model import FBNetV3, build
from tests.archs import TINY, archs

Make = Callable[..., FBNetV3]

# The published tables' bottlenecks in front of each stride, and the last.
CHANNELS = {
    "fbnetv3_a0": [12, 24, 40, 104, 208],
    "fbnetv3_a": [16, 24, 40, 120, 224],
    "fbnetv3_b": [16, 24, 40, 120, 224],
    "fbnetv3_c": [16, 24, 48, 120, 216],
    "fbnetv3_d": [16, 24, 40, 128, 240],
    "fbnetv3_e": [16, 24, 48, 128, 240],
    "fbnetv3_f": [24, 32, 56, 144, 272],
    "fbnetv3_g": [24, 40, 56, 160, 288],
    "fbnetv3_20g": [32, 108, 160, 348, 580],
    "fbnetv2_l3": [24, 32, 40, 120, 240],
    "fbnetv3_nano": [16, 24, 32, 64, 88],
    # For small images: one stride less, and so one map less.
    "nars_cifar_s": [8, 24, 32, 48],
    "nars_cifar_m": [16, 32, 32, 80],
    "nars_cifar_l": [16, 32, 48, 80],
}
# Measured on the official implementation: sides of the maps at 256 pixels.
SIDES_AT_256 = {
    "fbnetv3_a": [128, 64, 32, 15, 7],
    "fbnetv3_b": [128, 64, 32, 15, 7],
    "fbnetv3_c": [128, 64, 32, 15, 7],
    "fbnetv3_d": [128, 64, 32, 16, 8],
    "fbnetv3_e": [128, 64, 32, 15, 8],
    "fbnetv3_f": [128, 64, 32, 16, 7],
    "fbnetv3_g": [128, 64, 32, 16, 8],
}


def maps(model: FBNetV3, height: int, width: int) -> list[Tensor]:
    x = torch.zeros(1, model.in_chans, height, width, device=model.stem.conv.weight.device)
    found: list[Tensor] = model.eval().forward_intermediates(x, intermediates_only=True)
    return found


def sizes(features: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(feature.shape[2:]) for feature in features]


@pytest.mark.parametrize("name", ARCHS)
def test_features_are_the_bottlenecks_with_their_real_sizes(name: str) -> None:
    model = build(ARCHS[name], device="meta")
    info = model.feature_info
    assert info.channels() == CHANNELS[name]
    assert info.reduction() == [2, 4, 8, 16, 32][: len(CHANNELS[name])]
    features = maps(model, 131, 199)
    assert [feature.shape[1] for feature in features] == CHANNELS[name]
    assert sizes(features) == info.size_at(131, 199)


@pytest.mark.parametrize("name", SIDES_AT_256)
def test_published_paddings_give_the_published_sizes(name: str) -> None:
    info = build(ARCHS[name], device="meta").feature_info
    assert info.size_at(256, 256) == [(side, side) for side in SIDES_AT_256[name]]


@pytest.mark.parametrize("name", ARCHS)
def test_same_padding_halves_exactly(name: str) -> None:
    info = build(ARCHS[name].same_padding(), device="meta").feature_info
    for height, width in ((256, 320), (131, 199), (1, 33)):
        for (h, w), reduction in zip(info.size_at(height, width), info.reduction(), strict=True):
            assert (h, w) == (-(-height // reduction), -(-width // reduction))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archs(), st.integers(0, 9), st.integers(0, 9), st.sampled_from([8, 16, 32]))
def test_sizes_are_real_for_any_network(
    arch: Arch, taller: int, wider: int, output_stride: int
) -> None:
    model = build(arch, num_classes=0, output_stride=output_stride)
    height, width = arch.min_side + taller, arch.min_side + wider
    info = model.feature_info
    features = maps(model, height, width)
    assert sizes(features) == info.size_at(height, width)
    assert [feature.shape[1] for feature in features] == info.channels()
    assert info.reduction() == sorted(info.reduction())
    assert max(info.reduction()) <= output_stride


def test_an_input_without_maps_is_refused() -> None:
    info = build(ARCHS["fbnetv3_a"], device="meta").feature_info
    assert info.size_at(49, 49)[-1] == (1, 1)
    with pytest.raises(ValueError, match="input size is 48; expected 49 pixels or more"):
        info.size_at(200, 48)


@pytest.mark.parametrize("idx", [None, 1, [0, 3]])
def test_look_ups_answer_as_timms(idx: Any) -> None:
    ours = build(ARCHS["fbnetv3_c"], device="meta").feature_info.only([1, 2, 4])
    theirs = timm.models.FeatureInfo([dict(entry) for entry in ours], (1, 2, 4))
    assert len(ours) == len(theirs)
    assert ours.out_indices == list(theirs.out_indices)
    assert ours.channels(idx) == theirs.channels(idx)
    assert ours.reduction(idx) == theirs.reduction(idx)
    assert ours.module_name(idx) == theirs.module_name(idx)
    assert ours.get("stage", idx) == theirs.get("stage", idx)
    assert ours.get_dicts(idx=idx) == theirs.get_dicts(idx=idx)
    keys = ["num_chs", "index"]
    assert ours.get_dicts(keys, idx) == theirs.get_dicts(keys, idx)


@pytest.mark.parametrize(
    ("output_stride", "reductions"), [(16, [2, 4, 8, 16, 16]), (8, [2, 4] + 3 * [8])]
)
@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv3_f", "fbnetv3_g"])
def test_dilated_networks_keep_their_features_at_a_finer_stride(
    name: str, output_stride: int, reductions: list[int]
) -> None:
    model = build(ARCHS[name], device="meta", output_stride=output_stride)
    info = model.feature_info
    assert info.channels() == CHANNELS[name]
    assert info.reduction() == reductions
    found = sizes(maps(model, 96, 160))
    assert found == info.size_at(96, 160)
    # A stride that became a dilation changes no size, whatever the published padding.
    assert found[-1] == found[reductions.index(output_stride)]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_gives_the_strided_values_and_those_between(
    golden_network: Make, output_stride: int
) -> None:
    # The gate's average sees other values between; without it every second value is the strided.
    rows = tuple(dataclasses.replace(row, se=False) for row in ARCHS["fbnetv3_nano"].rows)
    arch = dataclasses.replace(ARCHS["fbnetv3_nano"], rows=rows)
    strided = golden_network(arch, num_classes=0)
    dilated = golden_network(arch, num_classes=0, output_stride=output_stride)
    x = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = strided.forward_intermediates(x, intermediates_only=True)
        found = dilated.forward_intermediates(x, intermediates_only=True)
    for coarse, fine, reduction in zip(
        expected, found, strided.feature_info.reduction(), strict=True
    ):
        step = max(1, reduction // output_stride)
        scale = float(coarse.abs().max())
        torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("out_indices", "expected"),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), ([-1, 1], [1, 3]), ((0,), [0])],
)
def test_a_pyramid_gives_the_selected_maps(
    golden_network: Make, out_indices: Any, expected: list[int]
) -> None:
    model = golden_network(TINY, num_classes=10)
    x = torch.randn(2, 3, 45, 37, generator=torch.Generator().manual_seed(1))
    every = model.forward_intermediates(x, intermediates_only=True)
    pyramid = FeaturePyramid(copy.deepcopy(model), out_indices)
    found = pyramid(x)
    assert isinstance(found, list)
    assert all(torch.equal(a, every[n]) for a, n in zip(found, expected, strict=True))
    info = pyramid.feature_info
    assert pyramid.out_indices == info.out_indices == expected
    assert info.channels() == [feature.shape[1] for feature in found]
    assert info.size_at(45, 37) == sizes(found)
    assert info.reduction() == [2 * 2**n for n in expected]

    named = FeaturePyramid(copy.deepcopy(model), out_indices, as_dict=True)(x)
    assert isinstance(named, dict)
    assert list(named) == info.module_name()
    assert all(torch.equal(a, b) for a, b in zip(named.values(), found, strict=True))


def test_a_pyramid_holds_no_more_than_it_needs() -> None:
    pyramid = FeaturePyramid(build(TINY, in_chans=1), [1])
    rows = {name.split(".")[2] for name in pyramid.state_dict() if ".stages." in name}
    assert rows == {"0", "1"}
    assert not any("head" in name or "classifier" in name for name in pyramid.state_dict())
    assert pyramid.in_chans == 1
    assert pyramid(torch.zeros(2, 1, 32, 32))[0].shape == (2, 16, 8, 8)
    with pytest.raises(ValueError, match="there are 4 features"):
        FeaturePyramid(build(TINY), [4])


def test_a_pyramid_trains_with_checkpointing() -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    grads = []
    for again in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pyramid = FeaturePyramid(build(TINY), [0, 3])
        pyramid.set_grad_checkpointing(again)
        loss: Any = sum(feature.square().mean() for feature in pyramid.train()(x))
        loss.backward()
        grads.append([parameter.grad for parameter in pyramid.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        assert plain is not None
        torch.testing.assert_close(checkpointed, plain)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize(
    ("out_indices", "as_dict"), [(None, False), ([0], False), ([1, 1, -1], False), ([-1, 1], True)]
)
def test_a_scripted_pyramid_gives_the_same_maps(
    out_indices: list[int] | None, as_dict: bool
) -> None:
    pyramid = FeaturePyramid(build(TINY), out_indices, as_dict=as_dict).eval()
    x = torch.randn(1, 3, 64, 64)
    found, expected = torch.jit.script(pyramid)(x), pyramid(x)
    if as_dict:
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    assert [level.shape for level in found] == [level.shape for level in expected]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
