"""Every kind of photo is the same pixels in training, evaluation, calibration and inference.

The files are made here, and what a network should see of each is stated by arithmetic on the array
that went in, or read off by hand, never by the reader under test.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.quantize_score import Reader
from fbnetv3.images.classes import labelled_images
from fbnetv3.images.folders import SUFFIXES
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training.batches import TrainBatches, eval_batches
from fbnetv3.search.training.parallel import World
from tests.search.tiny import tiny_recipe

CPU = torch.device("cpu")
Pixels = NDArray[np.uint8]


class Kind(NamedTuple):
    """A kind of file: its suffix, how it is written, what is right, and how near lossy ones are."""

    suffix: str
    write: Callable[[Path, Pixels], None]
    right: Callable[[Pixels], NDArray[Any]]
    within: int = 0


def rgb_of(side: int) -> Pixels:
    """Returns smooth colours (side, side, 3) whose corners differ, so that a turn shows."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    return np.stack([220 * x + 20, 200 * y + 30, 250 - 120 * x - 100 * y], 2).astype(np.uint8)


def grey(rgb: Pixels) -> Pixels:
    return rgb[:, :, 0]


def thrice(values: NDArray[Any]) -> NDArray[Any]:
    return np.stack([values] * 3, axis=2)


def alpha_of(rgb: Pixels) -> Pixels:
    return np.ascontiguousarray(rgb[:, :, 1].T)


def on_white(colours: NDArray[Any], alpha: Pixels) -> NDArray[Any]:
    share = alpha[:, :, None] / 255
    return np.rint(colours * share + 255 * (1 - share))


def saved(make: Callable[[Pixels], Image.Image], **options: Any) -> Callable[[Path, Pixels], None]:
    def write(path: Path, rgb: Pixels) -> None:
        make(rgb).save(path, **options)

    return write


