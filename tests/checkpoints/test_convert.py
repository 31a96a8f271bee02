"""Conversion against the official and timm's key lists, golden logits and a live timm model."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import load_strict
from fbnetv3.checkpoints.convert import (
    Dialect,
    detect_dialect,
    from_fbnetv3,
    module_names,
    to_fbnetv3,
)
from fbnetv3.models.model import FBNetV3, build
from tests.modules import module_of_file
from tests.paths import GOLDEN

OFFICIAL = ("A0", "A", "B", "C", "D", "E", "F", "G", "20G")
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())["models"]
# Of the most multiply-adds: ten seconds and more in float64.
HEAVY = ("FBNetV3_20G", "FBNetV3_G", "timm_fbnetv3_g")


RULE = module_of_file(GOLDEN / "golden_rule.py")


@cache
def golden_state(file: str) -> dict[str, Tensor]:
    """The golden weights under the names of their owner."""
    entries = json.loads((GOLDEN / f"keys_{file}.json").read_text())
    state = RULE.golden_state(entries)
    fingerprint = MANIFEST[file.replace("timm_", "timm/")]["weights_crc32"]
    assert RULE.fingerprint(state) == fingerprint, "numpy draws other numbers than the golden ones"
    return {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}


def arch_of(file: str) -> tuple[Arch, Dialect]:
    """The table a golden file belongs to, and its layout."""
    if file.startswith("timm_"):
        return ARCHS[file.removeprefix("timm_")].same_padding(), "timm"
    return ARCHS[file.lower()], "official"


def ours(file: str) -> FBNetV3:
    """Our network with the golden weights of another layout."""
    arch, dialect = arch_of(file)
    model = build(arch, device="meta").eval()
    state = to_fbnetv3(golden_state(file), arch, dialect)
    load_strict(model, state, assign=True, source=file)
    return model


def _golden_cases() -> list[object]:
    files = sorted(path.stem.removeprefix("logits_") for path in GOLDEN.glob("logits_*.npz"))
    return [pytest.param(file, marks=pytest.mark.slow if file in HEAVY else ()) for file in files]


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_key_lists_load_strictly(name: str) -> None:
    ours(f"FBNetV3_{name}")


@pytest.mark.parametrize("file", _golden_cases())
def test_converted_weights_give_the_golden_logits(file: str) -> None:
    logits = np.load(GOLDEN / f"logits_{file}.npz")
    resolutions = MANIFEST[file.replace("timm_", "timm/")]["resolutions"]
    model = ours(file)
    with torch.inference_mode():
        for dtype, suffix, tolerance in (
            (torch.float32, "f32", 1e-4),
            (torch.float64, "f64", 1e-9),
        ):
            model.to(dtype)
            for resolution in resolutions:
                images = torch.from_numpy(RULE.golden_input(resolution)).to(dtype)
                expected = torch.from_numpy(logits[f"r{resolution}_{suffix}"])
                torch.testing.assert_close(model(images), expected, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("file", ["FBNetV3_A", "timm_fbnetv3_b"])
def test_a_gpu_gives_the_golden_logits(file: str) -> None:
    resolution = MANIFEST[file.replace("timm_", "timm/")]["resolutions"][0]
    images = torch.from_numpy(RULE.golden_input(resolution))
    expected = np.load(GOLDEN / f"logits_{file}.npz")[f"r{resolution}_f32"]
    with torch.inference_mode():
        found = ours(file).to("cuda")(images.to("cuda"))
    torch.testing.assert_close(found.cpu(), torch.from_numpy(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_round_trip_keeps_every_bit_and_the_order(name: str) -> None:
    arch, dialect = arch_of(f"FBNetV3_{name}")
    state = golden_state(f"FBNetV3_{name}")
    back = from_fbnetv3(to_fbnetv3(state, arch, dialect), arch, dialect)
    assert list(back) == list(state)
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("letter", "bdg")
def test_timm_round_trip_keeps_every_bit(letter: str) -> None:
    file = f"timm_fbnetv3_{letter}"
    arch, dialect = arch_of(file)
    state = golden_state(file)
    back = from_fbnetv3(to_fbnetv3(state, arch, dialect), arch, dialect)
    assert set(back) == set(state)
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("letter", ["b", "d", pytest.param("g", marks=pytest.mark.slow)])
def test_a_live_timm_model_and_ours_agree_both_ways(letter: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(f"fbnetv3_{letter}", pretrained=False, num_classes=10)
    _shake(theirs)
    theirs = theirs.double().eval()
    arch = ARCHS[f"fbnetv3_{letter}"].same_padding()
    model = build(arch, num_classes=10, dtype=torch.float64).eval()
    assert detect_dialect(theirs.state_dict()) == "timm"
    load_strict(model, to_fbnetv3(theirs.state_dict(), arch, "timm"), source="timm")
    images = torch.randn(2, 3, 97, 129, dtype=torch.float64)
    with torch.inference_mode():
        _assert_equal_outputs(model(images), theirs(images))

        # And back, now with a stem bias that has to be folded.
        _shake(model)
        theirs.load_state_dict(from_fbnetv3(model.state_dict(), arch, "timm"), strict=True)
        _assert_equal_outputs(theirs(images), model(images))


def _assert_equal_outputs(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-9)


def _shake(model: torch.nn.Module) -> None:
    """Moves every tensor away from its initial value, so that a mix-up shows."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
            elif tensor.is_floating_point() and tensor.ndim > 1 and "se" not in name:
                tensor.add_(torch.randn_like(tensor), alpha=0.02)


