"""The table of weights against the published figures, and against timm's own registry."""

import math

import pytest
import timm

from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.weights import WEIGHTS, HubFile, Url

# Published with the official models: job, resize, crop, top-1, top-5.
OFFICIAL = {
    "a": ("f235707940", 242, 224, 79.574, 94.712),
    "b": ("f233607847", 266, 248, 80.206, 94.944),
    "c": ("f234529537", 272, 248, 80.826, 95.286),
    "d": ("f231225742", 277, 248, 81.042, 95.436),
    "e": ("f230158956", 291, 264, 81.254, 95.488),
    "f": ("f230161092", 296, 272, 82.062, 95.874),
    "g": ("f226438997", 325, 320, 82.794, 96.3),
}
# Published on timm's hub pages: top-1 at the test size.
TIMM = {"b": (79.154, 256), "d": (79.682, 256), "g": (82.034, 288)}


def test_every_record_stands_under_its_own_name_and_fits_a_table() -> None:
    for name, weights in WEIGHTS.items():
        assert weights.name == name
        assert weights.model in ARCHS
        assert weights.preprocess.crop <= weights.preprocess.resize


def test_the_sources_of_the_records_are_all_there() -> None:
    official = {f"fbnetv3_{letter}.meta_in1k" for letter in OFFICIAL}
    assert official | {f"fbnetv3_{letter}.ra2_in1k" for letter in TIMM} <= set(WEIGHTS)


@pytest.mark.parametrize("letter", OFFICIAL)
def test_official_records_are_the_published_figures(letter: str) -> None:
    job, resize, crop, top1, top5 = OFFICIAL[letter]
    weights = WEIGHTS[f"fbnetv3_{letter}.meta_in1k"]
    assert isinstance(weights.source, Url)
    assert weights.source.url == (
        "https://dl.fbaipublicfiles.com/fbnet/models/20201201/GtOtfw/"
        f"FBNetV3_{letter.upper()}_{job}/model.pth"
    )
    assert (weights.preprocess.resize, weights.preprocess.crop) == (resize, crop)
    assert (weights.top1_pct, weights.top5_pct) == (top1, top5)
    assert weights.license == "CC-BY-NC-4.0"
    assert not weights.commercial
    assert weights.arch == ARCHS[f"fbnetv3_{letter}"]


@pytest.mark.parametrize("letter", TIMM)
def test_timm_records_agree_with_timm(letter: str) -> None:
    weights = WEIGHTS[f"fbnetv3_{letter}.ra2_in1k"]
    theirs = timm.models.get_pretrained_cfg(f"fbnetv3_{letter}.ra2_in1k")
    assert theirs is not None
    top1, test_size = TIMM[letter]
    assert isinstance(weights.source, HubFile)
    assert weights.source.repo == theirs.hf_hub_id
    assert theirs.test_input_size == (3, test_size, test_size)
    assert weights.preprocess.crop == test_size
    assert weights.preprocess.resize == math.floor(test_size / theirs.crop_pct)
    assert weights.preprocess.interpolation == theirs.interpolation
    assert (weights.preprocess.mean, weights.preprocess.std) == (theirs.mean, theirs.std)
    assert weights.top1_pct == top1
    assert weights.license == "Apache-2.0"
    assert weights.commercial
    assert weights.arch == ARCHS[f"fbnetv3_{letter}"].same_padding()
