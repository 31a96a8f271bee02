"""int8: ranges, the file, the budget; on a network that was fitted, not on random weights."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from fbnetv3._internal.errors import OverBudget
from fbnetv3.arch.arch import Arch, Row
from fbnetv3.deploy.calibration import METHODS, Statistics, collect
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.export_graph import scaled_copy
from fbnetv3.deploy.onnx_graph import operators
from fbnetv3.deploy.quantize import Quantized, quantize
from fbnetv3.deploy.quantize_score import Score
from fbnetv3.deploy.runtimes import read_artefact
from fbnetv3.hub.confidence import Confidence
from fbnetv3.images.preprocess import CIFAR10_MEAN, CIFAR10_STD, Preprocess
from fbnetv3.models.model import FBNetV3, build

NUM_CLASSES = 4
ARCH = Arch(
    resolution=32,
    stem_channels=16,
    rows=(
        Row("MB1", (3, 3), (1, 1), 16, 1, 1, False),
        Row("MB2", (3, 3), (3, 3), 24, 2, 2, False),
        Row("MB3", (5, 5), (3, 3), 32, 2, 2, True),
    ),
    head_expansion=4,
    head_channels=128,
)


def untrained(folder: Path) -> Path:
    """Returns an exported network with random weights."""
    torch.manual_seed(0)
    path = folder / "float.onnx"
    to_onnx(scaled_copy(build(ARCH, num_classes=NUM_CLASSES), 32), path, preprocess=PREPROCESS)
    return path


def pictures(number: int, seed: int) -> tuple[list[Any], list[int]]:
    """Returns stripes (32, 32, 3) uint8 in four directions, with noise, and their directions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, number)
    rows, cols = np.mgrid[0:32, 0:32]
    waves = [rows, cols, rows + cols, rows - cols]
    made = []
    for label in labels:
        wave = np.sin(waves[label] * rng.uniform(0.7, 1.3) + rng.uniform(0, 6))
        shade = 128 + 60 * wave[..., None] * rng.uniform(0.5, 1.0, 3)
        made.append((shade + rng.normal(0, 12, (32, 32, 3))).clip(0, 255).astype(np.uint8))
    return made, labels.tolist()


PREPROCESS = Preprocess(
    resize=32,
    crop=32,
    interpolation="bilinear",
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
)


@pytest.fixture(scope="module")
def fitted() -> FBNetV3:
    torch.manual_seed(0)
    model = build(ARCH, num_classes=NUM_CLASSES).train()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(25):
        images, labels = pictures(48, seed=1000 + step)
        x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std
        optimizer.zero_grad()
        F.cross_entropy(model(x.contiguous()), torch.tensor(labels)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for module in model.modules():  # few steps: averages over them, not the last ones
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for seed in range(3):
            images, _ = pictures(64, seed=seed)
            x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - mean) / std
            model(x.contiguous())
    known = Confidence(temperature=1.5, threshold=1.0, true_accept_pct=95.0, false_accept_pct=9.0)
    model.pretrained_cfg = {**model.pretrained_cfg, "confidence": known.to_dict()}
    return model.eval()


