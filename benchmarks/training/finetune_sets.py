"""Five small data sets of real images, laid out as users have theirs: class folders of files.

Each function writes `train/` and `test/` of a set, the same files for the same sources. Nothing of
them is kept in this repository. Sources, and their licences:

* `cifar`: photos of CIFAR-10's test batch, which no weights of ours were trained on (no licence is
  stated; customary for research);
* `digits`: scikit-learn's handwritten digits, 8 by 8 pixels of grey (UCI, CC BY 4.0);
* `emoji`: Twemoji's pictures by Unicode's groups, from the npm package emoji-datasource-twitter
  (pictures CC BY 4.0, package MIT);
* `clothing`: github.com/alexeygrigorev/clothing-dataset-small (CC0);
* `fruit`: the kinds of fruit of github.com/marcusklasson/GroceryStoreDataset (MIT).
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbnetv3.images.reader import open_image

SIDE = 32
# Files or pixels of each class, by its name.
Pool = Mapping[str, Sequence[Any]]


class Plan(NamedTuple):
    """How a set is drawn.

    Attributes:
        about: what it is, for the table.
        weights: that trainings start from, "cifar10" or "imagenet".
        num_train: images per class to train on; None is as many of all as `share` says.
        share: of all images to train on, where classes keep their unequal numbers.
        num_test: images per class to measure on at most.
    """

    about: str
    weights: str
    num_train: int | None
    share: float
    num_test: int


PLANS = {
    "cifar": Plan("photos of its own 10 classes, 32 px", "cifar10", 48, 0, 200),
    "digits": Plan("grey handwriting, 10 per class, 32 px", "cifar10", 10, 0, 100),
    "emoji": Plan("icons, 9 unequal classes, 32 px", "cifar10", None, 0.35, 1000),
    "clothing": Plan("photos, 30 per class, 10 classes, 96 px", "imagenet", 30, 0, 1000),
    "fruit": Plan("photos, 28 kinds, 10 per class, 96 px", "imagenet", 10, 0, 20),
}


def write_set(name: str, sources: Path, folder: Path, draw: int = 0) -> None:
    """Writes `folder/train` and `folder/test`, unless they are there.

    Args:
        name: of the set.
        sources: folder with the sources, see `POOLS`.
        folder: to write.
        draw: which images are drawn to train on; others draw other ones of the same pool.
    """
    done = folder / "done"
    if done.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    plan = PLANS[name]
    training, testing = POOLS[name](sources)
    generator = np.random.default_rng([draw, *name.encode()])
    for label, pool in training.items():
        order = generator.permutation(len(pool))
        num = plan.num_train or max(8, round(plan.share * len(pool)))
        chosen, rest = order[:num], order[num:]
        write_images(folder / "train" / label, [pool[i] for i in chosen])
        others = [pool[i] for i in rest] if testing is None else testing[label]
        write_images(folder / "test" / label, others[: plan.num_test])
    done.touch()


def write_images(folder: Path, images: Sequence[Any]) -> None:
    """Writes files as they are, and pixels or icons as PNG of `SIDE` pixels."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        if isinstance(image, Path) and image.suffix == ".jpg":
            shutil.copyfile(image, folder / f"{number:04}.jpg")
            continue
        opened = open_image(image) if isinstance(image, Path) else Image.fromarray(image)
        opened.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / f"{number:04}.png")


def cifar(sources: Path) -> tuple[Pool, None]:
    """Returns the photos of the test batch, of `sources/cifar-10-batches-py`."""
    folder = sources / "cifar-10-batches-py"
    with (folder / "test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")  # the data set's own format
    with (folder / "batches.meta").open("rb") as file:
        names = pickle.load(file)["label_names"]
    pixels = np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.asarray(batch[b"labels"])
    return {name: pixels[labels == number] for number, name in enumerate(names)}, None


def digits(_sources: Path) -> tuple[Pool, None]:
    """Returns the digits of scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels: NDArray[np.uint8] = (255 - found.images * (255 / 16)).round().astype(np.uint8)
    return {str(digit): pixels[found.target == digit] for digit in range(10)}, None


def emoji(sources: Path) -> tuple[Pool, None]:
    """Returns the pictures of `sources/package`, the unpacked npm package, by group."""
    package = sources / "package"
    pool: dict[str, list[Path]] = {}
    for record in json.loads((package / "emoji.json").read_text()):
        path = package / "img" / "twitter" / "64" / record["image"]
        if record["category"] != "Component" and path.is_file():
            pool.setdefault(record["category"].replace(" & ", " and "), []).append(path)
    return pool, None


def clothing(sources: Path) -> tuple[Pool, Pool]:
    """Returns the photos of `sources/clothing-dataset-small`, a clone, with its own test part."""
    root = sources / "clothing-dataset-small"
    return photos_in(root / "train"), photos_in(root / "test")


def fruit(sources: Path) -> tuple[Pool, Pool]:
    """Returns the fruit of `sources/GroceryStoreDataset`, a clone, with its own test part."""
    root = sources / "GroceryStoreDataset" / "dataset"
    return photos_in(root / "train" / "Fruit"), photos_in(root / "test" / "Fruit")


def photos_in(root: Path) -> Pool:
    """Returns the photos of the innermost folders, by the folder's name."""
    pool: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.jpg")):
        pool.setdefault(path.parent.name, []).append(path)
    return pool


POOLS: dict[str, Callable[[Path], tuple[Pool, Pool | None]]] = {
    "cifar": cifar,
    "digits": digits,
    "emoji": emoji,
    "clothing": clothing,
    "fruit": fruit,
}
