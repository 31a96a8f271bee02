"""Files of the official layout and size, without the trained numbers.

Their numbers are drawn at random, and their classifiers answer for the package's photos, which
weights must know at their first use (`fbnetv3.hub.meaning`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub.create import create
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.models.model import FBNetV3
from tests.taught import teach


def stand_in(model: str) -> FBNetV3:
    """Returns a network as large as the published one, in evaluation mode."""
    torch.manual_seed(0)
    made = create(model).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # else blocks begin as nothing
    teach(made, WEIGHTS[f"{model}.meta_in1k"].preprocess, "tabby", "espresso", "missile")
    return made


def write_official(model: FBNetV3, path: Path) -> None:
    """Writes a checkpoint as the official ones are: a pickle of 2020, averaged, `module.` names."""
    state = from_fbnetv3(model.state_dict(), model.arch, "official")
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_ema": averaged}, path, _use_new_zipfile_serialization=False)
