"""Activation ranges over calibration images, computed in a stream with constant memory.

One pass keeps for every tensor the extremes, their mean over images and a histogram. All methods
are computed from these, so that trying another method needs no inference. onnxruntime's histogram
calibrators keep all activations of all images instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .words import CalibrationMethod

METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
_BINS = 2048
_MSE_STEPS = 40


@dataclass
class Statistics:
    """Statistics of one tensor.

    The histogram spans -limit..limit; a larger value doubles the limit by merging bins in pairs,
    so that no count is lost.
    """

    low: float = np.inf
    high: float = -np.inf
    sum_low: float = 0.0
    sum_high: float = 0.0
    images: int = 0
    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: NDArray[Any]) -> None:
        """Adds the activation of one image, of any shape."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.sum_low += low
        self.sum_high += high
        self.images += 1
        top = max(-low, high)
        if self.limit == 0.0:
            self.limit = top if top > 0 else 1e-6
        while top > self.limit:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, _BINS // 4)
            self.limit *= 2
        counted, _ = np.histogram(values, _BINS, (-self.limit, self.limit))
        self.counts += counted

    def range(self, method: str) -> tuple[float, float]:
        """Returns the range by one of `METHODS`; it always includes zero.

        Raises:
            ValueError: the method is unknown.
        """
        if method == "minmax":
            low, high = self.low, self.high
        elif method == "mean_minmax":
            low, high = self.sum_low / self.images, self.sum_high / self.images
        elif method.startswith("percentile_"):
            low, high = self._central(float(method.removeprefix("percentile_")) / 100)
        elif method == "mse":
            low, high = self._least_error()
        else:
            raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
        return min(low, 0.0), max(high, 0.0)

    def _central(self, share: float) -> tuple[float, float]:
        cumulated = np.cumsum(self.counts) / self.counts.sum()
        edges = np.linspace(-self.limit, self.limit, _BINS + 1)
        tail = (1 - share) / 2
        first = int(np.searchsorted(cumulated, tail, side="right"))
        last = int(np.searchsorted(cumulated, 1 - tail))
        return max(self.low, float(edges[first])), min(self.high, float(edges[last + 1]))

    def _least_error(self) -> tuple[float, float]:
        edges = np.linspace(-self.limit, self.limit, _BINS + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        full = min(self.low, 0.0), max(self.high, 0.0)
        best, best_error = full, np.inf
        for shrink in np.linspace(1.0, 0.2, _MSE_STEPS):
            low, high = full[0] * shrink, full[1] * shrink
            # Or keep the lower end: hard-swish never goes below -0.375, where clipping costs much.
            for chosen in ((low, high), (full[0], high)):
                step = (chosen[1] - chosen[0]) / 255
                if step <= 0:
                    continue
                # Rounding errors are uniform within a step; values outside are clipped.
                beyond = centres - centres.clip(*chosen)
                error = float((self.counts * (beyond**2 + step**2 / 12 * (beyond == 0))).sum())
                if error < best_error:
                    best, best_error = chosen, error
        return best


def collect(model: Any, batches: Iterable[NDArray[Any]]) -> dict[str, Statistics]:
    """Returns the statistics of every float activation of a model over all images.

    Args:
        model: an `onnx.ModelProto` with inferred shapes.
        batches: batches in the model's input layout, which are run image by image.

    Raises:
        ValueError: there are no images.
    """
    import onnx
    import onnxruntime as ort

    from .artefact import INPUT

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    graph = observed.graph
    constant = {tensor.name for tensor in graph.initializer}
    # Preprocessing in the graph begins with uint8.
    observed_type = onnx.TensorProto.FLOAT
    graph.output.extend(
        onnx.helper.make_tensor_value_info(value.name, observed_type, None)
        for value in graph.value_info
        if value.type.tensor_type.elem_type == observed_type and value.name not in constant
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Fusion would remove some of these tensors.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(observed.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: dict[str, Statistics] = {name: Statistics() for name in (INPUT, *names)}
    for batch in batches:
        for number in range(len(batch)):
            image = batch[number : number + 1]
            found[INPUT].add(image)
            for name, result in zip(names, session.run(names, {INPUT: image}), strict=True):
                found[name].add(result)
    if not found[INPUT].images:
        raise ValueError("no calibration images; give at least one, a few hundred are better")
    return found
