"""What a training step costs in launches, and that a graph may repeat it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fbnetv3.arch.tables import ARCHS
from fbnetv3.models.model import build
from fbnetv3.search.data import policies
from fbnetv3.search.data.augment import NUM_DRAWS, augment
from fbnetv3.search.data.datasets import cifar_arch
from fbnetv3.search.training import optimizers
from fbnetv3.search.training.average import AveragedWeights, averaging_weight
from fbnetv3.search.training.batches import default_preprocess
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.loop import Loop
from fbnetv3.search.training.presets import get_recipe
from tests.search.tiny import tiny_images, tiny_model, tiny_recipe, tiny_run

# Operations that only look at a tensor in another way, or allocate: nothing is launched.
_FREE = {
    "view", "_unsafe_view", "as_strided", "detach", "expand", "permute", "t", "transpose", "slice",
    "select", "split", "chunk", "unsqueeze", "squeeze", "alias", "empty", "empty_like",
    "empty_strided", "new_empty", "unbind", "_reshape_alias", "lift_fresh", "new_empty_strided",
    "split_with_sizes", "diagonal", "scalar_tensor",
}  # fmt: skip
# The device has to be asked before Python goes on.
_WAITS = {"nonzero", "_local_scalar_dense", "index_put_", "masked_select", "is_nonzero", "equal"}


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no type for it
    """Counts the operations that a device would be sent, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in _FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the paths of a GPU, on the CPU."""
    monkeypatch.setattr(policies, "waits_for", lambda _: True)
    monkeypatch.setattr(optimizers, "has_kernels_for_many", lambda _: True)
    # Some processors have a gradient of ours, of many operations.
    monkeypatch.setattr("fbnetv3.search.training.loop.helps", lambda _: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "rmsprop"},
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "clip_norm": 1.0, "balance": "loss"},
        {"optimizer": "sgd", "clip_norm": 1.0, "freeze": 3, "layer_decay": 0.8},
    ],
)
def test_a_step_of_fbnetv3_a_is_at_most_1500_launches_and_never_waits(
    fields: dict[str, Any],
) -> None:
    images = dataclasses.replace(tiny_images(64), pixels=torch.zeros(64, 32, 32, 3).byte())
    recipe = dataclasses.replace(
        get_recipe("cifar10"),
        batch_size=4,
        **fields,
    )
    run = TrainConfig(
        recipe=recipe,
        preprocess=default_preprocess(images, 32),
        hardware=Hardware(device=torch.device("cpu")),
    )
    model = build(
        cifar_arch(ARCHS["fbnetv3_a"]),
        num_classes=len(images.classes),
        drop_rate=recipe.dropout,
        drop_path_rate=recipe.drop_path,
    )
    loop = Loop(model, images, images, run, None)
    loop.model.train()
    samples = loop.batches.samples(0)
    numbers = [torch.tensor(value) for value in (0.01, 0.1, 0.7)]
    # States come into being in the first step.
    loop.make_step(next(samples), numbers)
    sample = next(samples)
    with Launches() as launches:
        loop.make_step(sample, numbers)
    assert not launches.counts.keys() & _WAITS
    assert launches.counts.total() <= 1500, launches.counts.most_common(20)


@pytest.mark.parametrize("kind", ["trivial", "autoaugment"])
def test_a_gpu_augments_as_a_cpu_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300, 32, 32, 3), generator=generator).byte()
    u = torch.rand(300, NUM_DRAWS, generator=generator)
    expected = augment(images, u, kind)
    monkeypatch.setattr(policies, "waits_for", lambda _: True)
    assert torch.equal(augment(images, u, kind), expected)


@pytest.mark.parametrize(
    "fields",
    [{}, {"optimizer": "sgd"}, {"mixup": 0.3}, {"clip_norm": 0.5}, {"layer_decay": 0.5}],
)
def test_numbers_in_tensors_train_as_plain_numbers_do(fields: dict[str, Any]) -> None:
    assert_numbers_may_be_tensors(tiny_model, fields)


def test_adamw_takes_numbers_in_tensors_too() -> None:
    # Without a bias before batch-norm, whose gradient is rounding, which Adam scales up.
    def layer() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))

    assert_numbers_may_be_tensors(layer, {"optimizer": "adamw"})


def assert_numbers_may_be_tensors(made: Callable[[], nn.Module], fields: dict[str, Any]) -> None:
    def weights(as_tensors: bool) -> dict[str, Tensor]:
        run = tiny_run(recipe=tiny_recipe(**fields))
        loop = Loop(made(), tiny_images(), tiny_images(), run, None)
        loop.model.train()
        for sample in loop.batches.samples(0):
            plain = (0.01, 0.2, 0.75)
            numbers = [torch.tensor(value) for value in plain] if as_tensors else plain
            torch.manual_seed(0)
            loop.make_step(sample, numbers)
        assert loop.ema is not None
        return dict(loop.ema.module.state_dict())

    plain, tensors = weights(False), weights(True)
    for name, expected in plain.items():
        torch.testing.assert_close(tensors[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_the_average_warms_up_as_tensorflows_and_then_has_its_decay() -> None:
    assert averaging_weight(1, 0.99) == 1
    assert averaging_weight(10, 0.99) == pytest.approx(1 - 9 / 18)
    assert averaging_weight(100_000, 0.99) == pytest.approx(0.01)
    assert averaging_weight(1, 0.99, "copy") == averaging_weight(100, 0.99, "copy") == 1 - 0.99
    assert averaging_weight(1, 0.99, "unbiased") == 1
    assert averaging_weight(100_000, 0.99, "unbiased") == pytest.approx(0.01)
    assert averaging_weight(1, 0.0, "unbiased") == 1


def test_the_average_takes_parameters_statistics_and_counters() -> None:
    model = tiny_model()
    average = AveragedWeights(model)
    before = {name: t.clone() for name, t in average.module.state_dict().items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    average.update(0.25)
    for name, tensor in average.module.state_dict().items():
        gain = 0.25 if tensor.is_floating_point() else 1
        torch.testing.assert_close(tensor, before[name] + gain, msg=name)
