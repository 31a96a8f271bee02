"""Whole detectors in files: the same boxes as PyTorch's, or no file."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fbnetv3._internal.errors import OverBudget
from fbnetv3.detection import export
from fbnetv3.detection.data import open_scored, open_train_val
from fbnetv3.detection.detections import agreement
from fbnetv3.detection.detectors import BuiltDetector, TorchDetector, new_detector
from fbnetv3.detection.export import export_detector
from fbnetv3.detection.exported import ExportedDetector, OnnxDetector
from fbnetv3.detection.quantize import quantize_detector
from fbnetv3.detection.recipe import DetectionRecipe
from fbnetv3.detection.resizing import ExactTransform
from fbnetv3.detection.training import DetectionRun, train
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import ImageSource
from fbnetv3.integrations.coco_folder import CocoFolder


@pytest.fixture(scope="module")
def file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained detector as an ONNX file."""
    from fbnetv3.detection.detectors import load_detector

    path = tmp_path_factory.mktemp("file") / "detector.onnx"
    found = export_detector(load_detector(trained), path)
    assert found.agreement.share >= 0.98
    assert found.agreement.num_boxes >= 10
    assert found.num_bytes == path.stat().st_size
    return path


def test_a_file_finds_the_same_in_photos_of_any_size(file: Path, detector: BuiltDetector) -> None:
    exported, expected = OnnxDetector(file, num_threads=1), TorchDetector(detector)
    assert exported.class_names == ("box", "disc")
    photos = example_photos()
    small = np.random.default_rng(0).integers(0, 256, (37, 91, 3), dtype=np.uint8)
    images: list[ImageSource] = [*photos, small]
    pairs = [(expected(one), exported(one)) for one in images]
    same = agreement(pairs)
    assert same.num_boxes > 10
    assert same.share >= 0.98
    assert same.max_box_error < 0.01
    again = pickle.loads(pickle.dumps(exported))
    assert np.array_equal(again(photos[0]).boxes, pairs[0][1].boxes)


def test_a_file_needs_no_torch(file: Path) -> None:
    code = (
        "import sys; from fbnetv3.detection.exported import OnnxDetector\n"
        f"found = OnnxDetector({str(file)!r})({str(example_photos()[0])!r})\n"
        "assert len(found.boxes) == len(found.scores)\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_endings_may_be_upper_case_and_pixels_are_those_of_one_image(
    file: Path, tmp_path: Path
) -> None:
    detector = OnnxDetector(shutil.copy(file, tmp_path / "D.ONNX"), num_threads=1)
    pixels = np.zeros((8, 9, 3), np.uint8)
    assert len(detector.run(pixels)) == len(detector(pixels))
    for wrong in (pixels[None], pixels[..., 0], pixels.astype(np.float32)):
        with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\) of one image"):
            detector.run(wrong)  # type: ignore[arg-type]  # what is refused


def test_other_weights_are_no_export(
    detector: BuiltDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write

    def other(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.05)
        write(module, path, metadata)

    monkeypatch.setattr(export, "_write", other)
    with pytest.raises(ValueError, match=r"boxes differ from PyTorch's; expected at most 2 %"):
        export_detector(detector, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_files_of_another_kind_are_refused(file: Path, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(ValueError, match=r"expected \.onnx, \.xml, \.pte or \.tflite"):
        ExportedDetector(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match="write it with `fbnetv3 detect export`"):
        OnnxDetector(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="is no ONNX file"):
        OnnxDetector(tmp_path / "none.xml")
    model = onnx.load(str(file))
    licensed = tmp_path / "licensed.onnx"
    for entry in model.metadata_props:
        if entry.key == "fbnetv3.license":
            entry.value = "cc-by-nc-4.0"
    onnx.save(model, str(licensed))
    with pytest.raises(ValueError, match="no commercial use"):
        OnnxDetector(licensed, license="commercial")
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "bare.onnx"))
    with pytest.raises(ValueError, match="is no detector of this package"):
        OnnxDetector(tmp_path / "bare.onnx")


def test_a_file_says_what_it_was_compared_with(file: Path) -> None:
    import onnx

    pairs = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    parity = json.loads(pairs["fbnetv3.parity"])
    assert parity["share"] >= 0.98
    assert json.loads(pairs["fbnetv3.detector"])["detector"] == "ssdlite"
    assert pairs["fbnetv3.task"] == "object-detection"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faster_rcnn_320", "retinanet"])
def test_detectors_with_pyramids_are_exported_too(kind: str, shapes: Path, tmp_path: Path) -> None:
    images, val_images = open_train_val(shapes)
    built = new_detector(kind, "fbnetv3_nano", images.class_names, pretrained=True, size=96)
    recipe = DetectionRecipe.fitting(len(images), epochs=3, batch_size=2)
    run = DetectionRun(recipe=recipe, folder=tmp_path / "run", validate_epochs=3)
    averaged, _ = train(built, images, val_images, run)
    # 427 pixels of a photo become 95 in torchvision's own graph, and 96 here as in PyTorch.
    found = export_detector(averaged, tmp_path / "x.onnx")
    assert found.agreement.num_boxes >= 10
    assert found.agreement.share >= 0.98


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((427, 640), (96, 143)),
        ((640, 427), (143, 96)),
        ((100, 400), (48, 192)),
        ((7, 9), (96, 123)),
        ((1, 2000), (1, 192)),
        ((2000, 3), (192, 1)),
    ],
)
def test_images_are_resized_by_whole_numbers(
    given: tuple[int, int], expected: tuple[int, int]
) -> None:
    own = GeneralizedRCNNTransform(96, 192, [0.0] * 3, [1.0] * 3)
    boxes = torch.tensor([[0.0, 0.0, given[1], given[0]]])
    image = torch.rand(3, *given, generator=torch.Generator().manual_seed(0))
    resized, target = ExactTransform(own).resize(image, {"boxes": boxes})
    assert tuple(resized.shape[1:]) == expected
    assert target is not None
    assert torch.equal(target["boxes"], torch.tensor([[0.0, 0.0, expected[1], expected[0]]]))
    if min(expected) == 1:
        return  # theirs would have no pixel
    theirs, other = own.resize(image, {"boxes": boxes})
    if theirs.shape == resized.shape:
        assert torch.equal(theirs, resized)
        assert torch.equal(other["boxes"], target["boxes"])


