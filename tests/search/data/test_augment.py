"""Batched augmentation against PIL's and torchvision's one image at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms import functional as tv

from fbnetv3.search.data import policies
from fbnetv3.search.data.augment import NUM_DRAWS, augment
from fbnetv3.search.training.recipe import AUGMENTS


def pictures(num: int = 16) -> Tensor:
    """Returns smooth images (num, 32, 32, 3) that use a part of the range."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(num, 3, 4, 4, generator=generator) * 200 + 20
    large = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    return large.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def draws(num: int, seed: int = 1) -> Tensor:
    return torch.rand(num, NUM_DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", AUGMENTS)
def test_an_image_depends_on_its_own_draws_only(kind: str) -> None:
    images, u = pictures(), draws(16)
    before = images.clone()
    together = augment(images, u, kind)
    alone = torch.cat([augment(images[n : n + 1], u[n : n + 1], kind) for n in range(16)])
    assert torch.equal(together, alone)
    assert torch.equal(images, before)
    assert together.dtype == torch.uint8
    if kind != "none":
        assert not torch.equal(together, augment(images, draws(16, seed=2), kind))


def test_flips_mirror_about_half_of_the_images() -> None:
    images, u = pictures(), draws(16)
    flipped = augment(images, u, "flip")
    for n in range(16):
        assert torch.equal(flipped[n], images[n].flip(1) if u[n, 0] < 0.5 else images[n])


def test_a_crop_is_a_shift_by_at_most_an_eighth() -> None:
    images, u = pictures(), draws(16)
    u[:, 0] = 0.9
    moved = augment(images, u, "crop")
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), (4,) * 4, mode="reflect")
    for n in range(16):
        down, right = (int(u[n, k] * 9) for k in (1, 2))
        expected = padded[n, :, down : down + 32, right : right + 32].permute(1, 2, 0)
        assert torch.equal(moved[n].float(), expected)


def test_the_policy_is_the_published_one() -> None:
    published = AutoAugment()._get_policies(AutoAugmentPolicy.CIFAR10)
    ours = [
        tuple((name.replace("_", ""), chance, level) for name, chance, level in pair)
        for pair in policies.CIFAR10_POLICY
    ]
    assert ours == [
        tuple((n.lower(), chance, level) for n, chance, level in pair) for pair in published
    ]


def one_op(name: str, images: Tensor, strength: float, full: dict[str, float]) -> Tensor:
    num = len(images)
    return policies._apply(
        images,
        ("identity", name),
        torch.ones(num, dtype=torch.long),
        torch.full((num,), strength),
        torch.zeros(num, dtype=torch.bool),
        full,
        bits=(8, 4),
    )


def by_torchvision(name: str, image: Tensor) -> Tensor:
    factor = 1 + 0.5 * 0.9
    done = {
        "brightness": lambda x: tv.adjust_brightness(x, factor),
        "color": lambda x: tv.adjust_saturation(x, factor),
        "contrast": lambda x: tv.adjust_contrast(x, factor),
        "sharpness": lambda x: tv.adjust_sharpness(x, factor),
        "posterize": lambda x: tv.posterize(x, 6),
        "solarize": lambda x: tv.solarize(x, 127.5),
        "autocontrast": tv.autocontrast,
        "equalize": tv.equalize,
        "invert": tv.invert,
    }[name](image.permute(2, 0, 1))
    out: Tensor = done.permute(1, 2, 0)
    return out


@pytest.mark.parametrize(
    "name",
    [
        "brightness",
        "color",
        "contrast",
        "sharpness",
        "posterize",
        "solarize",
        "autocontrast",
        "equalize",
        "invert",
    ],
)
def test_colour_operations_agree_with_torchvision(name: str) -> None:
    images = pictures(4)
    ours = one_op(name, images, 0.5, policies._AUTO_FULL)
    theirs = torch.stack([by_torchvision(name, image) for image in images])
    assert not torch.equal(ours, images)
    # Roundings of the grey image and of the blend differ by a step each.
    assert (ours.int() - theirs.int()).abs().max() <= (
        2 if name in ("contrast", "color", "sharpness", "brightness") else 0
    )


@pytest.mark.parametrize("name", ["translate_x", "translate_y", "rotate", "shear_x", "shear_y"])
def test_geometric_operations_agree_with_torchvision(name: str) -> None:
    images = pictures(4)
    full = {**policies._AUTO_FULL, "translate": 8.0, "rotate": 60.0}
    ours = one_op(name, images, 0.5, full)
    zero: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    # torchvision moves the picture where ours moves the place that is read; not so its shear.
    moves: dict[str, dict[str, Any]] = {
        "translate_x": {"translate": [-4, 0]},
        "translate_y": {"translate": [0, -4]},
        "rotate": {"angle": 30.0},
        "shear_x": {"shear": [0.15 * 180 / torch.pi, 0.0]},
        "shear_y": {"shear": [0.0, 0.15 * 180 / torch.pi]},
    }
    theirs = tv.affine(images.permute(0, 3, 1, 2), **{**zero, **moves[name]}, fill=[128.0] * 3)
    differing = (ours.permute(0, 3, 1, 2) != theirs).float().mean()
    # tan(shear) in theirs, the plain factor in ours: a few nearest pixels fall otherwise.
    assert differing < (0.02 if name in ("rotate", "shear_x", "shear_y") else 1e-6)


def test_trivial_augment_uses_every_operation_and_its_whole_strength() -> None:
    images = pictures(1).expand(2000, -1, -1, -1)
    u = torch.rand(2000, policies.NUM_POLICY_DRAWS, generator=torch.Generator().manual_seed(0))
    picked = (u[:, 0] * len(policies.TRIVIAL_OPS)).long()
    changed = (policies.trivial_augment(images, u) != images).flatten(1).any(1)
    assert not changed[picked == 0].any()
    for number in range(1, len(policies.TRIVIAL_OPS)):
        assert changed[picked == number].float().mean() > 0.5, policies.TRIVIAL_OPS[number]
