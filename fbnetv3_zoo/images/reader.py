"""Images from anything a user may hold: files, bytes, Pillow images, arrays, tensors.

Files are not trusted. What Pillow cannot read, or reads only in part, is refused with an error that
names it; formats that hand the file to another program are not tried. The edge of this file: it
needs Pillow and numpy, gives RGB images, and knows no network.

JPEGs are always decoded in full: Pillow's shortcut of decoding at a fraction of the size is four
times faster on a 12-megapixel photo, but moves preprocessed pixels by up to 2 of 255.
"""

from __future__ import annotations

import math
import os
import sys
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from fbnetv3._internal.messages import one_line

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any] | Tensor"
)

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)

# Known to Pillow without loading all its plugins, which takes 0.1 s.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
# These run another program (Ghostscript) or the operating system's drawing on the file.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})
_WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: ImageSource) -> Image.Image:
    """Returns an image in RGB, upright and wholly decoded; the source is left as it was.

    EXIF rotation is applied to files, also where they are given as opened by Pillow. Transparent
    images are laid on white. 16-bit grey is scaled to 8 bits. Of an animation the first frame is
    taken. Colour profiles are ignored, as they were when the networks were trained.

    Args:
        source: a path, the bytes of a file, an open binary file, a Pillow image, an array
            (H, W, 3) or (H, W), or a tensor (3, H, W) or (1, H, W). Arrays and tensors are uint8,
            or floating point from 0 to 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is damaged, has more pixels than Pillow accepts
            (`PIL.Image.MAX_IMAGE_PIXELS`, twice), or has another shape or type than above.
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source))
    if isinstance(source, bytes | bytearray):
        return _decoded(BytesIO(source), describe(source))
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


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the image files in a folder and those below it, sorted; told by `SUFFIXES`.

    Files whose names begin with a dot are left out, links to folders are not followed.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a folder.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"no folder {root}; check the path")
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; open_image() reads a single file")
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
    )


def describe(source: ImageSource) -> str:
    """Returns what to call a source in reports: its path where it has one, else what it is."""
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
    # Whoever holds a tensor has imported torch; this file need not.
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _refuse(name: str, reason: str) -> ValueError:
    return ValueError(f"cannot read image {one_line(name)}: {one_line(reason)}")


def _from_path(path: Path) -> Image.Image:
    if not path.exists():
        raise FileNotFoundError(f"no image file {path}; check the path")
    if path.is_dir():
        raise _refuse(str(path), "it is a folder; list_images() gives the images in it")
    if not path.is_file():
        raise _refuse(str(path), "it is not a regular file; give an open file instead")
    try:
        with path.open("rb") as file:
            return _decoded(file, str(path))
    except OSError as error:
        raise _refuse(str(path), error.strerror or str(error)) from error


def _from_file(file: IO[bytes], name: str) -> Image.Image:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise _refuse(name, str(error)) from error
    if not isinstance(content, bytes):
        raise _refuse(name, "it is open as text; open it with mode 'rb'")
    return _decoded(BytesIO(content), name)


def _decoded(file: IO[bytes], name: str) -> Image.Image:
    start = file.read(16)
    if not start:
        raise _refuse(name, "the file is empty")
    file.seek(0)
    try:
        image = _identified(file)
    except UnidentifiedImageError:
        reason = f"not an image, or of a format that Pillow does not know; begins with {start!r}"
        raise _refuse(name, reason) from None
    # Pillow's plugins raise whatever a damaged file leads them into, here as in `_from_pillow`.
    except Exception as error:
        raise _refuse(name, str(error) or type(error).__name__) from error
    with image:
        return _from_pillow(image, name)


def _identified(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=_COMMON_FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
    Image.init()
    others = [name for name in Image.OPEN if name not in _REFUSED_FORMATS]
    return Image.open(file, formats=others)


def _from_pillow(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        if not min(image.size):
            raise ValueError(f"{image.width} x {image.height} pixels; expected at least one")
        # An image that was made from a file's may be turned already and still carry its EXIF.
        return _rgb(_upright(image) if isinstance(image, ImageFile.ImageFile) else image)
    except Exception as error:
        raise _refuse(name, str(error) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    # A photo with damaged metadata is still a photo; it counts as upright.
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        return _from_unit(values, "grey values")
    if low < 0 or high > 65535:
        raise ValueError(f"grey values from {low} to {high}; expected 0 to 65535")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _from_unit(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also false where a value is not a number
        raise ValueError(
            f"{what} from {low:.4g} to {high:.4g}; expected 0 to 1 in floating point, "
            "or 0 to 255 in uint8, before any normalisation"
        )
    scaled: NDArray[Any] = np.rint(values * 255)
    return scaled.astype(np.uint8)


def _check_size(shape: tuple[int, ...], name: str) -> None:
    """Refuses what a view of a few numbers can claim; files are held to the same by Pillow."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and math.prod(shape[:2]) > 2 * limit:
        raise _refuse(name, f"{math.prod(shape[:2])} pixels; expected at most {2 * limit}")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    array = np.asarray(array)  # of a masked array or a matrix the numbers
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise _refuse(name, f"shape {array.shape}; expected (H, W, 3) or (H, W)")
    _check_size(array.shape, name)
    if np.issubdtype(array.dtype, np.floating):
        try:
            array = _from_unit(array, "values")
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
    # Depending on the kind: without numbers (meta), sparse, quantised, conjugated.
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = f"it holds no plain numbers ({error}); expected a dense tensor"
        raise _refuse(name, reason) from error
    return _from_array(array[:, :, 0] if array.shape[2] == 1 else array, name)
