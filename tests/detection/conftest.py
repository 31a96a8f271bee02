"""A detector that has seen a few drawn shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fbnetv3.detection.data import open_train_val
from fbnetv3.detection.detectors import BuiltDetector, load_detector, new_detector
from fbnetv3.detection.recipe import DetectionRecipe
from fbnetv3.detection.training import DetectionRun, train
from fbnetv3.integrations.drawn_shapes import draw_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn images with boxes."""
    folder = tmp_path_factory.mktemp("shapes")
    return draw_shapes(folder, num_images=6, side=64, rng=np.random.default_rng(0))


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a detector after two epochs."""
    folder = tmp_path_factory.mktemp("detector") / "run"
    images, val_images = open_train_val(shapes)
    built = new_detector("ssdlite", "fbnetv3_nano", images.class_names, pretrained=True, size=64)
    recipe = DetectionRecipe.fitting(len(images), epochs=2, batch_size=3)
    train(built, images, val_images, DetectionRun(recipe=recipe, folder=folder, validate_epochs=2))
    return folder


@pytest.fixture
def detector(trained: Path) -> BuiltDetector:
    """That detector."""
    return load_detector(trained)
