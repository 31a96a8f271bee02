"""Builds a TensorRT engine of an exported ONNX file, checks and times it.

    pip install tensorrt
    python -m benchmarks.gpu.tensorrt a.onnx --out benchmarks/results/gpu/tensorrt.jsonl

This has never been run: no machine of this project has TensorRT. It is written against NVIDIA's
reference of the Python interface (10.x and 11.x). The engine is written beside the file, and is for
this kind of GPU only. Its logits are compared with those of onnxruntime on the package's photos and
noise, with the tolerance of an fp16 export; an engine that differs is an error and is not timed.
Engine and onnxruntime's CUDA provider, where that is installed, take turns.

The precision is the file's: `fbnetv3 export --precision fp16` gives an fp16 engine. TensorRT
quantizes symmetrically, in signed integers only, so that it refuses the files of `fbnetv3
quantize`, whose activations have a zero point. A minute a file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.records import append
from fbnetv3.deploy.artefact import INPUT, OUTPUT
from fbnetv3.deploy.parity import TOLERANCE, compare, inputs_for
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.measure.latency import Contestant, measure

CUDA = "CUDAExecutionProvider"


def build(trt: Any, path: Path, largest: int) -> bytes:
    """Returns the engine of an ONNX file for batches of one to `largest`."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Types as the file has them; TensorRT 11 knows no other way and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reasons = [str(parser.get_error(number).desc()) for number in range(parser.num_errors)]
        raise SystemExit(f"TensorRT {trt.__version__} cannot read {path}: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    shape = tuple(network.get_input(0).shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        rest = shape[1:]
        profile.set_shape(INPUT, (1, *rest), (largest, *rest), (largest, *rest))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit(f"TensorRT {trt.__version__} cannot build an engine of {path}; see above")
    return bytes(engine)


class Engine:
    """A TensorRT engine whose buffers are tensors of torch."""

    def __init__(self, trt: Any, content: bytes, num_classes: int) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        self._context = self._engine.create_execution_context()
        self._num_classes = num_classes
        self._stream = torch.cuda.Stream()

    def bind(self, batch: NDArray[Any]) -> Callable[[], torch.Tensor]:
        """Returns a function that runs a batch that is on the GPU already."""
        images = torch.from_numpy(np.ascontiguousarray(batch)).cuda()
        logits = torch.empty(len(batch), self._num_classes, device="cuda")
        torch.cuda.synchronize()

        def run() -> torch.Tensor:
            self._context.set_input_shape(INPUT, tuple(images.shape))
            self._context.set_tensor_address(INPUT, images.data_ptr())
            self._context.set_tensor_address(OUTPUT, logits.data_ptr())
            # Behind what the current stream has begun, so that events around it time it.
            self._stream.wait_stream(torch.cuda.current_stream())
            self._context.execute_async_v3(self._stream.cuda_stream)
            torch.cuda.current_stream().wait_stream(self._stream)
            return logits

        return run

    def logits(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the logits of a batch."""
        return np.asarray(self.bind(batch)().cpu())


def main() -> None:
    """Builds, compares, times, and appends a row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a file that `fbnetv3 export` wrote")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    options = parser.parse_args()
    try:
        import tensorrt as trt
    except ImportError:
        raise SystemExit(
            "TensorRT is not installed; expected a machine with an NVIDIA GPU and `pip install "
            "tensorrt` of 10.0 or later"
        ) from None
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; TensorRT builds and runs engines on one")
    exact = ONNX.load(options.file)
    artefact, fixed = exact.artefact, exact.artefact.batch_size
    if artefact.precision == "int8":
        raise SystemExit(
            f"{options.file} is int8 with zero points, which TensorRT does not read; export it "
            "with --precision fp32 or fp16"
        )
    batches = [fixed] if fixed else options.batches
    content = build(trt, options.file, max(batches))
    options.file.with_suffix(".engine").write_bytes(content)
    engine = Engine(trt, content, artefact.num_classes)
    sizes = batches if fixed else sorted({1, min(3, *batches), *batches})
    parity = compare(
        engine.logits,
        exact.session.run,
        inputs_for(artefact, in_chans=3, batch_sizes=sizes, free_size=False),
        # TF32 rounds the inputs of products to 10 bits, as fp16 does.
        tolerance=TOLERANCE["fp16"],
    )
    print(parity, flush=True)
    for size in batches:
        (batch, *_) = inputs_for(artefact, in_chans=3, batch_sizes=[size], free_size=False)
        contestants = [Contestant("tensorrt", engine.bind(batch), cuda=True)]
        import onnxruntime

        if CUDA in onnxruntime.get_available_providers():
            peer = ONNX.load(options.file, providers=[CUDA])
            contestants.append(Contestant("onnxruntime-cuda", peer.session.bind(batch)))
        for found in measure(contestants, min_runs=100, max_seconds=20.0):
            row = {
                "network": artefact.name,
                "precision": artefact.precision,
                "batch": size,
                "num_bytes": len(content),
                "tensorrt": trt.__version__,
                "gpu": torch.cuda.get_device_name(),
                "parity": parity.to_dict(),
                "latency": found.to_dict(),
                "conditions": conditions(),
            }
            append(options.out, [row])
            print(found.name, size, f"{found.median_ms:.3f} ms", found.verdict, flush=True)


if __name__ == "__main__":
    main()
