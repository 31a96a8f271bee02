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
from torchvision.transforms import v2

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.coco_scores import score, weighted_precisions
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
    scores = shapes.score(perfect)
    assert (scores["AP"], scores["AP50"], scores["AP75"]) == (1.0, 1.0, 1.0)
    # Of 128 pixels a side: no shape is smaller than 32 x 32 by much, none larger than 96 x 96.
    assert (scores["AP_medium"], scores["AP_large"], scores["AR_100"]) == (1.0, -1.0, 1.0)
    assert scores["AR_1"] < 1.0
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
    nothing = shapes.evaluate({})
    assert nothing.values["AP"] == nothing.values["AR_100"] == 0.0
    assert [one.ap for one in nothing.classes] == [0.0, 0.0]


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
    with pytest.raises(
        FileNotFoundError, match=r"none; expected COCO \(annotations/instances_train.json"
    ):
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
        (lambda c: c["images"][1].update(id="1"), r"two images have `id` 1; expected different"),
        (lambda c: c["images"][1].update(id="second"),
         r"annotation \d: `image_id` is 2; expected an id, such as 1"),
        (lambda c: c["categories"].clear(), r"`categories` is empty; expected the classes' ids"),
        (lambda c: c["images"][1].update(id=True), r"`id` is True; expected an integer"),
        (lambda c: c["images"][1].update(id=10**20), r"`id` is 10+; expected an integer"),
        (lambda c: c["images"].append("a"), r"`images` has 'a' at 2; expected an object of fields"),
        (lambda c: c["annotations"].append(3), r"`annotations` has 3 at .; expected an object"),
        (lambda c: c["annotations"][0].update(image_id="01"), r"`image_id` is '01'; expected the"),
        (lambda c: c["annotations"][0].update(area="12"),
         r"annotation 1 of image '0001.png': `area` is '12'; expected a number of pixels"),
        (lambda c: c["categories"][1].update(name="box"),
         r"two categories have `name` 'box'; expected different ones"),
        (lambda c: c["images"][0].update(width="128"), r"'0001.png': `width` is '128'; expected"),
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
        (lambda c: c["annotations"][0].update(bbox=[130, 2, 30, 40]),
         r"image '0001.png': `bbox` is \[130, 2, 30, 40\]; expected a box in the image of 128 x"),
        (lambda c: c["images"][1].update(id=1), r"two images have `id` 1; expected different ones"),
        (lambda c: c["images"][1].update(width=99),
         r"image '0002.png': `width` and `height` are 99 x 128; the file has 128 x 128 pixels"),
    ],
)  # fmt: skip
def test_a_faulty_record_is_named_with_its_field_before_training(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"annotations\.json: .*{said}"):
        CocoFolder(changed(tmp_path, change))


def _whole_floats(content: dict[str, Any]) -> None:
    for kind, fields in (
        ("images", ("id",)),
        ("categories", ("id",)),
        ("annotations", ("id", "image_id", "category_id")),
    ):
        for item in content[kind]:
            item.update({field: float(item[field]) for field in fields})


