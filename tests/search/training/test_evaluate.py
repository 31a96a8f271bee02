"""Evaluation: counts, intervals, names and order of classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fbnetv3.images.reader import open_image
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training import photos
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.evaluate import (
    class_order_warning,
    evaluate,
    wilson_pct,
)
from fbnetv3.search.training.multi_label import score_multi_label_each
from fbnetv3.search.training.networks import Network
from fbnetv3.search.training.scoring import score_each
from tests.search.tiny import NUM_CLASSES, tiny_images

CPU = Hardware.of("cpu")


class Quarters(nn.Module):
    """Tells the tiny images' class without learning: the brightest quarter, in a given order."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, 4)."""
        quarters = nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)
        return quarters[:, list(self.order)]


def evaluated(model: nn.Module, images: ImageSet, **known: Any) -> Any:
    return evaluate(Network(model, default_preprocess(images, 16), **known), images, hardware=CPU)


@pytest.mark.parametrize(("hits", "num"), [(0, 10), (7, 10), (9573, 10000), (10, 10)])
def test_the_interval_is_where_the_score_test_just_holds(hits: int, num: int) -> None:
    # Wilson's ends are the shares p with |hits/num - p| = z sqrt(p (1 - p) / num).
    for end in wilson_pct(hits, num):
        p = end / 100
        if 0 < p < 1:
            assert abs(hits / num - p) == pytest.approx(1.959964 * (p * (1 - p) / num) ** 0.5)
    assert wilson_pct(0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert wilson_pct(10, 10)[1] == pytest.approx(100)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_photo_is_decoded_once_for_several_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    images = tiny_images(6)
    assert images.pixels is not None
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, pixels in zip(paths, images.pixels, strict=True):
        Image.fromarray(pixels.numpy()).save(path)
    labels = nn.functional.one_hot(images.labels, NUM_CLASSES).bool()
    files = ImageSet(
        name="files",
        classes=images.classes,
        labels=labels if multi_label else images.labels,
        sources=tuple(paths),
    )
    opened: list[Path] = []

    def counted(path: Path) -> Image.Image:
        opened.append(path)
        return open_image(path)

    monkeypatch.setattr(photos, "open_image", counted)
    models = [Quarters(), Quarters((1, 0, 2, 3))]
    options: Any = {"device": torch.device("cpu")}
    right = default_preprocess(images, 16)
    if multi_label:
        scores = [one.map_pct for one in score_multi_label_each(models, files, right, **options)]
        assert scores[0] == 100 > scores[1]
    else:
        accuracies = [one.top1_pct for one in score_each(models, files, right, **options)]
        # The second takes each of the first two classes for the other; these have two images each.
        assert accuracies == pytest.approx([100, 100 / 3])
    assert sorted(opened) == paths


def test_every_image_counts_once_and_classes_add_up() -> None:
    images = tiny_images(50)
    wrong = images.labels.clone()
    wrong[:5] = (wrong[:5] + 1) % NUM_CLASSES
    marked = ImageSet(name="m", classes=images.classes, labels=wrong, pixels=images.pixels)
    found = evaluated(Quarters(), marked)
    assert found.num_images == 50
    assert found.top1 == pytest.approx(90.0)
    assert found.top5 == 100.0
    assert sum(c.num_images for c in found.classes) == 50
    assert sum(c.num_images * c.top1 / 100 for c in found.classes) == pytest.approx(45)
    assert found.macro_recall == pytest.approx(sum(c.top1 for c in found.classes) / NUM_CLASSES)
    assert not found.warning
    assert json.loads(json.dumps(found.to_dict()))["top1"] == found.top1


def test_a_wrong_class_order_is_detected() -> None:
    found = evaluated(Quarters((1, 2, 3, 0)), tiny_images(80))
    assert found.top1 == 0
    assert "another order" in found.warning
    assert "100.0 % in another order" in found.warning


def test_names_put_a_wrong_order_right() -> None:
    labels = tuple((f"class{n}",) for n in (1, 2, 3, 0))
    found = evaluated(Quarters((1, 2, 3, 0)), tiny_images(80), labels=labels)
    assert found.matched_by == "name"
    assert found.top1 == 100


def test_a_network_at_chance_raises_no_alarm() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"c{n}" for n in range(1000)]
    # One image a class in each half: any permutation fits a half perfectly.
    guesses = torch.randint(0, 1000, (2, 1000), generator=generator)
    halves = nn.functional.one_hot(guesses, 1000)
    assert class_order_warning(halves, names) == ""


def test_a_network_that_hardly_learnt_is_not_said_to_have_another_order() -> None:
    # Everything is taken for one of two classes, as after an epoch: 8 % are right as given, 32 %
    # in the best order.
    half = torch.zeros(5, 5)
    half[:, 0], half[:, 1] = torch.tensor([2, 8, 5, 5, 5]), torch.tensor([8, 2, 5, 5, 5])
    assert class_order_warning(torch.stack([half, half]), list("abcde")) == ""
    half[[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]] += 20
    assert "another order" in class_order_warning(torch.stack([half, half]), list("abcde"))


def test_a_wrong_order_is_seen_of_a_network_that_is_seldom_right_too() -> None:
    # A third is right in the network's own order, the rest spread evenly.
    half = torch.full((10, 10), 7)
    half[torch.arange(10), torch.arange(10).roll(1)] = 37
    names = [f"c{n}" for n in range(10)]
    assert "another order" in class_order_warning(torch.stack([half, half]), names)


def test_photos_that_cannot_be_read_are_not_counted(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (120, 120), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    images = ImageSet(
        name="set",
        classes=tuple("abcd"),
        labels=torch.arange(4),
        sources=tuple(tmp_path / f"{number}.png" for number in range(4)),
    )
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"2\.png"):
        found = evaluated(Quarters(), images)
    assert (found.num_images, found.num_damaged) == (3, 1)
    assert [c.num_images for c in found.classes] == [1, 1, 0, 1]
    for number in (0, 1, 3):
        (tmp_path / f"{number}.png").unlink()
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="no image of set can be read"),
    ):
        evaluated(Quarters(), images)


def test_a_class_without_images_is_not_measured() -> None:
    images = tiny_images(80)
    kept = (images.labels != 2).nonzero().flatten()
    found = evaluated(Quarters(), images.subset(kept))
    assert [c.top1 for c in found.classes] == [100, 100, None, 100]
    assert json.loads(json.dumps(found.to_dict()))["classes"][2]["top1"] is None


def test_folders_that_are_numbers_mean_the_networks_outputs_where_no_name_is_known() -> None:
    # As text "10" comes before "2": the order of the folders is not the order of the outputs.
    images = dataclasses.replace(tiny_images(80), classes=("0", "1", "3", "2"))
    found = evaluated(Quarters((0, 1, 3, 2)), images)
    assert (found.matched_by, found.top1) == ("name", 100)
    with pytest.raises(ValueError, match=r"numbered up to 4; the model's classes are 0 to 3"):
        evaluated(Quarters(), dataclasses.replace(images, classes=("1", "2", "3", "4")))


def test_other_class_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="4 classes"):
        evaluated(Quarters(), tiny_images(20, classes=2))
