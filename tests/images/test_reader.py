"""Odd images, made here byte by byte, against what Pillow and arithmetic say by hand."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import (
    check_image,
    describe,
    open_image,
    open_reduced,
    upright_size,
)

WIDTH, HEIGHT = 37, 23


def gradient() -> NDArray[np.uint8]:
    """Returns an RGB image (23, 37, 3) whose corners differ."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 2], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(source: Any) -> NDArray[np.uint8]:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.array(image)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Returns a PNG written by hand, so that no encoder of Pillow's has a say."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "GIF"])
def test_every_lossless_format_gives_its_pixels(kind: str, tmp_path: Path) -> None:
    grey = gradient()[:, :, :1].repeat(3, axis=2)  # a GIF holds 256 colours
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(encoded(Image.fromarray(grey), kind, **options))
    np.testing.assert_array_equal(pixels(path), grey)
    np.testing.assert_array_equal(pixels(str(path)), grey)
    np.testing.assert_array_equal(pixels(path.read_bytes()), grey)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pixels(file), grey)


def test_every_kind_of_object_gives_the_same_pixels() -> None:
    array = gradient()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    scaled = array.astype(np.float32) / 255
    for source in (
        array,
        array[:, ::-1][:, ::-1],
        scaled,
        scaled.astype(np.float64),
        scaled.astype(np.float16),
        tensor,
        tensor / 255,
        (tensor / 255).requires_grad_(),
        Image.fromarray(array),
    ):
        np.testing.assert_array_equal(pixels(source), array)
    grey = array[:, :, 0]
    for source in (grey, torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(pixels(source), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied_once(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(gradient()), kind, exif=exif)
    by_hand = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert by_hand.size == ((HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT))
    (tmp_path / "photo").write_bytes(content)
    assert upright_size(tmp_path / "photo") == by_hand.size
    (tmp_path / "photo").write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"cannot read image .*photo"):
        upright_size(tmp_path / "photo")
    np.testing.assert_array_equal(pixels(content), np.array(by_hand))
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(content))), np.array(by_hand))
    turned_already = Image.open(io.BytesIO(content)).convert("RGB")
    expected = np.array(turned_already)
    np.testing.assert_array_equal(pixels(turned_already), expected)