@pytest.mark.parametrize(
    "change",
    [
        _whole_floats,
        lambda c: [item.pop("id") for item in c["annotations"]],
        lambda c: [item.update(area=None, iscrowd=False) for item in c["annotations"]],
        lambda c: [item.update(iscrowd=None) for item in c["annotations"]],
        lambda c: [item.update(image_id=str(item["image_id"]), category_id=str(item["category_id"]))
                   for item in c["annotations"]],
        lambda c: [image.update(width=None, height=None) for image in c["images"]],
        lambda c: [image.update(width=128.0) for image in c["images"]],
        lambda c: [
            image.update(file_name=f"images\\{image['file_name']}") for image in c["images"]],
        lambda c: c["annotations"].append(dict(c["annotations"][0])),
    ],
)  # fmt: skip
def test_odd_records_are_the_boxes_that_they_mean(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    plain = CocoFolder(changed(tmp_path / "plain", lambda _: None))
    odd = CocoFolder(changed(tmp_path / "odd", change))
    assert len(plain) == len(odd)
    for (_, expected), (_, target) in ((plain[n], odd[n]) for n in range(len(plain))):
        assert torch.equal(target["boxes"], expected["boxes"])
        assert torch.equal(target["labels"], expected["labels"])
        assert torch.equal(target["image_id"], expected["image_id"])
    assert odd.evaluate(perfect(odd)).values["AP"] == 1.0


def test_boxes_that_stand_twice_are_named(tmp_path: Path) -> None:
    shapes = CocoFolder(changed(tmp_path, lambda c: c["annotations"].append(c["annotations"][0])))
    assert shapes.notes == (
        f"{tmp_path / 'annotations.json'}: left out 1 box given twice, such as "
        "annotation 1 of image '0001.png'",
    )


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda _: None) / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(CocoFolder(tmp_path)) == 2


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ([[1, 2, 3, 4]], r"is \[\[1, 2, 3, 4\]\]; expected lists of x, y"),
        ([["a", 2, 3, 4, 5, 6]], "expected lists of x, y"),
        ({"counts": [0, 100, 900], "size": [10, 100]}, r"expected run lengths .* \[128, 128\]"),
        ({"counts": "abc"}, "expected run lengths"),
    ],
)
def test_a_faulty_outline_is_named_before_training(
    tmp_path: Path, outline: object, said: str
) -> None:
    changed(tmp_path, lambda c: c["annotations"][0].update(segmentation=outline))
    with pytest.raises(ValueError, match=rf"1 of image '0001.png': `segmentation` {said}|{said}"):
        CocoFolder(tmp_path, masks=True)
    whole = {"counts": [0, 128 * 128], "size": [128, 128]}
    changed(tmp_path / "runs", lambda c: c["annotations"][0].update(segmentation=whole))
    assert int(CocoFolder(tmp_path / "runs", masks=True)[0][1]["masks"][0].sum()) == 128 * 128


def test_masks_need_outlines_and_missing_areas_are_those_of_boxes(tmp_path: Path) -> None:
    changed(tmp_path, lambda c: [c["annotations"][0].pop(key) for key in ("segmentation", "area")])
    shapes = CocoFolder(tmp_path)
    assert len(shapes) == 2
    width, height = shapes.coco.loadAnns(1)[0]["bbox"][2:]
    assert shapes.coco.loadAnns(1)[0]["area"] == width * height
    assert shapes.notes == (
        f"{tmp_path / 'annotations.json'}: 1 annotation without `area`; the boxes' are taken",
    )
    with pytest.raises(ValueError, match=r"image '0001.png': `segmentation` is missing"):
        CocoFolder(tmp_path, masks=True)


def perfect(shapes: CocoFolder) -> dict[int, dict[str, torch.Tensor]]:
    """What a detector without a fault returns."""
    targets = [shapes[n][1] for n in range(len(shapes))]
    return {int(t["image_id"]): {**t, "scores": torch.ones(len(t["labels"]))} for t in targets}


def test_ids_from_nought_and_equal_ids_are_counted(tmp_path: Path) -> None:
    for folder, change in (
        ("from nought", lambda c: [item.update(id=item["id"] - 1) for item in c["annotations"]]),
        ("equal", lambda c: [item.update(id=7) for item in c["annotations"]]),
        ("none", lambda c: [item.pop("id") for item in c["annotations"]]),
    ):
        shapes = CocoFolder(changed(tmp_path / folder, change))
        assert shapes.score(perfect(shapes))["AP"] == 1.0, folder


def test_flat_boxes_are_left_out_and_named(tmp_path: Path) -> None:
    shapes = CocoFolder(changed(tmp_path, lambda c: c["annotations"][1].update(bbox=[3, 4, 0, 5])))
    assert "left out 1 box without width or height, such as annotation 2 of" in str(shapes.notes)
    assert shapes.evaluate(perfect(shapes)).values["AP"] == 1.0


