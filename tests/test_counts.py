"""Costs equal the published figures to the last digit, and fvcore on built networks."""

import pytest
import torch

from fbnetv3.counts import count
from fbnetv3.flop_count import flops
from fbnetv3.model import build
from fbnetv3.tables import ARCHS

# Published with the official networks: multiply-adds and weight parameters, both in millions
# (A0 and 20G: no published figure; computed by the same rule by others).
PUBLISHED = {
    "fbnetv3_a0": (218.578288, 6.275532),
    "fbnetv3_a": (356.598280, 8.542224),
    "fbnetv3_b": (461.550136, 8.542224),
    "fbnetv3_c": (556.969904, 9.907136),
    "fbnetv3_d": (644.420352, 10.237552),
    "fbnetv3_e": (762.046336, 10.699464),
    "fbnetv3_f": (1181.644520, 13.803072),
    "fbnetv3_g": (2129.656384, 16.513648),
    "fbnetv3_20g": (20392.130944, 104.407488),
}
# Every trainable number, counted on the official modules.
PARAMETERS = {
    "fbnetv3_a0": 6_309_976,
    "fbnetv3_a": 8_598_480,
    "fbnetv3_b": 8_598_480,
    "fbnetv3_c": 9_973_816,
    "fbnetv3_d": 10_306_296,
    "fbnetv3_e": 10_772_896,
    "fbnetv3_f": 13_896_160,
    "fbnetv3_g": 16_623_920,
    "fbnetv3_20g": 104_565_696,
}
# fvcore's total on the official modules; ours leave out the classifier's no-op pool.
FVCORE = {
    "fbnetv3_a0": 227_428_080,
    "fbnetv3_a": 369_747_432,
    "fbnetv3_b": 478_081_448,
    "fbnetv3_c": 576_727_712,
    "fbnetv3_d": 665_656_672,
    "fbnetv3_e": 785_869_248,
    "fbnetv3_f": 1_214_645_832,
    "fbnetv3_g": 2_181_673_984,
    "fbnetv3_20g": 20_446_111_616,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_met_to_the_last_digit(name: str) -> None:
    counts = count(ARCHS[name])
    macs, weights = PUBLISHED[name]
    assert counts.macs_paper == round(macs * 1e6)
    assert counts.weight_params == round(weights * 1e6)
    assert counts.params == PARAMETERS[name]
    assert counts.macs_fvcore == FVCORE[name] - ARCHS[name].head_channels


@pytest.mark.parametrize("name", [name for name in ARCHS if name != "fbnetv3_20g"])
def test_closed_form_equals_fvcore_on_the_built_network(name: str) -> None:
    measured, counts = flops(name), count(ARCHS[name])
    assert measured.macs_paper == counts.macs_paper
    assert measured.macs_fvcore == counts.macs_fvcore
    assert measured.params == counts.params
    assert measured.weight_params == counts.weight_params
    assert sum(layer.macs for layer in measured.layers) == measured.macs_fvcore


def test_layers_name_their_modules_and_output_shapes() -> None:
    layers = {layer.name: layer for layer in flops("fbnetv3_a").layers}
    assert layers["stem.conv"].output == (16, 112, 112)
    assert layers["stem.conv"].macs == 3 * 9 * 16 * 112 * 112
    assert layers["stages.6.0.project.conv"].output == (224, 6, 6)
    assert layers["classifier"].macs == 1984 * 1000


def test_counting_leaves_the_model_as_it_was() -> None:
    model = build(ARCHS["fbnetv3_nano"], in_chans=1, num_classes=0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert (
        flops(model, 64).params
        == count(ARCHS["fbnetv3_nano"], 64, in_chans=1, num_classes=0).params
    )
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_foreign_models_are_counted_at_a_given_resolution() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU())
    assert flops(model, 8).macs_paper == 3 * 9 * 4 * 64
    with pytest.raises(ValueError, match="resolution is None"):
        flops(model)


@pytest.mark.parametrize("resolution", [1, 8])
def test_an_input_that_leaves_no_map_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution is {resolution}; expected 49 pixels"):
        count(ARCHS["fbnetv3_a"], resolution)
    with pytest.raises(ValueError, match=f"input side is {resolution}; expected 49 pixels"):
        flops(ARCHS["fbnetv3_a"], resolution)
