"""Coverage: which operators of a file a provider would take."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.targets import TARGETS, check_targets


@pytest.fixture
def path(small_export: Exported) -> Path:
    return small_export.path


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
