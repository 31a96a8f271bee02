"""Networks of timm and torchvision, fresh, with trained weights, or out of a training run's folder.

Each function returns (model, preprocess, names): what images go through before the model, and for
each output the names its class goes by; None where that is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.json_record import read_object
from fbnetv3.checkpoints.checkpoint import (
    load_strict,
    read_metadata,
    read_own_tensors,
)
from fbnetv3.images.labels import class_ids, class_names
from fbnetv3.images.preprocess import Preprocess

TIMM, TORCHVISION = "timm:", "torchvision:"
LOCAL_DIR = "local-dir:"
# In a run's folder: which network the weights beside it are of.
RECORD, _WEIGHTS = "network.json", "model.safetensors"
_IMAGENET = 1000

Names = tuple[tuple[str, ...], ...]
Opened = tuple[nn.Module, Preprocess | None, Names | None]


def is_foreign(name: str) -> bool:
    """Returns whether a name is one of timm's or torchvision's, with its prefix."""
    return name.startswith((TIMM, TORCHVISION))


def foreign_name(name: str) -> str | None:
    """Returns timm's or torchvision's name of a network, also of a run's; None of one of ours.

    Args:
        name: as `networks.open_network` takes it.

    Raises:
        ValueError: the run's record is damaged.
    """
    if is_foreign(name):
        return name
    folder = Path(name.removeprefix(LOCAL_DIR))
    if not name.startswith(LOCAL_DIR) or not (folder / RECORD).is_file():
        return None
    return _recorded(folder)


def open_foreign(
    name: str, num_classes: int | None, pretrained: bool, *, dropout: float, drop_path: float
) -> Opened:
    """Returns a network by its prefixed name.

    Args:
        name: "timm:NAME" or "torchvision:NAME".
        num_classes: of the logits; None keeps what the network has.
        pretrained: load trained weights; where the classes differ the classifier is fresh.
        dropout: before the classifier; 0 leaves what the network has by itself.
        drop_path: stochastic depth; 0 as above.

    Raises:
        ValueError: the name is unknown, or the network lacks a rate that is asked for.
    """
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), num_classes, pretrained, dropout, drop_path)
    plain = name.removeprefix(TORCHVISION)
    return _torchvision(plain, num_classes, pretrained, dropout, drop_path)


def write_record(folder: Path, name: str) -> None:
    """Notes in a run's folder whose weights it will hold.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RECORD, json.dumps({"network": name}).encode())


def _recorded(folder: Path) -> str:
    """Returns the name that `write_record` noted in a run's folder."""
    name = read_object(folder / RECORD).get("network")
    if not isinstance(name, str):
        raise ValueError(f"{folder / RECORD} names no network; restore it from a copy")
    return name


def open_run(folder: Path, num_classes: int | None, *, dropout: float, drop_path: float) -> Opened:
    """Returns the trained network of a run's folder that `write_record` was called for.

    Raises:
        ValueError: the folder's files are damaged or do not fit together.
        FileNotFoundError: the run is not finished: it has no weights yet.
    """
    path = folder / _WEIGHTS
    try:
        name = _recorded(folder)
        head = json.loads(read_metadata(path)["fbnetv3"])
        labels: list[str] = head["labels"]
        preprocess = Preprocess.from_dict(head["preprocess"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is not a finished training, or is damaged: {error!r}"
        ) from error
    classes = len(labels) if num_classes is None else num_classes
    model, _, _ = open_foreign(name, classes, False, dropout=dropout, drop_path=drop_path)
    if classes == len(labels):
        load_strict(model, read_own_tensors(path), source=str(path))
    else:
        _load_fitting(model, read_own_tensors(path))
    return model, preprocess, tuple((label,) for label in labels)


def run_thresholds(folder: Path, num_classes: int | None) -> tuple[float, ...] | None:
    """Returns the thresholds of a multi-label run's classes; None of others, or of other classes.

    Args:
        folder: of a run that `open_run` opens.
        num_classes: as there.
    """
    head = json.loads(read_metadata(folder / _WEIGHTS)["fbnetv3"])
    thresholds = tuple(map(float, head.get("thresholds", ())))
    return thresholds if thresholds and num_classes in (None, len(thresholds)) else None


def _timm(
    name: str, num_classes: int | None, pretrained: bool, dropout: float, drop_path: float
) -> Opened:
    import timm

    rates = {"drop_rate": dropout, "drop_path_rate": drop_path}
    kwargs: dict[str, Any] = {key: rate for key, rate in rates.items() if rate}
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    try:
        model = timm.create_model(name, pretrained=pretrained, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"timm's {name} does not take {' or '.join(kwargs)}: {error}; set that rate to 0 in "
            "the recipe, as in --set drop_path=0"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"timm cannot make {name!r}: {error}") from error
    config = vars(model)["pretrained_cfg"]
    known = pretrained and num_classes is None and config.get("num_classes") == _IMAGENET
    return model, Preprocess.from_timm_cfg(config), _imagenet_names() if known else None


def _torchvision(
    name: str, num_classes: int | None, pretrained: bool, dropout: float, drop_path: float
) -> Opened:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classifier {name!r}; expected one of "
            "torchvision.models.list_models(module=torchvision.models), such as resnet50"
        )
    try:
        weights = models.get_model_weights(name).DEFAULT if pretrained else None
        kwargs: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        model = models.get_model(name, weights=None, **kwargs)
    except ValueError as error:
        raise ValueError(f"torchvision has no model {name!r}: {error}") from error
    # Heads that only help training would make it return more than logits.
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if getattr(model, auxiliary, None) is not None:
            setattr(model, auxiliary, None)
            model.aux_logits = False
    if dropout:
        _set_dropout(model, name, dropout)
    if drop_path:
        _set_drop_path(model, name, drop_path)
    if weights is None:
        return model, None, None
    _load_fitting(model, weights.get_state_dict(progress=False, check_hash=True))
    names = _imagenet_names() if num_classes is None else None
    return model, _preprocess_of(weights.transforms()), names


def _preprocess_of(transform: Any) -> Preprocess:
    """Returns torchvision's own evaluation of an image as a record."""
    return Preprocess.from_dict(
        {
            "resize": transform.resize_size[0],
            "crop": transform.crop_size[0],
            "interpolation": transform.interpolation.value,
            "antialias": bool(transform.antialias),
            "mean": transform.mean,
            "std": transform.std,
        }
    )


def _imagenet_names() -> Names:
    return tuple(zip(class_names("imagenet1k"), class_ids("imagenet1k"), strict=True))


def _load_fitting(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads all but what has another shape, as the classifier has where the classes differ."""
    own = model.state_dict()
    fitting = {key: t for key, t in tensors.items() if key in own and t.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)


def _set_dropout(model: nn.Module, name: str, rate: float) -> None:
    # Transformers have more of them, switched off inside their blocks.
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    if not dropouts:
        raise ValueError(
            f"torchvision's {name} has no dropout; set it to 0 in the recipe, as in --set dropout=0"
        )
    for module in dropouts:
        module.p = rate


def _set_drop_path(model: nn.Module, name: str, rate: float) -> None:
    """Makes `rate` the highest of the network's own, which grow from block to block."""
    from torchvision.ops import StochasticDepth

    blocks = [m for m in model.modules() if isinstance(m, StochasticDepth) and m.p > 0]
    if not blocks:
        raise ValueError(
            f"torchvision's {name} takes no drop_path; set it to 0 in the recipe, as in "
            "--set drop_path=0"
        )
    highest = max(m.p for m in blocks)
    for module in blocks:
        module.p *= rate / highest
