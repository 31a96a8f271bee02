"""Class lists against independent orders, and the photos of the package."""

from typing import Any

import pytest
from PIL import Image

from fbnetv3.images.labels import CLASS_LISTS, class_ids, class_names, example_photos

# Index, folder, and name as everyone who works with ImageNet knows them.
LANDMARKS = [
    (0, "n01440764", "tench"),
    (134, "n02012849", "crane (bird)"),
    (281, "n02123045", "tabby"),
    (285, "n02124075", "Egyptian cat"),
    (388, "n02510455", "giant panda"),
    (517, "n03126707", "crane (machine)"),
    (638, "n03710637", "maillot (tights)"),
    (639, "n03710721", "maillot (swimsuit)"),
    (999, "n15075141", "toilet tissue"),
]


@pytest.mark.parametrize(("index", "wnid", "name"), LANDMARKS)
def test_imagenet_landmarks_are_where_they_belong(index: int, wnid: str, name: str) -> None:
    assert class_ids("imagenet1k")[index] == wnid
    assert class_names("imagenet1k")[index] == name


def test_imagenet_is_ordered_by_wordnet_number() -> None:
    ids = class_ids("imagenet1k")
    assert len(ids) == 1000
    assert list(ids) == sorted(set(ids))


def test_imagenet_agrees_with_timm() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo()  # untyped
    assert info.label_names() == list(class_ids("imagenet1k"))
    descriptions = info.label_descriptions(as_dict=True)
    for wnid, name in zip(class_ids("imagenet1k"), class_names("imagenet1k"), strict=True):
        assert descriptions[wnid].split(", ")[0] == name.split(" (")[0]


def test_cifar10_has_the_order_of_its_publication() -> None:
    expected = "airplane automobile bird cat deer dog frog horse ship truck"
    assert class_names("cifar10") == tuple(expected.split())
    assert class_ids("cifar10") == class_names("cifar10")


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_names_are_clean_and_differ(name: str) -> None:
    names = class_names(name)
    assert len(set(names)) == len(names)
    assert all(label == label.strip() and label.isascii() and label for label in names)


def test_an_unknown_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'imagenet'.*imagenet1k"):
        class_names("imagenet")


def test_photos_are_small_and_each_has_its_licence() -> None:
    photos = example_photos()
    assert 3 <= len(photos) <= 5
    assert sum(path.stat().st_size for path in photos) < 300_000
    licences = (photos[0].parent / "LICENSES.txt").read_text()
    for path in photos:
        assert path.name in licences
        with Image.open(path) as photo:
            photo.verify()
