"""`fbnetv3.flops`: what fvcore counts, in both conventions, against published figures and torch."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.measure.flop_count import flops
from fbnetv3.models.features import FeaturePyramid
from fbnetv3.models.model import build
from tests.archs import TINY
from tests.published import FVCORE, PARAMETERS, PUBLISHED

MEMBERS = [f"fbnetv3_{letter}" for letter in "abcdefg"]
SMALL = [name for name in ARCHS if name not in (*MEMBERS, "fbnetv3_20g")]


@pytest.mark.parametrize("name", MEMBERS)
def test_the_published_figures_are_counted_to_the_last_digit(name: str) -> None:
    measured = flops(name)
    macs, weights = PUBLISHED[name]
    assert measured.resolution == ARCHS[name].resolution
    assert measured.macs_paper == round(macs * 1e6)
    assert measured.weight_params == round(weights * 1e6)
    assert measured.params == PARAMETERS[name]
    # The official classifier pools its 1 x 1 input once more, which our modules leave out.
    assert measured.macs_fvcore == FVCORE[name] - ARCHS[name].head_channels


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("resolution", [65, 96])
def test_the_closed_form_is_what_fvcore_counts(name: str, resolution: int) -> None:
    measured, counts = flops(name, resolution), count(ARCHS[name], resolution)
    for field in ("resolution", "macs_paper", "macs_fvcore", "params", "weight_params"):
        assert getattr(measured, field) == getattr(counts, field)


def test_torch_counts_the_same_convolutions() -> None:
    model = build(ARCHS["fbnetv3_a"], num_classes=10).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    by_operator = flops(model, 64).by_operator
    # torch counts a multiply-add as two, and nothing but these.
    assert 2 * (by_operator["conv"] + by_operator["linear"]) == counter.get_total_flops()


def test_the_table_of_layers_adds_up() -> None:
    measured = flops(TINY)
    layers = {layer.name: layer for layer in measured.layers}
    assert sum(layer.macs for layer in measured.layers) == measured.macs_fvcore
    assert sum(layer.params for layer in measured.layers) == measured.params
    assert sum(measured.by_operator.values()) == measured.macs_fvcore
    assert measured.macs_fvcore - measured.by_operator["batch_norm"] + 48 == measured.macs_paper
    stem = layers["stem.conv"]
    assert (stem.kind, stem.output) == ("Conv2d", (8, 16, 16))
    assert (stem.macs, stem.params) == (3 * 9 * 8 * 16 * 16, 3 * 9 * 8 + 8)
    assert layers["stages.4.0.project.conv"].output == (32, 2, 2)
    assert layers["stages.1.0.depthwise.bn"].macs == 2 * 32 * 8 * 8
    assert layers["head.expand.conv"].macs == 32 * 96 * 2 * 2
    assert layers["classifier"].macs == 48 * 1000
    assert layers["classifier"].output == (1000,)
    assert json.loads(json.dumps(measured.to_dict()))["layers"][0]["name"] == "stem.conv"


def test_a_name_a_table_and_a_model_are_counted_alike() -> None:
    name = "fbnetv3_nano"
    model = build(ARCHS[name])
    assert flops(name, 64) == flops(ARCHS[name], 64) == flops(model, 64)
    assert flops(model).resolution == 224
    weights = next(weights for weights in WEIGHTS.values() if weights.model == "fbnetv3_b")
    assert flops(weights.name, 64).params == count(weights.arch, 64).params
    with pytest.raises(ValueError, match="did you mean 'fbnetv3_nano'"):
        flops("fbnetv3_nan")


def test_the_name_of_weights_counts_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: Any = copy.copy(WEIGHTS["fbnetv3_b.ra2_in1k"])
    for field, value in (
        ("model", "fbnetv3_nano"),
        ("num_classes", 10),
        ("variant", "small_image"),
    ):
        object.__setattr__(weights, field, value)
    monkeypatch.setitem(WEIGHTS, "fbnetv3_nano.ten", weights)
    arch = ARCHS["fbnetv3_nano"].small_image()
    assert flops("fbnetv3_nano.ten").params == count(arch, num_classes=10).params


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_classes": 0},
        {"num_classes": 7, "in_chans": 1},
        {"dtype": torch.float64},
        {"act_layer": "silu", "global_pool": "max"},
    ],
)
def test_a_built_model_is_counted_as_it_is(kwargs: dict[str, Any]) -> None:
    sizes = {key: kwargs[key] for key in ("num_classes", "in_chans") if key in kwargs}
    measured, counts = flops(build(TINY, **kwargs), 48), count(TINY, 48, **sizes)
    assert measured.params == counts.params
    assert measured.weight_params == counts.weight_params
    pooled = 96 * 3 * 3 if kwargs.get("global_pool") == "max" else 0  # fvcore: a maximum is free
    assert measured.macs_paper == counts.macs_paper - pooled
    assert measured.macs_fvcore == counts.macs_fvcore - pooled


def test_dilation_and_pruning_are_counted() -> None:
    plain, dilated = build(TINY, num_classes=0), build(TINY, num_classes=0, output_stride=8)
    assert flops(dilated).macs_paper > 1.2 * flops(plain).macs_paper
    pyramid = FeaturePyramid(build(TINY), [1])
    assert flops(pyramid, 32).by_operator["conv"] < flops(plain, 32).by_operator["conv"]
    plain.prune_intermediate_layers([1])
    assert flops(plain).by_operator == flops(pyramid, 32).by_operator


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_as_it_was(training: bool) -> None:
    model = build(TINY).train(training)
    model.stem.bn.eval()  # as a frozen norm is
    before = copy.deepcopy(model.state_dict())
    flops(model, 64)
    assert not model.stem.bn.training
    model.stem.bn.train(training)
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_foreign_model_is_counted_at_a_given_resolution() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 5)
    )
    measured = flops(model, 8)
    assert measured.macs_paper == 3 * 9 * 4 * 64 + 4 * 64 * 5
    assert measured.macs_fvcore == measured.macs_paper + 2 * 4 * 64
    assert [layer.kind for layer in measured.layers] == ["Conv2d", "BatchNorm2d", "Linear"]
    with pytest.raises(ValueError, match="resolution is None; Sequential needs one, such as 224"):
        flops(model)


@pytest.mark.parametrize("resolution", [1, 8, 48])
def test_an_input_that_leaves_no_map_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"input size is {resolution}; expected 49 pixels"):
        flops(ARCHS["fbnetv3_a"], resolution)


def test_what_fvcore_cannot_count_is_not_left_out_silently() -> None:
    with pytest.raises(ValueError, match="fvcore cannot count aten::mish"):
        flops(build(TINY, act_layer=nn.Mish))
