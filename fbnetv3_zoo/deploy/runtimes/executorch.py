"""A network as an ExecuTorch program for XNNPACK. Extra `executorch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fbnetv3._internal.files import replacing
from fbnetv3._internal.optional import missing
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3

from ..describe import describe
from ..export_graph import inference_graph, reference_of
from ..parity import TOLERANCE, Parity, compare, inputs_for


def to_executorch(
    model: FBNetV3, path: str | Path, *, preprocess: Preprocess | None = None
) -> Parity:
    """Writes a model as an ExecuTorch program (`.pte`) for XNNPACK, compared with the model.

    The program takes one image, float32 (1, C, H, W), and gives float32 logits (1, num_classes).

    Args:
        model: of any mode; left as it is.
        path: the file to write.
        preprocess: what images go through; it sets the input's size. The model's own unless given.

    Raises:
        ValueError: the program gives other logits, or the path is wrong: nothing is written then.
        ImportError: ExecuTorch is missing.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise missing("executorch", error) from error
    artefact = describe(model, preprocess=preprocess)
    side = artefact.preprocess.crop
    with replacing(Path(path)) as part:
        example = (torch.zeros(1, model.in_chans, side, side),)
        program = torch.export.export(inference_graph(model, artefact), example)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        part.write_bytes(lowered.to_executorch().buffer)
        reference = reference_of(model, artefact)
        return compare(
            executorch_runner(part),
            reference.logits,
            inputs_for(artefact, in_chans=model.in_chans, batch_sizes=(1,), free_size=False),
            tolerance=TOLERANCE["fp32"],
            exact=reference.exact_logits,
        )


def executorch_runner(path: str | Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Returns a function that runs an ExecuTorch program on a batch of one.

    Raises:
        ImportError: ExecuTorch is missing.
    """
    try:
        from executorch.runtime import Runtime
    except ImportError as error:
        raise missing("executorch", error) from error
    program = Runtime.get().load_program(Path(path).read_bytes())
    method = program.load_method("forward")

    def run(batch: NDArray[Any], _program: Any = program) -> NDArray[Any]:
        # The program must outlive its method; what it returns is its own memory.
        return np.array(method.execute([torch.from_numpy(batch)])[0].numpy())

    return run
