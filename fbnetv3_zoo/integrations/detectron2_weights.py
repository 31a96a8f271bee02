"""The zoo's weights in Detectron2: `MODEL.WEIGHTS = "fbnetv3://NAME"`.

Importing this module registers the scheme `fbnetv3://` in Detectron2's path manager. NAME is a
model or `model.tag`. The weights are downloaded and verified as usual, converted once, and stored
in the cache. Detectron2 reads pickled tensors, so this is the only file of the package that writes
them; Detectron2 reads them with `weights_only`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fbnetv3._internal.files import replacing
from fbnetv3._internal.optional import missing
from fbnetv3.hub.cache import cache_dir
from fbnetv3.hub.license_policy import check_license
from fbnetv3.hub.registry import get_weights
from fbnetv3.models.model import FBNetV3

from .trunk import load_network, part_state

try:
    from detectron2.utils.file_io import PathHandler, PathManager
except ImportError as error:
    raise missing("detectron2", error) from error

SCHEME = "fbnetv3://"
# Attribute names of the parts in backbones and heads; Detectron2 matches names by suffix.
PARTS = ("trunk", "tail", "repeats")


def save_weights(network: FBNetV3, path: str | Path) -> Path:
    """Writes the weights of a full model as a file for `MODEL.WEIGHTS`; returns its path.

    Backbone, C4 box head and proposal head load their tensors from it; Detectron2 logs those that a
    configuration does not use. A detector with another architecture refuses the file.
    """
    state = part_state(network)
    tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save({"model": tensors, "__author__": "fbnetv3", "matching_heuristics": True}, part)
    return path


def zoo_weights(name: str) -> Path:
    """Returns the file for `MODEL.WEIGHTS` of pretrained weights, created on first use.

    Args:
        name: a model or `model.tag`.

    Raises:
        ValueError: the name is unknown, or the licence policy refuses the weights.
        FileNotFoundError: the weights cannot be downloaded.
    """
    weights = get_weights(name)
    check_license(weights, None)
    # "faithful" keeps the architecture unchanged; padding changes no tensor.
    path = cache_dir() / "detectron2" / f"{weights.name}.pth"
    if not path.is_file():
        save_weights(load_network(weights.name, pretrained=True, padding="faithful"), path)
    return path


class ZooHandler(PathHandler):  # type: ignore[misc]  # detectron2 has no types
    """Resolves `fbnetv3://NAME` to the path of a file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(zoo_weights(path.removeprefix(SCHEME)))


PathManager.register_handler(ZooHandler(), allow_override=True)
