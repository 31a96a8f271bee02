"""What annotation tools write beside the published layouts: the same boxes, or one clear line."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.detection_layouts import find_annotations
from fbnetv3.integrations.drawn_shapes import draw_shapes

SIDE = 64
Content = dict[str, Any]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two drawn images in COCO's format."""
    return draw_shapes(tmp_path / "drawn", num_images=2, side=SIDE, rng=np.random.default_rng(1))


def changed(drawn: Path, change: Callable[[Content], object]) -> Path:
    path = drawn / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return drawn


def boxes(folder: Path, **options: Any) -> dict[str, list[list[float]]]:
    """Returns the boxes and labels of each image, by its path in the folder of images."""
    data = CocoFolder(folder, **options)
    found = {}
    for index in range(len(data)):
        target = data[index][1]
        rows = torch.cat([target["boxes"], target["labels"][:, None]], 1)
        found[data.image_path(index).name] = rows.round().tolist()
    return found


def _runs(content: Content, *, packed: bool) -> None:
    """Gives all annotations run lengths in place of their boxes."""
    for item in content["annotations"]:
        x, y, width, height = map(round, item.pop("bbox"))
        pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
        pixels[y : y + height, x : x + width] = 1
        found = mask.encode(pixels)
        item["segmentation"] = {"size": found["size"], "counts": found["counts"].decode()}
        if not packed:
            flat = np.concatenate([[0], pixels.ravel(order="F"), [2]])
            ends = np.flatnonzero(np.diff(flat))
            lengths = np.diff(ends, prepend=0).tolist()
            item["segmentation"]["counts"] = lengths if not flat[1] else [0, *lengths]


def _category_ids(content: Content, ids: dict[int, int]) -> None:
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for item in content["annotations"]:
        item["category_id"] = ids[item["category_id"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: _runs(c, packed=True),
        lambda c: _runs(c, packed=False),
        lambda c: _category_ids(c, {1: 0, 2: 90}),
    ],
    ids=["packed run lengths only", "run lengths only", "category 0 and a gap"],
)
def test_odd_cocos_are_the_boxes_that_they_mean(
    drawn: Path, change: Callable[[Content], object]
) -> None:
    expected = boxes(drawn)
    changed(drawn, change)
    assert boxes(drawn) == expected
    data = CocoFolder(drawn)
    perfect = {
        int(target["image_id"]): {**target, "scores": torch.ones(len(target["labels"]))}
        for target in (data[n][1] for n in range(len(data)))
    }
    assert data.evaluate(perfect).values["AP"] == 1.0


