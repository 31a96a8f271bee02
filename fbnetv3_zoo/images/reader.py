"""Reads RGB images from files, bytes, Pillow images, arrays and tensors.

Files are not trusted. An image that Pillow cannot read completely raises an error that names it;
formats for which Pillow runs another program are not tried. This file needs Pillow and numpy, does
not depend on models, and is the only one that opens images.

JPEGs are decoded at full size: Pillow's draft mode is four times faster on a 12-megapixel image,
but changes preprocessed pixels by up to 2 of 255. Only `open_reduced` uses it, for the random crops
of training.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from fbnetv3._internal.messages import one_line

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any] | Tensor"
)

_T = TypeVar("_T")
# Formats that Pillow reads without loading all its plugins, which takes 0.1 s.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
# Formats that Pillow renders with another program (Ghostscript) or the operating system.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})
_WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_ORIENTATION = 0x0112  # EXIF tag
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # TIFF tags
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
# Format -> whether a file is complete, from its first and last bytes and its size.
_TAIL = 64
_IS_COMPLETE: dict[str, Callable[[bytes, bytes, int], bool]] = {
    # Trailing zeros and line ends are common and harmless.
    "JPEG": lambda _, tail, __: tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9"),
    "MPO": lambda _, tail, __: tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9"),
    "PNG": lambda _, tail, __: tail[-8:-4] == b"IEND",
    "GIF": lambda _, tail, __: tail[-1:] == b";",
    "WEBP": lambda head, _, size: int.from_bytes(head[4:8], "little") + 8 <= size,
    "BMP": lambda head, _, size: 0 < int.from_bytes(head[2:6], "little") <= size,
}


def open_image(source: ImageSource) -> Image.Image:
    """Returns a decoded, upright RGB image; the source is not modified.

    EXIF rotation is applied to files, also to those that Pillow has opened. Transparent images are
    composited on white. The first frame of an animation is used. Colour profiles are ignored, as
    they were when the models were trained.

    Grey of more than 8 bits is converted to 8 bits: 16 bits by scaling the full range. The range of
    a 32-bit integer or floating-point image is inferred from its values: integers up to 255 are
    8-bit, larger ones 16-bit; floating point below 2 is from 0 to 1 and clipped to it, up to 255 it
    is 8-bit, above 16-bit.

    Args:
        source: a path, the bytes of a file, an open binary file, a Pillow image, an array
            (H, W, 3) or (H, W), or a tensor (3, H, W) or (1, H, W). Arrays and tensors are uint8,
            or floating point from 0 to 1.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the source is not an image, is damaged, has more pixels than Pillow accepts
            (twice `PIL.Image.MAX_IMAGE_PIXELS`), or an unsupported shape or type.
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), _from_pillow)
    if isinstance(source, bytes | bytearray):
        return _identified(BytesIO(source), describe(source), _from_pillow)
    if isinstance(source, Image.Image):
        return _from_pillow(source, describe(source))
    if isinstance(source, np.ndarray):
        return _from_array(source, describe(source))
    if _is_tensor(source):
        return _from_tensor(source, describe(source))
    if callable(getattr(source, "read", None)):
        return _from_file(source, describe(source))  # type: ignore[arg-type]  # has read()
    raise ValueError(
        f"cannot read an image from a {type(source).__name__}; expected a path, bytes, an open "
        "binary file, a PIL image, a numpy array or a torch tensor"
    )


