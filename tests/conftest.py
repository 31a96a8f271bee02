"""What several test files share: networks with the golden data's weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.images.preprocess import CIFAR10_MEAN, CIFAR10_STD, Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.modules import module_of_file
from tests.paths import GOLDEN

RULE = GOLDEN / "golden_rule.py"


def pytest_configure() -> None:
    """Drops the user's own settings of the package and of the hub, and shares the cores out.

    xdist's workers get an equal share each: threads that outnumber cores wait for each other.
    Processes that a test starts get the same.
    """
    for name in [name for name in os.environ if name.startswith(("FBNETV3_", "HF_"))]:
        del os.environ[name]
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is not None:
        share = max(1, (os.cpu_count() or 1) // int(workers))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU, library or program that is not here; `.ci/run` has all but a GPU.

    What draws from torch's own generator draws the same alone and in any order.
    """
    torch.manual_seed(0)
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for mark in item.iter_markers("needs"):
        (name,) = mark.args
        if shutil.which(name) is None and importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")


@pytest.fixture
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a GPU compute convolutions in float32, where TF32 with its 10 bits is usual."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def golden_weights(arch: Arch, **kwargs: Any) -> FBNetV3:
    """Returns a table's network in evaluation mode with deterministic weights.

    They are drawn by the golden data's rule from our own names, so that logits are well spread and
    every batch-norm does something.
    """
    rule = module_of_file(RULE)
    model = build(arch, device="meta", **kwargs)
    state = {
        name: torch.from_numpy(rule.golden_tensor(name, tensor.shape))
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


@pytest.fixture(scope="session")
def golden_network() -> Callable[..., FBNetV3]:
    """Returns `golden_weights`."""
    return golden_weights


@pytest.fixture(scope="session")
def small_model(golden_network: Callable[..., FBNetV3]) -> FBNetV3:
    """A whole network for 32-pixel images and ten classes; not to be changed."""
    return golden_network(ARCHS["fbnetv3_nano"].small_image(32), num_classes=10)


@pytest.fixture(scope="session")
def small_preprocess() -> Preprocess:
    """What an image goes through before `small_model`."""
    return Preprocess(
        resize=36,
        crop=32,
        interpolation="bilinear",
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )


@pytest.fixture(scope="session")
def small_export(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """`small_model` as an ONNX file; exporting takes seconds, so that all tests share it."""
    return to_onnx(
        small_model,
        tmp_path_factory.mktemp("small") / "small.onnx",
        preprocess=small_preprocess,
        class_names=[f"thing {n}" for n in range(10)],
    )
