"""Quantizes an ONNX graph to int8 in onnxruntime's QDQ format, with different settings.

Weights are int8 per channel, activations uint8, with ranges from one pass over the images.
Hard-swish and the channel gates are integers too, see `int8_swish`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fbnetv3.images.reader import ImageSource

from .artefact import Artefact
from .backend import ExportedBackend
from .calibration import Statistics, collect
from .int8_swish import rescale, split_activations
from .multi_label import same_answers
from .parity import as_pixels, error_of_std
from .qdq_graph import quantized_graph, quantized_tensors
from .quantize_score import Evaluator, LayerError, Score, over_budget
from .runtimes import ONNX

if TYPE_CHECKING:
    from .fake_quantize import TrainableGraph

# Trains a graph that rounds, given the float graph to learn from.
Trainer: TypeAlias = Callable[["TrainableGraph", "TrainableGraph"], None]

logger = logging.getLogger("fbnetv3")

_OPERATORS = ["Conv", "Gemm", "Add", "Mul", "GlobalAveragePool"]
_WEIGHTED = ("Conv", "Gemm")
# Number of images for comparing methods and layers; more take time and change little.
_NUM_COMPARED = 64
_NUM_SENSITIVITY = 8


class QdqSearch:
    """Makes int8 graphs from a float graph and its activation statistics."""

    def __init__(
        self, source: Path, part: Path, evaluator: Evaluator, calibration: Sequence[ImageSource]
    ) -> None:
        import onnx

        self.part = part
        self.evaluator = evaluator
        self.model = onnx.shape_inference.infer_shapes(onnx.load(source))
        self.nodes = [node.name for node in self.model.graph.node if node.op_type in _WEIGHTED]
        # Normalisation in the graph comes before the first layer and stays in float.
        every = itertools.takewhile(
            lambda node: node.op_type not in _WEIGHTED, self.model.graph.node
        )
        self.in_front = [node.name for node in every]
        fed = (self._fed(batch) for batch in evaluator.reader.batches(calibration))
        self.statistics: dict[str, Statistics] = collect(self.model, fed)
        self.trained: dict[str, tuple[float, float]] = {}
        compared = list(itertools.islice(calibration, _NUM_COMPARED))
        self.batches = list(evaluator.reader.batches(compared))
        self.expected = [evaluator.float_model.run_batch(batch) for batch in self.batches]

    def _fed(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        artefact = self.evaluator.float_model.artefact
        return as_pixels(batch, artefact) if artefact.in_graph else batch

    def build(
        self, method: str, *, only: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> ExportedBackend:
        """Writes an int8 file and opens it.

        Args:
            method: calibration method.
            only: nodes to quantize; default: all.
            without: nodes to keep in float.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        # A single layer is tried in the float graph.
        gates = split_activations(model, without) if only is None else {}
        ranges = self._ranges(method) | self.trained | gates
        quantized = quantized_graph(
            model, ranges, _OPERATORS, only=only or (), without=[*self.in_front, *without]
        )
        rescale(quantized, gates)
        onnx.save(quantized, self.part)
        return ONNX.load(self.part)

    def _ranges(self, method: str) -> dict[str, tuple[float, float]]:
        return {name: seen.range(method) for name, seen in self.statistics.items()}

    def train(self, method: str, trainer: Trainer) -> bool:
        """Trains weights and ranges; what `build` writes has them from then on.

        Args:
            method: calibration method, for the ranges that the training begins with.
            trainer: trains.

        Returns:
            Whether they are kept: not if fewer held-out images then have the float file's answer.

        Raises:
            ValueError: the graph has an operator that cannot be trained.
        """
        import onnx

        from .fake_quantize import TrainableGraph

        before = self.evaluator.score(self.build(method)).agreement_pct
        untrained = onnx.ModelProto()
        untrained.CopyFrom(self.model)
        split = onnx.ModelProto()
        split.CopyFrom(self.model)
        gates = split_activations(split)
        ranges = self._ranges(method) | gates
        # What comes before the first layer is left to the preprocessing of training.
        first = next(node for node in self.model.graph.node if node.op_type in _WEIGHTED)
        graph = TrainableGraph(
            split,
            first.input[0],
            {name: ranges[name] for name in quantized_tensors(onnx.load(self.part))},
            gates,
        )
        trainer(graph, TrainableGraph(self.model, first.input[0], {}))
        _set_constants(self.model, graph.trained_constants())
        self.trained = graph.trained_ranges()
        after = self.evaluator.score(self.build(method)).agreement_pct
        if after < before:
            self.model, self.trained = untrained, {}
            logger.warning(
                "training is left out: with it %.2f %% of held-out images have the answer of the "
                "float file, without it %.2f %%; train on more images, or at a lower rate",
                after,
                before,
            )
            return False
        # What layers are compared with from now on.
        onnx.save(self.model, self.part)
        float_model = ONNX.load(self.part)
        self.expected = [float_model.run_batch(batch) for batch in self.batches]
        return True

    def compare_methods(self, methods: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Returns method -> (agreement with the float file in percent, mean error)."""
        found = {}
        thresholds = self.evaluator.float_model.artefact.thresholds
        for method in methods:
            quantized = self.build(method)
            agreed: list[bool] = []
            errors: list[float] = []
            for batch, expected in zip(self.batches, self.expected, strict=True):
                got = quantized.run_batch(batch)
                agreed.extend(same_answers(expected, got, thresholds))
                errors.extend(error_of_std(got, expected))
            found[method] = (100 * float(np.mean(agreed)), float(np.mean(errors)))
            logger.info("calibration %s: agreement %.2f %%, error %.3f", method, *found[method])
        return found

    def layer_errors(self, method: str) -> list[LayerError]:
        """Returns the error of quantizing each layer alone, most sensitive first."""
        batch = self.batches[0][:_NUM_SENSITIVITY]
        expected = self.expected[0][:_NUM_SENSITIVITY]
        found = []
        for node in self.nodes:
            error = error_of_std(self.build(method, only=[node]).run_batch(batch), expected)
            found.append(LayerError(node, float(error.mean()), in_float=False))
        return sorted(found, key=lambda layer: -layer.error_of_std)

    def within_budget(
        self, method: str, layers: Sequence[LayerError], max_drop_pct: float | None
    ) -> tuple[Score, int]:
        """Builds the file with 0, 1, 2, 4, ... float layers until it meets the budget.

        Returns:
            Its score and the number of float layers.
        """
        counts = [0, *(2**n for n in range(len(layers).bit_length())), len(layers)]
        for number in sorted({min(n, len(layers)) for n in counts}):
            if number and number == len(layers):
                break  # nothing would be int8
            quantized = self.build(method, without=[layer.node for layer in layers[:number]])
            score = self.evaluator.score(quantized)
            if max_drop_pct is None or score.drop_pct <= max_drop_pct:
                return score, number
        raise over_budget(score, max_drop_pct, "however many layers stay in float")

    def finish(self, artefact: Artefact) -> None:
        """Writes the metadata into the built file, instead of what the quantizer left there."""
        import onnx

        model = onnx.load(self.part)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, artefact.to_metadata())
        model.producer_name = "fbnetv3"
        model.producer_version = artefact.exported_with["fbnetv3"]
        del model.graph.value_info[:]
        self.part.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(self.part))
        ONNX.load(self.part)


def _set_constants(model: Any, values: Mapping[str, NDArray[Any]]) -> None:
    """Replaces constants of an `onnx.ModelProto`."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