def test_damaged_exif_leaves_the_photo_readable() -> None:
    content = encoded(Image.fromarray(gradient()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    assert open_image(content).size == (WIDTH, HEIGHT)


def test_grey_and_black_and_white_are_repeated() -> None:
    grey = Image.fromarray(gradient()[:, :, 1])
    np.testing.assert_array_equal(pixels(encoded(grey, "PNG")), gradient()[:, :, [1, 1, 1]])
    bilevel = Image.fromarray(gradient()[:, :, 1] > 90)
    expected = np.where(gradient()[:, :, [1, 1, 1]] > 90, 255, 0)
    np.testing.assert_array_equal(pixels(encoded(bilevel, "PNG")), expected)


def test_16_bit_grey_png_is_scaled_not_clipped() -> None:
    values = np.arange(0, 65536, 257 // 4, dtype=np.uint16)[None]
    rows = b"\x00" + values.astype(">u2").tobytes()
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    got = pixels(png(values.shape[1], 1, 16, 0, rows))
    np.testing.assert_array_equal(got, np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("order", ["II", "MM"])
def test_16_bit_tiff_and_pgm_are_scaled(order: str) -> None:
    values = (np.arange(WIDTH * HEIGHT, dtype=np.uint16) * 77).reshape(HEIGHT, WIDTH)
    expected = np.stack([np.rint(values / 65535 * 255).astype(np.uint8)] * 3, axis=2)
    mode = "I;16" if order == "II" else "I;16B"
    data = values.astype("<u2" if order == "II" else ">u2").tobytes()
    image = Image.frombytes(mode, (WIDTH, HEIGHT), data)
    np.testing.assert_array_equal(pixels(image), expected)
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), expected)
    pgm = f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(pgm), expected)


def test_16_bit_colour_png_keeps_its_high_bytes() -> None:
    values = (gradient().astype(np.uint16) << 8) + 99
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    np.testing.assert_array_equal(pixels(png(WIDTH, HEIGHT, 16, 2, rows)), gradient())


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_float_tiff_is_read_in_the_range_that_its_values_show(top: int) -> None:
    values = np.linspace(0, top, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    expected = np.stack([np.rint(values / top * 255).astype(np.uint8)] * 3, axis=2)
    got = pixels(encoded(Image.fromarray(values), "TIFF"))
    assert np.abs(got.astype(int) - expected).max() <= (top == 65535)  # halves may round either way
    assert got.min() == 0
    assert got.max() == 255


@pytest.mark.parametrize(("top", "scale"), [(255, 1), (65535, 257)])
def test_integer_tiff_is_read_in_the_range_that_its_values_show(top: int, scale: int) -> None:
    values = (np.arange(WIDTH * HEIGHT, dtype=np.int32) % 256 * scale).reshape(HEIGHT, WIDTH)
    expected = np.stack([(values // scale).astype(np.uint8)] * 3, axis=2)
    assert values.max() == top
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values), "TIFF")), expected)


def test_dark_16_bit_pgm_stays_dark() -> None:
    values = np.full((HEIGHT, WIDTH), 200, ">u2")
    assert (pixels(f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + values.tobytes()) == 1).all()


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0.0, np.nan], [0.0, 70_000.0], [0.0, np.inf]])
def test_grey_values_outside_every_range_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"grey values from .*; expected 0 to 65535"):
        open_image(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    with pytest.raises(ValueError, match="grey values from -1 to 70000; expected 0 to 65535"):
        open_image(Image.fromarray(np.array([[-1, 70_000]], dtype=np.int32)))


def test_planes_of_16_bits_are_refused_not_misread() -> None:
    # Bits and planes as three shorts each behind the tags: Pillow takes the bytes for pixels.
    data = gradient().astype("<u2").transpose(2, 0, 1).tobytes()
    end = 8 + len(data)
    behind = end + 2 + 10 * 12 + 4
    tags = [(256, 1, WIDTH), (257, 1, HEIGHT), (258, 3, behind), (259, 1, 1), (262, 1, 2)]
    tags += [(273, 3, behind + 12), (277, 1, 3), (278, 1, HEIGHT), (279, 3, behind + 24)]
    tags += [(284, 1, 2)]
    plane = len(data) // 3
    extra = struct.pack("<9I", *[16] * 3, *[8 + n * plane for n in range(3)], *[plane] * 3)
    entries = b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags)
    file = b"II*\0" + struct.pack("<I", end) + data + struct.pack("<H", len(tags)) + entries
    with pytest.raises(ValueError, match="planes of 16 bits, which Pillow reads wrongly"):
        open_image(file + bytes(4) + extra)


def test_transparency_is_laid_on_white() -> None:
    colours = gradient()
    alpha = np.linspace(0, 255, WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH)
    share = alpha[:, :, None] / 255
    rgba = Image.fromarray(np.dstack([colours, alpha]))
    expected = colours * share + 255 * (1 - share)
    assert np.abs(pixels(encoded(rgba, "PNG")) - expected).max() <= 1
    assert np.abs(pixels(rgba) - expected).max() <= 1

    la = Image.fromarray(np.dstack([colours[:, :, 0], alpha]), "LA")
    expected = colours[:, :, :1] * share + 255 * (1 - share)
    assert np.abs(pixels(encoded(la, "PNG")) - expected).max() <= 1


def test_a_transparent_colour_becomes_white() -> None:
    rows = b"".join(b"\x00" + row.tobytes() for row in gradient())
    key = chunk(b"tRNS", struct.pack(">HHH", *gradient()[3, 4].tolist()))
    expected = gradient()
    expected[3, 4] = 255
    np.testing.assert_array_equal(pixels(png(WIDTH, HEIGHT, 8, 2, rows, key)), expected)
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0]))
    half = chunk(b"tRNS", bytes([255, 0]))
    got = pixels(png(2, 1, 8, 3, b"\x00\x00\x01", palette, half))
    np.testing.assert_array_equal(got, [[[10, 20, 30], [255, 255, 255]]])


def test_palettes_give_their_colours() -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0]))
    got = pixels(png(3, 1, 8, 3, b"\x00\x00\x01\x00", palette))
    np.testing.assert_array_equal(got, [[[10, 20, 30], [200, 100, 0], [10, 20, 30]]])


