"""The command `eval`: every kind of model, damaged images, memory."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.describe import preprocess_for
from fbnetv3.deploy.export import to_onnx
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.images.labels import class_names, example_photos
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.training.scoring import default_batch_size
from tests.search.cli.test_train import called

NANO = "fbnetv3_nano.cifar10"
PHOTOS = example_photos()[0].parent


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the embedded network as an ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "nano.onnx"
    to_onnx(create(NANO, pretrained=True), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns class folders of cuts from photos: a folder of cats, one of airplanes."""
    root = tmp_path_factory.mktemp("photos")
    for name, source in (("cat", "chelsea.jpg"), ("airplane", "rocket.jpg")):
        (root / name).mkdir()
        with Image.open(PHOTOS / source) as photo:
            for number in range(4):
                cut = photo.crop((10 * number, 0, 200 + 10 * number, 200)).resize((120, 120))
                cut.save(root / name / f"{number}.png")
    return root


def measured(*words: object) -> dict[str, Any]:
    done = called("eval", *words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_exported_file_scores_as_the_network_it_came_from(nano: Path, photos: Path) -> None:
    torch_found, onnx_found = (measured(m, "--data", photos) for m in (NANO, nano))
    assert onnx_found["loss"] == pytest.approx(torch_found["loss"], abs=1e-3)
    for key in ("top1", "num_images", "matched_by", "preprocess"):
        assert onnx_found[key] == torch_found[key], key
    assert onnx_found["matched_by"] == "name"


def test_damaged_images_are_listed_and_the_rest_is_scored(photos: Path, tmp_path: Path) -> None:
    for source in photos.rglob("*.png"):
        target = tmp_path / source.relative_to(photos)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    spoilt = [tmp_path / "cat" / "0.png", tmp_path / "airplane" / "2.png"]
    for path in spoilt:
        path.write_bytes(path.read_bytes()[:200])
    done = called("eval", NANO, "--data", tmp_path, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["num_images"] == 6
    named = zip(spoilt[::-1], found["damaged"], strict=True)
    assert all(str(path) in text for path, text in named)
    text = called("eval", NANO, "--data", tmp_path)
    assert text.exit_code == 1
    listed = [line for line in text.stdout.splitlines() if line.startswith("not counted: ")]
    assert all(str(path) in line for path, line in zip(spoilt[::-1], listed, strict=True))


def test_other_numbers_of_classes_are_refused_before_an_image_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (120, 120)).save(tmp_path / name / "0.png")
    monkeypatch.delattr("fbnetv3.search.training.evaluate.score")
    done = called("eval", NANO, "--data", tmp_path)
    assert done.exit_code == 2
    assert "the model has 10 classes" in done.output


@pytest.mark.parametrize(
    ("device", "side", "expected"),
    [("cpu", 224, 16), ("cpu", 32, 250), ("cpu", 320, 7), ("cpu", 4000, 1), ("cuda", 224, 250)],
)
def test_batches_are_small_where_maps_are_large(device: str, side: int, expected: int) -> None:
    assert default_batch_size(torch.device(device), side) == expected


def test_folders_named_by_wordnet_identifiers_match_a_saved_imagenet_network() -> None:
    from fbnetv3.images.classes import known_names, match_classes

    assert match_classes(["n02123045"], known_names(class_names("imagenet1k"))) == [281]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the embedded network as a folder, without its temperature and threshold."""
    model = create(NANO, pretrained=True)
    folder = tmp_path_factory.mktemp("saved")
    return save_pretrained(model, folder, labels=class_names("cifar10"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns class folders of 80 small cuts from photos."""
    root = tmp_path_factory.mktemp("many")
    for name, source in (("cat", "chelsea.jpg"), ("airplane", "rocket.jpg")):
        (root / name).mkdir()
        with Image.open(PHOTOS / source) as photo:
            for number in range(40):
                cut = photo.crop((4 * number, 0, 150 + 4 * number, 150)).resize((40, 40))
                cut.save(root / name / f"{number}.png")
    return root


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_output_has_tables_that_add_up_and_pictures(photos: Path, tmp_path: Path) -> None:
    found = measured(NANO, "--data", photos, "-o", tmp_path / "out")
    out = tmp_path / "out"
    rows = table(out / "photos.csv")
    assert [row["file"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    right = [row["label"] == row["answer"] for row in rows]
    assert 100 * sum(right) / len(right) == pytest.approx(found["top1"])
    assert [int(row["right"]) for row in rows] == right
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    assert all(float(r["label_probability"]) <= float(r["probability"]) for r in rows)
    cells = [list(row.values()) for row in table(out / "confusion.csv")]
    assert [sum(map(int, row[1:])) for row in cells] == [4, 4]
    classes = table(out / "classes.csv")
    assert sum(float(row["recall_pct"] or 0) for row in classes) / 2 == pytest.approx(
        found["macro_recall"], abs=1e-3
    )
    confidence = table(out / "confidence.csv")
    assert (confidence[0]["probability_from"], confidence[0]["images"]) == ("0", "8")
    for name in ("confusion.png", "calibration.png", "worst.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 150, name
    assert json.loads((out / "eval.json").read_text())["top1"] == found["top1"]


def test_calibration_is_stored_and_every_door_answers_the_same(
    saved: Path, many: Path, tmp_path: Path
) -> None:
    before = measured(f"local-dir:{saved}", "--data", many)
    assert (before["confidence"], before["accepted_pct"]) == (None, None)
    words = ["eval", f"local-dir:{saved}", "--data", many, "--calibrate", "--true-accept", 80]
    done = called(*words, "--others", many / "cat")
    assert done.exit_code == 0, done.output
    assert "stored: temperature" in done.output
    assert "of 40 photos of none of the classes accepted" in done.output
    stored = json.loads((saved / "config.json").read_text())["fbnetv3"]["confidence"]
    after = measured(f"local-dir:{saved}", "--data", many)
    assert after["confidence"] == stored
    assert after["accepted_pct"] == pytest.approx(80, abs=2)
    model = create(f"local-dir:{saved}", pretrained=True)
    to_onnx(model, tmp_path / "a.onnx")
    save_pretrained(model, tmp_path / "again", labels=class_names("cifar10"))
    paths = sorted(many.rglob("*.png"))[::10]
    answers = [
        Classifier(opened, top_k=10)(paths)
        for opened in (model, tmp_path / "a.onnx", f"local-dir:{tmp_path / 'again'}")
    ]
    rejected = [answer.none_of_these for answer in answers[0]]
    assert {True, False} == set(rejected)
    for other in answers[1:]:
        assert [answer.none_of_these for answer in other] == rejected
        for one, same in zip(answers[0], other, strict=True):
            assert one.probabilities == pytest.approx(same.probabilities, abs=1e-4)
    text = called("eval", tmp_path / "a.onnx", "--data", many, "--json")
    assert json.loads(text.stdout)["confidence"] == stored


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibrate"], "--calibrate stores what it fits in a model's folder"),
        (["--true-accept", "90"], "are for --calibrate"),
        (["--calibrate", "--false-accept", "5"], "--false-accept is given without --others"),
        (["--others", "nowhere"], "no folder nowhere; expected photos of none of the classes"),
        (["-o", __file__], "is a file; expected a folder"),
        (["--image-size", "0"], "image_size is 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(
    words: list[str], message: str, photos: Path
) -> None:
    done = called("eval", NANO, "--data", photos, *words)
    assert done.exit_code == 2
    assert message in done.output


def test_another_image_size_is_that_of_a_model_exported_for_it(
    photos: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "larger.onnx"
    model = create(NANO, pretrained=True)
    assert isinstance(model, FBNetV3)
    to_onnx(model, larger, preprocess=preprocess_for(model, 48))
    here = measured(NANO, "--data", photos, "--image-size", 48)
    there = measured(larger, "--data", photos)
    assert here["preprocess"] == there["preprocess"]
    assert here["preprocess"]["crop"] == 48
    assert here["loss"] == pytest.approx(there["loss"], abs=1e-3)
    refused = called("eval", larger, "--data", photos, "--image-size", 32)
    assert refused.exit_code == 2
    assert "is a file for its own size; export the model with --image-size" in refused.output
    wide = tmp_path / "wide"
    save_pretrained(create("fbnetv3_a", num_classes=2), wide, labels=["0", "1"])
    small = called("eval", f"local-dir:{wide}", "--data", photos, "--image-size", 20)
    assert small.exit_code == 2
    assert "--image-size is 20; expected 49 pixels or more" in small.output


def test_a_calibration_is_for_the_models_own_size(photos: Path, tmp_path: Path) -> None:
    save_pretrained(create(NANO, pretrained=True), tmp_path / "m")
    words = ("--data", photos, "--calibrate", "--image-size", 48)
    done = called("eval", f"local-dir:{tmp_path / 'm'}", *words)
    assert done.exit_code == 2
    assert "--calibrate is for the model's own size; leave --image-size" in done.output
