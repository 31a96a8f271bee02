"""timm's `pretrained_cfg`: made from our records, and read from models.

`FBNetV3.pretrained_cfg` is this dict, so that `timm.data.resolve_model_data_config(model)` and
other code that reads it works with our models.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from fbnetv3.arch.arch import Arch
from fbnetv3.images import labels
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

from .confidence import Confidence
from .weights import WEIGHTS, HubFile, Url, Weights

# What a training calls a part of its folder; it is named after the folder.
_OWN_NAMES = frozenset({"arch", "best"})


def pretrained_cfg(architecture: str, arch: Arch, weights: Weights | None) -> dict[str, Any]:
    """Returns timm's `pretrained_cfg` of a model, with or without weights.

    Args:
        architecture: the model's name.
        arch: its architecture.
        weights: the record of its weights, None if it is untrained.
    """
    size = weights.preprocess.crop if weights else arch.resolution
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": weights.num_classes if weights else 1000,
        "input_size": (3, size, size),
        "pool_size": _last_map(arch, size),
        "crop_pct": 0.95,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.conv",
        "classifier": "classifier",
        "paper_ids": "arXiv:2006.02049",
        "paper_name": "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining",
    }
    if weights is None:
        return cfg
    cfg |= {
        "tag": weights.tag,
        "interpolation": weights.preprocess.interpolation,
        "crop_pct": weights.preprocess.crop_pct,
        "mean": weights.preprocess.mean,
        "std": weights.preprocess.std,
        "license": weights.license.lower(),
        "origin_url": weights.origin,
    }
    if isinstance(weights.source, Url):
        cfg["url"] = weights.source.url
    elif isinstance(weights.source, HubFile):
        cfg["hf_hub_id"] = weights.source.repo
    return cfg


def given_name(location: str) -> str:
    """Returns what its owner calls a saved model: the name of its folder, repository or file.

    What a training itself calls so is named after its folder: `best/` and `arch.json`.

    Args:
        location: a folder (also "local-dir:PATH"), "ORG/REPO@REVISION" (also with the prefix
            "hf-hub:"), or the path or URL of an architecture's JSON.
    """
    text = re.sub(r"^(local-dir|hf[-_]hub):", "", location)
    if re.match(r"https?:", text):
        path = Path(urlparse(text).path)
    elif Path(text).exists() or location.startswith("local-dir:"):
        path = Path(os.path.abspath(text))  # the name that was given, not a link's target
    else:
        path = Path(text.partition("@")[0])
    if path.suffix == ".json":
        path = path.with_suffix("")
    own = path.parent if path.name in _OWN_NAMES and path.parent.name else path
    return own.name or "model"


def name_of(model: object) -> str:
    """Returns what a model is called: as its owner calls it, else as its weights or architecture.

    A model that was made of an architecture without a name is "fbnetv3".
    """
    weights, cfg = weights_of(model), _cfg_of(model)
    return str(cfg.get("name") or (weights and weights.name) or cfg.get("architecture", "fbnetv3"))


def weights_of(model: object) -> Weights | None:
    """Returns the record of the weights that a model, ours or timm's, was loaded with, or None.

    A saved model keeps the tag of the weights that it was trained from, and timm puts the
    architecture beside it again; a folder or repository of its own tells it from them.
    """
    cfg = _cfg_of(model)
    known = WEIGHTS.get(f"{cfg.get('architecture')}.{cfg.get('tag')}")
    if known is None or cfg.get("source") == "local-dir":
        return None
    repo = str(cfg.get("hf_hub_id") or "timm/")
    own = isinstance(known.source, HubFile) and repo == known.source.repo
    return known if own or repo.startswith("timm/") else None


def license_of(model: object) -> str:
    """Returns the SPDX name of the licence of a model's weights, "" if it is not stated."""
    weights = weights_of(model)
    return weights.license if weights else str(_cfg_of(model).get("license") or "")


def preprocess_of(model: object) -> Preprocess | None:
    """Returns the preprocessing that a model expects, None if unknown."""
    weights, cfg = weights_of(model), _cfg_of(model)
    if weights is not None:
        return weights.preprocess
    return Preprocess.from_timm_cfg(cfg) if cfg else None


def class_names_of(model: object) -> tuple[str, ...]:
    """Returns the class names of a model in the order of its logits, () if unknown."""
    weights, cfg = weights_of(model), _cfg_of(model)
    num_classes = getattr(model, "num_classes", None)
    if weights is not None and weights.num_classes == num_classes:
        return labels.class_names(weights.labels)
    names = tuple(cfg.get("label_names") or ())
    return names if len(names) == num_classes else ()


def thresholds_of(model: object) -> tuple[float, ...] | None:
    """Returns the thresholds of a multi-label model's classes; None of a single-label model."""
    thresholds = tuple(_cfg_of(model).get("thresholds") or ())
    fits = thresholds and len(thresholds) == getattr(model, "num_classes", None)
    return thresholds if fits else None


def confidence_of(model: object) -> Confidence | None:
    """Returns the temperature and the threshold of a model's answers, None if never fitted."""
    weights, record = weights_of(model), _cfg_of(model).get("confidence")
    if weights is not None and weights.num_classes == getattr(model, "num_classes", None):
        return weights.confidence
    return None if record is None else Confidence.from_dict(record)


def _cfg_of(model: object) -> dict[str, Any]:
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    return cfg


def _last_map(arch: Arch, size: int) -> tuple[int, int]:
    size = math.ceil(size / 2)
    for block in arch.blocks():
        size = (size + 2 * block.padding - block.kernel) // block.stride + 1
    return size, size