def test_cmyk_gives_the_colours_that_were_printed() -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:8, :, 0] = 255  # cyan on top, black key at half below
    ink[8:, :, 3] = 128
    content = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    got = pixels(content).astype(int)
    assert np.abs(got[:8] - [0, 255, 255]).max() <= 3
    assert np.abs(got[8:] - 127).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    np.testing.assert_array_equal(pixels(content), np.full((8, 8, 3), [255, 0, 0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    content = encoded(Image.fromarray(gradient()).resize((200, 200)), kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"cannot read image .*half.{kind.lower()}: "):
        open_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_a_check_finds_what_is_cut_short_and_passes_what_is_whole(
    kind: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "photo"
    path.write_bytes(content)
    assert check_image(path) == check_image(content) == (80, 60)
    assert check_image(content + b"\0" * 100) == (80, 60)  # padded: decoded to find out
    # OpenJPEG answers the first half of a stream with a blurred image.
    for share in (0.1, 0.5, 0.9)[: 1 if kind == "JPEG2000" else None]:
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"cannot read image .*photo: "):
            check_image(path)


def test_empty_and_text_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ValueError, match=r"empty\.jpg: the file is empty"):
        open_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("this is no photo")
    with pytest.raises(ValueError, match=r"text\.jpg: not an image.*this is no phot"):
        open_image(tmp_path / "text.jpg")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = png(20_000, 20_000, 8, 2, b"\x00" * 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        open_image(bomb)


def test_formats_that_run_other_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "drawing.jpg"
    path.write_bytes(encoded(Image.fromarray(gradient()), "EPS"))
    with pytest.raises(ValueError, match=r"drawing\.jpg: not an image"):
        open_image(path)


def test_places_without_a_file_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg; check"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match=r"it is a folder; list_images"):
        open_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg: it is not a regular file"):
        open_image(tmp_path / "pipe.jpg")


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("text")
    with path.open() as file, pytest.raises(ValueError, match=r"note\.txt.*mode 'rb'"):
        open_image(file)  # type: ignore[arg-type]  # the mistake under test
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ValueError, match=r"BytesIO.*closed"):
        open_image(closed)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"<array \(3, 8, 9\) uint8>: shape .*\(H, W, 3\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"shape \(2, 8, 9, 3\)"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
        (np.zeros((8, 9, 3), np.int64), "type int64; expected uint8"),
        (np.full((8, 9, 3), 200.0), "values from 200 to 200; expected 0 to 1"),
        (np.full((8, 9, 3), np.nan), "values from nan to nan"),
        (torch.zeros(8, 9, 3), r"<tensor \(8, 9, 3\).*expected \(3, H, W\)"),
        (torch.zeros(1, 3, 8, 9), r"shape \(1, 3, 8, 9\)"),
        (torch.full((3, 8, 9), -1.5), "before any normalisation"),
        (torch.zeros(3, 0, 9), "shape"),
        (7, "from a int; expected a path"),
        (None, "from a NoneType"),
    ],
)
def test_another_object_is_refused_with_what_was_expected(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_image(source)


def test_the_source_is_not_changed() -> None:
    array = gradient()
    image = Image.fromarray(array)
    open_image(image).putpixel((0, 0), (1, 2, 3))
    open_image(array).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.array(image), gradient())
    np.testing.assert_array_equal(array, gradient())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "JPEG2000"])
def test_damaged_bytes_end_in_an_image_or_one_kind_of_error(kind: str) -> None:
    content = bytearray(encoded(Image.fromarray(gradient()), kind))
    generator = np.random.default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it can live with
        for _ in range(150):
            damaged = content.copy()
            for place in generator.integers(0, len(content), 4):
                damaged[place] = generator.integers(256)
            with contextlib.suppress(ValueError):  # any other error fails the test
                assert open_image(bytes(damaged)).mode == "RGB"


def test_sources_have_a_name_for_reports() -> None:
    assert describe("photos/cat.jpg") == "photos/cat.jpg"
    assert describe(b"123") == "<3 bytes>"
    assert describe(Image.new("L", (3, 4))) == "<PIL image L 3x4>"
    assert describe(np.zeros((4, 3, 3), np.uint8)) == "<array (4, 3, 3) uint8>"
    assert describe(torch.zeros(3, 4, 3)) == "<tensor (3, 4, 3) torch.float32>"
    photo = example_photos()[0]
    with Image.open(photo) as image, photo.open("rb") as file:
        assert describe(image) == describe(file) == str(photo)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["RGB", "L", "F", "I;16", "RGBA"])
