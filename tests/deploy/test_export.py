"""Export to ONNX: the file is the model, says what it is, and repeats byte for byte."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.describe import describe
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.onnx_graph import operators
from fbnetv3.deploy.parity import TOLERANCE, compare, error_of_std
from fbnetv3.deploy.runtimes import read_artefact
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.paths import GOLDEN, ROOT

Make = Callable[..., FBNetV3]
SMALL = ARCHS["fbnetv3_nano"].small_image(32)
NAMES = tuple(f"thing {n}" for n in range(10))


@pytest.fixture
def exported(small_export: Exported) -> Exported:
    return small_export


def run(path: Path, batch: Any) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": batch})[0]


def test_the_file_gives_the_models_logits_at_every_batch_size(
    small_model: FBNetV3, exported: Exported
) -> None:
    model = small_model
    for number in (1, 2, 5):
        batch = np.random.default_rng(number).standard_normal((number, 3, 32, 32), np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        assert error_of_std(run(exported.path, batch), expected).max() < 1e-4


def test_the_graph_holds_nothing_but_the_network(exported: Exported) -> None:
    blocks = list(SMALL.blocks())
    gates = sum(block.se_channels > 0 for block in blocks)
    proto = onnx.load(exported.path)
    found = operators(proto)
    assert found == {
        # stem, blocks, two of the head
        "Conv": 3 + sum(2 + block.has_expand for block in blocks) + 2 * gates,
        "HardSwish": 3 + sum(1 + block.has_expand for block in blocks) + gates,
        "HardSigmoid": gates,
        "Mul": gates,
        "GlobalAveragePool": gates + 1,
        "Add": sum(block.has_residual for block in blocks),
        "Flatten": 1,
        "Gemm": 1,
    }
    assert exported.num_nodes == sum(found.values())
    assert {(entry.domain, entry.version) for entry in proto.opset_import} == {("", 18)}
    assert [value.name for value in proto.graph.input] == ["input"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 32, 32]


def test_nodes_are_named_after_modules_and_the_file_tells_nothing_of_this_disk(
    exported: Exported,
) -> None:
    names = [node.name for node in onnx.load(exported.path).graph.node]
    assert names[:2] == ["stem.conv/Conv", "stem.act/HardSwish"]
    assert "stages.2.0.se.gate/HardSigmoid" in names
    assert len(set(names)) == len(names)
    content = exported.path.read_bytes()
    assert b".py" not in content
    assert str(ROOT).encode() not in content
    assert hashlib.sha256(content).hexdigest() == exported.sha256
    assert len(content) == exported.num_bytes


def test_the_file_says_what_it_is(
    small_model: FBNetV3, exported: Exported, small_preprocess: Preprocess
) -> None:
    artefact = read_artefact(exported.path)
    assert artefact == exported.artefact
    assert artefact.arch == SMALL
    assert artefact.preprocess == small_preprocess
    assert artefact.class_names == NAMES
    assert artefact.macs_paper == count(SMALL, 32, num_classes=10).macs_paper
    assert artefact.params == sum(p.numel() for p in small_model.parameters())
    assert artefact.parity["max_error_of_std"] == exported.parity.max_error_of_std < 1e-4
    assert artefact.exported_with["torch"] == torch.__version__
    proto = onnx.load(exported.path)
    assert proto.producer_name == "fbnetv3"


def test_weights_and_their_licence_are_named(golden_network: Make, tmp_path: Path) -> None:
    from fbnetv3.hub.pretrained_cfg import pretrained_cfg
    from fbnetv3.hub.weights import WEIGHTS

    weights = WEIGHTS["fbnetv3_b.ra2_in1k"]
    model = build(weights.arch)
    model.pretrained_cfg = pretrained_cfg("fbnetv3_b", weights.arch, weights)
    artefact = describe(model)
    assert artefact.name == "fbnetv3_b.ra2_in1k"
    assert artefact.weights_tag == "ra2_in1k"
    assert artefact.license == "Apache-2.0"
    assert artefact.source_url == weights.origin
    assert artefact.preprocess == weights.preprocess
    assert len(artefact.class_names) == 1000
    assert len(artefact.weights_sha256) == 64
    model.reset_classifier(7)
    assert describe(model).class_names == ()


def test_metadata_comes_back_from_strings(exported: Exported) -> None:
    pairs = exported.artefact.to_metadata()
    assert all(isinstance(value, str) for value in pairs.values())
    assert Artefact.from_metadata(pairs, source="x") == exported.artefact
    damaged = dict(pairs, **{"fbnetv3.preprocess": "{"})
    with pytest.raises(ValueError, match="x has damaged metadata"):
        Artefact.from_metadata(damaged, source="x")
    other = dataclasses.replace(exported.artefact, arch=ARCHS["fbnetv3_a"]).to_metadata()
    swapped = dict(pairs, **{"fbnetv3.arch": other["fbnetv3.arch"]})
    with pytest.raises(ValueError, match="arch does not match arch_sha256"):
        Artefact.from_metadata(swapped, source="x")


REPEAT = """
import importlib.util, sys, torch
from pathlib import Path
from fbnetv3.arch.arch import Arch
from fbnetv3.deploy.export import to_onnx
from fbnetv3.models.model import build
from fbnetv3.images.preprocess import Preprocess
spec = importlib.util.spec_from_file_location("golden_rule", sys.argv[1])
rule = importlib.util.module_from_spec(spec); spec.loader.exec_module(rule)
model = build(Arch.from_json(Path(sys.argv[2]).read_text()), device="meta", num_classes=10)
model.load_state_dict({n: torch.from_numpy(rule.golden_tensor(n, t.shape))
                       for n, t in model.state_dict().items()}, assign=True)
