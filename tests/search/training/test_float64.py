"""Apple's GPUs have no float64: no tensor of a training's steps on its device has that type."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fbnetv3._internal.devices import sum_dtype
from fbnetv3.search.training import loop as loop_module
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.loop import Loop
from tests.search.tiny import tiny_images, tiny_model, tiny_multi_label, tiny_recipe, tiny_run

# Stands for a device: its tensors have shapes and types, and nothing is computed.
META = torch.device("meta")


class Float64(TorchDispatchMode):
    """Collects the operations that make a float64 tensor on the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no type for it
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            on_device = isinstance(leaf, torch.Tensor) and leaf.device == META
            if on_device and leaf.dtype == torch.float64:
                self.found.append(str(func))
        return out


def steps_on(config: TrainConfig, *, multi_label: bool) -> list[str]:
    """Returns the operations of two steps that make float64."""
    images = tiny_multi_label() if multi_label else tiny_images()
    mode = Float64()
    with mode:
        loop = Loop(tiny_model().to(META), images, images, config, None)
        for sample in list(loop.batches.samples(0))[:2]:
            loop.make_step(sample, (0.1, 0.5, 0.7))
    return mode.found


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "rmsprop", "balance": "loss"},
        {"optimizer": "sgd", "mixup": 0.0, "augment": "cutout"},
        {"optimizer": "adamw", "clip_norm": 1.0, "balance": "sampler"},
    ],
)
def test_steps_make_no_float64(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], multi_label: bool
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    config = tiny_run(recipe=tiny_recipe(**fields))
    hardware = Hardware(device=META)
    config = type(config)(recipe=config.recipe, preprocess=config.preprocess, hardware=hardware)
    assert "aten.zeros.default" in steps_on(config, multi_label=multi_label), "it would be seen"
    monkeypatch.setattr(loop_module, "sum_dtype", lambda _: sum_dtype(torch.device("mps")))
    assert steps_on(config, multi_label=multi_label) == []


def test_sums_are_exact_where_the_device_can() -> None:
    assert sum_dtype(torch.device("cpu")) == sum_dtype(torch.device("cuda")) == torch.float64
    assert sum_dtype(torch.device("mps")) == torch.float32
