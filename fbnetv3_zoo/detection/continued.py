"""Starts a detector's training from a trained detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .detectors import BuiltDetector, check_numbers, fresh_module, load_detector, norm_of


def continued_detector(
    folder: str | Path,
    class_names: Sequence[str],
    *,
    size: int | None = None,
    trainable_layers: int | None = None,
    license: str | None = None,
) -> BuiltDetector:
    """Returns a detector to train that has the weights of a trained one.

    What depends on the number of classes is fresh where that differs.

    Args:
        folder: as in `load_detector`.
        class_names: name of each label from 1, of the images to train on.
        size: of images in pixels; None is the trained detector's.
        trainable_layers: as in `new_detector`; None is the trained detector's.
        license: as in `load_detector`.

    Raises:
        FileNotFoundError: as `load_detector`.
        ValueError: as `load_detector`, or an argument is out of range.
    """
    start = load_detector(folder, license=license)
    size = start.config.size if size is None else size
    layers = 5 - start.config.freeze_at if trainable_layers is None else trainable_layers
    check_numbers(size, layers)
    config = dataclasses.replace(
        start.config,
        class_names=tuple(class_names),
        size=size,
        norm=start.config.norm if trainable_layers is None else norm_of(layers),
        freeze_at=5 - layers,
    )
    module = fresh_module(config)
    own = module.state_dict()
    trained = start.module.state_dict().items()
    # Frozen batch-norms have no counters.
    fitting = {k: t for k, t in trained if k in own and own[k].shape == t.shape}
    module.load_state_dict(fitting, strict=False)
    return BuiltDetector(module, config)
