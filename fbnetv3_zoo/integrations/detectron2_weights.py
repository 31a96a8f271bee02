"""The zoo's weights where Detectron2 looks for them: `MODEL.WEIGHTS = "fbnetv3://NAME"`.

Importing this module teaches Detectron2's path manager the scheme `fbnetv3://`. NAME is a model or
`model.tag`; the weights are fetched and verified as everywhere, converted once, and kept beside
them in the cache. Detectron2 reads pickled tensors, so that this is the one place that writes them;
they are read back with `weights_only`.
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
# Names of the parts inside backbones and heads; Detectron2 matches what follows them.
PARTS = ("trunk", "tail", "repeats")


def save_weights(network: FBNetV3, path: str | Path) -> Path:
    """Writes a whole network's weights as a file for `MODEL.WEIGHTS`; returns its path.

    Backbone, C4 box head and proposal head find their tensors in it; a log line of Detectron2
    names those that a configuration has no use for. A detector of another variant refuses it.
    """
    state = part_state(network)
    tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save({"model": tensors, "__author__": "fbnetv3", "matching_heuristics": True}, part)
    return path


def zoo_weights(name: str) -> Path:
    """Returns the file for `MODEL.WEIGHTS` of trained weights, made on first use.

    Args:
        name: a model or `model.tag`.

    Raises:
        ValueError: there are no such weights, or the licence policy refuses them.
        FileNotFoundError: they cannot be fetched.
    """
    weights = get_weights(name)
    check_license(weights, None)
    # "faithful" keeps the table as it is; padding changes no tensor.
    path = cache_dir() / "detectron2" / f"{weights.name}.pth"
    if not path.is_file():
        save_weights(load_network(weights.name, pretrained=True, padding="faithful"), path)
    return path


class ZooHandler(PathHandler):  # type: ignore[misc]  # detectron2 has no types
    """Turns `fbnetv3://NAME` into the path of a file."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(zoo_weights(path.removeprefix(SCHEME)))


PathManager.register_handler(ZooHandler(), allow_override=True)