def test_a_polygon_without_a_box_gives_its_own(drawn: Path) -> None:
    def change(content: Content) -> None:
        item = content["annotations"][0]
        item.update(bbox=None, segmentation=[[4, 6, 10, 6, 10, 9], [12, 20, 14, 20, 14, 22]])

    data = CocoFolder(changed(drawn, change))
    assert data.coco.loadAnns(1)[0]["bbox"] == [4, 6, 10, 16]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: [item.pop(key) for item in c["annotations"] for key in ("bbox", "segmentation")],
         r"annotation 1 of image '0001\.png': `bbox` is missing; expected \[x, y, width, height\]"),
        (lambda c: c["annotations"][0].update(bbox=None, segmentation={"size": [64, 64]}),
         r"annotation 1 of image '0001\.png': `bbox` is None; expected \[x, y, width, height\]"),
        (lambda c: [item.update(bbox=[side / SIDE for side in item["bbox"]])
                    for item in c["annotations"]],
         r"no `bbox` has a number above 1; expected .* in pixels, not shares of the image"),
        (lambda c: c["images"][0].update(file_name="0001"), r"image '0001': there is no file"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(
    drawn: Path, change: Callable[[Content], object], said: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        CocoFolder(changed(drawn, change))


def test_images_without_an_ending_are_read(drawn: Path) -> None:
    expected = boxes(drawn)
    (drawn / "images" / "0001.png").rename(drawn / "images" / "0001")
    changed(drawn, lambda c: c["images"][0].update(file_name="0001"))
    assert boxes(drawn) == {"0001": expected["0001.png"], "0002.png": expected["0002.png"]}


@pytest.mark.parametrize(("name", "images"), [("result.json", "images"), ("labels.json", "data")])
def test_a_coco_file_of_any_name_beside_its_images(drawn: Path, name: str, images: str) -> None:
    expected = boxes(drawn)
    (drawn / "annotations.json").rename(drawn / name)
    (drawn / "images").rename(drawn / images)
    assert list(find_annotations(drawn)) == [""]
    assert boxes(drawn) == expected


def yolo(drawn: Path, images: str, labels: str) -> Path:
    """Moves the images, and writes the boxes as YOLO's text files."""
    content = json.loads((drawn / "annotations.json").read_text())
    folder = drawn.parent / "yolo"
    (folder / labels).mkdir(parents=True)
    shutil.copytree(drawn / "images", folder / images, dirs_exist_ok=True)
    for image in content["images"]:
        lines = []
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, width, height = (side / SIDE for side in item["bbox"])
                numbers = (x + width / 2, y + height / 2, width, height)
                lines.append(" ".join(map(str, (item["category_id"] - 1, *numbers))))
        path = folder / labels / image["file_name"].replace(".png", ".txt")
        path.write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("images", "labels", "names"),
    [
        (".", ".", "classes.txt"),
        ("images", "labels", "classes.txt"),
        ("images", "labels", "labels/classes.txt"),
        ("obj_train_data", "obj_train_data", "obj.names"),
    ],
    ids=["LabelImg", "Label Studio", "LabelImg in labels", "CVAT"],
)
def test_yolo_without_a_yaml(drawn: Path, images: str, labels: str, names: str) -> None:
    folder = yolo(drawn, images, labels)
    (folder / names).write_text("box\ndisc\n\n")
    assert list(find_annotations(folder)) == [""]
    assert boxes(folder) == boxes(drawn)


def test_yamls_with_other_words_and_separators(drawn: Path) -> None:
    folder = yolo(drawn, "valid/images", "valid/labels")
    (folder / "data.yaml").write_text(
        "train: ..\\train\\images\nvalid: ..\\valid\\images\nnc: 2\nnames: {'0': box, '1': disc}\n"
    )
    assert list(find_annotations(folder)) == ["train", "val"]
    assert boxes(folder, split="val") == boxes(drawn)
    (folder / "list.txt").write_text("valid\\images\\0001.png\nvalid\\images\\0002.png\n")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [box, disc]\n")
    assert boxes(folder) == boxes(drawn)


def test_percents_of_yolo_are_refused(drawn: Path) -> None:
    folder = yolo(drawn, "images", "labels")
    (folder / "classes.txt").write_text("box\ndisc\n")
    (folder / "labels" / "0001.txt").write_text("0 50 50 12.5 12.5")
    with pytest.raises(ValueError, match=r"'50 50 12\.5 12\.5'; expected .* from 0 to 1"):
        CocoFolder(folder)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("Annotations", "JPEGImages"), ("annotations", "images"), ("labels", "images")],
)
def test_vocs_images_of_one_name_in_two_folders(drawn: Path, annotations: str, images: str) -> None:
    folder = drawn.parent / "voc"
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b/1\n")
    for number, (part, name) in enumerate((("a", "1.png"), ("b", "b/1.png")), start=1):
        (folder / annotations / part).mkdir(parents=True)
        (folder / images / part).mkdir(parents=True)
        shutil.copy(drawn / "images" / f"000{number}.png", folder / images / part / "1.png")
        (folder / annotations / part / "1.xml").write_text(
            f"<annotation><filename>{name}</filename><object><name>disc</name><bndbox><xmin>"
            f"{number}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            "</annotation>"
        )
    train = CocoFolder(folder)
    assert train.image_path(0) == (folder / images / "b" / "1.png").absolute()
    assert train[0][1]["boxes"].tolist() == [[1, 1, 9, 9]]
    (lists / "train.txt").unlink()
    every = CocoFolder(folder)
    assert [every.image_path(n).parent.name for n in range(2)] == ["a", "b"]
    assert every[0][1]["boxes"].tolist() == [[0, 1, 9, 9]]


def test_ids_that_are_texts_are_numbered(drawn: Path, tmp_path: Path) -> None:
    expected = boxes(drawn)

    def as_texts(content: Content) -> None:
        for kind in ("images", "categories"):
            for item in content[kind]:
                item["id"] = f"no. {item['id']}"
        for item in content["annotations"]:
            item["image_id"] = f"no. {item['image_id']}"
            item["category_id"] = f"no. {item['category_id']}"

    assert boxes(changed(drawn, as_texts)) == expected