def png_by_hand(
    depth: int,
    rows: Callable[[Pixels], NDArray[Any]],
    colour: int,
    transparent: Callable[[Pixels], bytes] = lambda _: b"",
) -> Any:
    """Returns a writer that no encoder of Pillow's has a say in."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def write(path: Path, rgb: Pixels) -> None:
        header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], depth, colour, 0, 0, 0)
        lines = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in rows(rgb))
        body = chunk(b"IHDR", header)
        if transparent(rgb):
            body += chunk(b"tRNS", transparent(rgb))
        body += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    return write


def tiff_by_hand(bits: int, photometric: int, packed: Callable[[Pixels], bytes]) -> Any:
    """Returns a writer of grey TIFFs in one strip."""

    def write(path: Path, rgb: Pixels) -> None:
        data, (height, width, _) = packed(rgb), rgb.shape
        # Width, height, bits, compression, meaning, offset, samples, rows, length, format.
        numbers = (256, 257, 258, 259, 262, 273, 277, 278, 279, 339)
        values = (width, height, bits, 1, photometric, 8, 1, height, len(data), 1)
        tags = b"".join(
            struct.pack("<HHII", tag, 4, 1, value)
            for tag, value in zip(numbers, values, strict=True)
        )
        head = b"II*\0" + struct.pack("<I", 8 + len(data))
        path.write_bytes(head + data + struct.pack("<H", len(numbers)) + tags + bytes(4))

    return write


def twelve_bits(rgb: Pixels) -> bytes:
    """Returns pairs of 12-bit numbers in three bytes each; 0 to 4095 for 0 to 255."""
    first, second = (grey(rgb).astype(np.uint32) * 4095 // 255).reshape(-1, 2).T
    packed = (first >> 4, (first & 15) << 4 | second >> 8, second & 255)
    return np.stack(packed, axis=1).astype(np.uint8).tobytes()


def without_corner(rgb: Pixels) -> NDArray[Any]:
    return thrice(np.where(grey(rgb) == grey(rgb)[0, 0], 255, grey(rgb)))


def with_orientation(number: int, kind: str) -> Kind:
    # What the tag means, as the EXIF standard has it: where row 0 and column 0 of the file lie.
    right: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = number
    options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {}
    return Kind(
        f".{kind}",
        saved(Image.fromarray, exif=exif, **options),
        right[number],
        within=4 if kind == "jpg" else 0,
    )


def palette(rgb: Pixels) -> Image.Image:
    """Returns an image of two colours, the first where red is low."""
    image = Image.fromarray((grey(rgb) > 100).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    return image


def two_colours(first: tuple[int, int, int], second: tuple[int, int, int]) -> Any:
    return lambda rgb: np.where((grey(rgb) > 100)[:, :, None], second, first)


def ink(rgb: Pixels) -> Image.Image:
    return Image.fromarray(np.dstack([255 - rgb, np.zeros_like(grey(rgb))]), "CMYK")


def i16(rgb: Pixels) -> NDArray[np.uint16]:
    return grey(rgb).astype(np.uint16) * 257


def moving(kind: str) -> Callable[[Path, Pixels], None]:
    def write(path: Path, rgb: Pixels) -> None:
        frames = [Image.fromarray(thrice(values)) for values in (grey(rgb), 255 - grey(rgb))]
        options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)

    return write


def grey_right(rgb: Pixels) -> NDArray[Any]:
    return thrice(grey(rgb))


def itself(rgb: Pixels) -> NDArray[Any]:
    return rgb


def rgba(rgb: Pixels) -> Image.Image:
    return Image.fromarray(np.dstack([rgb, alpha_of(rgb)]))


def la(rgb: Pixels) -> Image.Image:
    return Image.fromarray(np.dstack([grey(rgb), alpha_of(rgb)]), "LA")


PHOTO = {"quality": 100, "subsampling": 0}
KINDS = {
    "png": Kind(".png", saved(Image.fromarray), itself),
    "bmp": Kind(".BMP", saved(Image.fromarray), itself),
    "tiff": Kind(".tiff", saved(Image.fromarray), itself),
    "ppm": Kind(".ppm", saved(Image.fromarray), itself),
    "tga": Kind(".tga", saved(Image.fromarray), itself),
    "webp": Kind(".webp", saved(Image.fromarray, lossless=True), itself),
    "jp2": Kind(".jp2", saved(Image.fromarray), itself),
    "avif": Kind(".avif", saved(Image.fromarray, quality=100, subsampling="4:4:4"), itself, 6),
    "jpeg": Kind(".JPEG", saved(Image.fromarray, **PHOTO), itself, 4),
    "jfif": Kind(".jfif", saved(Image.fromarray, format="JPEG", **PHOTO), itself, 4),
    "grey": Kind(".png", saved(lambda rgb: Image.fromarray(grey(rgb))), grey_right),
    "grey jpeg": Kind(
        ".jpg", saved(lambda rgb: Image.fromarray(grey(rgb)), **PHOTO), grey_right, 4
    ),
    "1-bit": Kind(
        ".png",
        saved(lambda rgb: Image.fromarray(grey(rgb) > 100)),
        two_colours((0, 0, 0), (255, 255, 255)),
    ),
    "16-bit grey png": Kind(".png", png_by_hand(16, i16, 0), grey_right),
    "16-bit colour png": Kind(
        ".png", png_by_hand(16, lambda rgb: rgb.astype(np.uint16) * 257, 2), itself
    ),
    "16-bit grey tiff": Kind(".tif", saved(lambda rgb: Image.fromarray(i16(rgb))), grey_right),
    "16-bit grey png with a transparent value": Kind(
        ".png",
        png_by_hand(16, i16, 0, lambda rgb: struct.pack(">H", int(i16(rgb)[0, 0]))),
        without_corner,
    ),
    "12-bit grey tiff": Kind(".tif", tiff_by_hand(12, 1, twelve_bits), grey_right),
    "16-bit tiff where 0 is white": Kind(
        ".tif", tiff_by_hand(16, 0, lambda rgb: (65535 - i16(rgb)).tobytes()), grey_right
    ),
    "32-bit tiff of 0-255": Kind(
        ".tif", saved(lambda rgb: Image.fromarray(grey(rgb).astype(np.int32))), grey_right
    ),
    "32-bit tiff of 0-65535": Kind(
        ".tif", saved(lambda rgb: Image.fromarray(i16(rgb).astype(np.int32))), grey_right
    ),
    "float tiff of 0-255": Kind(
        ".tif", saved(lambda rgb: Image.fromarray(grey(rgb).astype(np.float32))), grey_right
    ),
    "float tiff of 0-1": Kind(
        ".tif", saved(lambda rgb: Image.fromarray(grey(rgb).astype(np.float32) / 255)), grey_right
    ),
    "rgba": Kind(".png", saved(rgba), lambda rgb: on_white(rgb, alpha_of(rgb)), 1),
    "rgba webp": Kind(
        ".webp", saved(rgba, lossless=True, exact=True), lambda a: on_white(a, alpha_of(a)), 1
    ),
    "grey with alpha": Kind(
        ".png", saved(la), lambda rgb: on_white(thrice(grey(rgb)), alpha_of(rgb)), 1
    ),
    "palette": Kind(".png", saved(palette), two_colours((10, 20, 30), (200, 100, 0))),
    "palette with transparency": Kind(
        ".png", saved(palette, transparency=1), two_colours((10, 20, 30), (255, 255, 255))
    ),
    "gif with transparency": Kind(
        ".gif", saved(palette, transparency=1), two_colours((10, 20, 30), (255, 255, 255))
    ),
    "cmyk jpeg": Kind(".jpg", saved(ink, quality=100), itself, 6),
    "animated gif": Kind(".gif", moving("gif"), grey_right),
    "animated webp": Kind(".webp", moving("webp"), grey_right),
    "animated png": Kind(".png", moving("png"), grey_right),
    **{f"jpeg turned {n}": with_orientation(n, "jpg") for n in range(1, 9)},
    **{f"png turned {n}": with_orientation(n, "png") for n in (3, 6, 8)},
}


def data_set(root: Path, kind: Kind, side: int) -> tuple[Path, Pixels]:
    """Writes the file into both parts and a neighbour for a second class; returns file, pixels."""
    rgb = rgb_of(side)
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
        kind.write(root / part / "a" / f"photo{kind.suffix}", rgb)
        for number in range(3):
            Image.fromarray(rgb).save(root / part / "b" / f"{number}.png")
    return root / "train" / "a" / f"photo{kind.suffix}", rgb


def seen(batch: NDArray[np.float32], preprocess: Preprocess) -> NDArray[Any]:
    """Returns the pixels (H, W, 3) behind one normalised image (3, H, W)."""
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels: NDArray[Any] = np.rint((batch * std + mean) * 255).transpose(1, 2, 0)
    return pixels


def trained_on(images: ImageSet, preprocess: Preprocess) -> NDArray[np.float32]:
    recipe = tiny_recipe(augment="none", batch_size=4)
    batches = TrainBatches(images, recipe, preprocess, seed=0, world=World(), device=CPU)
    (batch,) = batches.epoch(0)
    [position] = (batch.labels == 0).nonzero().flatten().tolist()
    return batch.images[position].numpy()


def evaluated_on(images: ImageSet, preprocess: Preprocess) -> NDArray[np.float32]:
    (batch,) = eval_batches(images, preprocess, batch_size=8, world=World(), device=CPU)
    return batch.images[0].numpy()


class Watching:
    """A backend that keeps what it is given."""

    def run_batch(self, images: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Returns logits of two classes."""
        self.images = images
        return np.zeros((len(images), 2))