pre = Preprocess(resize=36, crop=32, interpolation="bilinear",
                 mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
print(to_onnx(model, sys.argv[3], preprocess=pre,
              class_names=[f"thing {n}" for n in range(10)]).sha256)
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    rule = GOLDEN / "golden_rule.py"
    (tmp_path / "arch.json").write_text(SMALL.to_json())
    script = tmp_path / "repeat.py"
    script.write_text(REPEAT)
    arguments = [str(rule), str(tmp_path / "arch.json"), str(tmp_path / "again.onnx")]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == exported.sha256
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()


def test_height_and_width_can_be_free_and_the_graph_can_normalise(
    small_model: FBNetV3,
    tmp_path: Path,
    small_preprocess: Preprocess,
) -> None:
    model = small_model
    made = to_onnx(
        model,
        tmp_path / "x.onnx",
        dynamic="batch+size",
        include_preprocess=True,
        preprocess=small_preprocess,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 47, 35, 3), dtype=np.uint8)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (small_preprocess.mean, small_preprocess.std)
    )
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = model(x.contiguous()).numpy()
    assert error_of_std(run(made.path, pixels), expected).max() < 1e-4
    assert read_artefact(made.path).in_graph


def test_fp16_halves_the_file_and_keeps_float32_at_both_ends(
    small_model: FBNetV3, exported: Exported, tmp_path: Path
) -> None:
    model = small_model
    made = to_onnx(model, tmp_path / "x.onnx", precision="fp16", dynamic=None)
    # The metadata is not halved.
    assert made.num_bytes < 0.55 * exported.num_bytes
    proto = onnx.load(made.path)
    kinds = {
        value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)
    }
    assert kinds == {onnx.TensorProto.FLOAT}
    convs = {t.data_type for t in proto.graph.initializer if t.name.endswith("conv.weight")}
    assert convs == {onnx.TensorProto.FLOAT16}
    assert 1e-5 < made.parity.max_error_of_std < 0.05
    assert made.artefact.precision == "fp16"


def test_a_file_that_differs_is_not_written(
    small_model: FBNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"the older file")
    monkeypatch.setitem(TOLERANCE, "fp16", 1e-6)
    with pytest.raises(ValueError, match=r"logits differ by .* expected at most .* Nothing was"):
        to_onnx(small_model, path, precision="fp16", dynamic=None)
    assert path.read_bytes() == b"the older file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_whose_weights_changed_on_the_way_is_found_out() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 48)).astype(np.float32)
    wrong = weight.copy()
    wrong[3] *= 1.01
    batch = [rng.standard_normal((2, 3, 4, 4)).astype(np.float32)]

    def apply(matrix: Any) -> Callable[[Any], Any]:
        return lambda x: x.reshape(len(x), -1) @ matrix.T.astype(x.dtype)

    assert compare(apply(weight), apply(weight), batch, tolerance=1e-3).top1_agreement == 1
    with pytest.raises(ValueError, match="logits differ"):
        compare(apply(wrong), apply(weight), batch, tolerance=1e-3, exact=apply(weight))
    with pytest.raises(ValueError, match="logits have shape"):
        compare(apply(weight[:9]), apply(weight), batch, tolerance=1e-3)
    with pytest.raises(ValueError, match="differ by nan"):
        compare(apply(weight * np.nan), apply(weight), batch, tolerance=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"opset": 17}, "opset is 17; torch's exporter writes 18 and later"),
        ({"opset": 99}, "opset is 99; the installed onnx"),
        ({"precision": "int4"}, "precision is 'int4'; expected one of"),
        ({"dynamic": "size"}, "dynamic is 'size'; expected 'batch', 'batch\\+size' or None"),
        ({"class_names": ["one"]}, "1 class_names for 10 classes"),
    ],
)
def test_wrong_arguments_are_refused(
    small_model: FBNetV3, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_onnx(small_model, tmp_path / "x.onnx", **wrong)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    golden_network: Make, small_model: FBNetV3, tmp_path: Path
) -> None:
    model = small_model
    with pytest.raises(ValueError, match=r"cannot write .*: No such file or directory"):
        to_onnx(model, tmp_path / "missing" / "x.onnx")
    with pytest.raises(ValueError, match="it is a folder"):
        to_onnx(model, tmp_path)
    with pytest.raises(ValueError, match="model is a Linear; expected an FBNetV3"):
        to_onnx(nn.Linear(2, 2), tmp_path / "x.onnx")  # type: ignore[arg-type]
    grey = golden_network(SMALL, num_classes=10, in_chans=1)
    with pytest.raises(ValueError, match="include_preprocess needs 3 input channels"):
        to_onnx(grey, tmp_path / "x.onnx", include_preprocess=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv2_l3"])
def test_full_networks_pass(golden_network: Make, tmp_path: Path, name: str) -> None:
    arch: Arch = ARCHS[name]
    made = to_onnx(golden_network(arch), tmp_path / "x.onnx", dynamic=None)
    assert made.parity.max_error_of_std < 1e-4
    assert made.parity.top1_agreement == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
def test_a_model_on_a_gpu_is_exported_and_stays_there(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    model = copy.deepcopy(small_model).to("cuda")
    made = to_onnx(model, tmp_path / "gpu.onnx", preprocess=small_preprocess, class_names=NAMES)
    assert all(tensor.is_cuda for tensor in model.state_dict().values())
    batch = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch).to("cuda")).cpu().numpy()
    assert error_of_std(run(made.path, batch), expected).max() < 1e-3


def test_a_detectors_file_is_no_classifier() -> None:
    with pytest.raises(ValueError, match=r"x\.onnx is a detector; `fbnetv3 detect` has"):
        Artefact.from_metadata({"fbnetv3.schema": "fbnetv3-detector-file/1"}, source="x.onnx")
