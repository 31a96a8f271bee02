"""A graph that rounds as its int8 file does: values, gradients, and the same scales in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fbnetv3.deploy.fake_quantize import TrainableGraph, rounded, rounded_weight
from fbnetv3.deploy.parity import error_of_std
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.images.reader import open_image
from tests.deploy.test_quantize import PREPROCESS, pictures, untrained


@pytest.fixture(scope="module")
def float_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("rounds"))


def test_values_are_rounded_to_the_steps_of_a_range_that_has_zero() -> None:
    x = torch.tensor([-9.0, -1.0, -0.013, 0.0, 0.487, 1.487, 2.0, 9.0])
    # A step of 0.02, and zero at 50.
    got = rounded(x, torch.tensor([-1.0, 4.1]))
    assert got.tolist() == pytest.approx([-1.0, -1.0, -0.02, 0.0, 0.48, 1.48, 2.0, 4.1], abs=1e-6)
    assert rounded(torch.tensor([3.0]), torch.tensor([2.0, 5.1])).tolist() == pytest.approx([3.0])


def test_a_gradient_passes_within_the_range_and_moves_the_end_that_clips() -> None:
    x = torch.tensor([-9.0, 0.011, 9.0], requires_grad=True)
    ends = torch.tensor([-1.0, 4.1], requires_grad=True)
    weights = torch.tensor([2.0, 3.0, 5.0])
    (rounded(x, ends) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert ends.grad is not None
    assert x.grad.tolist() == [0.0, 3.0, 0.0]
    # The middle value is rounded up by 0.009, and its step is a 255th of the range.
    stretch = 3 * 0.009 / 5.1
    assert ends.grad.tolist() == pytest.approx([2 - stretch, 5 + stretch], abs=1e-5)


def test_a_range_that_clips_too_much_grows() -> None:
    x = torch.linspace(-3, 3, 601)
    ends = torch.tensor([-1.0, 1.0], requires_grad=True)
    optimizer = torch.optim.SGD([ends], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (rounded(x, ends) - x).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert ends.tolist() == pytest.approx([-3, 3], abs=0.3)


def test_weights_have_a_step_for_each_channel() -> None:
    weight = torch.tensor([[1.27, -0.014], [0.127, 0.0001], [0.0, 0.0]])
    got = rounded_weight(weight)
    torch.testing.assert_close(got, torch.tensor([[1.27, -0.01], [0.127, 0.0], [0.0, 0.0]]))


def test_the_graph_is_the_file_in_float_and_its_int8_form_within_rounding(
    float_path: Path, tmp_path: Path
) -> None:
    images, _ = pictures(16, seed=5)
    batch = np.stack([PREPROCESS(open_image(image)) for image in images])
    seen: dict[str, Any] = {}

    def trainer(graph: TrainableGraph, float_graph: TrainableGraph) -> None:
        x = torch.from_numpy(batch)
        with torch.no_grad():
            seen["float"] = float_graph(x).numpy()
            # A trained graph: other weights, other ranges.
            graph.ranges.mul_(torch.linspace(0.95, 1.05, len(graph.ranges)).unsqueeze(1))
            for tensor in [*graph.constants, *float_graph.constants]:
                if tensor.requires_grad:
                    tensor.mul_(1.05)
            seen["changed"], seen["int8"] = float_graph(x).numpy(), graph(x).numpy()
        seen["ranges"], seen["constants"] = graph.trained_ranges(), graph.trained_constants()

    path = tmp_path / "int8.onnx"
    options: dict[str, Any] = {"method": "minmax", "sensitivity": False, "trainer": trainer}
    # The answer for this one stays: what does harm would be left out.
    found = quantize(float_path, path, images, evaluation=images[3:4], **options)
    assert found.artefact.quantization["trained"] is True
    expected = ONNX.load(float_path).run_batch(batch)
    assert error_of_std(seen["float"], expected).max() < 1e-4
    got = ONNX.load(path).run_batch(batch)
    # They differ where a value lies between two steps, and by what that grows to.
    rounding = error_of_std(got, seen["changed"]).mean()
    assert error_of_std(got, seen["int8"]).mean() < 0.5 * rounding

    graph = onnx.load(path).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    scales = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): (
            float(arrays[node.input[1]]),
            int(arrays[node.input[2]]),
        )
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert len(seen["ranges"]) > 20
    for name, (low, high) in seen["ranges"].items():
        scale, zero = scales[name]
        assert scale == pytest.approx((high - low) / 255, rel=1e-5), name
        assert zero == round(-low / scale), name
    weights = {name: value for name, value in seen["constants"].items() if value.ndim > 1}
    assert len(weights) > 8
    for name, value in weights.items():
        largest = np.abs(value.reshape(len(value), -1)).max(1)
        np.testing.assert_allclose(arrays[f"{name}_scale"], largest / 127, rtol=1e-5)


def test_an_operator_that_cannot_be_trained_is_named(float_path: Path) -> None:
    model = onnx.load(float_path)
    model.graph.node[1].op_type = "Erf"
    with pytest.raises(ValueError, match=r"operator Erf \(stem.act/HardSwish\).*without training"):
        TrainableGraph(model, "input", {})