def test_sizes_that_are_not_stated_are_the_files(tmp_path: Path) -> None:
    def forget(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["width"], image["height"]

    shapes = CocoFolder(changed(tmp_path, forget), masks=True)
    assert shapes[0][1]["masks"].shape[1:] == (128, 128)


def test_masks_are_scored(tmp_path: Path) -> None:
    shapes = CocoFolder(changed(tmp_path, lambda _: None), masks=True)
    found = perfect(shapes)
    for output in found.values():
        output["masks"] = output["masks"][:, None].float()
    assert shapes.evaluate(found, "segm").values["AP"] == 1.0
    for output in found.values():
        output["masks"] = output["masks"].roll(40, -1)
    assert shapes.evaluate(found, "segm").values["AP"] < 0.3
    assert shapes.evaluate(found).values["AP"] == 1.0


def test_a_transform_moves_boxes_and_masks_with_the_image(tmp_path: Path) -> None:
    changed(tmp_path, lambda _: None)
    plain = CocoFolder(tmp_path, masks=True)
    mirrored = CocoFolder(tmp_path, masks=True, transforms=v2.RandomHorizontalFlip(1.0))
    (image, target), (flipped, moved) = plain[0], mirrored[0]
    assert torch.equal(flipped, image.flip(-1))
    assert torch.equal(moved["masks"], target["masks"].flip(-1))
    assert torch.equal(moved["boxes"][:, 0], 128 - target["boxes"][:, 2])
    assert torch.equal(moved["labels"], target["labels"])


def test_an_interval_is_that_of_resampled_images(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    shapes = CocoFolder(draw_shapes(tmp_path, num_images=6, rng=np.random.default_rng(4)))
    rng = np.random.default_rng(1)
    found = []
    for image_id, output in perfect(shapes).items():
        for (x1, y1, x2, y2), label in zip(output["boxes"].tolist(), output["labels"], strict=True):
            for _ in range(3):  # near ones, wrong ones, with scores that never tie
                dx, dy = rng.normal(0, 12, 2)
                kind = int(label) if rng.random() < 0.7 else 3 - int(label)
                box = [x1 + dx, y1 + dy, x2 - x1, y2 - y1]
                found.append({"image_id": image_id, "category_id": kind, "bbox": box,
                              "score": float(rng.random())})  # fmt: skip
    weights = np.array([[1, 1, 1, 1, 1, 1], [3, 0, 1, 2, 0, 0]])

    def scored(coco: Any, detections: list[dict[str, Any]]) -> Any:
        made = COCOeval(coco, coco.loadRes(detections), "bbox")
        made.evaluate()
        made.accumulate()
        return made

    got = weighted_precisions(scored(shapes.coco, found), weights)
    for row, counts in zip(got, weights, strict=True):
        copies = COCO()
        copies.dataset = {
            "images": [],
            "annotations": [],
            "categories": shapes.coco.dataset["categories"],
        }
        detections = []
        for image_id, count in zip(shapes.image_ids, counts, strict=True):
            for copy in range(count):
                number = 100 * image_id + copy
                copies.dataset["images"].append({"id": number})
                for item in shapes.coco.imgToAnns[image_id]:
                    known = len(copies.dataset["annotations"])
                    copies.dataset["annotations"].append(
                        {**item, "id": known + 1, "image_id": number}
                    )
                detections += [
                    {**item, "image_id": number} for item in found if item["image_id"] == image_id
                ]
        copies.createIndex()
        precision = scored(copies, detections).eval["precision"][:, :, :, 0, -1]
        assert (precision > -1).all()
        np.testing.assert_allclose(row, precision.mean((1, 2)), atol=1e-9)
    found_scores = score(shapes.coco, found)
    low, high = found_scores.intervals["AP"]
    assert 0 < low < found_scores.values["AP"] < high < 1


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