def classified(path: Path, preprocess: Preprocess) -> NDArray[np.float32]:
    backend = Watching()
    Classifier(backend, preprocess=preprocess, class_names=("a", "b"))(path)
    found: NDArray[np.float32] = backend.images[0]
    return found


def calibrated_on(root: Path, preprocess: Preprocess) -> NDArray[np.float32]:
    found = labelled_images(root, ("a", "b"), part="train")
    (batch,) = Reader(preprocess).batches(found.paths)
    assert found.labels == [0, 1, 1, 1]
    pixels: NDArray[np.float32] = batch[0]
    return pixels


# Photos stay files; images of up to 96 pixels and one size are held decoded.
@pytest.mark.parametrize("side", [120, 32])
@pytest.mark.parametrize("name", KINDS)
def test_all_four_see_the_pixels_that_are_right(name: str, side: int, tmp_path: Path) -> None:
    kind = KINDS[name]
    assert kind.suffix.lower() in SUFFIXES
    path, rgb = data_set(tmp_path, kind, side)
    preprocess = Preprocess(
        resize=side, crop=side, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    train, val = open_train_val(tmp_path)
    assert (train.pixels is None) == (side > 96)
    inference = classified(path, preprocess)
    right = kind.right(rgb)
    assert np.abs(seen(inference, preprocess) - right).max() <= kind.within
    for found in (
        trained_on(train, preprocess),
        evaluated_on(val, preprocess),
        calibrated_on(tmp_path, preprocess),
    ):
        np.testing.assert_array_equal(seen(found, preprocess), seen(inference, preprocess))
        np.testing.assert_allclose(found, inference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [120, 32])
def test_evaluation_resizes_as_inference_does_to_the_last_bit(side: int, tmp_path: Path) -> None:
    path, _ = data_set(tmp_path, KINDS["png"], side)
    preprocess = Preprocess(
        resize=45, crop=40, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    _, val = open_train_val(tmp_path)
    inference = classified(path, preprocess)
    np.testing.assert_array_equal(evaluated_on(val, preprocess), inference)
    np.testing.assert_array_equal(calibrated_on(tmp_path, preprocess), inference)


def test_small_images_that_are_turned_to_another_shape_stay_files(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.fromarray(np.ascontiguousarray(rgb_of(40)[:, :30]))
    for name, exif in (("a", None), ("b", turned)):
        (tmp_path / name).mkdir()
        for number in range(2):
            options: dict[str, Any] = {} if exif is None else {"exif": exif}
            image.save(tmp_path / name / f"{number}.png", **options)
    train, _ = open_train_val(tmp_path)
    assert train.pixels is None
