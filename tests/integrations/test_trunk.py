"""The trunk and a detector's parts: names, shapes, freezing, and refusal of other networks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]  # timm re-exports
from torch import nn

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.integrations.trunk import (
    Padding,
    ProposalHead,
    RegionHead,
    Repeats,
    Tail,
    Trunk,
    features_of,
    load_network,
    network_id,
    part_state,
)
from fbnetv3.models.model import FBNetV3

MEMBERS = [f"fbnetv3_{letter}" for letter in "abcdefg"]
PYRAMID = ["res2", "res3", "res4", "res5"]
# Sides of the published networks' maps at 256 pixels, counted by hand from mobile-vision's tables.
FAITHFUL_AT_256 = {
    "fbnetv3_a": [64, 32, 15, 7],
    "fbnetv3_b": [64, 32, 15, 7],
    "fbnetv3_c": [64, 32, 15, 7],
    "fbnetv3_d": [64, 32, 16, 8],
    "fbnetv3_e": [64, 32, 15, 8],
    "fbnetv3_f": [64, 32, 16, 7],
    "fbnetv3_g": [64, 32, 16, 8],
}


def trunk_of(name: str, padding: Padding, features: list[str], output_stride: int = 32) -> Trunk:
    network = load_network(name, padding=padding, output_stride=output_stride)
    return Trunk(network, features, output_stride=output_stride).eval()


def sides(trunk: Trunk, height: int, width: int) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        maps = trunk(torch.zeros(1, 3, height, width))
    found = {name: tuple(x.shape[-2:]) for name, x in maps.items()}
    assert found == trunk.sizes(height, width)
    assert [x.shape[1] for x in maps.values()] == [f.channels for f in trunk.features]
    return found


@pytest.fixture
def nano(golden_network: Callable[..., FBNetV3], tmp_path: Path) -> str:
    """A saved network whose batch-norms all do something; returns what loads it."""
    model = golden_network(ARCHS["fbnetv3_nano"], num_classes=10)
    save_pretrained(model, tmp_path / "nano")
    return f"local-dir:{tmp_path / 'nano'}"


@pytest.mark.parametrize("name", MEMBERS)
def test_same_padding_halves_every_map_at_any_size(name: str) -> None:
    trunk = trunk_of(name, "same", PYRAMID)
    for height, width in ((33, 47), (1, 90), (131, 64)):
        found = sides(trunk, height, width)
        assert list(found) == PYRAMID
        for side, stride in zip(found.values(), (4, 8, 16, 32), strict=True):
            assert side == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", MEMBERS)
def test_faithful_maps_have_the_published_sizes(name: str) -> None:
    trunk = trunk_of(name, "faithful", PYRAMID)
    assert [side[0] for side in sides(trunk, 256, 83).values()] == FAITHFUL_AT_256[name]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_names_and_limits_strides(output_stride: int) -> None:
    trunk = trunk_of("fbnetv3_nano", "same", PYRAMID, output_stride)
    found = sides(trunk, 128, 160)
    for feature in trunk.features:
        assert feature.stride <= output_stride
        assert found[feature.name] == (128 // feature.stride, 160 // feature.stride)


def test_features_are_the_bottlenecks_under_both_names() -> None:
    found = features_of(ARCHS["fbnetv3_a"])
    assert [found[f"res{n}"].channels for n in range(1, 6)] == [16, 24, 40, 120, 224]
    assert [found[f"res{n}"].stride for n in range(1, 6)] == [2, 4, 8, 16, 32]
    for level in range(1, 6):
        named = dataclasses.replace(found[f"trunk{level - 1}"], name=f"res{level}")
        assert named == found[f"res{level}"]


@pytest.mark.parametrize("names", [["res6"], ["p2"], [], ["res4", "res4"]])
def test_features_that_do_not_exist_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"expected different names out of .*res2"):
        trunk_of("fbnetv3_nano", "same", names)


def test_only_the_rows_that_are_needed_are_built() -> None:
    network = load_network("fbnetv3_a", device="meta")
    short, whole = Trunk(network, ["res4"]), Trunk(network, PYRAMID)
    assert (len(short.stages), len(whole.stages)) == (5, 7)
    # facts of the table: MB1 to MB5 hold less than a third of MB1 to MB7
    sizes = [sum(p.numel() for p in trunk.parameters()) for trunk in (short, whole)]
    assert 3 * sizes[0] < sizes[1]


def test_parts_together_are_the_network(nano: str) -> None:
    network = load_network(nano, pretrained=True, padding="faithful").eval()
    x = torch.randn(2, 3, 97, 65, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.forward_intermediates(x, indices=[3, 4], intermediates_only=True)
        maps = Trunk(network, ["res4"])(x)
        last = Tail(network)(maps["res4"])
        pooled = RegionHead(network)(maps["res4"])
    assert torch.equal(maps["res4"], expected[0])
    assert torch.equal(last, expected[1])
    torch.testing.assert_close(pooled, expected[1].mean((2, 3)))


def test_the_proposal_head_is_the_row_without_its_first_block() -> None:
    network = load_network("fbnetv3_e")
    repeats = Repeats(network).eval()
    names = [name for name in repeats.state_dict() if name.endswith("project.conv.weight")]
    assert names == [f"stages.4.{n}.project.conv.weight" for n in range(1, 8)]
    with torch.no_grad():
        assert repeats(torch.zeros(1, 128, 9, 7)).shape == (1, 128, 9, 7)
    with pytest.raises(ValueError, match="in_channels is 256; the row of 'res4' is 128 wide"):
        ProposalHead(network, in_channels=256, num_anchors=15)


@pytest.mark.parametrize(
    ("freeze_at", "message"), [(6, "from 0 to 5"), (True, "from 0 to 5"), (2, "needs freeze_norms")]
)
def test_freezing_that_cannot_be_done_is_refused(freeze_at: int, message: str) -> None:
    network = load_network("fbnetv3_nano")
    with pytest.raises(ValueError, match=message):
        Trunk(network, PYRAMID, freeze_at=freeze_at)


@pytest.mark.parametrize("freeze_at", range(6))
def test_freezing_counts_the_stem_as_one(freeze_at: int) -> None:
    network = load_network("fbnetv3_nano")
    trunk = Trunk(network, PYRAMID, freeze_at=freeze_at, freeze_norms=freeze_batch_norm_2d)
    trunk.train()
    rows = [0, 1, 2, 3, 5, 6][freeze_at]
    assert all(p.requires_grad == (freeze_at == 0) for p in trunk.stem.parameters())
    for number, stage in enumerate(trunk.stages):
        assert all(p.requires_grad == (number >= rows) for p in stage.parameters())
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (freeze_at < 5)


def test_freezing_moves_no_output_and_keeps_statistics(nano: str) -> None:
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    plain = Trunk(load_network(nano, pretrained=True), PYRAMID).eval()
    frozen = Trunk(
        load_network(nano, pretrained=True),
        PYRAMID,
        freeze_at=5,
        freeze_norms=freeze_batch_norm_2d,
    ).train()
    acts = [sum(isinstance(m, nn.Hardswish) for m in t.modules()) for t in (plain, frozen)]
    assert acts[0] == acts[1] > 20
    for expected, got in zip(plain(x).values(), frozen(x).values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_checkpointing_rows_gives_the_same_gradients(nano: str) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    grads = []
    for again in (False, True):
        trunk = Trunk(
            load_network(nano, pretrained=True), ["res3", "res5"], grad_checkpointing=again
        ).train()
        sum(y.square().mean() for y in trunk(x).values()).backward()
        grads.append([p.grad for p in trunk.parameters()])
    for plain, again_grad in zip(*grads, strict=True):
        torch.testing.assert_close(again_grad, plain)


def test_bf16_autocast_and_checkpointing_train(nano: str) -> None:
    trunk = Trunk(load_network(nano, pretrained=True), PYRAMID, grad_checkpointing=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        maps = trunk(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    loss = sum(y.float().square().mean() for y in maps.values())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


def test_a_and_b_are_one_network_and_the_others_are_not() -> None:
    ids = {name: bytes(network_id(ARCHS[name]).tolist()) for name in MEMBERS}
    assert ids["fbnetv3_a"] == ids["fbnetv3_b"]
    assert len(set(ids.values())) == len(MEMBERS) - 1
    assert ids["fbnetv3_a"] == bytes(network_id(ARCHS["fbnetv3_a"].same_padding()).tolist())


def test_a_checkpoint_of_another_network_is_refused() -> None:
    a, d = (Trunk(load_network(f"fbnetv3_{x}"), ["res3"]) for x in "ad")
    state = a.state_dict()
    with pytest.raises(ValueError, match="belongs to another architecture"):
        d.load_state_dict(state, strict=False)
    a.load_state_dict(state)
    del state["network_id"]
    a.load_state_dict(state)


def test_a_checkpoint_of_something_else_is_refused() -> None:
    trunk = Trunk(load_network("fbnetv3_nano"), ["res3"])
    foreign = {"backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"no tensor of the backbone; expected .*'0.stem.conv"):
            nn.Sequential(trunk).load_state_dict(foreign, strict=strict)


def test_a_classifiers_file_fits_its_own_network_only(
    golden_network: Callable[..., FBNetV3], tmp_path: Path
) -> None:
    model = golden_network(ARCHS["fbnetv3_nano"], num_classes=10)
    path, foreign = tmp_path / "nano.safetensors", tmp_path / "foreign.safetensors"
    write_tensors(path, model.state_dict(), {})
    write_tensors(foreign, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, {})
    own, expected = load_network("fbnetv3_nano", checkpoint=path).state_dict(), model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
    with pytest.raises(ValueError, match=r"nano.safetensors do not fit FBNetV3: .* missing"):
        load_network("fbnetv3_a", checkpoint=path)
    with pytest.raises(ValueError, match=r"starts with \['conv1.weight'\]; expected an FBNetV3"):
        load_network("fbnetv3_a", checkpoint=foreign)


def test_part_state_holds_what_parts_need(nano: str) -> None:
    network = load_network(nano, pretrained=True)
    state = part_state(network)
    other = load_network("fbnetv3_nano")
    for part in (Trunk(other, PYRAMID), Tail(other), Repeats(other)):
        missing, _ = part.load_state_dict(state, strict=False)
        assert not missing


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"padding": "valid"}, "padding is 'valid'; expected 'same' or 'faithful'"),
        ({"pretrained": True, "checkpoint": "x.pth"}, "exclude each other"),
    ],
)
def test_load_network_says_what_is_wrong(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_network("fbnetv3_a", **kwargs)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="did you mean 'fbnetv3_"):
        load_network("fbnetv3_h")


@pytest.mark.parametrize("freeze_at", [-1, 6, True, 1.5])
def test_freeze_at_out_of_range_is_refused(freeze_at: object) -> None:
    network = load_network("fbnetv3_nano", device="meta")
    with pytest.raises(ValueError, match="expected a whole number from 0 to 5"):
        Trunk(network, ["res4"], freeze_at=freeze_at)  # type: ignore[arg-type]  # on purpose


def test_a_searched_table_is_a_trunk_too(tmp_path: Path) -> None:
    arch: Arch = ARCHS["fbnetv3_nano"]
    path = tmp_path / "mine.json"
    path.write_text(arch.to_json())
    for model in (arch, path, str(path)):
        trunk = Trunk(load_network(model, device="meta"), ["trunk3"])
        assert trunk.features[0].channels == 64


def test_variants_for_small_images_have_the_id_of_their_architecture() -> None:
    arch = ARCHS["fbnetv3_a"]
    assert torch.equal(network_id(arch), network_id(arch.small_image()))
    assert torch.equal(network_id(arch), network_id(ARCHS["fbnetv3_b"]))
    assert not torch.equal(network_id(arch), network_id(ARCHS["fbnetv3_c"]))


def test_an_id_of_an_earlier_version_is_known() -> None:
    trunk = Trunk(load_network("fbnetv3_nano"), ["res4"])
    state = trunk.state_dict()
    same = dataclasses.replace(trunk.arch.same_padding(), resolution=1024)
    digest = hashlib.sha256(same.sha256.encode()).digest()
    assert list(digest) != state["network_id"].tolist()
    state["network_id"] = torch.tensor(list(digest), dtype=torch.uint8)
    trunk.load_state_dict(state)
    assert torch.equal(trunk.get_buffer("network_id"), network_id(trunk.arch))
