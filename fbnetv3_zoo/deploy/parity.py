"""Whether two ways of running a network agree, on noise and on photos, in units of the logits.

An absolute tolerance would pass anything on a fresh network, whose logits spread over 1e-3, and
refuse a good file whose logits reach 200. Every error here is the largest difference between an
image's logits over the standard deviation of that image's logits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image

from .artefact import Artefact

Run = Callable[[NDArray[Any]], NDArray[Any]]
SEED = 0
# Largest error that passes. fp32: both sides are this far from float64 at most; see `compare`.
# fp16: 60 to 80 layers of 11-bit arithmetic.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
# Where fp32 arithmetic itself is that far off (fresh, ill-conditioned networks), a file may be this
# many times as far from float64 as torch is.
_SLACK = 4.0


@dataclass(frozen=True)
class Parity:
    """How near a file is to its model.

    Attributes:
        max_error_of_std: the largest error, rounded up to one digit so that it repeats.
        top1_agreement: share of inputs with the same largest logit.
        num_inputs: images and noise inputs compared.
        tolerance: the largest error that passes.
        seed: of the noise.
    """

    max_error_of_std: float
    top1_agreement: float
    num_inputs: int
    tolerance: float
    seed: int = SEED

    def to_dict(self) -> dict[str, float]:
        """Returns the figures as plain JSON types."""
        return dataclasses.asdict(self)


def error_of_std(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Returns each row's largest difference over the standard deviation of its expected logits.

    A row whose expected logits are all equal, or of one class only, is measured against their
    size. Not a number where a result is not finite.

    Args:
        got: (N, classes).
        expected: (N, classes).
    """
    expected = expected.astype(np.float64)
    spread = expected.std(axis=1)
    size = np.abs(expected).max(axis=1)
    scale = np.where(spread > 1e-9 * size, spread, np.maximum(size, np.finfo(np.float32).tiny))
    difference: NDArray[np.float64] = np.abs(got.astype(np.float64) - expected).max(axis=1) / scale
    return difference


def compare(
    run: Run,
    reference: Run,
    batches: Iterable[NDArray[Any]],
    *,
    tolerance: float,
    exact: Run | None = None,
) -> Parity:
    """Returns how near `run` is to `reference` over all batches.

    Args:
        run: a batch to logits (N, classes).
        reference: the same.
        batches: inputs of any shapes that both take.
        tolerance: the largest error that passes.
        exact: the reference in float64, asked where the two differ by more than that.

    Raises:
        ValueError: the difference is larger, or a result has another shape or is not finite.
    """
    worst, agreed, number = 0.0, 0, 0
    for batch in batches:
        expected, got = reference(batch), run(batch)
        if got.shape != expected.shape:
            raise ValueError(f"logits have shape {got.shape}; expected {expected.shape}")
        error = float(error_of_std(got, expected).max())
        allowed = tolerance
        if exact is not None and not error <= tolerance:
            truth = exact(batch)
            error = float(error_of_std(got, truth).max())
            allowed = max(tolerance, _SLACK * float(error_of_std(expected, truth).max()))
        if not error <= allowed:  # also where it is not a number
            raise ValueError(
                f"logits differ by {error:.2g} of their standard deviation on a batch of shape "
                f"{batch.shape}; expected at most {allowed:.2g}. Nothing was written"
            )
        worst = max(worst, error)
        agreed += int((got.argmax(1) == expected.argmax(1)).sum())
        number += len(batch)
    return Parity(_round_up(worst), round(agreed / max(number, 1), 4), number, tolerance)


def inputs_for(
    artefact: Artefact, *, in_chans: int, batch_sizes: Sequence[int], free_size: bool
) -> Iterator[NDArray[Any]]:
    """Yields batches of noise and, for three channels, of the package's photos, as the file takes.

    Args:
        artefact: what the file takes.
        in_chans: channels of the input.
        batch_sizes: each is tried.
        free_size: also try a height and a width that no stride divides.
    """
    side = artefact.preprocess.crop
    sizes = [(side, side)]
    if free_size:
        sizes.append((side + side // 4 + 1, side - side // 4 + 1))
    rng = np.random.default_rng(SEED)
    for height, width in sizes:
        for number in batch_sizes:
            if artefact.in_graph:
                yield rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8)
            else:
                yield rng.standard_normal((number, in_chans, height, width), dtype=np.float32)
        if in_chans == 3:
            photos: NDArray[Any] = _photos(artefact, max(height, width))[:, :, :height, :width]
            if artefact.in_graph:
                photos = as_pixels(photos, artefact)
            for number in batch_sizes:
                yield np.ascontiguousarray(photos[:number])


def as_pixels(normalised: NDArray[Any], artefact: Artefact) -> NDArray[np.uint8]:
    """Returns normalised images (N, 3, H, W) as the uint8 (N, H, W, 3) they came from."""
    mean, std = (
        np.array(values, np.float32).reshape(3, 1, 1)
        for values in (artefact.preprocess.mean, artefact.preprocess.std)
    )
    pixels = np.rint((normalised * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _photos(artefact: Artefact, side: int) -> NDArray[np.float32]:
    resize = max(side, round(artefact.preprocess.resize * side / artefact.preprocess.crop))
    step = dataclasses.replace(artefact.preprocess, crop=side, resize=resize)
    return np.stack([step(open_image(path)) for path in example_photos()])


def _round_up(value: float) -> float:
    if value == 0:
        return 0.0
    digit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.0e}")
