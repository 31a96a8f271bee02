"""Graphs of fixed shapes: what is outside them, and files of the runtimes that have such graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from fbnetv3.detection.detections import Detections, agreement
from fbnetv3.detection.detectors import BuiltDetector, TorchDetector
from fbnetv3.detection.export import export_detector
from fbnetv3.detection.exported import ExportedDetector
from fbnetv3.detection.fixed import FixedGraph, check_fixed, outside_of
from fbnetv3.detection.outside import Outside, unsuppressed
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image
from tests.detection.tiny_litert import NAMES, TINY, tiny


@pytest.mark.parametrize("shape", [(37, 91), (64, 64), (20, 9), (200, 64), (1, 3)])
def test_images_are_resized_as_torch_does(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    outside = Outside(size=64, score_threshold=0, nms_threshold=0.5, num_candidates=1, num_boxes=1)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(image, (64, 64), mode="bilinear")
    got = outside.square(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("threshold", [0.2, 0.55])
def test_suppression_is_torchvisions(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(200, 2, generator=generator) * 40], 1)
    expected = nms(boxes, torch.linspace(1, 0, 200), threshold)
    assert 5 < len(expected) < 180
    np.testing.assert_array_equal(unsuppressed(boxes.numpy(), threshold), expected.numpy())


def test_graph_and_outside_are_the_detector(detector: BuiltDetector) -> None:
    expected = TorchDetector(detector)
    graph, outside = FixedGraph(detector.module).eval(), outside_of(detector.module)
    pairs = []
    for photo in example_photos():
        pixels = np.array(open_image(photo))
        with torch.inference_mode():
            given = [t.numpy() for t in graph(torch.from_numpy(outside.square(pixels)))]
        found = Detections(*outside.found(*given, *pixels.shape[:2]), expected.class_names)
        pairs.append((expected(photo), found))
    same = agreement(pairs)
    assert same.num_boxes > 10
    assert same.share >= 0.98
    assert same.max_box_error < 0.01
    assert [len(found) for _, found in pairs] == [len(truth) for truth, _ in pairs]


def test_settings_are_read_as_they_were_written(detector: BuiltDetector) -> None:
    outside = outside_of(detector.module)
    assert (outside.size, outside.nms_threshold) == (64, 0.55)
    assert Outside.from_dict(outside.to_dict(), where="x") == outside
    with pytest.raises(ValueError, match="x lacks field 'size'"):
        Outside.from_dict({}, where="x")


@pytest.mark.parametrize("name", ["x.pte", "x.tflite"])
def test_detectors_whose_shapes_depend_on_the_image_are_refused(name: str) -> None:
    check_fixed("ssdlite", Path(name))
    check_fixed("retinanet", Path("x.onnx"))
    with pytest.raises(ValueError, match=r"fixed shapes, and those of faster_rcnn_320 depend"):
        check_fixed("faster_rcnn_320", Path(name))


@pytest.mark.needs("executorch")
def test_executorch_finds_the_same(tmp_path: Path) -> None:
    built, path = tiny(), tmp_path / "x.pte"
    found = export_detector(built, path)
    assert found.agreement.num_boxes >= 10
    assert found.agreement.share >= 0.98
    check_file(path, built)


@pytest.mark.needs("ai_edge_litert")
def test_litert_finds_the_same() -> None:
    check_file(TINY, tiny())


def check_file(path: Path, built: BuiltDetector) -> None:
    """Checks that a file finds what its detector does."""
    exported, expected = ExportedDetector(path, num_threads=1), TorchDetector(built)
    assert exported.class_names == NAMES
    assert exported.outside == outside_of(built.module)
    same = agreement([(expected(photo), exported(photo)) for photo in example_photos()])
    assert same.num_boxes >= 10
    assert same.share >= 0.98
