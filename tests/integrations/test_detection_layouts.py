"""Layouts of COCO, YOLO, Pascal VOC and LabelMe, and what is wrong with files in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.detection_layouts import find_annotations, read_annotations, split_named
from fbnetv3.integrations.drawn_shapes import draw_shapes

SIDE = 64


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Three drawn images in COCO's format."""
    rng = np.random.default_rng(1)
    return draw_shapes(tmp_path / "drawn", num_images=3, side=SIDE, rng=rng)


def moved(drawn: Path, target: Path, annotations: str, images: str) -> Path:
    """Copies the drawn folder, with other names."""
    (target / annotations).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(drawn / "annotations.json", target / annotations)
    shutil.copytree(drawn / "images", target / images, dirs_exist_ok=True)
    return target


def assert_same(found: CocoFolder, expected: CocoFolder, *, atol: float = 0.0) -> None:
    assert found.class_names == expected.class_names
    assert len(found) == len(expected) == 3
    for number in range(len(expected)):
        (image, target), (other, wanted) = found[number], expected[number]
        assert torch.equal(image, other)
        torch.testing.assert_close(target["boxes"], wanted["boxes"], rtol=0, atol=atol)
        assert torch.equal(target["labels"], wanted["labels"])


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_train.json", "images"),
        ("annotations/train.json", "train"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_layouts_of_coco(drawn: Path, tmp_path: Path, annotations: str, images: str) -> None:
    folder = moved(drawn, tmp_path / "coco", annotations, images)
    assert list(find_annotations(folder)) == ["train"]
    assert_same(CocoFolder(folder), CocoFolder(drawn))
    assert_same(CocoFolder(folder, split="train"), CocoFolder(drawn))
    assert_same(CocoFolder(folder / annotations), CocoFolder(drawn))
    with pytest.raises(ValueError, match=r"split is 'val'; .* has 'train'"):
        read_annotations(folder, "val")


def test_splits_are_told_apart_and_one_has_to_be_named(drawn: Path, tmp_path: Path) -> None:
    folder = moved(drawn, tmp_path / "coco", "train/_annotations.coco.json", "train")
    moved(drawn, folder, "valid/_annotations.coco.json", "valid")
    assert sorted(find_annotations(folder)) == ["train", "val"]
    assert CocoFolder(folder, split="val").image_path(0) == folder / "valid" / "0001.png"
    with pytest.raises(ValueError, match=r"split is None; .* has 'train', 'val'"):
        CocoFolder(folder)
    assert [split_named(name) for name in ("train2017", "val_2014", "Valid", "trainer")] == [
        "train", "val", "val", ""
    ]  # fmt: skip
    other = moved(drawn, tmp_path / "two", "annotations/instances_train2014.json", "images")
    moved(drawn, other, "annotations/instances_train2017.json", "images")
    with pytest.raises(ValueError, match=r"are both train; give the file of one"):
        CocoFolder(other, split="train")


def test_images_that_are_nowhere_are_named(drawn: Path, tmp_path: Path) -> None:
    folder = moved(drawn, tmp_path / "coco", "annotations/instances_train.json", "photos")
    with pytest.raises(FileNotFoundError, match=r"image '0001.png' is in none of .*images/train"):
        CocoFolder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no annotations; expected COCO .*, YOLO"):
        CocoFolder(tmp_path / "empty")


def yolo(drawn: Path, folder: Path, head: str) -> Path:
    """Writes the drawn folder as YOLO's text files."""
    content = json.loads((drawn / "annotations.json").read_text())
    shutil.copytree(drawn / "images", folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    for image in content["images"]:
        lines = []
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, width, height = (value / SIDE for value in item["bbox"])
                number = item["category_id"] - 1
                lines.append(f"{number} {x + width / 2} {y + height / 2} {width} {height}")
        text = folder / "labels" / "train" / image["file_name"].replace(".png", ".txt")
        text.write_text("\n".join(lines))
    (folder / "data.yaml").write_text(head)
    return folder


@pytest.mark.parametrize(
    "head",
    [
        "train: images/train\nnames: [box, disc]\n",
        "path: .\ntrain: [images/train]\nnames: {0: box, 1: disc}\n",
        "train: ../images/train\nnc: 2\nnames: ['box', 'disc']\n",
        "train: list.txt\nnames: [box, disc]\n",
    ],
)
def test_yolos_text_files_are_the_same_boxes(drawn: Path, tmp_path: Path, head: str) -> None:
    folder = yolo(drawn, tmp_path / "yolo", head)
    (folder / "list.txt").write_text("".join(f"images/train/000{n}.png\n" for n in (1, 2, 3)))
    assert_same(CocoFolder(folder), CocoFolder(drawn), atol=1e-4)
    assert_same(CocoFolder(folder / "data.yaml", split="train"), CocoFolder(drawn), atol=1e-4)


def litter(folder: Path) -> None:
    """Puts beside every file what macOS and storage servers leave there."""
    for path in list(folder.rglob("*")):
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 no such file")
            (path.parent / "@eaDir").mkdir(exist_ok=True)
            shutil.copy(path, path.parent / "@eaDir")


def test_hidden_and_system_files_are_left_out_everywhere(drawn: Path, tmp_path: Path) -> None:
    heads = ("train: images/train\nnames: [box, disc]\n", "train: list.txt\nnames: [box, disc]\n")
    folders = [yolo(drawn, tmp_path / f"yolo{n}", head) for n, head in enumerate(heads)]
    # As Windows' editors write it.
    lines = "".join(f"images\\train\\000{n}.png\r\n" for n in (1, 2, 3))
    (folders[1] / "list.txt").write_text(lines, encoding="utf-8-sig", newline="")
    folders.append(voc(drawn, tmp_path / "voc"))
    main = folders[-1] / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("0001\n0002\n0003\n", encoding="utf-8-sig")
    folders.append(moved(drawn, tmp_path / "coco", "annotations/train.json", "train"))
    for folder in folders:
        litter(folder)
        assert_same(CocoFolder(folder, split="train"), CocoFolder(drawn), atol=1e-4)


def test_yolos_outlines_and_images_without_boxes(drawn: Path, tmp_path: Path) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: images/train\nnames: [box, disc]\n")
    labels = folder / "labels" / "train"
    (labels / "0001.txt").write_text("1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n")
    (labels / "0002.txt").unlink()
    (labels / "0003.txt").write_text("")
    shapes = CocoFolder(folder, masks=True, empty=True)
    assert shapes[0][1]["boxes"].tolist() == [[16.0, 16.0, 32.0, 48.0]]
    assert int(shapes[0][1]["masks"].sum()) == 16 * 32
    assert [len(shapes[n][1]["boxes"]) for n in range(3)] == [1, 0, 0]
    assert len(CocoFolder(folder)) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.1 0.1", r"0002\.txt, line 1: class is '2'; expected 0 to 1"),
        ("box 0.5 0.5 0.1 0.1", r"class is 'box'; expected"),
        ("1 0.5 0.5 0.1", r"'0\.5 0\.5 0\.1'; expected center x, center y"),
        ("1 32 16 8 8", r"'32 16 8 8'; expected .* shares of the image from 0 to 1"),
        ("1 0.5 0.5 nan 0.1", r"expected center x"),
        ("1 0.5 0.5 0.1 0.1 0.9", r"'0\.5 0\.5 0\.1 0\.1 0\.9'; expected center x"),
        ("1,0.5,0.5,0.1,0.1", r"class is '1,0\.5,0\.5,0\.1,0\.1'; expected 0 to 1"),
    ],
)
def test_a_faulty_line_of_yolo_is_named(drawn: Path, tmp_path: Path, line: str, said: str) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: images/train\nnames: [box, disc]\n")
    (folder / "labels" / "train" / "0002.txt").write_text(line)
    with pytest.raises(ValueError, match=said):
        CocoFolder(folder)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("train: images/train\nnames: {1: box}\n", r"`names` is \{'1': 'box'\}; expected a list"),
        ("train: [\n", r"data.yaml is not valid YAML"),
        ("train: photos\nnames: [a]\n", r"`train` is 'photos'; there is no .*photos; correct it"),
        ("train: images/train\nnames: [a, a]\n", r"`names` has 'a' twice; expected different"),
        ("names: [a]\n", r"data.yaml has none of train, val, test; expected folders of images"),
    ],
)
def test_a_faulty_head_of_yolo_is_named(drawn: Path, tmp_path: Path, head: str, said: str) -> None:
    folder = yolo(drawn, tmp_path / "yolo", head)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        CocoFolder(folder)


