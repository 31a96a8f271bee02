"""Quantization-aware training changes the file, and a killed one ends in the same file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.quantized import _image_set, quantize_aware, recipe_for
from tests.deploy.test_quantize import pictures, untrained

CPU = Hardware(device=torch.device("cpu"))
TRAINING, HELD_OUT = pictures(96, seed=1)[0], pictures(32, seed=2)[0]


class Killed(Exception):  # noqa: N818  # stands for a kill
    """Ends a training in the middle of an epoch."""


@pytest.fixture(scope="module")
def float_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("float"))


def trained(float_path: Path, folder: Path, **options: Any) -> Path:
    """Returns the file of a training of two epochs."""
    recipe = recipe_for(len(TRAINING), epochs=2, batch_size=16, lr=options.pop("lr", 1e-5))
    path = folder / "int8.onnx"
    folder.mkdir(exist_ok=True)
    options = {"recipe": recipe, "hardware": CPU, "evaluation": HELD_OUT, **options}
    quantize_aware(float_path, path, TRAINING, folder=folder / "run", **options)
    return path


def test_a_killed_training_ends_in_the_same_file_of_other_weights_and_ranges(
    float_path: Path, tmp_path: Path
) -> None:
    curve: list[Any] = []
    whole = trained(float_path, tmp_path / "whole", on_epoch=curve.append)

    def kill(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == (2, 3):
            raise Killed

    with pytest.raises(Killed):
        trained(float_path, tmp_path / "killed", on_step=kill)
    assert not (tmp_path / "killed" / "int8.onnx").exists()
    resumed = trained(float_path, tmp_path / "killed")
    assert resumed.read_bytes() == whole.read_bytes()
    assert [log.epoch for log in curve] == [1, 2]

    plain = tmp_path / "plain.onnx"
    quantize(float_path, plain, TRAINING, evaluation=HELD_OUT, sensitivity=False)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (plain, whole)
    )
    for name in ("stem.conv.weight_quantized", "stem.conv.weight_scale", "logits_scale"):
        assert not np.array_equal(before[name], after[name]), name


def test_a_training_that_does_harm_is_left_out(
    float_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harmed = trained(float_path, tmp_path / "harmed", lr=1.0)
    assert "training is left out: with it" in caplog.text
    plain = tmp_path / "plain.onnx"
    quantize(float_path, plain, TRAINING, evaluation=HELD_OUT, sensitivity=False)
    graphs = [onnx.load(path).graph.SerializeToString() for path in (harmed, plain)]
    assert graphs[0] == graphs[1]
    assert ONNX.load(harmed).artefact.quantization["trained"] is False


def test_epochs_make_500_steps_unless_given() -> None:
    assert (recipe_for(64_000).epochs, recipe_for(64_000).batch_size) == (1, 64)
    assert recipe_for(6_400).epochs == 5
    few = recipe_for(100)
    assert (few.batch_size, few.epochs) == (8, 42)
    assert recipe_for(3).epochs == 100
    assert recipe_for(100, epochs=3, lr=0.5).epochs == 3
    assert recipe_for(100, lr=0.5).lr == 0.5


def test_half_precision_is_refused(float_path: Path, tmp_path: Path) -> None:
    half = Hardware(device=torch.device("cpu"), bf16=True)
    with pytest.raises(ValueError, match="trained in float32"):
        trained(float_path, tmp_path, hardware=half)


def test_images_that_cannot_be_read_are_left_out_as_without_training(float_path: Path) -> None:
    sources: list[bytes] = []
    for number, picture in enumerate(TRAINING[:8]):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        sources.append(buffer.getvalue() if number % 4 else b"no image")
    images = _image_set("the training images", sources, ONNX.load(float_path).artefact)
    assert len(images) == 6
    assert "2 of the 8 images" in images.notes[0]
