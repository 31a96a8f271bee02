"""Folders as people have them: what counts, what is passed over and said, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fbnetv3.images.folders import (
    find_images,
    list_images,
    open_data_folder,
    read_class_folders,
)


def touch(root: Path, *names: str) -> Path:
    """Makes empty files, with the folders above them; no rule here looks into one."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def relative(root: Path, paths: tuple[Path, ...] | list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_list_images_is_recursive_sorted_and_by_suffix(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/notes.txt", "c.webp", ".hidden.jpg", "a/b/x.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/b/x.tiff", "a/z.png", "b.JPG", "c.webp"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a folder"):
        list_images(tmp_path / "b.JPG")


def test_what_is_called_like_an_image_and_is_none_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find_images(tmp_path).notes[0].endswith("extension: not a regular file 1")


def test_a_class_whose_name_is_no_utf_8_is_refused_before_the_work(tmp_path: Path) -> None:
    for name in (b"cat", b"b\xfft"):
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "1.png").touch()
    with pytest.raises(ValueError, match=r"b\\udcfft is not UTF-8, .*; rename it"):
        read_class_folders(tmp_path)


def test_files_that_are_no_images_are_counted_and_told(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.avif",
        "a.jfif",
        "a.webp",
        "x.heic",
        "y.HEIC",
        "z/labels.csv",
        "README",
        "LICENSES.txt",
    )
    found = find_images(tmp_path)
    assert relative(tmp_path, found.images) == ["a.avif", "a.jfif", "a.webp"]
    assert found.notes == (
        "skipped 4 files without an image's extension: .heic 2, no extension 1, .csv 1",
    )


@pytest.mark.parametrize(
    "junk",
    [
        *(".ipynb_checkpoints/cat-checkpoint.jpg", "@eaDir/1.jpg", "__MACOSX/._1.jpg"),
        *(".hidden.jpg", "._1.jpg", "Thumbs.db", ".DS_Store", "desktop.ini"),
    ],
)
def test_what_systems_leave_behind_is_ignored_at_every_depth(tmp_path: Path, junk: str) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", junk, f"cat/{junk}", f"cat/more/{junk}")
    assert relative(tmp_path, list_images(tmp_path)) == ["cat/1.jpg", "dog/1.jpg"]
    found = read_class_folders(open_data_folder(tmp_path).root)
    assert found.classes == ("cat", "dog")
    assert relative(tmp_path, found.paths) == ["cat/1.jpg", "dog/1.jpg"]
    assert found.notes == ()


def test_a_link_is_followed_once_and_loops_end(tmp_path: Path) -> None:
    store = touch(tmp_path / "store", "cat/1.jpg", "cat/2.jpg", "single.png")
    data = touch(tmp_path / "data", "dog/1.jpg")
    (data / "cat").symlink_to(store / "cat")
    (data / "dog" / "linked.png").symlink_to(store / "single.png")
    (data / "dog" / "again.jpg").symlink_to(data / "dog" / "1.jpg")
    (data / "dog" / "twice.png").symlink_to(store / "single.png")
    (data / "dog" / "up").symlink_to(data)
    (store / "cat" / "up").symlink_to(store)
    (data / "dog" / "self").symlink_to(data / "dog" / "self")
    expected = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/linked.png"]
    assert relative(data, list_images(data)) == expected
    assert relative(data, read_class_folders(data).paths) == expected


def test_a_folder_named_by_one_inside_it_is_searched_whole(tmp_path: Path) -> None:
    inside = tmp_path / "labels"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "a.png").touch()
    assert [path.resolve() for path in list_images(inside / "..")] == list_images(tmp_path)


def test_a_link_to_nowhere_is_listed_so_that_its_reader_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert relative(tmp_path, list_images(tmp_path)) == ["a.jpg", "gone.jpg"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Train", "Valid"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("training", "validation"),
        ("training_set", "test_set"),
        ("train", "test"),
        ("Train", "dev"),
        ("train_images", "Val Images"),
        ("seg_train", "seg_test"),
        ("trainval", "test"),
        ("dataset-train", "dataset-valid"),
    ],
)
def test_parts_are_known_by_their_usual_names(tmp_path: Path, train: str, val: str) -> None:
    touch(tmp_path, *(f"{part}/{name}/1.jpg" for part in (train, val) for name in "ab"))
    found = open_data_folder(tmp_path)
    assert found.parts == {"train": tmp_path / train, "val": tmp_path / val}
    assert found.notes == ()


