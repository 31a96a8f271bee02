"""The check of an export cannot be empty: it proves something about every weight, or says not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy import export
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.export_graph import inference_graph, scaled_copy, untested_weights
from fbnetv3.deploy.parity import MIN_SPREAD, compare, input_spread
from fbnetv3.deploy.runtimes import read_artefact
from fbnetv3.models.model import FBNetV3, build

SMALL = ARCHS["fbnetv3_nano"].small_image(32)


@pytest.fixture(name="fresh")
def _fresh() -> FBNetV3:
    """A network as initialised: its blocks start at zero, so its logits are constant."""
    torch.manual_seed(0)
    return build(SMALL, num_classes=10).eval()


def _noise_in(module: nn.Module, name: str) -> None:
    weight = module.get_parameter(name)
    generator = torch.Generator().manual_seed(1)
    weight.data = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def test_a_fresh_network_is_checked_on_a_copy_whose_layers_count(
    fresh: FBNetV3, tmp_path: Path
) -> None:
    assert "stages.0.0.depthwise.conv.weight" in untested_weights(fresh, 32)
    made = to_onnx(fresh, tmp_path / "fresh.onnx", dynamic=None)
    assert made.parity.evidence == "scaled copy"
    assert made.parity.input_spread < MIN_SPREAD
    assert read_artefact(made.path).parity["evidence"] == "scaled copy"


@pytest.mark.parametrize("layer", ["stem.conv", "stages.2.0.depthwise.conv", "head.project"])
def test_noise_in_one_layer_of_a_fresh_network_is_found_out(
    fresh: FBNetV3, layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: object) -> nn.Module:
        module = inference_graph(*arguments)  # type: ignore[arg-type]  # passed on
        _noise_in(module, f"model.{layer}.weight")
        return module

    monkeypatch.setattr(export, "inference_graph", damaged)
    with pytest.raises(ValueError, match=r"logits differ by .* Nothing was written"):
        to_onnx(fresh, tmp_path / "fresh.onnx", dynamic=None)
    assert not list(tmp_path.iterdir())


def test_every_weight_of_a_trained_network_counts(
    small_model: FBNetV3, small_export: Exported
) -> None:
    assert untested_weights(small_model, 32) == []
    assert small_export.parity.evidence == "weights"
    assert small_export.parity.input_spread >= MIN_SPREAD


def test_one_layer_that_does_not_count_is_named(small_model: FBNetV3) -> None:
    model = copy.deepcopy(small_model)
    block = model.get_submodule("stages.1.1")
    norm = block.get_submodule("depthwise.bn")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.zero_()
    assert "stages.1.1.depthwise.conv.weight" in untested_weights(model, 32)
    assert "stem.conv.weight" not in untested_weights(model, 32)


def test_the_scaled_copy_is_another_network_of_the_same_shape(fresh: FBNetV3) -> None:
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    scaled = scaled_copy(fresh, 32)
    assert untested_weights(scaled, 32) == []
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(scaled.stem.conv.weight, fresh.stem.conv.weight)
    assert not scaled.training


@pytest.mark.parametrize(
    ("logits", "spread"),
    [
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], 0.0),
        ([[1.0, -1.0], [-1.0, 1.0]], 1.0),
        ([[2.0], [4.0]], 0.25),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0),
    ],
)
def test_the_spread_is_that_over_inputs_by_that_over_classes(
    logits: list[list[float]], spread: float
) -> None:
    assert input_spread(np.array(logits)) == pytest.approx(spread)


def test_a_comparison_of_constants_proves_nothing() -> None:
    batches = [np.random.default_rng(0).standard_normal((3, 3, 4, 4), np.float32)]
    constant: Callable[[object], object] = lambda x: np.tile([1.0, 2.0, 4.0], (3, 1))  # noqa: E731
    found = compare(constant, constant, batches, tolerance=1e-3)  # type: ignore[arg-type]
    assert (found.max_error_of_std, found.evidence) == (0, "none")