def test_ids_that_are_numbers_in_quotes_are_these_numbers(tmp_path: Path) -> None:
    # As texts, "10" comes before "2".
    drawn = draw_shapes(tmp_path, num_images=11, side=SIDE, rng=np.random.default_rng(1))
    expected = boxes(drawn)
    folder = changed(drawn, lambda c: [image.update(id=str(image["id"])) for image in c["images"]])
    assert boxes(folder) == expected
    assert CocoFolder(folder).image_ids == list(range(1, 12))


@pytest.mark.parametrize("name", ["0001.PNG", "\u00fc.png"])
def test_a_file_of_nearly_the_same_name_is_named(drawn: Path, name: str) -> None:
    old = drawn / "images" / "0001.png"
    # A Mac's archives write accents as characters of their own.
    there = unicodedata.normalize("NFD", name).lower()
    old.rename(old.with_name(there))
    folder = changed(drawn, lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is {there!a}: correct")):
        CocoFolder(folder)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("train/annotations.json", "train/images"),
        ("train/labels.json", "train/data"),
        ("instances_train.json", "train"),
        ("train.json", "train"),
        ("annotations/person_keypoints_train2017.json", "train2017"),
    ],
)
def test_layouts_with_the_split_in_a_folder_or_file(
    drawn: Path, tmp_path: Path, annotations: str, images: str
) -> None:
    expected = boxes(drawn)
    folder = tmp_path / "other"
    (folder / annotations).parent.mkdir(parents=True)
    (folder / images).parent.mkdir(parents=True, exist_ok=True)
    (drawn / "annotations.json").rename(folder / annotations)
    (drawn / "images").rename(folder / images)
    assert list(find_annotations(folder)) == ["train"]
    assert boxes(folder) == expected


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"data\.zip is an archive; unpack it"):
        CocoFolder(tmp_path / "data.zip")


def test_classes_of_yolo_are_taken_as_they_are_written(drawn: Path) -> None:
    folder = yolo(drawn, "images", "labels")
    (folder / "data.yaml").write_text("train: images\nnc: 2\nnames: [no, 1_0]\n")
    assert CocoFolder(folder).class_names == ["no", "1_0"]
    for head, said in (
        ("nc: 3\nnames: [box, disc]", "`nc` is 3, and `names` has 2"),
        ("nc: 2", r"data\.yaml has no `names`"),
    ):
        (folder / "data.yaml").write_text(f"train: images\n{head}\n")
        with pytest.raises(ValueError, match=said):
            CocoFolder(folder)


def test_texts_of_another_encoding_and_listed_images_that_are_missing(drawn: Path) -> None:
    folder = yolo(drawn, "images", "labels")
    (folder / "data.yaml").write_text("train: list.txt\nnames: [box, disc]\n")
    (folder / "list.txt").write_text("images/0001.png\nimages/0009.png\n")
    with pytest.raises(FileNotFoundError, match=r"list of `train` names .*0009\.png, which is no"):
        CocoFolder(folder)
    (folder / "list.txt").write_text("images/0001.png\n")
    label = folder / "labels" / "0001.txt"
    label.write_text(label.read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match=r"0001\.txt is no text in UTF-8: .*; save it as such"):
        CocoFolder(folder)


def test_boxes_outside_their_image_are_cut_off_and_told(drawn: Path) -> None:
    def give(*sides: float) -> Callable[[Content], object]:
        return lambda content: [item.update(bbox=list(sides)) for item in content["annotations"]]

    folder = changed(drawn, give(50, 40, 30, 10))
    assert boxes(folder)["0001.png"][0][:4] == [50, 40, 64, 50]
    (note,) = CocoFolder(folder).notes[-1:]
    assert "boxes reach outside their image, such as annotation 1" in note
    assert note.endswith("only what is inside is learnt")
    (note,) = CocoFolder(changed(drawn, give(30, 20, 60, 60))).notes[-1:]
    assert "all fit as [left, top, right, bottom]" in note
    assert not any(
        "reach outside" in note for note in CocoFolder(changed(drawn, give(1, 2, 63, 3))).notes
    )
