"""The study of SSDlite's trunk: each variant differs in what it says, and a run is scored."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fbnetv3.integrations.drawn_shapes import draw_shapes
from fbnetv3.integrations.torchvision_backbone import ssdlite
from fbnetv3.models.blocks import InvertedResidual
from tests.modules import benchmark


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    return benchmark("studies.ssdlite_trunk")


@torch.inference_mode()
def test_the_expanded_map_is_inside_the_block_that_halves_it(script: ModuleType) -> None:
    module: Any = ssdlite("fbnetv3_nano", num_classes=3, size=64).eval()
    image = torch.rand(1, 3, 64, 64)
    before = module.backbone(image)
    first = module.backbone.body.stages[5][0]
    script.expanded(module)
    after = module.eval().backbone(image)
    assert list(after) == list(before)
    assert torch.equal(after["0"], first.expand(before["0"]))
    assert after["0"].shape[1] == module.backbone.channels[0] == 256
    assert all(torch.equal(after[name], before[name]) for name in list(before)[1:])
    (found,) = module([image[0]])
    assert found["boxes"].shape[1] == 4


def test_variants_change_what_they_say(script: ModuleType) -> None:
    module: Any = ssdlite("fbnetv3_nano", num_classes=3, size=64)
    blocks: list[Any] = [
        m for m in module.modules() if isinstance(m, InvertedResidual) and m.has_residual
    ]
    assert all(not block.project.bn.weight.any() for block in blocks)
    script.residuals_from_1(module)
    assert all((block.project.bn.weight == 1).all() for block in blocks)
    script.norms_and_extras(module)
    assert module.head.classification_head.module_list[0][0][1].momentum == 0.03
    assert module.backbone.body.stem.bn.momentum == 0.1


def test_a_variant_is_trained_once_and_reported(script: ModuleType, tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path / "shapes", num_images=4, side=64, rng=np.random.default_rng(0))
    out = tmp_path / "study.jsonl"
    given = f"run {folder} --work {tmp_path / 'work'} --out {out} --trunk fbnetv3_nano --size 64"
    given += " --epochs 1 --batch-size 3 --seeds 1 --lr 0.002 --variants"
    script.main([*given.split(), "as it is"])
    script.main([*given.split(), "as it is"])
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["variant"], row["trunk"], row["seed"]) == ("as it is", "fbnetv3_nano", 0)
    assert row["lr"] == 0.002
    assert row["macs"] > 1e6
    script.main(["report", str(out)])
    assert "| 64 | 1 | fbnetv3_nano | as it is | 0.002 | " in out.with_suffix(".md").read_text()