def open_reduced(
    source: Path | bytes, fraction_for: Callable[[tuple[int, int]], int]
) -> Image.Image:
    """Returns the image as `open_image` does, a JPEG decoded at a fraction of its size.

    A JPEG is decoded at 1/8, 1/4 or 1/2 of its size, the smallest that is not below the fraction
    asked for; a side that does not divide is rounded up. Other formats have their full size.

    Args:
        source: a path, or the bytes of a file.
        fraction_for: takes the full size (width, height) of the upright image and returns n, where
            1/n of it is enough. Called once, before anything is decoded.

    Raises:
        FileNotFoundError: as `open_image`.
        ValueError: as `open_image`.
    """

    def finish(image: Image.Image, name: str) -> Image.Image:
        width, height = image.size
        fraction = fraction_for(_upright_size(image, name))
        # Does nothing with other formats than JPEG.
        image.draft(None, (max(1, width // fraction), max(1, height // fraction)))
        return _from_pillow(image, name)

    if isinstance(source, bytes):
        return _identified(BytesIO(source), describe(source), finish)
    return _from_path(source, finish)


def check_image(source: Path | bytes) -> tuple[int, int]:
    """Returns (width, height) of a complete image file, before its EXIF rotation.

    Reads only the header and the end if the format allows it; otherwise decodes the image.

    Raises:
        FileNotFoundError: as `open_image`.
        ValueError: as `open_image`.
    """
    if isinstance(source, bytes):
        return _identified(BytesIO(source), describe(source), _checked)
    return _from_path(source, _checked)


def upright_size(path: Path) -> tuple[int, int]:
    """Returns (width, height) of a complete image file as `open_image` returns it, upright.

    Raises:
        FileNotFoundError: as `open_image`.
        ValueError: as `open_image`.
    """

    def measured(image: Image.Image, name: str) -> tuple[int, int]:
        size = _upright_size(image, name)
        _checked(image, name)
        return size

    return _from_path(path, measured)


def describe(source: ImageSource) -> str:
    """Returns the name of a source for messages: its path if it has one, else its type and size."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "")
        return str(name) if name else f"<PIL image {source.mode} {source.width}x{source.height}>"
    if isinstance(source, np.ndarray) or _is_tensor(source):
        kind = "tensor" if _is_tensor(source) else "array"
        return f"<{kind} {tuple(source.shape)} {source.dtype}>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def _is_tensor(source: object) -> TypeGuard[Tensor]:
    # If the source is a tensor, torch has been imported already.
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def is_url(path: Path) -> bool:
    """Returns whether a path is an address in the network; Windows' `C:/` is none."""
    return re.match(r"[A-Za-z]\w+:/", str(path)) is not None  # `Path` takes one of two slashes


def _refuse(name: str, reason: str) -> ValueError:
    return ValueError(f"cannot read image {one_line(name)}: {one_line(reason)}")


def _from_path(path: Path, finish: Callable[[Image.Image, str], _T]) -> _T:
    if not path.exists():
        if is_url(path):
            raise FileNotFoundError(f"{path} is a URL; fetch it, and give a path or its bytes")
        raise FileNotFoundError(f"no image file {path}; check the path")
    if path.is_dir():
        raise _refuse(str(path), "it is a folder; list_images() returns the images in it")
    if not path.is_file():
        raise _refuse(str(path), "it is not a regular file; give an open file instead")
    try:
        with path.open("rb") as file:
            return _identified(file, str(path), finish)
    except OSError as error:
        raise _refuse(str(path), error.strerror or str(error)) from error


def _from_file(file: IO[bytes], name: str) -> Image.Image:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise _refuse(name, str(error)) from error
    if not isinstance(content, bytes):
        raise _refuse(name, "it was opened as text; open it with mode 'rb'")
    return _identified(BytesIO(content), name, _from_pillow)


def _identified(file: IO[bytes], name: str, finish: Callable[[Image.Image, str], _T]) -> _T:
    """Opens a file with Pillow and returns `finish(image, name)` of the image, not decoded yet."""
    start = file.read(16)
    if not start:
        raise _refuse(name, "the file is empty")
    file.seek(0)
    try:
        try:
            image = _opened(file)
        except Exception:
            if not start.startswith(_PNG):
                raise
            file.seek(0)
            image = _opened(BytesIO(_without_metadata(file.read())))
    except UnidentifiedImageError:
        reason = f"not an image, or of a format that Pillow does not know; starts with {start!r}"
        raise _refuse(name, reason) from None
    # Pillow's plugins may raise anything on a damaged file, here as in `_from_pillow`.
    except Exception as error:
        raise _refuse(name, str(error) or type(error).__name__) from error
    with image:
        return finish(image, name)


def _without_metadata(content: bytes) -> bytes:
    """Returns a PNG without texts and colour profiles, for whose size or damage Pillow refuses it.

    Nothing here uses either.
    """
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in _PNG_METADATA:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _opened(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=_COMMON_FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
    Image.init()
    others = [name for name in Image.OPEN if name not in _REFUSED_FORMATS]
    return Image.open(file, formats=others)


def _checked(image: Image.Image, name: str) -> tuple[int, int]:
    file, is_complete = getattr(image, "fp", None), _IS_COMPLETE.get(image.format or "")
    if file is None or is_complete is None:
        return _from_pillow(image, name).size
    file.seek(0)
    head = file.read(_TAIL)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    if is_complete(head, file.read(), size):
        return image.size
    file.seek(0)
    return _from_pillow(_opened(file), name).size


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except Exception as error:
        raise _refuse(name, str(error) or type(error).__name__) from error


def _from_pillow(image: Image.Image, name: str) -> Image.Image:
    _load(image, name)
    try:
        if not min(image.size):
            raise ValueError(f"{image.width} x {image.height} pixels; expected at least one")
        # An image derived from a file's may be upright already and still have its EXIF.
        return _rgb(_upright(image) if isinstance(image, ImageFile.ImageFile) else image)
    except Exception as error:
        raise _refuse(name, str(error) or type(error).__name__) from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # An image with damaged metadata is taken as upright.
    except Exception:
        return None


def _upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    # For the EXIF of a PNG Pillow decodes it, and only the first attempt at a damaged one fails: a
    # second one returns black.
    if image.format == "PNG" and "exif" not in image.info:
        _load(image, name)
    # For a TIFF, Pillow returns the size after rotation.
    sideways = image.format != "TIFF" and _turn(image) in _SIDEWAYS
    return image.size[::-1] if sideways else image.size


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if _tiff_tag(image, _PLANES, 1) != 1 and _tiff_tag(image, _BITS, 8) > 8:
        raise ValueError("a TIFF with planes of 16 bits, which Pillow reads wrongly; save as PNG")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Returns grey values of 0 to 255, with white where the file names a transparent value."""
    grey = _scaled(image)
    if _tiff_tag(image, _PHOTOMETRIC, 1) == 0:  # of these Pillow turns over 8 bits only
        grey = 255 - grey
    transparent = image.info.get("transparency")
    return grey if transparent is None else np.where(np.asarray(image) == transparent, 255, grey)


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Returns a tag of a TIFF, of several values the first; the default for other images."""
    found = getattr(image, "tag_v2", {}).get(tag, default)
    return int(found[0] if isinstance(found, tuple) else found)


def _scaled(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # also false for NaN
        raise ValueError(f"grey values from {low:g} to {high:g}; expected 0 to 65535")
    if image.mode == "F":
        top = 1 if high < 2 else 255 if high <= 255 else 65535
        return np.rint(values.clip(0, top) * (255 / top)).astype(np.uint8)
    # Pillow opens 16-bit PGM in the mode of 32-bit integers.
    is_16_bit = image.mode != "I" or image.format == "PPM"
    if high <= 255 and not is_16_bit:
        return values.astype(np.uint8)
    bits = _tiff_tag(image, _BITS, 16)
    top = 2**bits - 1 if bits < 16 else 65535
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _from_unit(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(
            f"values from {low:.4g} to {high:.4g}; expected 0 to 1 in floating point, "
            "or 0 to 255 in uint8, before any normalisation"
        )
    scaled: NDArray[Any] = np.rint(values * 255)
    return scaled.astype(np.uint8)


def _check_size(shape: tuple[int, ...], name: str) -> None:
    """Applies Pillow's pixel limit for files to arrays too: a view can be huge and cost nothing."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and math.prod(shape[:2]) > 2 * limit:
        raise _refuse(name, f"{math.prod(shape[:2])} pixels; expected at most {2 * limit}")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    array = np.asarray(array)  # the plain numbers of a masked array or a matrix
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise _refuse(name, f"shape {array.shape}; expected (H, W, 3) or (H, W)")
    _check_size(array.shape, name)
    if np.issubdtype(array.dtype, np.floating):
        try:
            array = _from_unit(array)
        except ValueError as error:
            raise _refuse(name, str(error)) from None
    if array.dtype != np.uint8:
        raise _refuse(name, f"type {array.dtype}; expected uint8, or floating point from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _from_tensor(tensor: Tensor, name: str) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        shape = tuple(tensor.shape)
        raise _refuse(name, f"shape {shape}; expected (3, H, W) or (1, H, W)")
    _check_size(tuple(tensor.shape[1:]), name)
    try:
        if tensor.is_floating_point():
            tensor = tensor.float()  # numpy has no bfloat16
        array = tensor.detach().cpu().permute(1, 2, 0).numpy()
    # Raised for meta, sparse, quantized and conjugated tensors.
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = f"it cannot be converted to numpy ({error}); expected a dense tensor"
        raise _refuse(name, reason) from error
    return _from_array(array[:, :, 0] if array.shape[2] == 1 else array, name)