def test_an_image_without_pixels_is_refused(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"cannot read image .*expected at least one"):
        open_image(Image.new(mode, size))


@pytest.mark.parametrize(
    "source",
    [
        np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1 << 40, 300, 3)),
        np.broadcast_to(np.float32(0.5), (1 << 30, 1 << 20)),
        torch.zeros(3, 1, 1).expand(3, 1 << 20, 1 << 20),
    ],
)
def test_a_view_that_claims_more_pixels_than_a_file_may_have_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="pixels; expected at most"):
        open_image(source)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 5, device="meta"),
        torch.zeros(3, 4, 5).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(3, 4, 5), 0.1, 0, torch.quint8),
        torch.zeros(3, 4, 5, dtype=torch.complex64).conj(),
    ],
    ids=["meta", "sparse", "quantised", "conjugated"],
)
def test_a_tensor_without_plain_numbers_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(
        ValueError,
        match=r"cannot be converted to numpy .*expected a dense tensor|expected uint8",
    ):
        open_image(tensor)


def test_a_masked_array_gives_its_numbers_and_nothing_masked_breaks_it() -> None:
    values = np.full((2, 3), 0.5, np.float32)
    assert (pixels(np.ma.masked_array(values, mask=True)) == 128).all()


def test_a_message_about_a_hostile_name_is_one_short_line() -> None:
    image = Image.new("RGB", (0, 3))
    image.filename = "\x1b[2J" + "x" * 9000  # type: ignore[attr-defined]  # as opened files have
    with pytest.raises(ValueError, match="cannot read image") as caught:
        open_image(image)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("fraction", "size"), [(1, (400, 300)), (3, (200, 150)), (4, (100, 75)), (8, (50, 38))]
)
def test_a_jpeg_is_reduced_to_no_less_than_is_asked_for(
    fraction: int, size: tuple[int, int], tmp_path: Path
) -> None:
    photo = open_image(example_photos()[0]).resize((400, 300))
    path = tmp_path / "photo.jpg"
    photo.save(path, quality=95)
    for source in (path, path.read_bytes()):
        reduced = open_reduced(source, lambda _: fraction)
        assert reduced.size == size
        expected = np.asarray(open_image(path).resize(size, Image.Resampling.BOX), dtype=float)
        assert np.abs(np.asarray(reduced, dtype=float) - expected).mean() < 4


def test_a_reduced_photo_stands_upright_and_other_formats_keep_their_size(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    asked = []

    def half(size: tuple[int, int]) -> int:
        asked.append(size)
        return 2

    photo = open_image(example_photos()[0]).resize((400, 300))
    photo.save(tmp_path / "a.jpg", exif=turned)
    photo.save(tmp_path / "a.png", exif=turned)
    assert open_reduced(tmp_path / "a.jpg", half).size == (150, 200)
    assert open_reduced(tmp_path / "a.png", half).size == (300, 400)
    assert asked == [(300, 400), (300, 400)]
    with pytest.raises(FileNotFoundError, match="no image file"):
        open_reduced(tmp_path / "none.jpg", half)
    whole = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(ValueError, match="cannot read image"):
        open_reduced(whole[: len(whole) // 2], half)


def test_a_damaged_png_is_refused_and_not_black_where_a_crop_is_asked_for() -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[content.index(b"IDAT") + 20] ^= 1
    for read in (open_image, lambda source: open_reduced(source, lambda _: 1)):
        with pytest.raises(ValueError, match="broken data stream"):
            read(bytes(content))


@pytest.mark.parametrize("kind", ["long text", "long profile", "damaged text"])
def test_metadata_that_pillow_refuses_cost_no_photo(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    texts, profile = PngImagePlugin.PngInfo(), None
    if kind == "long profile":
        profile = bytes(3 << 20)
    else:
        texts.add_text("comment", "word " * (1 << 19), zip=kind == "long text")
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, pnginfo=texts, icc_profile=profile)
    if kind == "damaged text":
        content = bytearray(path.read_bytes())
        content[content.index(b"tEXt") + 20] ^= 1
        path.write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        Image.open(path)
    np.testing.assert_array_equal(np.asarray(open_image(path)), pixels)
    assert check_image(path) == (9, 8)