def test_odd_files_of_yolo_are_the_boxes_that_they_mean(drawn: Path, tmp_path: Path) -> None:
    head = "\ufefftrain: images/train\r\nkpt_shape: [1, 3]\r\nnames: [box, disc]\r\n"
    folder = yolo(drawn, tmp_path / "yolo", head)
    for path in (folder / "labels" / "train").iterdir():
        lines = [f"{line} 0.5 0.5 2" for line in path.read_text().splitlines()]
        path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert_same(CocoFolder(folder), CocoFolder(drawn), atol=1e-4)
    (folder / "labels" / "train" / "0001.txt").write_text("0 0.5 0.5 1.0000001 0.5\n")
    assert CocoFolder(folder)[0][1]["boxes"].tolist() == [[0.0, 16.0, 64.0, 48.0]]
    shutil.rmtree(folder / "labels")
    with pytest.raises(FileNotFoundError, match=r"no image of `train` has labels; .*0001\.txt for"):
        CocoFolder(folder)


def voc(drawn: Path, folder: Path, change: Callable[[str], str] = lambda text: text) -> Path:
    """Writes the drawn folder as Pascal VOC's files."""
    content = json.loads((drawn / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    shutil.copytree(drawn / "images", folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for image in content["images"]:
        objects = ""
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, width, height = item["bbox"]
                objects += (
                    f"<object><name>{names[item['category_id']]}</name><difficult>0</difficult>"
                    f"<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>"
                    f"<ymax>{y + height}</ymax></bndbox></object>"
                )
        text = (
            f"<annotation><filename>{image['file_name']}</filename><size><width>{SIDE}</width>"
            f"<height>{SIDE}</height><depth>3</depth></size>{objects}</annotation>"
        )
        path = folder / "Annotations" / image["file_name"].replace(".png", ".xml")
        path.write_text(change(text))
    return folder


def test_vocs_files_are_the_same_boxes(drawn: Path, tmp_path: Path) -> None:
    folder = voc(drawn, tmp_path / "VOCdevkit" / "VOC2012")
    for place in (folder, tmp_path / "VOCdevkit", tmp_path):
        assert_same(CocoFolder(place), CocoFolder(drawn))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0001\n0003\n")
    (lists / "val.txt").write_text("0002\n")
    assert sorted(find_annotations(folder)) == ["train", "val"]
    assert len(CocoFolder(folder, split="train")) == 2
    val = CocoFolder(folder, split="val")
    assert [val.image_path(0).name, val.class_names] == ["0002.png", ["box", "disc"]]
    (lists / "val.txt").write_text("0009\n")
    with pytest.raises(FileNotFoundError, match=r"val.txt names '0009'"):
        CocoFolder(folder, split="val")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace(f"<width>{SIDE}</width><height>{SIDE}", "<width>0</width><height>0"),
        lambda t: t.replace("<size>", "<was>").replace("</size>", "</was>"),
        lambda t: t.replace(f"<width>{SIDE}", f"<width>{SIDE}.0"),
        lambda t: t.replace("<difficult>0", "<difficult>"),
        lambda t: t.replace("<filename>", "<filename>C:\\photos\\"),
        lambda t: "\ufeff" + t,
    ],
)
def test_odd_files_of_voc_are_the_boxes_that_they_mean(
    drawn: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    folder = voc(drawn, tmp_path / "voc", change)
    assert_same(CocoFolder(folder), CocoFolder(drawn))
    # As some tools write them.
    (folder / "Annotations").rename(folder / "annotations")
    (folder / "JPEGImages").rename(folder / "images")
    assert_same(CocoFolder(folder), CocoFolder(drawn))


def test_vocs_lists_may_be_trainval_and_have_the_names_of_images(
    drawn: Path, tmp_path: Path
) -> None:
    folder = voc(drawn, tmp_path / "voc")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("0001.png\n0002\n")
    (lists / "test.txt").write_text("0003.JPG\n")
    assert sorted(find_annotations(folder)) == ["test", "train"]
    assert len(CocoFolder(folder, split="train")) == 2
    (lists / "train.txt").write_text("0001\n")
    assert len(CocoFolder(folder, split="train")) == 1


def test_difficult_objects_of_voc_are_no_targets(drawn: Path, tmp_path: Path) -> None:
    folder = voc(
        drawn,
        tmp_path / "voc",
        lambda text: text.replace("<difficult>0</difficult>", "<difficult>1</difficult>", 1),
    )
    for number in range(3):
        found, expected = CocoFolder(folder)[number][1], CocoFolder(drawn)[number][1]
        assert torch.equal(found["boxes"], expected["boxes"][1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("<xmin>", "<xmin>x"), r"`bndbox/xmin` of object '\w+' is 'x\d+'"),
        (lambda t: t.replace("ymax>", "top>"), r"`bndbox/ymax` of object '\w+' is missing"),
        (lambda t: t.replace("</size>", ""), r"0001.xml is not valid XML"),
        (lambda t: "<html/>", r"0001.xml begins with <html>; expected <annotation>"),
        (lambda t: t.replace("<width>64", "<width>65"), r"are 65 x 64; the file has 64 x 64"),
        (lambda t: t.replace("<name>box", "<name>"), r"`name` of an object is empty; expected its"),
        (lambda t: t.replace("name>", "label>"), r"`name` of an object is missing"),
        (lambda t: t.replace("<difficult>", "<difficult>x"), r"`difficult` .*'x0'; expected 0 or"),
        (lambda t: t.replace("xmax>", "xmid>").replace("xmin>", "xmax>").replace("xmid>", "xmin>"),
         r"no image with a box: .* left out \d+ boxes without width or height"),
    ],
)  # fmt: skip
def test_a_faulty_file_of_voc_is_named(
    drawn: Path, tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        CocoFolder(voc(drawn, tmp_path / "voc", change))


def test_boxes_of_an_unrotated_photo_are_refused(drawn: Path, tmp_path: Path) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: images/train\nnames: [box, disc]\n")
    path = folder / "images" / "train" / "0001.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as opened:
        opened.crop((0, 0, 64, 48)).save(path, exif=exif)
    (folder / "labels" / "train" / "0001.txt").write_text("0 0.5 0.75 0.5 0.5\n")
    image, target = CocoFolder(folder)[0]
    # Shares are those of the upright image, which is 48 wide and 64 high.
    assert image.shape == (3, 64, 48)
    assert target["boxes"].tolist() == [[12.0, 32.0, 36.0, 64.0]]


def labelme(drawn: Path, folder: Path, **changes: object) -> Path:
    """Writes the drawn folder as LabelMe's files; `changes` are of the first shape of each."""
    content = json.loads((drawn / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    shutil.copytree(drawn / "images", folder)
    for image in content["images"]:
        shapes: list[dict[str, object]] = []
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, width, height = item["bbox"]
                shape: dict[str, object] = {
                    "label": names[item["category_id"]],
                    "points": [[x + width, y + height], [x, y]],
                    "group_id": None,
                    "shape_type": "rectangle",
                    "flags": {},
                }
                shapes.append(shape if shapes else shape | changes)
        text: dict[str, object] = {"version": "5.5.0", "shapes": shapes, "imageData": "aGk="}
        text |= {"imagePath": f"C:\\photos\\{image['file_name']}", "imageHeight": SIDE}
        (folder / image["file_name"]).with_suffix(".json").write_text(json.dumps(text))
    return folder


def test_labelmes_files_are_the_same_boxes(drawn: Path, tmp_path: Path) -> None:
    assert_same(CocoFolder(labelme(drawn, tmp_path / "flat")), CocoFolder(drawn))
    labelme(drawn, tmp_path / "parts" / "train")
    labelme(drawn, tmp_path / "parts" / "valid")
    for name in ("0001", "0002"):
        (tmp_path / "parts" / "valid" / f"{name}.json").unlink()
    assert sorted(find_annotations(tmp_path / "parts")) == ["train", "val"]
    val = CocoFolder(tmp_path / "parts", split="val")
    assert (len(val), val.class_names) == (1, ["box", "disc"])


def test_shapes_of_labelme_are_the_boxes_around_them(drawn: Path, tmp_path: Path) -> None:
    folder = labelme(drawn, tmp_path / "shapes")
    first = folder / "0001.json"
    shapes = [
        {"label": "disc", "shape_type": "circle", "points": [[30, 30], [30, 40]]},
        {"label": "box", "points": [[1, 2], [9, 4], [5, 12]]},
        {"label": "disc", "shape_type": "point", "points": [[3, 3]]},
        {"label": "box", "shape_type": "polygon", "points": [[40, 40], [44, 40], [44, 46]]}
        | {"group_id": 1},
        {"label": "box", "shape_type": "polygon", "points": [[50, 50], [52, 50], [52, 56]]}
        | {"group_id": 1},
    ]
    first.write_text(json.dumps({"shapes": shapes, "imagePath": "0001.png"}))
    target = CocoFolder(folder)[0][1]
    assert target["boxes"].tolist() == [[20, 20, 40, 40], [1, 2, 9, 12], [40, 40, 52, 56]]
    assert target["labels"].tolist() == [2, 1, 1]
    annotated = read_annotations(folder).content["annotations"]
    assert [len(item.get("segmentation", ())) for item in annotated[:3]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": " "}, r"0001\.json: shape 0 has no `label`"),
        ({"shape_type": "spline"}, "`shape_type` of shape 0 is 'spline'; expected circle, mask"),
        ({"points": [[1, 2]]}, "`points` of '.*' are .*expected 2 or more pairs"),
        ({"points": [[1, "a"], [2, 3]]}, "expected 2 or more pairs of pixels"),
        ({"points": None}, "expected 2 or more pairs of pixels"),
        ({"shape_type": "polygon"}, "expected 3 or more pairs of pixels"),
    ],
)
def test_a_faulty_file_of_labelme_is_named(
    drawn: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CocoFolder(labelme(drawn, tmp_path / "faulty", **changes))


def test_an_image_of_labelme_that_is_missing_is_named(drawn: Path, tmp_path: Path) -> None:
    folder = labelme(drawn, tmp_path / "missing")
    (folder / "0002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0002\.json: image .*0002\.png.* is not in"):
        CocoFolder(folder)
