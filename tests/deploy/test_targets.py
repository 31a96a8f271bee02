"""Coverage of other runtimes, and the two formats that can be run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.parity import error_of_std
from fbnetv3.deploy.runtimes.executorch import executorch_runner, to_executorch
from fbnetv3.deploy.runtimes.onnxruntime import OnnxBackend
from fbnetv3.deploy.targets import TARGETS, check_targets
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3


@pytest.fixture
def model(small_model: FBNetV3) -> FBNetV3:
    return small_model


@pytest.fixture
def path(small_export: Exported) -> Path:
    return small_export.path


def batch(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(number).standard_normal((number, 3, 32, 32), np.float32)


def test_coverage_counts_the_operators_that_a_provider_does_not_know(path: Path) -> None:
    found = {coverage.target: coverage for coverage in check_targets(path)}
    assert tuple(found) == TARGETS
    nodes = onnx.load(path).graph.node
    gates = sum(node.op_type == "HardSigmoid" for node in nodes)
    assert all(coverage.num_nodes == len(nodes) for coverage in found.values())
    nnapi = found["nnapi"]
    assert "HardSigmoid" in nnapi.left
    unknown = sum(node.op_type in nnapi.left for node in nodes)
    assert nnapi.num_taken == len(nodes) - unknown
    assert nnapi.num_partitions > gates
    assert nnapi.verdict == "no"
    assert found["coreml-mlprogram"].num_partitions < nnapi.num_partitions
    assert found["tensorrt"].left == ()
    assert found["tensorrt"].verdict == "yes"
    assert any("profile" in note for note in found["tensorrt"].notes)


def test_an_operator_that_tensorrt_does_not_know_is_named(path: Path, tmp_path: Path) -> None:
    proto = onnx.load(path)
    proto.graph.node[1].op_type = "Mish"
    onnx.save(proto, tmp_path / "x.onnx")
    tensorrt = check_targets(tmp_path / "x.onnx")[-1]
    assert (tensorrt.left, tensorrt.verdict) == (("Mish",), "no")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.onnx is not an ONNX file"):
        check_targets(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="fbnetv3 export"):
        check_targets(tmp_path / "missing.onnx")


@pytest.mark.needs("openvino")
def test_openvino_gives_the_same_logits_and_keeps_the_record(path: Path, tmp_path: Path) -> None:
    from fbnetv3.deploy.runtimes.openvino import OpenVinoBackend, read_openvino, to_openvino

    xml = tmp_path / "small.xml"
    parity = to_openvino(path, xml)
    assert parity.max_error_of_std < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.bin", "small.xml"]
    expected: Artefact = OnnxBackend(path).artefact
    found = read_openvino(xml)
    assert found.parity["num_inputs"] == parity.num_inputs
    assert found.arch == expected.arch
    assert found.preprocess == expected.preprocess
    onnx_backend, backend = OnnxBackend(path), OpenVinoBackend(xml, threads=1)
    for number in (1, 3):
        got, wanted = backend.run_batch(batch(number)), onnx_backend.run_batch(batch(number))
        assert error_of_std(got, wanted).max() < 1e-4
    with pytest.raises(ValueError, match=r"name the \.xml one"):
        to_openvino(path, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="cannot write"):
        to_openvino(path, tmp_path / "missing" / "x.xml")
    (tmp_path / "text.xml").write_text("no model")
    with pytest.raises(ValueError, match="OpenVINO cannot read"):
        read_openvino(tmp_path / "text.xml")


@pytest.mark.slow
@pytest.mark.needs("executorch")
def test_executorch_gives_the_same_logits(
    model: FBNetV3, tmp_path: Path, small_preprocess: Preprocess
) -> None:
    path = tmp_path / "small.pte"
    parity = to_executorch(model, path, preprocess=small_preprocess)
    assert parity.max_error_of_std < 1e-4
    x = batch(1)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    assert error_of_std(executorch_runner(path)(x), expected).max() < 1e-4
    assert list(tmp_path.iterdir()) == [path]
