"""Lists of images in place of folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fbnetv3.images.listing import read_list
from fbnetv3.search.data.datasets import open_images, open_train_val


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Returns a folder of the images 0.png to 7.png, of noise."""
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "0.png,cat\n1.png,dog\n2.png,cat\n",
        "file,label\n0.png,cat\n1.png,dog\n2.png,cat\n",
        "\ufeffID;Class;Path\r\n7;cat;0.png\r\n8;dog;1.png\r\n\r\n9;cat;2.png\r\n",
        'image\tlabel\n"0.png"\tcat\n1.png\tdog\n2.png\tcat\n',
        # Names of columns that nobody knows; the label first; what programs write above.
        "photo_no,kind\n0.png,cat\n1.png,dog\n2.png,cat\n",
        "cat,0.png\ndog,1.png\ncat,2.png\n",
        "sep=;\n# by hand\n\nfile;label\n0.png;cat\n1.png;dog\n2.png;cat\n",
        # Without separators, and from Windows.
        "0.png cat\n1.png dog\n2.png cat\n",
        ".\\0.png,cat\n.\\1.png,dog\n.\\2.png,cat\n",
        # Behind rows' numbers, without names; another case than the file's.
        "0,0.png,cat\n1,1.png,dog\n2,2.png,cat\n",
        "0.PNG,cat\n1.PNG,dog\n2.PNG,cat\n",
        # Quoted as Python does it.
        "'img','kind'\n'0.png','cat'\n'1.png','dog'\n'2.png','cat'\n",
    ],
)
def test_columns_are_found_by_name_or_are_the_first_two(photos: Path, text: str) -> None:
    found = read_list(listed(photos, text))
    assert found.classes == ("cat", "dog")
    assert found.paths == tuple(photos / f"{number}.png" for number in range(3))
    assert found.labels == (0, 1, 0)


def test_excels_unicode_text_is_read(photos: Path) -> None:
    path = photos / "list.txt"
    path.write_text("file\tlabel\n0.png\tcaf\u00e9\n1.png\tdog\n", encoding="utf-16")
    assert read_list(path).classes == ("caf\u00e9", "dog")


def test_the_split_column_tells_training_from_validation(photos: Path) -> None:
    rows = ["0.png,a,train", "1.png,b,Train", "2.png,a,valid", "3.png,c,training", "4.png,b,dev"]
    path = listed(photos, "\n".join(["file,label,split", *rows]))
    train, val = open_train_val(path)
    assert train.classes == val.classes == ("a", "b", "c")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 2], [0, 1])
    assert any("no image of 1 class, not measured: 'c'" in note for note in val.notes)
    assert len(open_images(path, "train")) == 3
    assert len(open_images(path)) == 2


def test_a_third_column_without_a_name_may_be_the_split(photos: Path) -> None:
    rows = ["0.png,a,train", "1.png,b,train", "2.png,a,val", "3.png,b,val"]
    train, val = open_train_val(listed(photos, "\n".join(rows)))
    assert (len(train), len(val)) == (2, 2)
    assert read_list(listed(photos, "\n".join(rows)), "val").paths[0] == photos / "2.png"


def test_test_rows_are_left_out_beside_validation_and_validate_without_it(photos: Path) -> None:
    rows = ["file,label,split", "0.png,a,train", "1.png,b,train", "2.png,a,test", "3.png,b,test"]
    assert len(read_list(listed(photos, "\n".join(rows)), "val").paths) == 2
    path = listed(photos, "\n".join([*rows, "4.png,a,val"]))
    found = read_list(path, "val")
    assert found.paths == (photos / "4.png",)
    assert found.notes == (
        f"rows of {path} with split test are for neither training nor validation and were left out",
    )


def test_a_list_for_training_alone_is_split(photos: Path) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]},train" for n in range(8)]
    train, val = open_train_val(listed(photos, "\n".join(["file,label,split", *rows])))
    assert (train.counts, val.counts) == ([3, 3], [1, 1])


def test_a_name_with_its_accent_encoded_otherwise_finds_the_file(photos: Path) -> None:
    (photos / "0.png").rename(photos / "cafe\u0301.png")
    found = read_list(listed(photos, "caf\u00e9.png,a\n1.png,b\n"))
    assert found.paths[0] == photos / "cafe\u0301.png"
    # Two that are meant alike are not guessed between.
    (photos / "2.png").rename(photos / "CAFE\u0301.png")
    found = read_list(listed(photos, "caf\u00e9.png,a\n1.png,b\n3.png,b\n"))
    assert found.paths[0] == photos / "caf\u00e9.png"


