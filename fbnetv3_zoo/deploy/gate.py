"""The check of files that are written from the torch module, the same for every runtime.

`export` has that of ONNX files, from which other formats are converted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fbnetv3.models.model import FBNetV3

from .artefact import Artefact
from .export_graph import reference_of, scaled_copy, untested_weights
from .parity import TOLERANCE, Parity, Run, compare, inputs_for


def proved(build: Callable[[FBNetV3], Run], model: FBNetV3, artefact: Artefact) -> Parity:
    """Returns the comparison of what `build` makes of a model with the model, on noise and photos.

    If the logits do not depend on all weights, a copy with random batch-norm scales is built and
    compared too: see `Parity.evidence`.

    Args:
        build: exports a model and returns a function that runs the result.
        model: the model.
        artefact: metadata of the file.

    Raises:
        ValueError: the logits differ.
    """
    crop = artefact.preprocess.crop
    # First the copy, so that what `build` left last is the model itself.
    tested = not untested_weights(model, crop)
    scaled = None if tested else scaled_copy(model, crop)
    copied = None if scaled is None else _compared(build(scaled), scaled, artefact)
    parity = _compared(build(model), model, artefact)
    if copied is None or scaled is None:
        return parity
    proves = copied.evidence == "weights" and not untested_weights(scaled, crop)
    return dataclasses.replace(parity, evidence="scaled copy" if proves else parity.evidence)


def _compared(run: Run, model: FBNetV3, artefact: Artefact) -> Parity:
    reference = reference_of(model, artefact)
    return compare(
        run,
        reference.logits,
        inputs_for(
            artefact,
            in_chans=model.in_chans,
            batch_sizes=(1, 3) if artefact.batch_size is None else (artefact.batch_size,),
            free_size=False,
        ),
        tolerance=TOLERANCE[artefact.precision],
        exact=reference.exact_logits,
    )
