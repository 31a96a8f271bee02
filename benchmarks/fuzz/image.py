"""Image files, arrays, tensors and Pillow images under attack.

What is accepted must be an RGB image that preprocesses to finite numbers; a `Classifier` must
answer every source, with labels or with the reason.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fbnetv3.deploy.classify import Classifier, Prediction
from fbnetv3.images.preprocess import CIFAR10_MEAN, CIFAR10_STD, Preprocess
from fbnetv3.images.reader import open_image

from .mutate import mutate_bytes

WIDTH, HEIGHT, SIDE = 24, 17, 32
PREPROCESS = Preprocess(
    resize=36,
    crop=SIDE,
    interpolation="bilinear",
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
)
_TOKENS: tuple[bytes, ...] = (
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc2",
    b"\xff\xe1",
    b"Exif\x00\x00",
    b"IHDR",
)
_TOKENS += (b"IDAT", b"PLTE", b"tRNS", b"GIF89a", b"RIFF", b"VP8X", b"II*\x00", b"MM\x00*")
_TOKENS += (
    b"\x12\x01\x03\x00\x01\x00\x00\x00",
    b"%!PS",
    b"<svg",
    b"8BPS",
    b"acTL",
    b"\x21\xff\x0b",
)
_DIMENSIONS = (0, 1, 2, 31, 65535, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MODES: tuple[str, ...] = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
)
_MODES += ("RGBa", "La", "I;16", "I;16B", "I;16L")


class Zeros:
    """A backend that answers nothing, so that only the way to it is tested."""

    def run_batch(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Returns logits (N, 2) of images (N, 3, SIDE, SIDE)."""
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert np.isfinite(images).all()
        return np.zeros((len(images), 2), np.float32)


class ImageTarget:
    """Files near real ones in 22 formats (75 %), and objects in memory."""

    documented = re.compile(r"cannot read (an )?image ")

    def __init__(self) -> None:
        self._files = _real_files()
        self._names = list(self._files)
        self._classifier = Classifier(Zeros(), preprocess=PREPROCESS, class_names=("no", "yes"))

    def make(self, draw: Random) -> tuple[str, Any]:
        """Returns the kind of a case and an image source."""
        kind = draw.choices(
            ("bytes", "chunks", "exif", "array", "tensor", "pillow"), (50, 15, 10, 10, 8, 7)
        )[0]
        if kind == "bytes":
            name = draw.choice(self._names)
            return f"bytes {name.split()[0]}", mutate_bytes(draw, self._files[name], _TOKENS)
        makers: dict[str, Callable[[Random], Any]] = {
            "chunks": self._chunks,
            "exif": _with_exif,
            "array": _array,
            "tensor": _tensor,
            "pillow": _pillow,
        }
        return kind, makers[kind](draw)

    def read(self, kind: str, case: Any) -> None:
        """Reads a case and checks what was accepted, by itself and through a classifier."""
        source = io.BytesIO(case) if isinstance(case, bytes) and len(case) % 2 else case
        try:
            image = open_image(source)
        except ValueError:
            if getattr(case, "ndim", 0) > 3:  # to a classifier it is several images
                raise
            answer = self._classifier(case)
            assert isinstance(answer, Prediction)
            assert answer.error
            raise
        assert image.mode == "RGB"
        assert min(image.size) > 0
        answer = self._classifier(image)
        assert answer.error is None, answer.error
        assert answer.labels == ("no", "yes")

    def _chunks(self, draw: Random) -> bytes:
        """Returns a PNG whose chunks lie but whose checksums are right."""
        content = self._files[draw.choice([name for name in self._names if "PNG" in name])]
        chunks, place = [], 8
        while place < len(content):
            (length,) = struct.unpack_from(">I", content, place)
            body = content[place + 8 : place + 8 + length]
            chunks.append((content[place + 4 : place + 8], body))
            place += 12 + length
        for _ in range(draw.choice((1, 1, 2, 4))):
            number = draw.randrange(len(chunks))
            name, body = chunks[number]
            match draw.randrange(6):
                case 0 if name == b"IHDR" and len(body) == 13:
                    sides = (draw.choice(_DIMENSIONS), draw.choice(_DIMENSIONS))
                    kind = bytes((draw.choice((1, 2, 4, 8, 16, 3)), draw.randrange(8), 0, 0))
                    body = struct.pack(">II", *sides) + kind + bytes([draw.randrange(3)])
                case 1 if name == b"IDAT":
                    size = draw.choice((0, 1, 1000, 1 << 20))
                    body = zlib.compress(b"\x00" * size, draw.choice((0, 9)))
                case 2:
                    chunks.insert(draw.randrange(len(chunks) + 1), (name, body))
                case 3:
                    text = draw.choice((b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"fcTL"))
                    bomb = zlib.compress(b"x" * draw.choice((10, 1 << 16, 1 << 24)), 1)
                    name, body = text, draw.choice((b"key\x00\x00" + bomb, b"", b"\x00" * 26))
                case 4:
                    name = draw.choice(
                        (b"IDAT", b"IEND", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"gAMA")
                    )
                case _:
                    body = mutate_bytes(draw, body)
            chunks[number] = (name, body)
        return content[:8] + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )


