"""A model repository is what Triton reads: layout, configuration, labels, versions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.model_repository import write_repository
from fbnetv3.hub.confidence import Confidence
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3


def fields(config: str) -> dict[str, list[str]]:
    """Returns the lines of a configuration by their first word."""
    found: dict[str, list[str]] = {}
    for line in config.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def test_the_configuration_is_that_of_the_file(small_export: Exported, tmp_path: Path) -> None:
    served = write_repository(small_export.path, tmp_path / "models", max_batch_size=8)
    assert served.folder == tmp_path / "models" / small_export.artefact.name
    files = [p.relative_to(served.folder) for p in served.folder.rglob("*") if p.is_file()]
    assert sorted(map(str, files)) == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert served.model_path.read_bytes() == small_export.path.read_bytes()
    labels = (served.folder / "labels.txt").read_text().splitlines()
    assert labels == list(small_export.artefact.class_names)
    config = fields((served.folder / "config.pbtxt").read_text())
    assert config["name:"] == [f'"{served.folder.name}"']
    assert config["max_batch_size:"] == ["8"]
    assert len(config["dynamic_batching"]) == 1
    # What a server sends is what the session of that file takes, for every size of a batch.
    session = ort.InferenceSession(served.model_path)
    [sent], [got] = config["input"], config["output"]
    dims = [int(n) for n in re.findall(r"-?\d+", sent.partition("dims:")[2])]
    name = re.findall(r'name: "(\w+)"', sent)[0]
    for number in (1, 8):
        fed = {name: np.zeros((number, *dims), np.float32)}
        (logits,) = session.run(re.findall(r'name: "(\w+)"', got), fed)
        assert logits.shape == (number, len(labels))
    assert "data_type: TYPE_FP32" in sent
    assert 'label_filename: "labels.txt"' in got


def test_a_second_export_is_the_next_version(small_export: Exported, tmp_path: Path) -> None:
    assert write_repository(small_export.path, tmp_path).version == 1
    again = write_repository(small_export.path, tmp_path)
    assert again.version == 2
    assert (again.folder / "1" / "model.onnx").is_file()
    before = sorted(again.folder.rglob("*"))
    with pytest.raises(ValueError, match=r"has a model with another config\.pbtxt"):
        write_repository(small_export.path, tmp_path, max_batch_size=4)
    assert sorted(again.folder.rglob("*")) == before


def test_a_client_learns_how_to_read_the_logits_of_the_newest_version(
    small_export: Exported, tmp_path: Path
) -> None:
    known = Confidence(temperature=2.0, threshold=1.5, num_images=100)
    for number, temperature in enumerate((2.0, 0.5), start=1):
        path, proto = tmp_path / f"{number}.onnx", onnx.load(small_export.path)
        artefact = dataclasses.replace(
            small_export.artefact, confidence=dataclasses.replace(known, temperature=temperature)
        )
        onnx.helper.set_model_props(proto, artefact.to_metadata())
        onnx.save(proto, path)
        served = write_repository(path, tmp_path / "models")
        assert served.version == number
        lines = (served.folder / "config.pbtxt").read_text().splitlines()
        [line] = [line for line in lines if 'key: "confidence"' in line]
        assert f'\\"temperature\\":{temperature}' in line
        assert any('"task" value { string_value: "image-classification"' in line for line in lines)


def test_a_fixed_batch_and_pixels_are_stated(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    path = tmp_path / "pixels.onnx"
    to_onnx(
        small_model, path, dynamic=None, batch_size=2, include_preprocess=True,
        preprocess=small_preprocess, class_names=[f"a \"{n}\"\n" for n in range(10)],
    )  # fmt: skip
    served = write_repository(path, tmp_path / "models")
    assert served.max_batch_size == 0
    config = (served.folder / "config.pbtxt").read_text()
    assert "data_type: TYPE_UINT8 dims: [ 2, 32, 32, 3 ]" in config
    assert "dims: [ 2, 10 ]" in config
    assert "dynamic_batching" not in config
    assert (served.folder / "labels.txt").read_text().splitlines()[3] == 'a "3"'


def test_what_cannot_be_served_is_refused(small_export: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        write_repository(small_export.path, tmp_path / "file")
    with pytest.raises(ValueError, match="max_batch_size is 0"):
        write_repository(small_export.path, tmp_path, max_batch_size=0)
    with pytest.raises(FileNotFoundError, match="no file"):
        write_repository(tmp_path / "no.onnx", tmp_path)
