"""What a model is called in exported files: by its owner, else by its weights or architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm

from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained import from_pretrained, save_pretrained
from fbnetv3.hub.pretrained_cfg import (
    class_names_of,
    given_name,
    name_of,
    preprocess_of,
    pretrained_cfg,
    weights_of,
)
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import build


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("local-dir:runs/birds", "birds"),
        ("local-dir:runs/birds/", "birds"),
        ("local-dir:runs/birds/best", "birds"),
        ("local-dir:best", Path.cwd().name),
        ("local-dir:.", Path.cwd().name),
        ("local-dir:runs/../v1.2@home", "v1.2@home"),
        ("local-dir:/", "model"),
        ("hf-hub:someone/birds@v2", "birds"),
        ("someone/birds", "birds"),
        ("searches/small.json", "small"),
        ("runs/birds/arch.json", "birds"),
        ("https://example.com/archs/small.json?x=1", "small"),
    ],
)
def test_a_saved_model_is_called_as_its_folder_is(location: str, name: str) -> None:
    assert given_name(location) == name


def test_a_fine_tuned_model_that_timm_loads_is_not_taken_for_its_ancestor(tmp_path: Path) -> None:
    model = build(ARCHS["fbnetv3_b"].same_padding(), num_classes=1000)
    model.pretrained_cfg = pretrained_cfg("fbnetv3_b", model.arch, WEIGHTS["fbnetv3_b.ra2_in1k"])
    assert weights_of(model) is WEIGHTS["fbnetv3_b.ra2_in1k"]
    mean = (0.5, 0.5, 0.5)
    own = Preprocess(resize=128, crop=128, interpolation="bicubic", mean=mean, std=mean)
    labels = [f"thing {n}" for n in range(1000)]
    save_pretrained(model, tmp_path, preprocess=own, labels=labels)
    loaded: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert weights_of(loaded) is None
    assert preprocess_of(loaded) == own
    assert class_names_of(loaded) == tuple(labels)
    cfg = loaded.pretrained_cfg
    hub = {"hf_hub_id": "me/mine", "source": "hf-hub", "file": None}
    loaded.pretrained_cfg = {**cfg, **hub}
    assert weights_of(loaded) is None
    loaded.pretrained_cfg = {**cfg, **hub, "hf_hub_id": "timm/"}
    assert weights_of(loaded) is WEIGHTS["fbnetv3_b.ra2_in1k"]


def test_models_are_called_by_owner_weights_or_architecture(tmp_path: Path) -> None:
    assert name_of(create("fbnetv3_nano.cifar10", pretrained=True)) == "fbnetv3_nano.cifar10"
    arch = ARCHS["fbnetv3_nano"]
    assert name_of(create(arch)) == "fbnetv3_nano"
    assert name_of(build(arch)) == "fbnetv3"
    path = tmp_path / "small.json"
    path.write_text(arch.to_json())
    assert name_of(create(path)) == "small"
    birds = save_pretrained(create(path), tmp_path / "birds")
    found = create(f"local-dir:{birds}", pretrained=True)
    assert name_of(found) == "birds"
    fish = save_pretrained(found, tmp_path / "fish")
    assert name_of(from_pretrained(fish)) == "fish"
