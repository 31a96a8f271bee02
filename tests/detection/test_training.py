"""Training of detectors: what starts, what resumes, what is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.detection.continued import continued_detector
from fbnetv3.detection.data import Augmented, open_scored, open_train_val
from fbnetv3.detection.detections import Detections
from fbnetv3.detection.detectors import (
    DETECTORS,
    BuiltDetector,
    TorchDetector,
    load_detector,
    new_detector,
    save_detector,
)
from fbnetv3.detection.recipe import DetectionRecipe
from fbnetv3.detection.scoring import evaluate
from fbnetv3.detection.training import DetectionRun, train
from fbnetv3.hub.create import create
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import ImageSource
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.torchvision_backbone import ssdlite
from fbnetv3.search.training.stopping import Stopped, StopRequest


def test_a_recipe_warms_up_and_ends_at_nought() -> None:
    recipe = DetectionRecipe.fitting(800, epochs=10)
    steps = 1000
    assert (recipe.warmup_steps, recipe.ema_decay, recipe.lr) == (50, 0.98, 4e-3)
    assert recipe.lr_at(0, steps) == pytest.approx(4e-3 / 51)
    assert recipe.lr_at(50, steps) == pytest.approx(4e-3)
    assert recipe.lr_at(525, steps) == pytest.approx(2e-3)
    assert recipe.lr_at(steps - 1, steps) < 1e-7
    # SGD's rate grows with the batch, AdamW's with its root; a small set bounds the batch.
    assert DetectionRecipe.fitting(800, batch_size=32, optimizer="sgd").lr == pytest.approx(0.16)
    assert DetectionRecipe.fitting(800, batch_size=32).lr == pytest.approx(8e-3)
    assert DetectionRecipe.fitting(800, detector="retinanet").lr == pytest.approx(1e-3)
    assert DetectionRecipe.fitting(5, batch_size=32).batch_size == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number from 1 to"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5; expected a whole number from 0 to"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of adamw, sgd"),
        ({"augment": "mosaic"}, "augment is 'mosaic'; expected one of none, flip, crop"),
        ({"lr": math.nan}, "lr is nan; expected a number above 0"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, int | str | float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DetectionRecipe.fitting(100, **given)  # type: ignore[arg-type]  # wrong on purpose


def test_a_stopped_run_that_goes_on_is_the_run_that_did_not_stop(
    shapes: Path, trained: Path, tmp_path: Path
) -> None:
    images, val_images = open_train_val(shapes)
    recipe = DetectionRecipe.fitting(len(images), epochs=2, batch_size=2, augment="crop")

    def run(folder: Path, stop_at: int | None = None) -> None:
        built = new_detector(
            "ssdlite", "fbnetv3_nano", images.class_names, pretrained=True, size=64
        )
        stop, seen = StopRequest(), 0

        def on_step(epoch: int, done: int, steps: int) -> None:
            nonlocal seen
            seen += 1
            if seen == stop_at:
                signal.raise_signal(signal.SIGTERM)

        about = DetectionRun(recipe=recipe, folder=folder, validate_epochs=2)
        with stop.listening():
            train(built, images, val_images, about, on_step=on_step, stop=stop)

    torch.manual_seed(1)
    start = torch.random.get_rng_state()
    run(tmp_path / "whole")
    assert torch.equal(torch.random.get_rng_state(), start) is False  # fresh heads were drawn
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_at=3)  # within the second epoch
    heads = list((tmp_path / "stopped" / "checkpoints").glob("*.json"))
    assert max(json.loads(path.read_text())["step"] for path in heads) == 3
    torch.manual_seed(2)  # other heads, which the checkpoint replaces
    run(tmp_path / "stopped")
    whole, resumed = (
        read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [json.loads((tmp_path / n / "log.json").read_text()) for n in ("whole", "stopped")]
    losses = [[log["loss"] for log in rows] for rows in logs]
    assert losses[0] == losses[1]

    other = DetectionRecipe.fitting(len(images), epochs=2, batch_size=2, augment="none")
    built = new_detector("ssdlite", "fbnetv3_nano", images.class_names, pretrained=True, size=64)
    differs = "its recipe is different: augment 'crop', here 'none'; give another --out"
    with pytest.raises(ValueError, match=differs):
        train(built, images, val_images, DetectionRun(recipe=other, folder=tmp_path / "whole"))


def test_a_trained_folder_finds_the_same_again(trained: Path, detector: BuiltDetector) -> None:
    assert detector.config.class_names == ("box", "disc")
    assert (trained / "best" / "detector.json").is_file()
    again = load_detector(trained)
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    one, other = TorchDetector(detector)(photo), TorchDetector(again)(photo)
    assert len(one) > 0
    assert np.array_equal(one.boxes, other.boxes)
    assert one.boxes[:, 2].max() <= 70
    assert one.boxes[:, 3].max() <= 50


def test_weights_for_small_images_keep_their_full_strides() -> None:
    built = new_detector("ssdlite", "fbnetv3_nano.cifar10", ["a"], pretrained=True, size=64)
    assert built.config.arch == ARCHS["fbnetv3_nano"]
    assert built.config.weights == "fbnetv3_nano.cifar10"
    assert built.config.license.lower() == "apache-2.0"
    fresh = new_detector("ssdlite", "fbnetv3_nano.cifar10", ["a"], pretrained=False, size=64)
    assert fresh.config.arch == ARCHS["fbnetv3_nano"]
    name = "backbone.body.stages.0.0.project.conv.weight"
    states = [one.module.state_dict() for one in (built, fresh)]
    name = next(key for key in states[0] if "stages.1" in key and states[0][key].ndim == 4)
    assert not torch.equal(states[0][name], states[1][name])


def test_other_classes_get_fresh_heads_and_the_rest_is_the_trained_detectors(
    trained: Path, detector: BuiltDetector
) -> None:
    built = continued_detector(trained, ["box", "disc", "star"], size=96, trainable_layers=3)
    assert (built.config.size, built.config.norm, built.config.freeze_at) == (96, "FrozenBN", 2)
    assert built.config.arch == detector.config.arch
    own, theirs = built.module.state_dict(), detector.module.state_dict()
    fresh = [name for name in own if own[name].shape != theirs[name].shape]
    assert fresh
    assert all("classification_head" in name for name in fresh)
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in fresh)
    same = continued_detector(trained, detector.config.class_names)
    assert same.config == detector.config
    with pytest.raises(ValueError, match="size is 3; expected a number of pixels from 32"):
        continued_detector(trained, ["a"], size=3)


@pytest.mark.parametrize("kind", DETECTORS)
def test_trained_backbones_are_frozen_where_torchvision_does(kind: str) -> None:
    freezes = DETECTORS[kind].freezes
    built = new_detector(kind, "fbnetv3_nano", ["a"], pretrained=True, size=64)
    assert (built.config.norm, built.config.freeze_at) == (
        ("FrozenBN", 2) if freezes else ("BN", 0)
    )
    whole = new_detector(kind, "fbnetv3_nano", ["a"], pretrained=True, size=64, trainable_layers=5)
    assert whole.config.norm == "BN"
    assert all(p.requires_grad for p in whole.module.parameters())


def test_builders_take_a_trained_folder_as_torchvisions_take_weights(
    trained: Path, detector: BuiltDetector, tmp_path: Path
) -> None:
    made = ssdlite("fbnetv3_nano", num_classes=3, weights=trained, size=64)
    own, theirs = made.state_dict(), detector.module.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert all(p.requires_grad for p in made.parameters())  # as SSD does
    for given, said in (
        ({"num_classes": 4}, r"a detector with head.* \(18,\), here \(24,\); expected one of the"),
        ({"model": "fbnetv3_a0"}, r"weights is .*expected one of the same model"),
        ({"weights": "DEFAULT"}, "weights is 'DEFAULT'; there are no published detectors. Give"),
        ({"weights": str(tmp_path)}, "there are no published detectors. Give the output folder"),
        ({"pretrained": True}, "leave out pretrained= and checkpoint="),
    ):
        arguments: dict[str, Any] = {"num_classes": 3, "weights": str(trained), **given}
        with pytest.raises(ValueError, match=said):
            ssdlite(arguments.pop("model", "fbnetv3_nano"), **arguments)
    save_detector(
        tmp_path / "nc",
        BuiltDetector(
            detector.module, dataclasses.replace(detector.config, license="cc-by-nc-4.0")
        ),
    )
    with pytest.raises(ValueError, match="no commercial use"):
        ssdlite("fbnetv3_nano", num_classes=3, weights=tmp_path / "nc", license="commercial")


def test_a_license_is_kept_and_checked(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nc"
    folder.mkdir()
    content = json.loads((trained / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps({**content, "license": "cc-by-nc-4.0"}))
    (folder / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no commercial use"):
        load_detector(folder, license="commercial")
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    with pytest.raises(ValueError, match="no commercial use"):
        load_detector(folder)
    load_detector(trained)


def test_a_copied_file_of_weights_keeps_its_license(
    trained: Path, detector: BuiltDetector, tmp_path: Path
) -> None:
    config = dataclasses.replace(detector.config, license="cc-by-nc-4.0")
    save_detector(tmp_path, BuiltDetector(detector.module, config))
    for weights in (config.weights, ""):
        content = json.loads((trained / "detector.json").read_text())
        (tmp_path / "detector.json").write_text(json.dumps({**content, "weights": weights}))
        assert load_detector(tmp_path).config.license == "cc-by-nc-4.0"
        with pytest.raises(ValueError, match="no commercial use"):
            load_detector(tmp_path, license="commercial")


def test_bfloat16_is_computed_under_autocast_and_no_type_of_weights(
    detector: BuiltDetector,
) -> None:
    photo = example_photos()[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = TorchDetector(detector)(photo)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    with pytest.raises(ValueError, match=r"weights are torch\.bfloat16; expected torch\.float32"):
        TorchDetector(BuiltDetector(detector.module.bfloat16(), detector.config))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "other"}, "is no detector of this package"),
        ({"detector": "yolo"}, "detector is 'yolo'; expected one of ssdlite"),
        ({"color": 1}, "has unknown field 'color'"),
    ],
)
def test_a_damaged_folder_is_named(
    trained: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    content = json.loads((trained / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(FileNotFoundError, match=r"no .*model\.safetensors; expected the output"):
        load_detector(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=said):
        load_detector(tmp_path)


def test_a_folder_is_also_known_by_its_file_of_weights(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_detector(trained / "model.safetensors").config == load_detector(trained).config
    with pytest.raises(ValueError, match=r"detector\.json is a file; expected the output folder"):
        load_detector(trained / "detector.json")
    for name in (str(trained), trained.name):
        monkeypatch.chdir(trained.parent)
        with pytest.raises(ValueError, match=rf"{name}', a detector; `fbnetv3 detect` has the"):
            create(name)


def test_a_batch_of_one_is_refused_where_batch_norm_needs_two(
    shapes: Path, detector: BuiltDetector, tmp_path: Path
) -> None:
    images, val_images = open_train_val(shapes)
    run = DetectionRun(recipe=DetectionRecipe.fitting(5, batch_size=1), folder=tmp_path)
    with pytest.raises(ValueError, match="batch_size is 1; expected at least 2, as ssdlite's last"):
        train(detector, images, val_images, run)


def test_a_long_first_image_does_not_change_what_is_found_in_the_next() -> None:
    built = new_detector("faster_rcnn_320", "fbnetv3_nano", ["a"], pretrained=False, size=64)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    detector = TorchDetector(built)
    pool: Any = built.module.roi_heads.box_roi_pool  # type: ignore[union-attr]  # torchvision's
    detector(np.zeros((1, 999, 3), np.uint8))
    assert pool.scales == [1 / 16, 1 / 32]
    assert len(detector(image).boxes)


def test_held_out_images_are_no_training_images(shapes: Path) -> None:
    images, val_images = open_train_val(shapes, val_share=0.34, seed=1)
    assert len(images) == 4
    assert sorted(images.image_ids + val_images.image_ids) == [1, 2, 3, 4, 5, 6]
    other, _ = open_train_val(shapes, val_share=0.34, seed=2)
    assert other.image_ids != images.image_ids
    with pytest.raises(ValueError, match="val_share is 1"):
        open_train_val(shapes, val_share=1)


def test_augmentation_follows_from_seed_epoch_and_image(shapes: Path) -> None:
    data = CocoFolder(shapes)

    def first(seed: int, epoch: int, augment: str = "crop") -> torch.Tensor:
        return Augmented(data, augment, seed=seed, epoch=epoch)[0][0]

    state = torch.random.get_rng_state()
    assert torch.equal(first(0, 0), first(0, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    others = [first(1, 0), first(0, 1)]
    assert all(o.shape != first(0, 0).shape or not torch.equal(o, first(0, 0)) for o in others)
    assert torch.equal(first(0, 0, "none"), data[0][0])
    for index in range(len(data)):
        image, target = Augmented(data, "crop", seed=3, epoch=0)[index]
        assert len(target["boxes"]) == len(target["labels"])
        if len(target["boxes"]):
            assert float(target["boxes"][:, 2].max()) <= image.shape[2]


class _Truth:
    """Finds what the annotations say, with classes in another order."""

    class_names: tuple[str, ...] = ("disc", "box")

    def __init__(self, data: CocoFolder) -> None:
        self._items = {str(data.image_path(n)): data[n][1] for n in range(len(data))}

    def __call__(self, source: ImageSource) -> Detections:
        target = self._items[str(source)]
        labels = 3 - target["labels"].numpy()
        ones = np.ones(len(labels), np.float32)
        return Detections(target["boxes"].numpy(), labels, ones, self.class_names)


def test_classes_are_matched_by_name(shapes: Path, detector: BuiltDetector) -> None:
    data = open_scored(shapes)
    assert evaluate(_Truth(data), data).values["AP"] == 1.0
    data.class_names[0] = "crate"
    said = r"knows disc, box; the images have crate, disc: expected no class .* such as crate"
    with pytest.raises(ValueError, match=said):
        evaluate(_Truth(data), data)


def test_what_is_found_of_classes_that_the_images_lack_is_left_out(shapes: Path) -> None:
    data = open_scored(shapes)
    truth = _Truth(data)
    truth.class_names = ("disc", "box", "star")
    assert evaluate(truth, data).values["AP"] == 1.0

    class Stars(_Truth):
        def __call__(self, source: ImageSource) -> Detections:
            found = super().__call__(source)
            stars = np.full(len(found), 3)
            both = np.concatenate([found.labels, stars])
            boxes, scores = np.tile(found.boxes, (2, 1)), np.tile(found.scores, 2)
            return Detections(boxes, both, scores, ("disc", "box", "star"))

    stars = Stars(data)
    stars.class_names = ("disc", "box", "star")
    assert evaluate(stars, data).values["AP"] == 1.0