@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv3_b", "fbnetv3_c", "fbnetv3_e", "fbnetv3_f"])
def test_published_paddings_go_to_timm_only_by_force(name: str) -> None:
    arch = ARCHS[name]
    state = build(arch, device="meta").state_dict()
    with pytest.raises(ValueError, match=r"a different function.*padding.*force=True"):
        from_fbnetv3(state, arch, "timm")
    forced = from_fbnetv3(state, arch, "timm", force=True)
    assert forced.keys() == from_fbnetv3(state, arch.same_padding(), "timm").keys()


@pytest.mark.parametrize("name", ["fbnetv3_d", "fbnetv3_g"])
def test_d_and_g_go_to_timm_unforced(name: str) -> None:
    arch = ARCHS[name]
    converted = from_fbnetv3(build(arch, device="meta").state_dict(), arch, "timm")
    theirs = json.loads((GOLDEN / f"keys_timm_{name}.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in converted.items()} == {
        key: shape for key, shape, _ in theirs
    }


def test_a_wrong_stride_or_activation_goes_to_timm_only_by_force() -> None:
    arch = ARCHS["fbnetv3_d"]
    first, second, *rest = arch.rows
    for change in ({"stride": 1}, {"act": "relu"}):
        changed = dataclasses.replace(
            arch, rows=(first, dataclasses.replace(second, **change), *rest)
        )
        with pytest.raises(ValueError, match="a different function"):
            from_fbnetv3({}, changed, "timm")


@pytest.mark.parametrize(
    ("name", "dialect", "reason"),
    [
        ("fbnetv2_l3", "official", "13 rows"),
        ("fbnetv2_l3", "timm", "13 rows"),
        ("fbnetv3_a0", "timm", "row MB1, block 0.*expansion"),
        ("fbnetv3_20g", "timm", "depthwise"),
    ],
)
def test_a_network_without_names_in_a_layout_says_why(
    name: str, dialect: Dialect, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        module_names(ARCHS[name], dialect)


def test_our_own_layout_passes_through_for_any_network() -> None:
    state = build(ARCHS["fbnetv2_l3"], device="meta").state_dict()
    assert to_fbnetv3(state, ARCHS["fbnetv2_l3"], "fbnetv3") == dict(state)
    assert from_fbnetv3(state, ARCHS["fbnetv2_l3"], "fbnetv3") == dict(state)


def test_layouts_are_told_apart() -> None:
    assert detect_dialect(golden_state("FBNetV3_A")) == "official"
    assert detect_dialect(golden_state("timm_fbnetv3_b")) == "timm"
    assert detect_dialect(build(ARCHS["fbnetv3_a"], device="meta").state_dict()) == "fbnetv3"
    with pytest.raises(ValueError, match=r"features\.0\.weight"):
        detect_dialect(["features.0.weight"])


def test_names_of_another_network_are_listed() -> None:
    with pytest.raises(ValueError, match=r"do not belong to this architecture.*xif5_8"):
        to_fbnetv3(golden_state("FBNetV3_G"), ARCHS["fbnetv3_f"], "official")


def test_a_model_without_running_mean_cannot_lose_its_stem_bias() -> None:
    with pytest.raises(ValueError, match="cannot be folded"):
        from_fbnetv3({"stem.conv.bias": torch.zeros(24)}, ARCHS["fbnetv3_d"], "timm")


def test_conversion_leaves_its_argument_alone() -> None:
    arch = ARCHS["fbnetv3_d"]
    state = to_fbnetv3(golden_state("FBNetV3_D"), arch, "official")
    before = {key: tensor.clone() for key, tensor in state.items()}
    from_fbnetv3(state, arch, "timm")
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert state.keys() == before.keys()
