"""Folders of boxes as people have them: moved, renamed, unpacked, of another machine or tool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.detection_layouts import find_annotations
from tests.integrations.test_detection_layouts import SIDE, assert_same, drawn, labelme, voc, yolo
from tests.integrations.test_odd_annotations import Content, boxes, changed

__all__ = ["drawn"]  # a fixture


def test_an_image_of_two_labelme_files_is_refused(drawn: Path, tmp_path: Path) -> None:
    folder = labelme(drawn, tmp_path / "twice")
    shutil.copy(folder / "0001.json", folder / "copy.json")
    with pytest.raises(ValueError, match=r"0001\.json and .*copy\.json are both of the image"):
        CocoFolder(folder)


def test_labelmes_boxes_of_another_size_are_refused(drawn: Path, tmp_path: Path) -> None:
    folder = labelme(drawn, tmp_path / "resized")
    path = folder / "0001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "imageHeight": 2 * SIDE}))
    with pytest.raises(ValueError, match="are 64 x 128; the file has 64 x 64"):
        CocoFolder(folder)


@pytest.mark.parametrize("kind", ["rotation", "quadrilateral", "oriented_rectangle"])
def test_turned_rectangles_are_the_boxes_around_them(
    drawn: Path, tmp_path: Path, kind: str
) -> None:
    corners = [[10, 5], [20, 15], [10, 25], [1, 15]]
    folder = labelme(drawn, tmp_path / "turned", shape_type=kind, points=corners)
    assert CocoFolder(folder)[0][1]["boxes"][0].tolist() == [1, 5, 20, 25]


@pytest.mark.parametrize("folder", ["annotations", "json", "labels/train", "images", "train/json"])
def test_labelmes_files_may_lie_beside_images(drawn: Path, tmp_path: Path, folder: str) -> None:
    root = tmp_path / "apart"
    found = labelme(drawn, root / folder)
    images = root / "train" / "images" if folder.startswith("train") else root / "images"
    images = images / "train" if folder.endswith("/train") else images
    images.mkdir(parents=True, exist_ok=True)
    for path in found.glob("*.png"):
        path.rename(images / path.name)
    (found / "_classes.json").write_text("{}")
    assert_same(CocoFolder(root), CocoFolder(drawn))


@pytest.mark.parametrize("encoding", ["gbk", "utf-8", "utf-16"])
def test_vocs_files_are_read_in_the_encoding_that_they_state(
    drawn: Path, tmp_path: Path, encoding: str
) -> None:
    folder = voc(drawn, tmp_path / "encoded")
    for path in (folder / "Annotations").glob("*.xml"):
        text = path.read_text().replace("disc", "\u5706")
        path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    assert CocoFolder(folder).class_names == ["box", "\u5706"]
    path.write_bytes(b'<?xml version="1.0" encoding="gbk"?><annotation>\xff</annotation>')
    with pytest.raises(ValueError, match=rf"{path.stem}\.xml is not in the encoding"):
        CocoFolder(folder)


def test_an_image_of_voc_is_that_of_its_file_whatever_another_is_called(
    drawn: Path, tmp_path: Path
) -> None:
    folder = voc(drawn, tmp_path / "renamed")
    for path in (folder / "Annotations").glob("*.xml"):
        root = ElementTree.parse(path)
        name = root.find("filename")
        assert name is not None
        name.text = "0001.png"
        root.write(path)
    assert_same(CocoFolder(folder), CocoFolder(drawn))


def test_another_folder_of_the_data_set_and_other_files_are_told(
    drawn: Path, tmp_path: Path
) -> None:
    for given, meant in ((drawn / "images", drawn), (tmp_path, drawn)):
        with pytest.raises(FileNotFoundError, match=f"no annotations; {meant} has some, give that"):
            CocoFolder(given)
    for name in ("boxes.csv", "0001.xml"):
        (tmp_path / name).write_text("a")
        with pytest.raises(ValueError, match=f"{name} is a .* file; expected COCO"):
            CocoFolder(tmp_path / name)
    one = labelme(drawn, tmp_path / "labelme") / "0001.json"
    with pytest.raises(ValueError, match="LabelMe's file of one image; give its folder"):
        CocoFolder(one)
    with pytest.raises(ValueError, match=r"split is 'val'; .*drawn has no splits, leave it out"):
        CocoFolder(drawn, split="val")


@pytest.mark.parametrize("number", ["{}.0", "{}.000e+00"])
def test_classes_of_yolo_may_be_written_as_fractions(
    drawn: Path, tmp_path: Path, number: str
) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: images/train\nnames: [box, disc]\n")
    for path in (folder / "labels" / "train").iterdir():
        lines = [line.split(maxsplit=1) for line in path.read_text().splitlines()]
        path.write_text("\n".join(f"{number.format(one)} {rest}" for one, rest in lines))
    assert_same(CocoFolder(folder), CocoFolder(drawn), atol=1e-4)
    path.write_text("0.5 0.5 0.5 0.5 0.5")
    with pytest.raises(ValueError, match=r"class is '0\.5'; expected 0 to 1"):
        CocoFolder(folder)


def test_of_several_yamls_the_one_called_data_is_taken(drawn: Path, tmp_path: Path) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: images/train\nnames: [box, disc]\n")
    (folder / "coco.yaml").write_text("train: images/other\nnames: [a, b, c]\n")
    assert CocoFolder(folder).class_names == ["box", "disc"]
    (folder / "data.yaml").rename(folder / "mine.YML")
    (folder / "shapes.yaml").write_text((folder / "mine.YML").read_text())
    with pytest.raises(ValueError, match=r"coco\.yaml and .*shapes\.yaml both have `names`"):
        CocoFolder(folder)
    assert CocoFolder(folder / "mine.YML").class_names == ["box", "disc"]


def test_a_list_of_cvat_begins_with_a_folder_that_is_not_there(drawn: Path, tmp_path: Path) -> None:
    folder = yolo(drawn, tmp_path / "yolo", "train: train.txt\nnames: [box, disc]\n")
    names = (f"data/images/train/000{n}.png\n" for n in (1, 2, 3))
    (folder / "train.txt").write_text("".join(names))
    assert_same(CocoFolder(folder), CocoFolder(drawn), atol=1e-4)


@pytest.mark.parametrize(
    ("train", "val", "names"),
    [
        ("images/train", "images/val", "classes.txt"),
        ("train/images", "valid/images", "classes.txt"),
        ("obj_train_data", "obj_valid_data", "obj.names"),
    ],
)
def test_splits_beside_a_list_of_classes_are_kept(
    drawn: Path, tmp_path: Path, train: str, val: str, names: str
) -> None:
    made = yolo(drawn, tmp_path / "made", "")
    folder = tmp_path / "splits"
    for number in (1, 2, 3):
        images = folder / (val if number == 3 else train)
        labels = Path(str(images).replace("images", "labels"))
        for kind, place in (("images", images), ("labels", labels)):
            place.mkdir(parents=True, exist_ok=True)
            suffix = "png" if kind == "images" else "txt"
            shutil.copy(made / kind / "train" / f"000{number}.{suffix}", place)
    (folder / names).write_text("box\ndisc\n")
    assert sorted(find_annotations(folder)) == ["train", "val"]
    assert [len(CocoFolder(folder, split=one)) for one in ("train", "val")] == [2, 1]


def test_annotations_named_after_their_split(drawn: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(drawn / "images", tmp_path / "named" / split)
        shutil.copy(drawn / "annotations.json", tmp_path / "named" / f"{split}_annotations.json")
    assert sorted(find_annotations(tmp_path / "named")) == ["train", "val"]
    assert_same(CocoFolder(tmp_path / "named", split="val"), CocoFolder(drawn))


@pytest.mark.parametrize(
    "before", ["/home/me/data/", "C:\\data\\", "http://host/a/", "../../upload/1/"]
)
def test_images_by_paths_of_another_machine_are_found_by_their_names(
    drawn: Path, before: str
) -> None:
    expected = boxes(drawn)

    def moved(content: Content) -> None:
        for image in content["images"]:
            image["file_name"] = before + image["file_name"]

    assert boxes(changed(drawn, moved)) == expected
    (note,) = CocoFolder(drawn).notes
    assert note.endswith("and so on; '0001.png' is taken")


def test_equal_names_of_another_machine_are_no_images(drawn: Path) -> None:
    def moved(content: Content) -> None:
        for number, image in enumerate(content["images"]):
            image["file_name"] = f"/home/me/{number}/0001.png"

    with pytest.raises(FileNotFoundError, match=r"there is no file /home/me/0/0001\.png"):
        CocoFolder(changed(drawn, moved))


def test_boxes_that_single_precision_makes_flat_do_not_reach_a_training(drawn: Path) -> None:
    def given(*box: float) -> CocoFolder:
        return CocoFolder(changed(drawn, lambda c: c["annotations"][0].update(bbox=box)))

    assert "left out 1 box without width or height" in given(50, 10, 1e-6, 10).notes[0]
    for box in ((SIDE - 1e-7, 10, 5, 5), (-10, 5, 10 + 1e-7, 5)):
        with pytest.raises(ValueError, match="expected a box in the image"):
            given(*box)
