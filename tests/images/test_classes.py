"""Class folders against the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fbnetv3.images.classes import labelled_images, match_classes
from fbnetv3.images.labels import class_ids, class_names


def test_names_are_matched_whatever_their_case_and_ids_count() -> None:
    labels = (("tench", "n01440764"), ("Great_White-Shark", "n01484850"))
    found = match_classes(["n01484850", "Tench"], labels)
    assert found is not None
    assert found == [1, 0]
    assert match_classes(["a", "b"], labels) is None
    with pytest.raises(ValueError, match="zebra"):
        match_classes(["tench", "zebra"], labels)


@pytest.mark.parametrize("pattern", ["{}", "{:03}", "{:04}"])
def test_numbers_count_the_outputs_in_whatever_order_they_sort(pattern: str) -> None:
    folders = sorted(pattern.format(number) for number in range(1000))
    known = [(name,) for name in class_names("imagenet1k")]
    assert match_classes(folders, known) == [int(name) for name in folders]
    assert match_classes(folders, None, 1000) == [int(name) for name in folders]
    assert match_classes(folders[5:9], None) == [int(name) for name in folders[5:9]]


def test_names_that_are_numbers_go_before_counting() -> None:
    # A network that learnt folders "1" to "10", which sort as text.
    names = sorted(map(str, range(1, 11)))
    known = [(name,) for name in names]
    folders = [f"{number:02}" for number in range(1, 11)]
    assert match_classes(folders, known) == [names.index(str(n)) for n in range(1, 11)]


@pytest.mark.parametrize(
    ("folders", "known", "message"),
    [
        # "1" is the name of output 0, and the count of output 1.
        (["0", "1", "2"], [("1",), ("2",), ("3",)], "some are names .* and 0 are not; name all"),
        (["1", "2", "3"], [("a",), ("b",), ("c",)], "numbered 1 to 3; .* are 0 to 2: number them"),
        (["1", "01"], [("a",), ("b",)], "'1' and '01' are the same class .*, number 1"),
        (["tench", "n01440764"], [("tench", "n01440764")], "'tench' and 'n01440764' are the same"),
        (
            ["0", "cat"],
            [("cat",), ("dog",)],
            "1 of the 2 class folders are named after classes .*, but not 0",
        ),
    ],
)
def test_what_could_be_two_things_is_refused(
    folders: Sequence[str], known: Sequence[tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(folders, known)


def test_names_that_differ_only_in_case_are_told_apart() -> None:
    known = [("a",), ("A",)]
    assert match_classes(["A", "a"], known) == [1, 0]


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_calibration_and_evaluation_take_their_part_of_a_data_set(tmp_path: Path) -> None:
    files(tmp_path, *(f"set/{p}/{c}/1.jpg" for p in ("Training", "Testing") for c in ("b", "a")))
    for part, folder in (("train", "Training"), ("val", "Testing")):
        found = labelled_images(tmp_path, ("x", "b", "a"), part=part)  # type: ignore[arg-type]
        root = tmp_path / "set" / folder
        assert found.paths == [root / "a" / "1.jpg", root / "b" / "1.jpg"]
        assert found.labels == [2, 1]
        assert found.notes == (
            f"{tmp_path} only wraps {tmp_path / 'set'}, which was used",
            f"of {tmp_path}, only {root} was used",
        )


def test_imagenets_identifiers_are_names_of_its_networks(tmp_path: Path) -> None:
    chosen = (281, 3, 999)
    files(tmp_path, *(f"{class_ids('imagenet1k')[n]}/1.JPEG" for n in chosen))
    assert labelled_images(tmp_path, class_names("imagenet1k")).labels == [3, 281, 999]


def test_folders_that_are_no_classes_leave_images_without_labels(tmp_path: Path) -> None:
    files(tmp_path, "2020/may/1.jpg", "2021/1.jpg", "loose.jpg", "x.heic")
    found = labelled_images(tmp_path / "2021", ("cat", "dog"))
    assert found.labels is None
    files(tmp_path / "trips", "rome/1.jpg", "oslo/may/2.jpg", "loose.jpg", "x.heic")
    found = labelled_images(tmp_path / "trips", ("cat", "dog"))
    assert (len(found.paths), found.labels) == (3, None)
    assert ".heic 1" in found.notes[0]


def test_a_folder_without_images_says_what_lies_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in .*SUFFIXES .*\.heic 1"):
        labelled_images(files(tmp_path, "a/1.heic"), ("a", "b"))
