"""Compares two ways of running a model, on noise and on photos, relative to the logits' spread.

An absolute tolerance would accept anything for an untrained model, whose logits spread over 1e-3,
and reject a good file whose logits reach 200. Every error here is the largest difference between an
image's logits, divided by the standard deviation of that image's logits.

A comparison says something about the weights only if the logits depend on the images. Those of a
network as initialised do not, because its blocks start at zero; `input_spread` measures it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image

from .artefact import Artefact

Run = Callable[[NDArray[Any]], NDArray[Any]]
SEED = 0
# Logits that vary less over the inputs are constant as far as the comparison can tell.
MIN_SPREAD = 1e-3
Evidence = Literal["weights", "scaled copy", "none"]
# Largest error that passes. fp16: 60 to 80 layers of 11-bit arithmetic.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
# If fp32 arithmetic itself is less accurate than that (untrained, ill-conditioned models), a file
# may be this many times as far from float64 as torch is.
_SLACK = 4.0


@dataclass(frozen=True)
class Parity:
    """Comparison of a file with its model.

    Attributes:
        max_error_of_std: the largest error, rounded up to one digit so that it repeats.
        top1_agreement: share of inputs with the same largest logit.
        num_inputs: number of images and noise inputs.
        tolerance: the largest error that passes.
        input_spread: standard deviation of the logits over the inputs, divided by that over the
            classes.
        evidence: what the comparison is about: "weights"; "scaled copy", if the weights make the
            logits constant and a copy with random batch-norm scales passed instead; or "none", if
            it proves nothing.
        seed: random seed of the noise.
    """

    max_error_of_std: float
    top1_agreement: float
    num_inputs: int
    tolerance: float
    input_spread: float
    evidence: Evidence
    seed: int = SEED

    def to_dict(self) -> dict[str, float | str]:
        """Returns the figures as plain JSON types."""
        return dataclasses.asdict(self)


def error_of_std(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Returns (N,) the largest difference over the standard deviation of the expected logits.

    If an image's expected logits are all equal, or there is only one, their size takes the place of
    the deviation. NaN if a result is not finite.

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
    """Compares `run` with `reference` over all batches.

    Args:
        run: a batch to logits (N, classes).
        reference: a batch to the expected logits (N, classes).
        batches: inputs of any shapes that both take.
        tolerance: the largest error that passes.
        exact: the reference in float64, for batches whose difference is larger than `tolerance`.

    Raises:
        ValueError: the difference is too large, or a result has another shape or is not finite.
    """
    worst, agreed, number = 0.0, 0, 0
    seen: list[NDArray[Any]] = []
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
        if not error <= allowed:  # also for NaN
            raise ValueError(
                f"logits differ by {error:.2g} of their standard deviation on a batch of shape "
                f"{batch.shape}; expected at most {allowed:.2g}. Nothing was written"
            )
        worst = max(worst, error)
        agreed += int((got.argmax(1) == expected.argmax(1)).sum())
        number += len(batch)
        seen.append(expected)
    spread = input_spread(np.concatenate(seen))
    return Parity(
        _round_up(worst),
        round(agreed / max(number, 1), 4),
        number,
        tolerance,
        input_spread=_round_up(spread),
        evidence="weights" if spread >= MIN_SPREAD else "none",
    )


def input_spread(logits: NDArray[Any]) -> float:
    """Returns how much logits (N, classes) depend on the input.

    The standard deviation over the inputs, divided by that over the classes; with one class, by the
    logits' size.
    """
    logits = logits.astype(np.float64)
    over_classes = float(logits.std(axis=1).mean())
    size = float(np.abs(logits).max())
    scale = (
        over_classes if over_classes > 1e-9 * size else max(size, float(np.finfo(np.float32).tiny))
    )
    return float(logits.std(axis=0).mean()) / scale


def inputs_for(
    artefact: Artefact, *, in_chans: int, batch_sizes: Sequence[int], free_size: bool
) -> Iterator[NDArray[Any]]:
    """Yields batches of noise and, for three channels, of the package's photos.

    Args:
        artefact: metadata of the file, which define its input.
        in_chans: number of input channels.
        batch_sizes: batch sizes to try.
        free_size: also try a height and a width that no stride divides.
    """
    size = artefact.preprocess.crop
    sizes = [(size, size)]
    if free_size:
        sizes.append((size + size // 4 + 1, size - size // 4 + 1))
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
                yield photos[np.arange(number) % len(photos)]


def as_pixels(normalised: NDArray[Any], artefact: Artefact) -> NDArray[np.uint8]:
    """Returns the uint8 pixels (N, H, W, 3) of normalised images (N, 3, H, W)."""
    mean, std = (
        np.array(values, np.float32).reshape(3, 1, 1)
        for values in (artefact.preprocess.mean, artefact.preprocess.std)
    )
    pixels = np.rint((normalised * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _photos(artefact: Artefact, size: int) -> NDArray[np.float32]:
    preprocess = artefact.preprocess.at(size)
    return np.stack([preprocess(open_image(path)) for path in example_photos()])


def _round_up(value: float) -> float:
    if value == 0:
        return 0.0
    digit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.0e}")
