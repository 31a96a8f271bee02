"""The preprocessing of images, as a record that is stored with the weights.

The record needs only Pillow and numpy; `Preprocess.torchvision` returns the same steps as
torchvision transforms, which give equal bits for a PIL image, because both resize with Pillow. The
images must be RGB; `reader.open_image` makes them so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fbnetv3._internal.checks import refusal
from fbnetv3._internal.json_record import keywords_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

Interpolation = Literal["nearest", "bilinear", "bicubic"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)

# Beyond this aspect ratio only the middle is resized: a strip of 1 x 60,000 pixels would become
# 224 x 13,440,000. Pillow keeps the box of the middle in float32, so that pixels may differ by 1 of
# 255 from those of the full image.
_MAX_ASPECT = 32
# Limit of means and standard deviations: larger ones could overflow in float32.
_MAX_SCALE = 1e6
# timm's names, for `from_timm_cfg`.
_TIMM_FIELDS = ("input_size", "interpolation", "crop_pct", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, centre crop, scale to 0..1, normalise: an RGB image to (3, crop, crop) float32.

    The rules are those of torchvision's `Resize(resize)` and `CenterCrop(crop)`: the shorter edge
    becomes `resize`, the longer one `int(resize * longer / shorter)`; a resized image smaller than
    the crop is padded with black.

    Attributes:
        resize: length of the shorter edge after resizing, in pixels.
        crop: edge length of the square centre crop in pixels, the model's input size.
        interpolation: interpolation of the resizing, with antialiasing except for "nearest".
        mean: mean per channel (RGB), on the scale 0..1.
        std: standard deviation per channel.

    Raises:
        ValueError: a field is out of range; the message names the field.
    """

    resize: int
    crop: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for field in ("resize", "crop"):
            _check_pixels(field, getattr(self, field))
        if self.interpolation not in INTERPOLATIONS:
            raise refusal("interpolation", self.interpolation, f"one of {INTERPOLATIONS}")
        for field, low in (("mean", -_MAX_SCALE), ("std", 1 / _MAX_SCALE)):
            object.__setattr__(self, field, _triple(field, getattr(self, field), low))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Returns the model's input, (3, crop, crop) float32, contiguous.

        Raises:
            ValueError: the image is not RGB.
        """
        import numpy as np

        out = self.pixels(image).transpose(2, 0, 1).astype(np.float32, order="C")
        # The same operations in the same order as torchvision's, so that the bits are equal.
        out *= np.float32(1.0 / 255)
        out -= np.array(self.mean, np.float32).reshape(3, 1, 1)
        out /= np.array(self.std, np.float32).reshape(3, 1, 1)
        return out

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Returns the pixels before normalisation, (crop, crop, 3) uint8, for graphs that do it.

        Raises:
            ValueError: the image is not RGB.
        """
        import numpy as np

        if image.mode != "RGB":
            raise ValueError(
                f"the image has mode {image.mode!r}; expected 'RGB', see fbnetv3.open_image()"
            )
        return np.asarray(self._cut(self._resized(image)))

    def _resized(self, image: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        short, long = sorted(image.size)
        resample = Resampling[self.interpolation.upper()]
        new_long = int(self.resize * long / short)
        if long <= _MAX_ASPECT * short:
            wide = image.width > image.height
            size = (new_long, self.resize) if wide else (self.resize, new_long)
            return image if size == image.size else image.resize(size, resample)
        kept = min(new_long, self.crop)
        left, scale = round((new_long - kept) / 2), long / new_long
        start, stop = left * scale, min((left + kept) * scale, long)
        if image.width > image.height:
            return image.resize((kept, self.resize), resample, box=(start, 0, stop, short))
        return image.resize((self.resize, kept), resample, box=(0, start, short, stop))

    def _cut(self, image: Image.Image) -> Image.Image:
        # Like torchvision: half the padding, rounded down, on the left and top if the crop is
        # larger; Python's rounding of halves to even numbers if it is smaller.
        left, top = (
            -((self.crop - side) // 2) if side < self.crop else round((side - self.crop) / 2)
            for side in image.size
        )
        return image.crop((left, top, left + self.crop, top + self.crop))

    def at(self, size: int) -> Preprocess:
        """Returns the same steps for another input size; the crop keeps its share of the image.

        Args:
            size: edge length of the crop, in pixels.

        Raises:
            ValueError: the size is out of range.
        """
        _check_pixels("image_size", size)
        return dataclasses.replace(
            self, resize=max(1, round(self.resize * size / self.crop)), crop=size
        )

    def torchvision(self) -> Any:
        """Returns the same steps as a `torchvision.transforms.v2.Compose`.

        For a PIL image the result is equal to calling the record. A tensor is resized by torch,
        whose pixels differ by about 1 of 255.
        """
        import torch
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.Resize(
                    self.resize,
                    interpolation=v2.InterpolationMode(self.interpolation),
                    antialias=True,  # no effect on "nearest", and False would warn
                ),
                v2.CenterCrop(self.crop),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean=list(self.mean), std=list(self.std)),
                v2.ToPureTensor(),
            ]
        )

    @property
    def crop_pct(self) -> float:
        """Crop size over resize size, from which timm computes `resize`.

        Rounded so that timm's floor(crop / crop_pct) is exactly `resize`.
        """
        ratio = self.crop / self.resize
        while math.floor(self.crop / ratio) < self.resize:
            ratio = math.nextafter(ratio, 0.0)
        return ratio

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types.

        `antialias`, which follows from the interpolation, is written for other readers.
        """
        fields = dataclasses.asdict(self)
        antialias = {"antialias": self.interpolation != "nearest"}
        return {**fields, **antialias, "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Preprocess:
        """Returns the record of a mapping that `to_dict` returned.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        rest: Any = fields
        if isinstance(fields, Mapping):
            rest = {key: value for key, value in fields.items() if key != "antialias"}
        record = Preprocess(**keywords_of(Preprocess, rest, "preprocess"))
        implied = record.interpolation != "nearest"
        antialias = fields.get("antialias", implied)
        if antialias is not implied:
            expected = f"{implied} with {record.interpolation!r}, as Pillow resizes"
            raise refusal("antialias", antialias, expected)
        return record

    @staticmethod
    def from_timm_cfg(cfg: Mapping[str, Any], *, use_test_size: bool = False) -> Preprocess:
        """Returns the record of a timm `pretrained_cfg`, or of its resolved data config.

        Args:
            cfg: mapping with `input_size`, `interpolation`, `crop_pct`, `mean` and `std`.
            use_test_size: use `test_input_size` and `test_crop_pct` if the mapping has them, as
                timm does for its published accuracies.

        Raises:
            ValueError: a field is missing, out of range or not supported.
        """
        missing = [name for name in _TIMM_FIELDS if cfg.get(name) is None]
        if missing:
            raise ValueError(f"timm config lacks {missing[0]!r}; needed: {', '.join(_TIMM_FIELDS)}")
        size, crop_pct = cfg["input_size"], cfg["crop_pct"]
        if use_test_size:
            size = cfg.get("test_input_size") or size
            crop_pct = cfg.get("test_crop_pct") or crop_pct
        if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
            raise refusal("input_size", size, "(3, size, size)")
        if cfg.get("crop_mode", "center") != "center":
            raise refusal("crop_mode", cfg["crop_mode"], "'center'")
        if isinstance(crop_pct, bool) or not isinstance(crop_pct, int | float) or crop_pct <= 0:
            raise refusal("crop_pct", crop_pct, "a positive number")
        return Preprocess(
            resize=math.floor(size[1] / crop_pct),
            crop=size[1],
            interpolation=cfg["interpolation"],
            mean=cfg["mean"],
            std=cfg["std"],
        )


def _check_pixels(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
        raise refusal(name, value, "a whole number of pixels from 1 to 8192")


def _triple(field: str, values: Any, low: float) -> tuple[float, float, float]:
    numbers = list(values) if isinstance(values, list | tuple) else []
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            numbers = []
    if len(numbers) != 3 or not all(low <= n <= _MAX_SCALE for n in numbers):
        expected = f"three numbers from {low:g} to {_MAX_SCALE:g}, one per channel"
        raise refusal(field, values, expected)
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
