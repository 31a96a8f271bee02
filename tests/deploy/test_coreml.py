"""Core ML packages: written and checked here by their operators, run on a Mac only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fbnetv3
from fbnetv3.deploy.export_graph import inference_graph
from fbnetv3.deploy.mil_operators import compute
from fbnetv3.deploy.runtimes import RUNTIMES
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.measure.bench import entries
from fbnetv3.models.model import FBNetV3

COREML = RUNTIMES["coreml"]
NAMES = [f"thing {n}" for n in range(10)]


@pytest.mark.slow
@pytest.mark.needs("coremltools")
def test_a_package_is_the_model_says_what_it_is_and_repeats(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    path, again = tmp_path / "one" / "small.mlpackage", tmp_path / "two" / "small.mlpackage"
    for place in (path, again):
        place.parent.mkdir()
        found = COREML.file.export(
            small_model, place, preprocess=small_preprocess, class_names=NAMES, batch_size=2
        )
        assert found.max_error_of_std < 1e-4
        assert list(place.parent.iterdir()) == [place]
    parts = [part.relative_to(path) for part in COREML.parts(path)]
    assert len(parts) == 3
    for part in parts:
        assert (path / part).read_bytes() == (again / part).read_bytes()
    loaded = fbnetv3.load(path)
    artefact = loaded.artefact
    assert artefact is not None
    assert (artefact.batch_size, artefact.num_classes) == (2, 10)
    assert artefact.class_names == tuple(NAMES)
    assert artefact.preprocess == small_preprocess
    assert artefact.parity == found.to_dict()
    if sys.platform != "darwin":
        assert not COREML.available()
        with pytest.raises(ValueError, match=r"small\.mlpackage runs only on a Mac; export"):
            loaded(example_photos()[0])
        with pytest.raises(ValueError, match=r"small\.mlpackage runs only on darwin, and this is"):
            entries([path])


@pytest.mark.slow
@pytest.mark.needs("coremltools")
def test_noise_in_a_layer_of_a_package_is_found_out(
    small_model: FBNetV3,
    small_preprocess: Preprocess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(*arguments: Any) -> nn.Module:
        module = inference_graph(*arguments)
        with torch.no_grad():
            module.get_parameter("model.stages.2.0.depthwise.conv.weight").mul_(1.1)
        return module

    monkeypatch.setattr("fbnetv3.deploy.export_graph.inference_graph", damaged)
    before = tmp_path / "small.mlpackage"
    before.mkdir()
    (before / "mine").touch()
    with pytest.raises(ValueError, match=r"logits differ by .* Nothing was written"):
        COREML.file.export(small_model, before, preprocess=small_preprocess)
    assert [p.name for p in tmp_path.rglob("*")] == ["small.mlpackage", "mine"]


@pytest.mark.needs("coremltools")
def test_nothing_is_printed_when_the_library_is_imported() -> None:
    code = "from fbnetv3.deploy.runtimes import RUNTIMES; RUNTIMES['coreml'].need_writer()"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.needs("coremltools")
def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(ValueError, match="is not a Core ML package: No such file"):
        fbnetv3.load(tmp_path / "x.mlpackage")


def test_an_operator_that_is_not_known_is_named() -> None:
    x = SimpleNamespace(name="x", shape=(1, 2))
    y = SimpleNamespace(name="y", shape=(1, 2))
    step = SimpleNamespace(op_type="relu", inputs={"x": x}, outputs=[y])
    function = SimpleNamespace(inputs={"x": x}, outputs=[y], operations=[step])
    np.testing.assert_array_equal(compute(function, np.array([[-1, 2]], np.float32)), [[0, 2]])
    step.op_type = "softmax"
    with pytest.raises(ValueError, match="operator softmax of y is not known here"):
        compute(function, np.zeros((1, 2), np.float32))
    step.op_type = "relu"
    with pytest.raises(ValueError, match=r"y has shape \(1, 3\), not \(1, 2\)"):
        compute(function, np.zeros((1, 3), np.float32))
