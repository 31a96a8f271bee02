"""The preprocessing record against torchvision, timm and its own JSON."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess

A = Preprocess(
    resize=242,
    crop=224,
    interpolation="bilinear",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
# Resize and crop of the official networks, of timm's, of CIFAR-10; then crops that need padding.
SIDES = [(242, 224), (266, 248), (277, 248), (325, 320), (235, 224), (32, 32), (31, 40), (20, 41)]
# Width, height: odd, equal, tiny, elongated.
SIZES = [(500, 375), (375, 500), (333, 501), (242, 242), (243, 242), (1, 1), (3, 2), (17, 400)]


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def assert_equal_to_torchvision(record: Preprocess, image: Image.Image) -> None:
    ours, theirs = record(image), record.torchvision()(image)
    assert ours.dtype == np.float32
    assert ours.shape == (3, record.crop, record.crop)
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), SIDES)
def test_numpy_and_torchvision_agree_to_the_last_bit(
    resize: int, crop: int, size: tuple[int, int]
) -> None:
    assert_equal_to_torchvision(replace(A, resize=resize, crop=crop), noise(*size))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_every_interpolation_agrees_on_photos(interpolation: Interpolation) -> None:
    record = replace(A, interpolation=interpolation)
    for path in example_photos():
        with Image.open(path) as photo:
            assert_equal_to_torchvision(record, photo.convert("RGB"))


def test_it_is_the_published_pipeline() -> None:
    """The official evaluation used torchvision's first transforms, which divide by 255."""
    from torchvision import transforms

    published = transforms.Compose(
        [
            transforms.Resize(242),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    image = noise(500, 375)
    np.testing.assert_allclose(A(image), published(image).numpy(), rtol=0, atol=1e-6)


def test_a_tensor_is_resized_almost_like_an_image() -> None:
    image = noise(500, 375)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    difference = np.abs(A(image) - A.torchvision()(tensor).numpy())
    assert difference.max() < 2.1 / 255 / min(IMAGENET_STD)


@pytest.mark.parametrize("upright", [False, True])
def test_a_long_strip_is_answered_from_its_middle(upright: bool) -> None:
    record = replace(A, resize=24, crop=16)
    size = (5, 333) if upright else (333, 5)  # just beyond the bound, so torchvision can do it too
    image = noise(*size)
    ours, theirs = record(image), record.torchvision()(image).numpy()
    assert np.abs(ours - theirs).max() <= 1.01 / 255 / min(IMAGENET_STD)
    longer = (1, 60_000) if upright else (60_000, 1)
    assert record(Image.new("RGB", longer, (124, 116, 104))).shape == (3, 16, 16)


def test_padding_is_black() -> None:
    out = replace(A, resize=10, crop=13)(Image.new("RGB", (10, 10), (255, 255, 255)))
    black = -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(out[:, 0, 0], black, atol=1e-6)
    np.testing.assert_allclose(out[:, 11:, 6], np.repeat(black[:, None], 2, 1), atol=1e-6)
    assert (out[:, 1:11, 1:11] > 0).all()


def test_another_mode_than_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode 'L'.*'RGB'"):
        A(Image.new("L", (50, 50)))


def test_pixels_are_what_is_normalised() -> None:
    image = noise(333, 501)
    pixels = A.pixels(image)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    by_hand = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(A(image), by_hand.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_json_round_trip_is_lossless() -> None:
    record = replace(A, mean=(0.1 + 0.2, 1 / 3, 0.5))
    again = Preprocess.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert hash(again) == hash(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", 0),
        ("resize", 242.0),
        ("resize", True),
        ("crop", -1),
        ("crop", "224"),
        ("interpolation", "lanczos"),
        ("antialias", False),
        ("antialias", 1),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("mean", 0.5),
        ("std", (0.2, 0.2, 0.0)),
        ("std", (0.2, 0.2, "0.2")),
    ],
)
def test_a_field_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Preprocess.from_dict({**A.to_dict(), field: value})


def test_a_record_of_a_version_that_wrote_antialias_or_not_is_read() -> None:
    assert A.to_dict()["antialias"] is True
    nearest = replace(A, interpolation="nearest")
    assert nearest.to_dict()["antialias"] is False
    for record in (A, nearest):
        fields = record.to_dict()
        assert Preprocess.from_dict(fields) == record
        del fields["antialias"]
        assert Preprocess.from_dict(fields) == record
    with pytest.raises(ValueError, match="antialias is True; expected False with 'nearest'"):
        Preprocess.from_dict({**nearest.to_dict(), "antialias": True})


def test_missing_and_unknown_fields_are_named() -> None:
    fields = A.to_dict()
    with pytest.raises(ValueError, match="unknown field 'size'"):
        Preprocess.from_dict({**fields, "size": 3})
    del fields["std"]
    with pytest.raises(ValueError, match="lacks field 'std'"):
        Preprocess.from_dict(fields)


def test_timm_computes_the_resize_back_from_crop_pct() -> None:
    for crop in range(1, 400, 7):
        for resize in range(1, 700, 3):
            record = replace(A, resize=resize, crop=crop)
            assert int(crop / record.crop_pct) == resize


def test_a_timm_config_comes_back_and_gives_timms_transform() -> None:
    from timm.data.transforms_factory import create_transform

    record = replace(A, resize=325, crop=320)
    cfg: dict[str, Any] = {
        "input_size": (3, 320, 320),
        "interpolation": record.interpolation,
        "crop_pct": record.crop_pct,
        "mean": record.mean,
        "std": record.std,
    }
    assert Preprocess.from_timm_cfg(json.loads(json.dumps(cfg))) == record
    image = noise(401, 333)
    transform: Any = create_transform(**cfg)
    np.testing.assert_allclose(record(image), transform(image).numpy(), rtol=0, atol=1e-6)


def test_timms_own_config_is_read_at_both_sizes() -> None:
    import timm

    found: Any = timm.get_pretrained_cfg("fbnetv3_g.ra2_in1k")
    cfg = found.to_dict()
    assert Preprocess.from_timm_cfg(cfg) == replace(A, resize=252, crop=240)
    at_test = Preprocess.from_timm_cfg(cfg, use_test_size=True)
    assert at_test == replace(A, resize=303, crop=288)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "lacks 'mean'"),
        ({"crop_mode": "border"}, "crop_mode is 'border'"),
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"input_size": (1, 28, 28)}, "input_size"),
        ({"input_size": (3, 28, 30)}, "input_size"),
        ({"interpolation": "random"}, "interpolation"),
    ],
)
def test_a_timm_config_that_cannot_be_honoured_is_refused(
    change: dict[str, object], message: str
) -> None:
    cfg = {
        "input_size": (3, 224, 224),
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    with pytest.raises(ValueError, match=message):
        Preprocess.from_timm_cfg({**cfg, **change})


@pytest.mark.parametrize("number", [10**400, 1e300, -1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["mean", "std"])
def test_numbers_that_float32_cannot_hold_are_refused(field: str, number: float) -> None:
    fields = {**A.to_dict(), field: [0.5, number, 0.5]}
    with pytest.raises(ValueError, match=f"{field} is .*expected three numbers from"):
        Preprocess.from_dict(fields)
    with pytest.raises(ValueError, match="std is"):
        Preprocess.from_dict({**A.to_dict(), "std": [0.5, 5e-324, 0.5]})