@pytest.fixture(scope="module")
def exported(fitted: FBNetV3, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("int8") / "float.onnx"
    return to_onnx(fitted, path, preprocess=PREPROCESS)


@pytest.fixture(scope="module")
def quantized(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    calibration, _ = pictures(48, seed=50)
    evaluation, labels = pictures(96, seed=60)
    return quantize(
        exported.path,
        tmp_path_factory.mktemp("int8") / "small.onnx",
        calibration,
        evaluation=evaluation,
        labels=labels,
        max_drop_pct=5.0,
    )


def test_the_network_was_fitted_and_int8_keeps_it(quantized: Quantized) -> None:
    assert quantized.top1_float_pct is not None
    assert quantized.top1_pct is not None
    assert quantized.top1_float_pct > 90
    assert quantized.top1_pct >= quantized.top1_float_pct - 5
    assert quantized.agreement_pct >= 95
    assert (quantized.num_calibration, quantized.num_evaluation) == (48, 96)


def test_a_large_loss_is_remarked_and_a_small_one_is_not(quantized: Quantized) -> None:
    change = partial(dataclasses.replace, quantized)
    assert change(top1_float_pct=90.0, top1_pct=89.1, agreement_pct=60.0).remark == ""
    assert change(top1_float_pct=90.0, top1_pct=84.5).remark.startswith(
        "int8 loses 5.50 points of top-1 on 96 images: --max-drop 1 keeps in float"
    )
    assert "measured on 3 images only" in change(num_evaluation=3).remark
    unlabelled = partial(change, top1_float_pct=None, top1_pct=None)
    assert unlabelled(agreement_pct=96.0).remark == ""
    remark = unlabelled(agreement_pct=90.0).remark
    assert "changes 10.00 % of the answers" in remark
    assert remark.endswith("or --qat")
    assert "--qat" not in unlabelled(agreement_pct=90.0, runtime="litert").remark
    assert "2.00 points of mAP" in unlabelled(map_float_pct=50.0, map_pct=48.0).remark


def test_every_weighted_layer_is_int8_and_the_file_is_small(
    exported: Exported, quantized: Quantized
) -> None:
    # A network this small is half metadata and ranges.
    assert quantized.num_bytes < 0.7 * quantized.num_bytes_float
    proto = onnx.load(quantized.path)
    found = operators(proto)
    made = {output: node for node in proto.graph.node for output in node.output}
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    weighted = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == found["Conv"] + found["Gemm"] == len(quantized.layers)
    for node in weighted:
        source = made[node.input[1]]
        assert source.op_type == "DequantizeLinear"
        assert kinds[source.input[0]] == onnx.TensorProto.INT8
        scale = next(t for t in proto.graph.initializer if t.name == source.input[1])
        assert len(scale.dims) == 1  # per channel
        activation = made[node.input[0]]
        assert kinds[activation.input[2]] == onnx.TensorProto.UINT8
    assert not any(layer.in_float for layer in quantized.layers)
    float_names = {node.name for node in onnx.load(exported.path).graph.node}
    assert {layer.node for layer in quantized.layers} <= float_names


def test_the_method_that_agrees_best_is_taken(quantized: Quantized) -> None:
    assert set(quantized.methods) == set(METHODS)
    agreement, error = quantized.methods[quantized.method]
    for other, (other_agreement, other_error) in quantized.methods.items():
        assert (agreement, -error) >= (other_agreement, -other_error), other


def test_the_record_goes_on_in_the_int8_file(exported: Exported, quantized: Quantized) -> None:
    artefact = read_artefact(quantized.path)
    assert artefact == quantized.artefact
    assert artefact.precision == "int8"
    assert artefact.quantization["calibration"] == quantized.method
    assert artefact.arch == exported.artefact.arch
    assert artefact.preprocess == PREPROCESS
    # Its temperature and threshold are those of its own logits.
    before, own = exported.artefact.confidence, artefact.confidence
    assert before is not None
    assert own is not None
    assert own.num_images == quantized.num_evaluation
    assert own.temperature != before.temperature
    assert own.temperature == pytest.approx(before.temperature, rel=0.2)
    assert (before.false_accept_pct, own.false_accept_pct) == (9.0, None)


def test_layers_are_left_in_float_until_the_budget_holds(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration, _ = pictures(24, seed=50)
    evaluation, labels = pictures(200, seed=61)
    path = tmp_path / "x.onnx"
    # Ranges that are far too small, so that layers cost enough to be told apart.
    true_range = Statistics.range
    monkeypatch.setattr(
        Statistics, "range", lambda s, m: tuple(edge / 6 for edge in true_range(s, m))
    )
    loose = quantize(
        exported.path, path, calibration, evaluation=evaluation, labels=labels, method="minmax"
    )
    assert loose.agreement_pct < 95
    budget = max(0.0, 100 - loose.agreement_pct) / 2
    found = quantize(
        exported.path,
        path,
        calibration,
        evaluation=evaluation,
        method="minmax",
        max_drop_pct=budget,
    )
    assert 100 - found.agreement_pct <= budget
    in_float = [layer.node for layer in found.layers if layer.in_float]
    assert found.artefact.quantization["in_float"] == in_float
    assert in_float
    made = {output: node for node in onnx.load(path).graph.node for output in node.output}
    for node in onnx.load(path).graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert (node.input[1] in made) == (node.name not in in_float)
    dearest = found.layers[: len(in_float)]
    assert [layer.node for layer in dearest] == in_float


def test_a_budget_that_cannot_be_kept_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"the older file")
    # Ranges ten times too small: no layer that is left in int8 can be right.
    true_range = Statistics.range
    monkeypatch.setattr(
        Statistics, "range", lambda s, m: tuple(edge / 1000 for edge in true_range(s, m))
    )
    images, labels = pictures(24, seed=50)
    with pytest.raises(OverBudget, match=r"int8 loses .* more than max_drop_pct=1.0"):
        quantize(
            exported.path,
            path,
            images,
            evaluation=images,
            labels=labels,
            method="minmax",
            max_drop_pct=1.0,
        )
    assert path.read_bytes() == b"the older file"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.needs("nncf")
def test_openvino_int8_keeps_the_network_too(exported: Exported, tmp_path: Path) -> None:
    calibration, _ = pictures(48, seed=50)
    evaluation, labels = pictures(96, seed=60)
    path = tmp_path / "x.xml"
    found = quantize(
        exported.path,
        path,
        calibration,
        evaluation=evaluation,
        labels=labels,
        runtime="openvino",
        max_drop_pct=5.0,
    )
    assert found.top1_float_pct is not None
    assert found.top1_pct is not None
    assert found.top1_pct >= found.top1_float_pct - 5
    assert found.artefact.precision == "int8"
    assert path.with_suffix(".bin").stat().st_size < 0.5 * exported.num_bytes


@pytest.mark.parametrize(("drops", "bits"), [((0, 9), "eight"), ((9, 0), "seven"), ((9, 9), "")])
@pytest.mark.needs("nncf")
def test_openvino_takes_seven_bits_where_eight_break_the_budget(
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drops: tuple[float, ...],
    bits: str,
) -> None:
    # Whether eight bits saturate is the processor's affair, so that the judge is told what to say.
    verdicts = iter((*drops, 9))  # the last is for the message
    monkeypatch.setattr(Score, "drop_pct", property(lambda _: next(verdicts)))
    path = tmp_path / "x.xml"
    path.write_text("the older file")
    images, _ = pictures(16, seed=50)
    call = partial(quantize, exported.path, path, images, runtime="openvino", max_drop_pct=1.0)
    if not bits:
        with pytest.raises(ValueError, match="with 8-bit and with 7-bit weights"):
            call()
        assert path.read_text() == "the older file"
        assert list(tmp_path.iterdir()) == [path]
        return
    assert call().artefact.quantization["weights"].startswith(bits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.xml"]


@pytest.mark.parametrize("method", ["minmax", "mean_minmax", "percentile_99.9", "mse"])
def test_ranges_are_those_of_all_images(method: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1 + n % 3, 20_000) for n in range(6)]
    found = Statistics()
    for image in images:
        found.add(image)
    everything = np.concatenate(images)
    low, high = found.range(method)
    if method == "minmax":
        assert (low, high) == (everything.min(), everything.max())
    elif method == "mean_minmax":
        assert low == pytest.approx(np.mean([image.min() for image in images]))
    elif method == "percentile_99.9":
        expected = np.percentile(everything, [0.05, 99.95])
        np.testing.assert_allclose((low, high), expected, rtol=0.02)
    else:

        def error(top: float) -> float:
            step = 2 * top / 255
            rounded = (np.round(everything / step) * step).clip(-top, top)
            return float(((rounded - everything) ** 2).mean())

        # No worse than the whole range, and near the best of a fine search.
        tops = np.linspace(0.2, 1, 81) * np.abs(everything).max()
        least = min(error(top) for top in tops)
        assert error(max(-low, high)) <= 1.1 * least
    assert low <= 0 <= high


def test_a_histogram_that_grows_loses_nothing() -> None:
    found = Statistics()
    for scale in (0.1, 5.0, 0.01, 300.0):
        found.add(np.linspace(-scale, scale, 1001))
    assert int(found.counts.sum()) == 4 * 1001
    assert found.range("minmax") == (-300.0, 300.0)


def test_activations_are_streamed(exported: Exported) -> None:
    taken: list[int] = []

    def batches() -> Any:
        for number in range(3):
            taken.append(number)
            yield np.full((2, 3, 32, 32), number, np.float32)

    model = onnx.shape_inference.infer_shapes(onnx.load(exported.path))
    found = collect(model, batches())
    assert taken == [0, 1, 2]
    assert found["input"].images == 6
    assert found["input"].range("minmax") == (0.0, 2.0)
    values = {value for node in model.graph.node for value in node.output}
    assert set(found) == values | {"input"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": []}, "no calibration images; give at least one"),
        ({"calibration": [b"broken"] * 9}, r"no calibration or evaluation image can be read; .*of"),
        ({"runtime": "tensorrt"}, "runtime is 'tensorrt'"),
        ({"method": "guess"}, "method is 'guess'; expected one of minmax"),
        ({"max_drop_pct": -1}, "max_drop_pct is -1"),
        ({"labels": [1]}, "1 labels for 0 evaluation images"),
        ({"path": "x.xml"}, r"ends in \.onnx for onnxruntime"),
        ({"path": "missing/x.onnx"}, "cannot write"),
    ],
)
def test_wrong_input_is_refused(
    exported: Exported, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    images, _ = pictures(8, seed=0)
    path = tmp_path / arguments.pop("path", "x.onnx")
    calibration = arguments.pop("calibration", images)
    with pytest.raises(ValueError, match=message):
        quantize(exported.path, path, calibration, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_int8_file_is_not_quantised_again(quantized: Quantized, tmp_path: Path) -> None:
    images, _ = pictures(8, seed=0)
    with pytest.raises(ValueError, match="the file is already int8"):
        quantize(quantized.path, tmp_path / "x.onnx", images)
    assert read_artefact(quantized.path).precision == "int8"


def test_unreadable_images_are_counted_and_passed_over(exported: Exported, tmp_path: Path) -> None:
    images, _ = pictures(9, seed=0)
    found = quantize(
        exported.path,
        tmp_path / "x.onnx",
        [*images, b"broken"],
        evaluation=images,
        method="minmax",
        sensitivity=False,
    )
    assert (found.num_calibration, found.num_unreadable) == (9, 1)
    assert found.unreadable[0].startswith("cannot read image <6 bytes>: not an image")
    assert found.layers == ()


def test_a_graph_that_normalises_is_quantised_behind_its_normalisation(
    fitted: FBNetV3, exported: Exported, tmp_path: Path
) -> None:
    inside = to_onnx(
        fitted, tmp_path / "inside.onnx", include_preprocess=True, preprocess=PREPROCESS
    )
    calibration, _ = pictures(24, seed=50)
    evaluation, labels = pictures(48, seed=60)
    found = {}
    for source in (exported.path, inside.path):
        path = tmp_path / f"int8_{source.name}"
        found[source.name] = quantize(
            source, path, calibration, evaluation=evaluation, labels=labels, method="minmax",
            sensitivity=False,
        )  # fmt: skip
    assert found["inside.onnx"].top1_pct == found[exported.path.name].top1_pct
    nodes = onnx.load(found["inside.onnx"].path).graph.node
    normalising = [node.op_type for node in nodes if node.name in ("Sub", "Mul")]
    assert sorted(normalising) == ["Mul", "Sub"]
    made_from_int8 = {name for n in nodes if n.op_type == "DequantizeLinear" for name in n.output}
    first = [node for node in nodes if node.name in ("Sub", "Mul")]
    assert not {name for node in first for name in node.input} & made_from_int8


def test_a_file_is_not_quantised_onto_itself(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(exported.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"output is a\.onnx, the file to quantize"):
        quantize(path, Path("a.onnx"), pictures(8, seed=1)[0])
    assert path.read_bytes() == exported.path.read_bytes()


def test_an_untrained_model_is_not_quantised(tmp_path: Path) -> None:
    fresh = to_onnx(build(ARCH, num_classes=4), tmp_path / "fresh.onnx", preprocess=PREPROCESS)
    with pytest.raises(ValueError, match=r"same logits for every image.*export trained weights"):
        quantize(fresh.path, tmp_path / "int8.onnx", pictures(8, seed=1)[0])
    assert not (tmp_path / "int8.onnx").exists()
