"""What a trained model becomes: figures with intervals, exported files, a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fbnetv3
from fbnetv3._internal.errors import OverBudget
from fbnetv3._internal.files import sha256_of, write_atomically
from fbnetv3._internal.json_record import read_object
from fbnetv3.arch.counts import count
from fbnetv3.deploy.confidence import MIN_IMAGES
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.quantize import Quantized, quantize
from fbnetv3.hub.confidence import Confidence
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained import CONFIG, write_confidence
from fbnetv3.images.reader import ImageSource
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.storage.results import write_json
from fbnetv3.search.training.answers import fit_on
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.evaluate import evaluate, wilson_pct
from fbnetv3.search.training.networks import load_raw, open_network

from .card import card
from .plan import Final

RESULT = "result.json"
WEIGHTS, ONNX, INT8, CARD = "model.safetensors", "model.onnx", "model_int8.onnx", "README.md"
# More images say little more about ranges, and onnxruntime takes them one by one.
_CALIBRATION, _INT8_IMAGES = 300, 5000


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How models are evaluated and exported.

    Attributes:
        images: training set, for the ranges of int8.
        val_images: what models are evaluated on.
        max_drop_pct: points of top-1 that int8 may lose on up to 5,000 of these.
        teacher: what the models were distilled from, for the card; None: labels only.
        seed: random seed of the trainings, for the card.
        batch_size: images per pass.
        workers: processes that decode images which are not in memory.
        hardware: how to compute.
    """

    images: ImageSet
    val_images: ImageSet
    max_drop_pct: float = 1.0
    teacher: str | None = None
    seed: int = 0
    batch_size: int = 250
    workers: int = 0
    hardware: Hardware = field(default_factory=Hardware.of)


def is_delivered(folder: Path) -> bool:
    """Returns whether a model is finished, with its figures and files."""
    return (folder / RESULT).is_file()


def read_result(folder: Path) -> dict[str, Any]:
    """Returns the figures of a finished model."""
    return read_object(folder / RESULT)


def deliver(folder: Path, final: Final, how: Delivery) -> dict[str, Any]:
    """Evaluates and exports a trained model; writes its card and, last, `result.json`.

    Args:
        folder: the training's folder.
        final: the model.
        how: the rest.

    Returns:
        The content of `result.json`: plain JSON types.

    Raises:
        ValueError: the training has not finished, or an export failed its check.
        OSError: the disk is full or not writable.
    """
    name = f"local-dir:{folder}"
    confidence = _fit_confidence(name, folder, how)
    model = open_network(name, pretrained=True).model
    files = [WEIGHTS]
    result: dict[str, Any] = {
        "name": final.name,
        "limits": list(final.limits),
        "network": "FBNetV3" if isinstance(model, FBNetV3) else final.network,
        "searched": {"mean": final.searched["mean"], "sd": final.searched["sd"]},
        "teacher": how.teacher,
        "seed": how.seed,
        "data": _name(how.val_images),
        "accuracy": _accuracy(name, final, how),
        "confidence": None if confidence is None else confidence.to_dict(),
        "versions": {"fbnetv3": fbnetv3.__version__, "torch": torch.__version__},
    }
    if isinstance(model, FBNetV3):
        # `open_network` leaves out what was fitted, with which nothing is to be trained.
        to_onnx(create(name, pretrained=True), folder / ONNX)
        files.append(ONNX)
        result["int8"] = _int8(folder, how)
        files += [INT8] if result["int8"]["written"] else []
        side = final.recipe.resolution or model.arch.resolution
        counts = count(model.arch, side, num_classes=model.num_classes)
        result |= {"resolution": side, "macs": counts.macs_paper, "params": counts.params}
    else:
        result["params"] = sum(parameter.numel() for parameter in model.parameters())
    result["sha256"] = {file: sha256_of(folder / file) for file in files}
    write_atomically(folder / CARD, card(result, final.recipe))
    write_json(folder / RESULT, result)
    return result


def _fit_confidence(name: str, folder: Path, how: Delivery) -> Confidence | None:
    """Stores temperature and threshold with the weights, from where exported files have them.

    None of another library's network, or where there are too few images to fit on.
    """
    if not (folder / CONFIG).is_file() or len(how.val_images) < MIN_IMAGES:
        return None
    network = open_network(name, pretrained=True)
    found = fit_on(network, how.val_images, hardware=how.hardware, workers=how.workers)
    write_confidence(folder, found)
    return found


def _accuracy(name: str, final: Final, how: Delivery) -> dict[str, Any]:
    """Returns the figures of the raw weights and, where the recipe has them, of the EMA weights."""
    found = {}
    for kind in ("ema", "raw") if final.recipe.ema else ("raw",):
        network = open_network(name, pretrained=True)
        if kind == "raw" and final.recipe.ema:
            load_raw(network, name)
        one = evaluate(
            network,
            how.val_images,
            hardware=how.hardware,
            batch_size=how.batch_size,
            workers=how.workers,
        )
        found[kind] = {
            "top1_pct": one.top1,
            "top1_interval": list(one.top1_interval),
            "top5_pct": one.top5,
            "top5_interval": list(one.top5_interval),
            "num_images": one.num_images,
        }
    return found


def _int8(folder: Path, how: Delivery) -> dict[str, Any]:
    """Returns the figures of the int8 file, which is written where it is within the budget."""
    calibration, _ = _sources(how.images, _CALIBRATION)
    evaluation, labels = _sources(how.val_images, _INT8_IMAGES)
    budget = {"max_drop_pct": how.max_drop_pct}
    try:
        found = quantize(
            folder / ONNX,
            folder / INT8,
            calibration,
            evaluation=evaluation,
            labels=labels,
            max_drop_pct=how.max_drop_pct,
            sensitivity=False,
        )
    except OverBudget as error:
        return {**budget, "written": False, "reason": str(error)}
    return {**budget, "written": True, **_figures(found)}


def _figures(found: Quantized) -> Mapping[str, Any]:
    assert found.top1_pct is not None
    hits = round(found.top1_pct * found.num_evaluation / 100)
    return {
        "top1_pct": found.top1_pct,
        "top1_interval": list(wilson_pct(hits, found.num_evaluation)),
        "top1_float_pct": found.top1_float_pct,
        "num_images": found.num_evaluation,
        "layers_in_float": sum(layer.in_float for layer in found.layers),
        "num_bytes": found.num_bytes,
        "num_bytes_float": found.num_bytes_float,
    }


def _sources(images: ImageSet, most: int) -> tuple[list[ImageSource], list[int]]:
    """Returns up to `most` images of a set, evenly taken, and their labels."""
    step = max(1, -(-len(images) // most))
    kept = images.subset(torch.arange(0, len(images), step))
    sources: list[ImageSource] = (
        list(kept.sources) if kept.pixels is None else [p.numpy() for p in kept.pixels]  # type: ignore[arg-type]  # either is there
    )
    return sources, kept.labels.tolist()


def _name(images: ImageSet) -> str:
    """Returns the name of a set without the folders above it, which are this machine's."""
    path, _, part = images.name.partition(" (")
    return Path(path).name + (f" ({part}" if part else "")
