"""What several test files share: networks with the golden data's weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fbnetv3.arch import Arch
from fbnetv3.model import FBNetV3, build

RULE = Path(__file__).parent / "golden" / "golden_rule.py"


@pytest.fixture(scope="session")
def golden_network() -> Callable[..., FBNetV3]:
    """Returns a function: a table to a network in evaluation mode with deterministic weights.

    They are drawn by the golden data's rule from our own names, so that logits are well spread and
    every batch-norm does something.
    """
    spec = importlib.util.spec_from_file_location("golden_rule", RULE)
    assert spec is not None
    assert spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)

    def make(arch: Arch, **kwargs: Any) -> FBNetV3:
        model = build(arch, device="meta", **kwargs)
        state = {
            name: torch.from_numpy(rule.golden_tensor(name, tensor.shape))
            for name, tensor in model.state_dict().items()
        }
        model.load_state_dict(state, assign=True)
        return model.eval()

    return make