def test_a_list_without_a_split_is_split_by_class(photos: Path) -> None:
    path = listed(photos, "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8)))
    train, val = open_train_val(path, val_share=0.25)
    assert train.labels.bincount().tolist() == [3, 3]
    assert val.labels.bincount().tolist() == [1, 1]
    assert len(open_images(path)) == 8
    with pytest.raises(ValueError, match="no split column"):
        open_images(path, "train")


def test_a_file_that_is_listed_or_linked_to_twice_counts_once(photos: Path) -> None:
    os.symlink(photos / "0.png", photos / "link.png")
    path = listed(photos, "0.png,a\nlink.png,a\n./0.png,a\n1.png,b\n")
    found = read_list(path)
    assert found.paths == (photos / "0.png", photos / "1.png")
    assert found.notes == (f"files that {path} lists again count once: 2 rows",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty; expected rows of file,label"),
        ("file,label\n", "lists no image"),
        ("0.png,a\n1.png\n", "line 2: expected a file and a label, found '1.png'"),
        ("0.png,a\n1.png,a\n", "only one class, 'a'"),
        ("file,label,split\n0.png,a,later\n", "line 2: split is 'later'; expected train or val"),
        ("0.png,a\n1.png,b\n0.png,b\n", "lines 1 and 3: .*0.png is 'a' and 'b'"),
        ("file,label\nhttps://example.com/0.png,a\n", "line 2: 'https://.*0.png' is an address"),
        ("file,label\n0.png," + "x" * 200_000, "is no CSV: field larger than"),
        ("0.png\0,a\n", r"not text in UTF-8 \(null bytes\)"),
        (
            "file,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,val\n3.png,z,val\n",
            r"only in validation \['z'\]",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(
    photos: Path, text: str, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        open_train_val(listed(photos, text))


def test_a_list_that_is_no_text_is_refused(photos: Path) -> None:
    path = photos / "list.csv"
    path.write_bytes("0.png,caf\u00e9".encode("latin-1"))
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_list(path)


def test_a_missing_file_is_named(photos: Path) -> None:
    rows = [f"{n}.png,{'ab'[n % 2]}" for n in range(8)]
    train, _ = open_train_val(listed(photos, "\n".join([*rows, "gone.png,a"])))
    assert any("gone.png" in note for note in train.notes)
    with pytest.raises(ValueError, match=r"gone.png.*lost.png"):
        open_train_val(listed(photos, "\n".join([*rows, "gone.png,a", "lost.png,b"])))


@pytest.mark.parametrize(
    "text",
    [
        "file,labels\n0.png,cat dog\n1.png,\n2.png,bird\n",
        "fname,tags\n0.png,dog cat cat\n1.png,\n2.png,bird\n",
        "file,label\n0.png,cat|dog\n1.png, | \n2.png,bird\n",
        "0.png,cat;dog\n1.png,;\n2.png,bird\n",
        'file,labels\n0.png,"cat, dog"\n1.png,\n2.png,bird\n',
        "file,labels\n0.png,\"['cat', 'dog']\"\n1.png,[]\n2.png,['bird']\n",
        "file;labels\n0.png;cat,dog\n1.png;\n2.png;bird\n",
    ],
)
def test_several_labels_in_a_cell_are_told_from_one(photos: Path, text: str) -> None:
    found = read_list(listed(photos, text))
    assert found.classes == ("bird", "cat", "dog")
    assert found.label_sets == ((1, 2), (), (0,))
    assert (found.labels, found.paths) == ((), tuple(photos / f"{n}.png" for n in range(3)))
    assert len(found.notes) == 1
    assert "--task single-label" in found.notes[0]


def test_names_of_classes_with_spaces_stay_whole_in_a_column_for_one_label(photos: Path) -> None:
    text = "file,label\n0.png,golden retriever\n1.png,tabby cat\n"
    assert read_list(listed(photos, text)).classes == ("golden retriever", "tabby cat")
    several = listed(photos, text.replace("label", "labels"))
    assert read_list(several).classes == ("cat", "golden", "retriever", "tabby")
    assert read_list(several, task="single-label").classes == ("golden retriever", "tabby cat")


def test_a_column_of_zeros_and_ones_for_each_class_is_read(photos: Path) -> None:
    text = "image_id,zebra,ant,split\n0,1,1.0,train\n1,0,0,train\n2,,TRUE,val\n"
    path = listed(photos, text)
    found = read_list(path)
    assert found.classes == ("zebra", "ant")  # in the order of their columns
    assert found.label_sets == ((0, 1), (), (1,))
    assert found.paths == tuple(photos / f"{n}.png" for n in range(3))  # the suffix is found
    train, val = open_train_val(path)
    assert train.multi_label
    assert train.labels.tolist() == [[True, True], [False, False]]
    assert val.labels.tolist() == [[False, True]]
    assert any("not measured: 'zebra'" in note for note in val.notes)


def test_columns_of_which_each_row_has_exactly_one_are_single_labels(photos: Path) -> None:
    path = listed(photos, "file,a,b\n0.png,1,0\n1.png,0,1\n2.png,0,1\n")
    assert read_list(path).labels == (0, 1, 1)
    assert "--task multi-label" in read_list(path).notes[0]
    assert read_list(path, task="multi-label").label_sets == ((0,), (1,), (1,))


def test_rows_of_one_file_unite_where_images_have_several_labels(photos: Path) -> None:
    path = listed(photos, "0.png,a\n1.png,b\n0.png,b\n")
    with pytest.raises(ValueError, match=r"lines 1 and 3.*--task multi-label"):
        read_list(path)
    found = read_list(path, task="multi-label")
    assert found.label_sets == ((0, 1), (1,))


def test_fastais_is_valid_tells_the_split(photos: Path) -> None:
    path = listed(photos, "fname,labels,is_valid\n0.png,a b,False\n1.png,b,True\n2.png,a,\n")
    assert read_list(path, "train").label_sets == ((0, 1), (0,))
    assert read_list(path, "val").label_sets == ((1,),)


@pytest.mark.parametrize(
    ("text", "task", "named"),
    [
        ("file,a,b\n0.png,1,0\n1.png,2,0\n", "auto", "line 3: column 'a' has '2'; expected 0"),
        ("file,labels\n0.png,\n1.png,\n", "multi-label", "has no label in any row"),
        ("file,labels\n0.png,a b\n,a\n", "auto", "line 3: expected a file and a label"),
        ("0.png,a\n1.png,b\n", "both", "task is 'both'; expected auto, single-label"),
    ],
)
def test_what_is_wrong_with_a_list_of_several_labels_is_said(
    photos: Path, text: str, task: str, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        read_list(listed(photos, text), task=task)  # type: ignore[arg-type]


def test_folders_are_refused_for_several_labels(photos: Path) -> None:
    for n in range(4):
        folder = photos / "data" / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(photos / f"{n}.png", folder / f"{n}.png")
    with pytest.raises(ValueError, match="one label per image; --task multi-label expects a CSV"):
        open_train_val(photos / "data", task="multi-label")


def test_a_long_list_costs_one_look_at_each_file(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(photos, "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(2000)))
    looks: dict[str, int] = {}
    for name in ("stat", "lstat", "readlink"):
        plain = getattr(os, name)

        def counted(*args: object, name: str = name, plain: Any = plain, **kwargs: Any) -> Any:
            looks[name] = looks.get(name, 0) + 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(os, name, counted)
    assert len(read_list(path).paths) == 2000
    assert sum(looks.values()) <= 2000 + 40, looks
    read_list(path, task="auto")  # the list was kept
    assert sum(looks.values()) <= 2000 + 45, looks


def moved(photos: Path, *folders: str) -> None:
    """Moves the photos to folders, in turn."""
    for number in range(8):
        folder = photos / folders[number % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        (photos / f"{number}.png").rename(folder / f"{number}.png")


KAGGLE = "id_code,diagnosis\n" + "".join(f"{n},{n % 2}\n" for n in range(8))


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        (KAGGLE, ["train_images"]),
        (KAGGLE, ["data/images"]),
        (KAGGLE, ["part_1", "part_2"]),
        (KAGGLE, ["."]),
        (KAGGLE.replace("id_code,diagnosis\n", ""), ["train"]),
        (KAGGLE.replace("id_code", "image_id"), ["train"]),
    ],
)
def test_images_in_folders_beside_the_list_are_found(
    photos: Path, text: str, folders: list[str]
) -> None:
    moved(photos, *folders)
    found = read_list(listed(photos, text))
    assert found.labels == (0, 1) * 4
    homes = [photos / folders[n % len(folders)] for n in range(8)]
    assert found.paths == tuple(home / f"{n}.png" for n, home in enumerate(homes))
    noted = any(f"{photos / folders[0]}" in note for note in found.notes)
    assert noted == (folders != ["."])


def test_a_list_for_training_takes_the_folder_for_training(photos: Path) -> None:
    moved(photos, "test_images")
    shutil.copytree(photos / "test_images", photos / "train_images")
    (photos / "train.csv").write_text(KAGGLE)
    found = read_list(photos / "train.csv")
    assert {path.parent.name for path in found.paths} == {"train_images"}
    (photos / "train.csv").rename(photos / "rows.csv")
    with pytest.raises(
        ValueError, match=r"rows\.csv, line 2: '0' is in .*test_images and in .*train"
    ):
        read_list(photos / "rows.csv")


@pytest.mark.parametrize("folders", [["photos"], ["."]])
def test_names_may_be_relative_to_the_folder_above_or_to_one_in_it(
    photos: Path, folders: list[str]
) -> None:
    moved(photos, *folders)
    (photos / "lists").mkdir()
    found = read_list(listed(photos / "lists", KAGGLE))
    assert found.paths == tuple(photos / folders[0] / f"{n}.png" for n in range(8))


def test_names_may_be_relative_to_the_current_folder(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    found = read_list(listed(tmp_path_factory.mktemp("lists"), KAGGLE))
    assert [path.resolve() for path in found.paths] == [photos / f"{n}.png" for n in range(8)]


def test_a_folder_with_a_list_says_how_to_give_it(photos: Path) -> None:
    moved(photos, "train_images")
    (photos / "labels.csv").write_text(KAGGLE)
    for folder in (photos, photos / "train_images"):
        with pytest.raises(ValueError, match=r"give a list of images itself, as in --data .*\.csv"):
            open_images(folder)
        shutil.copy(photos / "labels.csv", photos / "train_images")


def test_a_first_photo_that_is_missing_is_not_taken_for_names(photos: Path) -> None:
    found = read_list(
        listed(photos, "x,cat\n" + "".join(f"{n},{'cd'[n % 2]}at\n" for n in range(4)))
    )
    assert [path.stem for path in found.paths] == ["x", "0", "1", "2", "3"]


def test_lists_of_the_parts_in_a_folder_are_read_together(photos: Path) -> None:
    moved(photos, "images")
    (photos / "train.csv").write_text("file,label\n0.png,b\n1.png,a\n2.png,b\n3.png,c\n")
    (photos / "val.csv").write_text("file,label\n4.png,b\n5.png,c\n")
    (photos / "test.csv").write_text("file,label\n6.png,b\n7.png,c\n")
    (photos / "sample_submission.csv").write_text("file,label\n6.png,a\n")
    train, val = open_train_val(photos)
    assert train.classes == val.classes == ("a", "b", "c")
    assert (train.labels.tolist(), val.labels.tolist()) == ([1, 0, 1, 2], [1, 2])
    assert any("test.csv is for neither" in note for note in train.notes)
    assert len(open_images(photos)) == 2


def test_a_list_for_testing_without_labels_is_left_out(photos: Path) -> None:
    moved(photos, "train_images", "test_images")
    (photos / "train.csv").write_text("id_code,diagnosis\n0,1\n2,0\n4,1\n6,0\n")
    (photos / "test.csv").write_text("id_code\n1\n3\n5\n7\n")
    train, val = open_train_val(photos)
    assert (len(train), len(val), train.classes) == (2, 2, ("0", "1"))
    assert any("test.csv has no labels" in note for note in train.notes)


def test_class_folders_come_before_lists_beside_them(photos: Path) -> None:
    moved(photos, "cat", "dog")
    (photos / "train.csv").write_text("file,label\n0.png,a\n1.png,b\n")
    assert open_images(photos).classes == ("cat", "dog")


def test_folders_that_only_divide_a_list_s_images_are_remarked_on(photos: Path) -> None:
    moved(photos, "images_part_1", "images_part_2")
    path = photos / "metadata.csv"
    rows = [f"lesion{n},{n},{'nv' if n % 2 else 'mel'},60.0" for n in range(4)]
    path.write_text("\n".join(["lesion_id,image_id,dx,age", *rows]) + "\n")
    [note] = [note for note in open_images(photos).notes if "taken for the classes" in note]
    assert note.endswith(f"if it has the classes, give --data {path}")
    assert open_images(path).classes == ("mel", "nv")
    # Where the list has the folders' classes, or is about something else, there is no remark.
    for text in (
        "file,label\n0.png,images_part_1\n1.png,images_part_2\n",
        "author,year\nx,1\n",
        "x,y,z\n" + "1,2,3\n" * 9,  # numbers that happen to be names of images
    ):
        path.write_text(text)
        assert not any("taken for the classes" in note for note in open_images(photos).notes)
    path.unlink()
    path.symlink_to("elsewhere.csv")
    assert not any("taken for the classes" in note for note in open_images(photos).notes)


def test_tiny_imagenets_layout_is_read(photos: Path) -> None:
    moved(photos, "train/n1/images", "train/n2/images", "train/n3/images", "val/images")
    for name in ("n1", "n2", "n3"):
        (photos / "train" / name / f"{name}_boxes.txt").write_text("0.png\t0\t0\t62\t63\n")
    (photos / "val" / "val_annotations.txt").write_text(
        "3.png\tn3\t0\t32\t44\t62\n7.png\tn1\t52\t55\t57\t59\n"
    )
    (photos / "words.txt").write_text("n1\trose\nn2\ttulip\n")
    train, val = open_train_val(photos)
    assert train.classes == val.classes == ("n1", "n2", "n3")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 0, 1, 1, 2, 2], [2, 0])
    assert open_images(photos).classes == ("n1", "n2", "n3")
