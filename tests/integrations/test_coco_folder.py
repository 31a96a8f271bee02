"""Folders in COCO's format: what is read, and scores against hand-made detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.drawn_shapes import draw_shapes


def test_drawn_boxes_are_where_the_colour_is(tmp_path: Path) -> None:
    shapes = CocoFolder(draw_shapes(tmp_path, rng=np.random.default_rng(3)), masks=True)
    assert len(shapes) == 8
    assert shapes.num_classes == 3
    assert shapes.class_names == ["box", "disc"]
    for image, target in (shapes[n] for n in range(len(shapes))):
        assert image.shape == (3, 128, 128)
        # Noise is grey from 90 to 160; shapes are red or blue.
        strong = (image[0] - image[2]).abs() > 0.4
        inside = torch.zeros(128, 128, dtype=torch.bool)
        for (x1, y1, x2, y2), label, mask in zip(
            target["boxes"].int().tolist(), target["labels"], target["masks"], strict=True
        ):
            inside[y1:y2, x1:x2] = True
            filled = mask[y1:y2, x1:x2].float().mean()
            assert float(filled) == pytest.approx(1.0 if label == 1 else np.pi / 4, abs=0.06)
            assert int(mask.sum()) == int(mask[y1:y2, x1:x2].sum())
        assert not strong[~inside].float().mean() > 0.02


def test_a_seed_repeats_and_two_seeds_differ(tmp_path: Path) -> None:
    texts = [
        (draw_shapes(tmp_path / name, rng=np.random.default_rng(seed)) / "annotations.json")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, again, other = (path.read_text() for path in texts)
    assert first == again != other


def test_scores_are_what_they_have_to_be(tmp_path: Path) -> None:
    shapes = CocoFolder(draw_shapes(tmp_path, rng=np.random.default_rng(4)))
    targets = [shapes[n][1] for n in range(len(shapes))]
    perfect = {
        int(t["image_id"]): {
            "boxes": t["boxes"],
            "labels": t["labels"],
            "scores": torch.ones(len(t["labels"])),
        }
        for t in targets
    }
    assert shapes.score(perfect) == {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}
    wrong = {n: {**output, "labels": 3 - output["labels"]} for n, output in perfect.items()}
    assert shapes.score(wrong)["AP50"] == 0.0
    # Boxes of 60 % of the width overlap by 0.6: found at 0.5, not at 0.75.
    narrow = {n: {**output, "boxes": output["boxes"].clone()} for n, output in perfect.items()}
    for output in narrow.values():
        boxes = output["boxes"]
        boxes[:, 2] = boxes[:, 0] + 0.6 * (boxes[:, 2] - boxes[:, 0])
    scores = shapes.score(narrow)
    assert scores["AP50"] == 1.0
    assert scores["AP75"] == 0.0
    assert shapes.score({}) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_crowds_and_empty_images_are_left_out(tmp_path: Path) -> None:
    path = draw_shapes(tmp_path, num_images=2, rng=np.random.default_rng(5)) / "annotations.json"
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        if item["image_id"] == 1:
            item["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert CocoFolder(tmp_path).image_ids == [2]
    every = CocoFolder(tmp_path, masks=True, empty=True)
    assert every.image_ids == [1, 2]
    _, nothing = every[0]
    assert {name: tuple(x.shape) for name, x in nothing.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "image_id": (),
        "masks": (0, 128, 128),
    }
    content["annotations"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no image with a box"):
        CocoFolder(tmp_path)


def test_false_alarms_on_empty_images_cost_precision(tmp_path: Path) -> None:
    path = draw_shapes(tmp_path, num_images=2, rng=np.random.default_rng(5)) / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] == 2]
    path.write_text(json.dumps(content))
    shapes = CocoFolder(tmp_path, empty=True)
    truth = shapes[1][1]
    perfect = {key: truth[key] for key in ("boxes", "labels")}
    found = {2: perfect | {"scores": torch.full((len(truth["labels"]),), 0.5)}}
    assert shapes.score(found)["AP50"] == 1.0
    alarm = perfect | {"scores": torch.full((len(truth["labels"]),), 0.9)}
    assert shapes.score(found | {1: alarm})["AP50"] < 0.7


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"annotations.json; expected a folder with"):
        CocoFolder(tmp_path / "none")


@pytest.mark.parametrize("annotated_upright", [True, False])
def test_images_are_turned_by_their_exif_as_the_annotations_have_to_be(
    tmp_path: Path, annotated_upright: bool
) -> None:
    folder = draw_shapes(tmp_path, num_images=1, rng=np.random.default_rng(5))
    path = folder / "images" / "0001.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # row 0 of the file is the right side
    with Image.open(path) as drawn:
        stored = np.asarray(drawn)[:, :100]
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    content = json.loads((folder / "annotations.json").read_text())
    height, width = (100, 128) if annotated_upright else (128, 100)
    content["images"][0] |= {"height": height, "width": width}
    (folder / "annotations.json").write_text(json.dumps(content))
    shapes = CocoFolder(folder)
    if not annotated_upright:
        with pytest.raises(
            ValueError, match=r"0001\.png is 128 x 100 pixels, upright; .*100 x 128"
        ):
            shapes[0]
        return
    image, _ = shapes[0]
    upright = stored.transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0).numpy(), upright)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path, num_images=1, rng=np.random.default_rng(5))
    (folder / "images" / "0001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read image .*0001\.png: not an image"):
        CocoFolder(folder)[0]
