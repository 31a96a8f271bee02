"""Networks by name: which libraries, which options, which inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth

from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.foreign import _preprocess_of, foreign_name, write_record
from fbnetv3.search.training.logbook import write_weights
from fbnetv3.search.training.networks import (
    Network,
    check_input,
    open_network,
    preprocess_for,
    weights_for,
    zero_classifier,
)
from tests.search.tiny import tiny_images

# The families that the paper trains with its recipe, as each library has them, and a few more.
FAMILIES = (
    "torchvision:resnet18",
    "torchvision:resnext50_32x4d",
    "torchvision:densenet121",
    "torchvision:alexnet",
    "torchvision:efficientnet_b0",
    "timm:resnet18.a1_in1k",
    "timm:resnext50_32x4d.a1h_in1k",
    "timm:densenet121.ra_in1k",
    "timm:fbnetv3_b.ra2_in1k",
    "fbnetv3_a",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_has_the_classes_that_it_is_asked_for(name: str) -> None:
    network = open_network(name, num_classes=3, pretrained=False)
    assert network.model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_a_network_with_heads_for_training_gives_logits_alone(name: str) -> None:
    model = open_network(name, num_classes=3, pretrained=False).model.train()
    found = model(torch.zeros(2, 3, 96, 96))
    assert isinstance(found, torch.Tensor)
    assert found.shape == (2, 3)


def test_images_go_through_what_the_network_knows_at_the_side_that_is_asked_for() -> None:
    images = tiny_images()
    known = open_network("fbnetv3_nano.cifar10").preprocess
    assert known is not None
    assert preprocess_for(Network(nn.Identity(), known), images) == known
    assert preprocess_for(Network(nn.Identity(), known), images, known.crop) == known
    larger = preprocess_for(Network(nn.Identity(), known), images, 48)
    assert (larger.crop, larger.resize) == (48, 48)
    assert (larger.mean, larger.std) == (known.mean, known.std)
    fresh = open_network("fbnetv3_a")
    assert preprocess_for(fresh, images) == default_preprocess(images, 224)
    assert images.pixels is not None
    side = int(images.pixels.shape[1])
    assert preprocess_for(Network(nn.Identity()), images) == default_preprocess(images, side)


def test_rates_reach_the_networks_of_torchvision() -> None:
    model = open_network(
        "torchvision:efficientnet_b0", num_classes=3, dropout=0.4, drop_path=0.1
    ).model
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.4}
    depths = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert max(depths) == pytest.approx(0.1)
    assert sorted(depths) == depths


def test_a_transformers_blocks_get_no_dropout_of_the_classifier() -> None:
    with pytest.raises(ValueError, match="swin_t has no dropout"):
        open_network("torchvision:swin_t", num_classes=3, dropout=0.1)


@pytest.mark.parametrize(
    ("name", "rates", "named"),
    [
        ("torchvision:resnet18", {"drop_path": 0.1}, "--set drop_path=0"),
        ("torchvision:resnet18", {"dropout": 0.1}, "--set dropout=0"),
        ("timm:densenet121", {"drop_path": 0.1}, "drop_path"),
    ],
)
def test_a_rate_that_a_network_lacks_is_refused(
    name: str, rates: dict[str, float], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        open_network(name, num_classes=3, **rates)  # type: ignore[arg-type]  # numbers by name


@pytest.mark.parametrize("name", ["torchvision:resnet1", "timm:resnet1", "fbnetv3_h"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name.rsplit(":", maxsplit=1)[-1]):
        open_network(name, num_classes=3)


def test_an_architecture_file_that_is_missing_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"lost\.json"):
        open_network("lost.json")


def test_torchvisions_own_evaluation_of_an_image_is_kept() -> None:
    transform = models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 400, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    ours = torch.from_numpy(_preprocess_of(transform)(image))
    assert ours.shape == (3, 224, 224)
    torch.testing.assert_close(ours, transform(image), rtol=0, atol=1e-4)


def test_another_librarys_run_is_opened_again_also_for_other_classes(tmp_path: Path) -> None:
    name = "torchvision:shufflenet_v2_x0_5"
    model = open_network(name, num_classes=3, pretrained=False).model.eval()
    preprocess = default_preprocess(tiny_images(), 32)
    write_record(tmp_path, name)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        open_network(f"local-dir:{tmp_path}")
    write_weights(
        tmp_path / "model.safetensors",
        model.state_dict(),
        preprocess=preprocess,
        classes=("a", "b", "c"),
    )
    again = open_network(f"local-dir:{tmp_path}")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.model.eval()(x), model(x))
    assert again.preprocess == preprocess
    assert again.labels == (("a",), ("b",), ("c",))
    other = open_network(f"local-dir:{tmp_path}", num_classes=5).model
    name = "conv1.0.weight"
    assert torch.equal(other.state_dict()[name], model.state_dict()[name])
    assert other.eval()(x).shape == (1, 5)


def test_a_damaged_record_of_another_librarys_run_is_named(tmp_path: Path) -> None:
    model = open_network("torchvision:shufflenet_v2_x0_5", num_classes=3, pretrained=False).model
    write_weights(
        tmp_path / "model.safetensors",
        model.state_dict(),
        preprocess=default_preprocess(tiny_images(), 32),
        classes=("a", "b", "c"),
    )
    write_record(tmp_path, "torchvision:shufflenet_v2_x0_5")
    (record,) = tmp_path.glob("*.json")
    for content in ("{", "[1]", "{}"):
        record.write_text(content)
        with pytest.raises(ValueError, match="is not a finished training, or is damaged"):
            open_network(f"local-dir:{tmp_path}")
        with pytest.raises(ValueError, match=record.name):
            foreign_name(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    "name",
    [
        "fbnetv3_nano",
        "timm:tf_efficientnet_lite0",
        "timm:convnext_atto",
        "torchvision:squeezenet1_1",
        "torchvision:mobilenet_v3_small",
    ],
)
def test_a_new_classifier_finds_all_classes_equally_likely(name: str) -> None:
    model = open_network(name, num_classes=3).model.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    zero_classifier(model, 3)
    with torch.no_grad():
        assert (model(torch.randn(2, 3, 64, 64)) == 0).all()
    changed = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    assert len({key.rpartition(".")[0] for key in changed}) == 1


def test_a_network_without_a_classifier_of_these_classes_is_left_alone() -> None:
    layer = nn.Linear(2, 4)
    zero_classifier(layer, 3)
    assert layer.weight.abs().sum() > 0


def test_an_input_that_a_network_cannot_take_is_refused_before_training() -> None:
    model = open_network("torchvision:alexnet", num_classes=3).model
    with pytest.raises(ValueError, match=r"32 x 32 pixels.*--set resolution=64$"):
        check_input(model, 32, "torchvision:alexnet")
    check_input(model, 64, "torchvision:alexnet")
    assert model.training
    # A vision transformer takes its own size only.
    name = "timm:vit_tiny_patch16_224"
    fixed = open_network(name, num_classes=3).model
    with pytest.raises(ValueError, match=r"64 x 64 pixels.*--set resolution=224$"):
        check_input(fixed, 64, name)


@pytest.mark.parametrize(
    ("name", "small", "policy", "expected"),
    [
        ("fbnetv3_a", True, "", "fbnetv3_a.cifar10"),
        ("fbnetv3_a", False, "", "fbnetv3_a.meta_in1k"),
        ("fbnetv3_a", False, "commercial", None),
        ("fbnetv3_b", False, "", "fbnetv3_b.ra2_in1k"),
        ("fbnetv3_b", True, "", None),
        ("fbnetv3_b.ra2_in1k", False, "", None),
        ("arch.json", False, "", None),
    ],
)
def test_a_training_starts_from_weights_for_its_images_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, small: bool, policy: str, expected: str | None
) -> None:
    monkeypatch.setenv("FBNETV3_LICENSE", policy)
    assert weights_for(name, small_images=small) == expected