def as_truth(detector: OnnxDetector, shapes: Path, folder: Path) -> CocoFolder:
    """Returns the images with the likeliest boxes of a detector as annotations."""
    shutil.copytree(shapes, folder)
    content = json.loads((folder / "annotations.json").read_text())
    content["annotations"] = []
    for image in content["images"]:
        found = detector(folder / "images" / image["file_name"])
        rows = zip(found.boxes[:3].tolist(), found.labels[:3].tolist(), strict=True)
        for (x1, y1, x2, y2), label in rows:
            box = [x1, y1, x2 - x1, y2 - y1]
            content["annotations"].append(
                {"image_id": image["id"], "category_id": label, "bbox": box}
            )
    (folder / "annotations.json").write_text(json.dumps(content))
    return CocoFolder(folder)


def test_int8_is_scored_and_kept_only_within_the_budget(
    file: Path, shapes: Path, tmp_path: Path
) -> None:
    data = open_scored(shapes)
    photos = [data.image_path(n) for n in range(len(data))]
    broken = b"no image"
    found = quantize_detector(file, tmp_path / "int8.onnx", [broken, *photos], data=data)
    assert (found.num_calibration, len(found.unreadable)) == (6, 1)
    assert "not an image" in found.unreadable[0]
    assert found.num_layers > 70
    assert found.num_bytes < 0.6 * found.num_bytes_float
    assert found.scores_float is not None
    assert found.scores is not None
    assert found.scores.num_images == 6
    exported, int8 = OnnxDetector(file, num_threads=1), OnnxDetector(tmp_path / "int8.onnx")
    assert int8.class_names == exported.class_names
    # Scores are close, and not those of the float file.
    one, other = (run(photos[0]).scores[:5] for run in (exported, int8))
    assert not np.array_equal(one, other)
    assert np.abs(one - other).max() < 0.1
    # What the float file itself finds is the truth, so that it scores all, and int8 less.
    own = as_truth(exported, shapes, tmp_path / "own")
    black = [np.zeros((64, 64, 3), np.uint8)]  # ranges that clip everything
    with pytest.raises(OverBudget, match=r"int8 costs .* points of AP; expected at most 1"):
        quantize_detector(file, tmp_path / "x.onnx", black, data=own, max_drop_pct=1.0)
    assert not (tmp_path / "x.onnx").exists()
    with pytest.raises(ValueError, match="is int8 already; quantize a float export"):
        quantize_detector(tmp_path / "int8.onnx", tmp_path / "x.onnx", photos)
    with pytest.raises(ValueError, match="no calibration images"):
        quantize_detector(file, tmp_path / "x.onnx", [])
    with pytest.raises(ValueError, match="no calibration image can be read; the first: "):
        quantize_detector(file, tmp_path / "x.onnx", [broken, broken])
    with pytest.raises(ValueError, match=r"max_drop_pct is 1; .* annotated images"):
        quantize_detector(file, tmp_path / "x.onnx", photos, max_drop_pct=1)


@pytest.mark.needs("openvino")
@pytest.mark.slow
def test_openvino_finds_the_same(detector: BuiltDetector, tmp_path: Path) -> None:
    found = export_detector(detector, tmp_path / "detector.xml")
    assert found.agreement.share >= 0.98
    exported = ExportedDetector(tmp_path / "detector.xml", num_threads=1)
    photo = example_photos()[0]
    assert agreement([(TorchDetector(detector)(photo), exported(photo))]).share >= 0.98
    assert exported.class_names == ("box", "disc")