def _pixels() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([x * 10, y * 15, 255 - x * 5], axis=2).astype(np.uint8))


def _real_files() -> dict[str, bytes]:
    """Returns "FORMAT kind" -> content, of every format and mode that Pillow writes itself."""
    image = _pixels()
    frames = [image.rotate(90 * n) for n in (1, 2)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    written: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("JPEG", "plain", image, {"exif": exif}),
        ("JPEG", "progressive", image, {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", image.convert("CMYK"), {}),
        ("JPEG", "grey", image.convert("L"), {"restart_marker_blocks": 1}),
        *(
            ("PNG", mode, image.convert("L").convert(mode), {})
            for mode in ("1", "L", "LA", "I;16", "RGBA")
        ),
        ("PNG", "palette", image.convert("P"), {"transparency": 3, "exif": exif}),
        ("PNG", "animated", image, {"save_all": True, "append_images": frames}),
        ("GIF", "plain", image, {"transparency": 0}),
        ("GIF", "animated", image, {"save_all": True, "append_images": frames, "loop": 0}),
        ("WEBP", "lossy", image, {"exif": exif}),
        ("WEBP", "lossless", image.convert("RGBA"), {"lossless": True}),
        ("WEBP", "animated", image, {"save_all": True, "append_images": frames}),
        *(("BMP", mode, image.convert(mode), {}) for mode in ("1", "P", "RGB", "RGBA")),
        *(
            ("TIFF", name, image, {"compression": name, "exif": exif})
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        ("TIFF", "group4", image.convert("1"), {"compression": "group4"}),
        *(("TIFF", mode, image.convert("L").convert(mode), {}) for mode in ("I;16", "F", "I")),
        *(("TIFF", mode, image.convert(mode), {}) for mode in ("CMYK", "YCbCr", "P")),
        *(("PPM", mode, image.convert(mode), {}) for mode in ("1", "L", "RGB")),
        ("TGA", "RLE", image, {"compression": "tga_rle"}),
        ("TGA", "palette", image.convert("P"), {}),
        ("JPEG2000", "plain", image, {}),
        ("JPEG2000", "RGBA", image.convert("RGBA"), {"irreversible": True}),
        *(
            (kind, "plain", image, {})
            for kind in ("AVIF", "ICO", "ICNS", "PCX", "SGI", "IM", "DDS")
        ),
        *((kind, "plain", image, {}) for kind in ("QOI", "MPO", "DIB")),
        ("MSP", "plain", image.convert("1"), {}),
        ("XBM", "plain", image.convert("1"), {}),
        ("BLP", "plain", image.convert("P"), {}),
        ("SPIDER", "plain", image.convert("F"), {}),
    ]
    found = {}
    for kind, name, picture, options in written:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        found[f"{kind} {name}"] = buffer.getvalue()
    found["PPM text"] = b"P3 2 2 255\n" + b"1 2 3 " * 4
    found["PPM float"] = b"PF\n2 2\n-1.0\n" + struct.pack("<12f", *[0.5] * 12)
    found["XPM plain"] = b'/* XPM */\nstatic char *x[] = {\n"2 1 2 1",\n"a c #ff0000",\n'
    found["XPM plain"] += b'"b c #00ff00",\n"ab"};\n'
    found["PSD plain"] = b"8BPS\x00\x01" + b"\x00" * 6 + struct.pack(">HIIHH", 3, 2, 2, 8, 3)
    found["PSD plain"] += struct.pack(">IIIH", 0, 0, 0, 0) + bytes(12)
    found["FITS plain"] = b"".join(
        card.ljust(80)
        for card in (
            b"SIMPLE  =                    T",
            b"BITPIX  =                    8",
            b"NAXIS   =                    2",
            b"NAXIS1  =                    4",
            b"NAXIS2  =                    4",
            b"END",
        )
    ).ljust(2880) + bytes(2880)
    found["SUN plain"] = struct.pack(">8I", 0x59A66A95, 4, 4, 8, 16, 1, 0, 0) + bytes(16)
    return found


def _with_exif(draw: Random) -> bytes:
    """Returns an image whose metadata lie."""
    order = draw.choice(("<", ">"))
    count = draw.choice((0, 1, 2, 12, 0xFFFF))
    tags = b""
    for _ in range(min(count, 12)):
        tag = draw.choice((0x0112, 0x0112, 0x8769, 0x8825, 0x010E, 0xA005, draw.randrange(1 << 16)))
        kind, length = (
            draw.choice((1, 2, 3, 3, 4, 5, 7, 12, 13, 99)),
            draw.choice((1, 1, 4, 1 << 31)),
        )
        value = draw.choice((0, 1, 3, 5, 6, 8, 9, 255, 8, 0xFFFFFFFF))
        tags += struct.pack(f"{order}HHI", tag, kind, length)
        tags += (
            struct.pack(f"{order}HH", value & 0xFFFF, 0)
            if kind == 3
            else struct.pack(f"{order}I", value)
        )
    head = b"II*\x00" if order == "<" else b"MM\x00*"
    start = draw.choice((8, 8, 8, 8, 0, 1 << 31, 9))
    body = b"Exif\x00\x00" + head + struct.pack(f"{order}IH", start, count) + tags
    if draw.random() < 0.3:
        body = mutate_bytes(draw, body)
    buffer = io.BytesIO()
    _pixels().save(buffer, draw.choice(("JPEG", "PNG", "WEBP")), exif=body[:60_000])
    return buffer.getvalue()


def _array(draw: Random) -> Any:
    kinds: tuple[str, ...] = (
        "uint8",
        "uint8",
        "float32",
        "float64",
        "float16",
        "int8",
        "int64",
        "uint16",
        "bool",
    )
    kinds += ("complex64", "object", "S3", "U2", "datetime64[s]", "longdouble", ">f4", "V4")
    kind = draw.choice(kinds)
    shape = tuple(draw.choice((0, 1, 2, 3, 3, 4, 5)) for _ in range(draw.randrange(6)))
    if draw.random() < 0.4:
        shape = (draw.choice((1, 4, 9)), draw.choice((1, 5, 300)), 3)[: draw.choice((2, 3, 3))]
    array = np.zeros(shape, kind)
    if array.dtype.kind == "f" and array.size:
        odd = (0.0, 1.0, 1.0 + 1e-7, -1e-9, np.nan, np.inf, -np.inf, 0.5, 255.0, 1e30, -0.0)
        array.reshape(-1)[draw.randrange(array.size)] = np.float64(draw.choice(odd)).astype(kind)
    match draw.randrange(8):
        case 0 if array.ndim:
            return array[::-1]
        case 1 if array.size and array.ndim:
            return np.broadcast_to(array[:1], (draw.choice((4, 1 << 20, 1 << 40)), *shape[1:]))
        case 2:
            return np.ma.masked_array(array, mask=True)
        case 3:
            array.setflags(write=False)
        case 4:
            return array.T
    return array


def _tensor(draw: Random) -> Any:
    kinds: tuple[torch.dtype, ...] = (
        torch.uint8,
        torch.uint8,
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
    )
    kinds += (torch.int8, torch.int64, torch.bool, torch.complex64, torch.uint16, torch.int16)
    kinds += (torch.float8_e4m3fn,)
    shape = tuple(draw.choice((0, 1, 2, 3, 4)) for _ in range(draw.randrange(5)))
    if draw.random() < 0.6:
        shape = (draw.choice((1, 3, 3, 3)), draw.choice((1, 4)), draw.choice((1, 7)))
    tensor = torch.zeros(shape, dtype=draw.choice(kinds))
    if tensor.is_floating_point() and tensor.numel() and tensor.element_size() > 1:
        odd = (0.0, 1.0, float("nan"), float("inf"), -1.0, 2.0, 6e4)
        tensor.view(-1)[0] = draw.choice(odd)
    wide = tensor.is_floating_point() and tensor.element_size() > 1
    match draw.randrange(9):
        case 0:
            tensor = tensor.to("meta")
        case 1 if wide:
            tensor = tensor.to_sparse()
        case 2 if tensor.ndim and shape[-1]:
            claimed = draw.choice((4, 1 << 20, 1 << 40))
            tensor = tensor[..., :1].expand((*shape[:-1], claimed))
        case 3 if tensor.dtype is torch.float32:
            numbers = torch.nan_to_num(tensor, 0, 0, 0)
            tensor = torch.quantize_per_tensor(numbers, 0.1, 0, torch.quint8)
        case 4 if wide:
            tensor = tensor.requires_grad_()
        case 5 if tensor.ndim:
            tensor = tensor.transpose(-1, 0)
        case 6 if tensor.dtype is torch.complex64:
            tensor = tensor.conj()
    return tensor


def _pillow(draw: Random) -> Any:
    size = (draw.choice((0, 1, 1, 5, 400)), draw.choice((0, 1, 7, 7)))
    mode = draw.choice(_MODES)
    image = Image.new(mode, size)
    match draw.randrange(8):
        case 0:
            image.info["transparency"] = draw.choice(
                (0, 300, -1, b"", b"\x00\xff", "x", (1, 2), None)
            )
        case 1 if mode == "F" and min(size):
            image.putpixel((0, 0), draw.choice((float("nan"), float("inf"), 0.5, -1.0, 1e30)))
        case 2 if mode == "I" and min(size):
            image.putpixel((0, 0), draw.choice((-1, 65535, 65536, -(1 << 31))))
        case 3:
            image.close()
        case 4:
            image.info["exif"] = draw.choice((b"", b"Exif\x00\x00", "text", 7))
    return image