def test_validation_is_preferred_to_test(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{c}/1.jpg" for part in ("Train", "Test", "Valid") for c in "ab"))
    assert open_data_folder(tmp_path).parts["val"] == tmp_path / "Valid"


def test_parts_that_are_not_used_are_said(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(
            f"{part}/{name}/1.jpg"
            for part in ("train", "training", "val", "test")
            for name in ("cat", "dog")
        ),
    )
    found = open_data_folder(tmp_path)
    assert found.parts == {"train": tmp_path / "train", "val": tmp_path / "val"}
    assert found.notes == (
        f"folders of {tmp_path} beside its train and val folders were skipped: test, training",
    )


def test_a_folder_without_classes_says_what_lies_there(tmp_path: Path) -> None:
    touch(tmp_path, "shard-0.tar.gz", "shard-1.tar.gz")
    with pytest.raises(ValueError, match=r"no class folders; .*\(skipped 2 files .*: \.gz 2\)"):
        read_class_folders(tmp_path)


def test_one_part_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{c}/1.jpg" for part in ("train", "Train") for c in "ab"))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("the file system tells no case")
    with pytest.raises(ValueError, match="name the same part of a data set; keep one"):
        open_data_folder(tmp_path)


def test_a_wrapper_is_passed_through_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "photos/set/cat/1.jpg", "photos/set/dog/1.jpg", "photos/README.txt")
    found = open_data_folder(tmp_path)
    assert found.root == tmp_path / "photos" / "set"
    assert found.notes == (f"{tmp_path} only wraps {found.root}, which was used",)
    wrapped = touch(
        tmp_path / "w", *(f"data/{p}/{c}/1.jpg" for p in ("train", "val") for c in "ab")
    )
    assert set(open_data_folder(wrapped).parts) == {"train", "val"}


def test_a_wrapper_inside_a_part_is_passed_through_and_said(tmp_path: Path) -> None:
    parts = ("training_set/training_set", "test_set/images")
    touch(tmp_path, *(f"{part}/{name}/1.jpg" for part in parts for name in ("cats", "dogs")))
    found = open_data_folder(tmp_path)
    assert found.parts == {"train": tmp_path / parts[0], "val": tmp_path / parts[1]}
    assert found.notes == tuple(
        f"{(tmp_path / part).parent} only wraps {tmp_path / part}, which was used" for part in parts
    )


def test_a_class_folder_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "frog").symlink_to(tmp_path / "nowhere")
    found = read_class_folders(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.notes == (f"skipped 1 broken link in {tmp_path}: frog",)


def test_one_class_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg")
    with pytest.raises(ValueError, match=r"holds only one class, 'cat'; expected .* two classes"):
        read_class_folders(open_data_folder(tmp_path).root)


def test_folders_that_hold_only_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{group}/{name}/1.jpg" for group in ("one", "two") for name in "ab"))
    with pytest.raises(
        ValueError, match=r"hold only folders, such as .*one/a, and no images; give the"
    ):
        read_class_folders(open_data_folder(tmp_path).root)


def test_images_may_lie_deeper_in_a_class_where_others_do_not(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/night/2.jpg", "dog/day/1.jpg")
    found = read_class_folders(tmp_path)
    assert found.labels == (0, 0, 1)


@pytest.mark.parametrize("name", ["train", "Test", "_other", "val"])
def test_a_class_may_be_called_like_a_part_or_begin_with_an_underscore(
    tmp_path: Path, name: str
) -> None:
    touch(tmp_path, "bus/1.jpg", f"{name}/1.jpg", "car/1.jpg")
    found = open_data_folder(tmp_path)
    assert found.parts == {}
    assert set(read_class_folders(found.root).classes) == {"bus", "car", name}


def test_a_class_called_like_a_part_that_holds_folders_says_that_the_name_is_taken(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "bus/1.jpg", "train/steam/1.jpg", "car/1.jpg")
    with pytest.raises(ValueError, match=r"rename it if it is a class \(its name is reserved\)"):
        open_data_folder(tmp_path)


def test_parts_without_classes_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "test/1.jpg")
    with pytest.raises(
        ValueError, match="holds only 'test' and 'train', without class folders inside"
    ):
        open_data_folder(tmp_path)


def test_what_lies_beside_parts_and_classes_is_said(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{name}/1.jpg" for part in ("train", "val") for name in "ab"))
    touch(tmp_path, "test/1.jpg", "unlabelled/1.jpg", "notes/a.txt", "train/loose.jpg")
    found = open_data_folder(tmp_path)
    assert found.notes == (
        f"folders of {tmp_path} beside its train and val folders were skipped: test, unlabelled",
    )
    (note,) = read_class_folders(found.parts["train"]).notes
    assert note.startswith("skipped 1 image beside the class folders of")
    assert note.endswith("without a class: loose.jpg")


def test_an_empty_class_is_refused_unless_the_classes_are_given(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.heic")
    with pytest.raises(ValueError, match=r"b holds no image; add some or remove it .*\.heic 1"):
        read_class_folders(tmp_path)
    found = read_class_folders(tmp_path, ("a", "b", "c"))
    assert (found.classes, found.labels) == (("a", "b", "c"), (0,))
