"""Folders in COCO's format: what is read, and scores against hand-made detections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_annotations_without_iscrowd_are_no_crowds(tmp_path: Path) -> None:
    path = draw_shapes(tmp_path, num_images=2, rng=np.random.default_rng(5)) / "annotations.json"
    expected = [CocoFolder(tmp_path)[n] for n in range(2)]
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        del item["iscrowd"]
    path.write_text(json.dumps(content))
    shapes = CocoFolder(tmp_path)
    found = {}
    for number, (_, target) in enumerate(expected):
        assert torch.equal(shapes[number][1]["boxes"], target["boxes"])
        scores = torch.ones(len(target["labels"]))
        found[int(target["image_id"])] = {**target, "scores": scores}
    assert shapes.score(found)["AP"] == pytest.approx(1.0)


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


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Draws two images, and changes what the folder says of them."""
    path = draw_shapes(folder, num_images=2, rng=np.random.default_rng(5)) / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("categories"), r"`categories` is missing; expected a list"),
        (lambda c: c["images"][1].pop("file_name"), r"image 2: `file_name` is missing"),
        (lambda c: c["images"][1].update(id="2"), r"image '2': `id` is '2'; expected an integer"),
        (lambda c: c["annotations"][0].update(iscrowd=2),
         r"annotation 1 of image '0001.png': `iscrowd` is 2; expected 0, or 1 for a crowd"),
        (lambda c: c["annotations"][0].update(bbox=[]),
         r"annotation 1 of image '0001.png': `bbox` is \[\]; expected \[x, y, width, height\]"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), r"'0001.png': `bbox` is"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), r"`bbox` is \[1, 2,"),
        (lambda c: c["annotations"][0].update(category_id=9),
         r"annotation 1 of image '0001.png': `category_id` is 9; expected one of 1, 2"),
        (lambda c: c["annotations"][0].update(image_id=7),
         r"annotation 1: `image_id` is 7; expected the `id` of an image"),
        (lambda c: c["annotations"][0].update(image_id=[1]), r"`image_id` is \[1\]; expected"),
        (lambda c: c["images"][1].update(width=99),
         r"image '0002.png': `width` and `height` are 99 x 128; the file has 128 x 128 pixels"),
    ],
)  # fmt: skip
def test_a_faulty_record_is_named_with_its_field_before_training(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"annotations\.json: .*{said}"):
        CocoFolder(changed(tmp_path, change))


def test_masks_need_outlines_and_scores_need_areas(tmp_path: Path) -> None:
    changed(tmp_path, lambda c: [c["annotations"][0].pop(key) for key in ("segmentation", "area")])
    shapes = CocoFolder(tmp_path)
    assert len(shapes) == 2
    with pytest.raises(ValueError, match=r"image '0001.png': `area` is missing"):
        shapes.score({})
    with pytest.raises(ValueError, match=r"image '0001.png': `segmentation` is missing"):
        CocoFolder(tmp_path, masks=True)


def test_missing_and_damaged_images_are_named_before_training(tmp_path: Path) -> None:
    draw_shapes(tmp_path, num_images=2, rng=np.random.default_rng(5))
    path = tmp_path / "images" / "0002.png"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read image .*0002\.png"):
        CocoFolder(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"0002\.png"):
        CocoFolder(tmp_path)


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    draw_shapes(tmp_path, num_images=1, side=64, rng=np.random.default_rng(5))
    path = tmp_path / "images" / "0001.png"
    with Image.open(path) as opened:
        upright = opened.crop((0, 0, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right, when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["images"][0] |= {"width": 64, "height": 48}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    image, _ = CocoFolder(tmp_path)[0]
    assert np.array_equal(image.permute(1, 2, 0).mul(255).round().byte(), np.asarray(upright))
    content["images"][0] |= {"width": 48, "height": 64}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"'0001.png': .* 48 x 64; the file has 64 x 48 pixels with its EXIF"
    ):
        CocoFolder(tmp_path)
