"""The weights inside the package: what they say of the photos that ship with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fbnetv3
from fbnetv3.hub.weights import WEIGHTS, Embedded

PHOTOS = Path(fbnetv3.__file__).parent / "data" / "photos"
NAMES = [name for name, w in WEIGHTS.items() if isinstance(w.source, Embedded)]
# Logits of chelsea.jpg, in the order of the classes.
GOLDEN = {
    "fbnetv3_a.cifar10": [
        -0.291,
        -0.5402,
        -0.1823,
        4.0681,
        -0.5489,
        -1.2707,
        -0.6493,
        -0.0474,
        -0.2707,
        -0.3082,
    ],
    "fbnetv3_nano.cifar10": [
        -0.5001,
        -0.332,
        -0.2599,
        4.1954,
        -0.2422,
        -0.706,
        -0.6692,
        -0.4698,
        -0.4399,
        -0.5987,
    ],
    "nars_cifar_s.cifar10": [
        -1.8574,
        -3.4162,
        1.042,
        5.1896,
        2.4569,
        3.9896,
        4.7876,
        -2.7587,
        -6.6174,
        -3.1309,
    ],
    "nars_cifar_m.cifar10": [
        -1.795,
        -3.0248,
        0.0098,
        4.5808,
        1.6266,
        3.8789,
        4.1266,
        -3.1398,
        -4.053,
        -2.5973,
    ],
    "nars_cifar_l.cifar10": [
        -1.6485,
        -0.4827,
        1.2973,
        4.6459,
        1.1408,
        3.3933,
        2.7965,
        -3.6705,
        -5.378,
        -2.1782,
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_of_a_photo_are_the_recorded_ones(name: str) -> None:
    model = fbnetv3.create(name, pretrained=True, offline=True).eval()
    image = fbnetv3.open_image(PHOTOS / "chelsea.jpg")
    batch = torch.from_numpy(WEIGHTS[name].preprocess(image))[None]
    with torch.inference_mode():
        logits = model(batch)[0].numpy()
    np.testing.assert_allclose(logits, GOLDEN[name], atol=2e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_recorded_logits(name: str) -> None:
    model = fbnetv3.create(name, pretrained=True, offline=True).eval().to("cuda")
    image = fbnetv3.open_image(PHOTOS / "chelsea.jpg")
    batch = torch.from_numpy(WEIGHTS[name].preprocess(image))[None]
    with torch.inference_mode():
        logits = model(batch.to("cuda"))[0].cpu().numpy()
    np.testing.assert_allclose(logits, GOLDEN[name], atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_cat_is_a_cat(name: str) -> None:
    prediction = fbnetv3.Classifier(name)(PHOTOS / "chelsea.jpg")
    assert prediction.label == "cat"
    assert prediction.probabilities[0] > 0.4


@pytest.mark.parametrize("name", NAMES)
def test_they_may_be_used_commercially_and_say_who_measured(name: str) -> None:
    assert WEIGHTS[name].license == "Apache-2.0"
    assert WEIGHTS[name].evaluated_by == "fbnetv3-zoo"
