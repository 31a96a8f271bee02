"""Training on a GPU: it learns, goes on on another device, and all ways to compute agree."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.search.training import checkpointing, loop
from fbnetv3.search.training.batches import Batch, default_preprocess
from fbnetv3.search.training.config import Hardware, TrainConfig
from fbnetv3.search.training.distill import NetworkTeacher, cached_teacher
from fbnetv3.search.training.logbook import EpochLog
from fbnetv3.search.training.parallel import World, data_parallel, synchronised_batch_norm
from fbnetv3.search.training.train import Trained, train
from tests.search.distributed import run_two, shared_recipe, world_of_one
from tests.search.tiny import plain_recipe, tiny_images, tiny_model, tiny_recipe, tiny_run

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_float32")]

CUDA = torch.device("cuda")
# Nothing in it is drawn on the device, where other numbers come.
PLAIN = plain_recipe(4)


def run_on(
    device: str, folder: Path | None = None, *, optimizer: str = "sgd", **hardware: Any
) -> TrainConfig:
    """Returns a run in float32, unless told otherwise."""
    run = tiny_run(folder, dataclasses.replace(PLAIN, optimizer=optimizer))
    chosen = Hardware(device=torch.device(device), **hardware)
    return dataclasses.replace(run, hardware=chosen)


def trained_by(run: TrainConfig, **arguments: Any) -> Trained:
    return train(tiny_model(), tiny_images(192), tiny_images(seed=1), run, **arguments)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """In float32, sums in another order."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4, msg=name)


def test_it_learns_as_it_is_set_for_a_gpu() -> None:
    run = dataclasses.replace(run_on("cuda"), hardware=Hardware.of("cuda"))
    result = trained_by(run)
    assert [log.epoch for log in result.curve] == [1, 2, 3, 4]
    assert result.curve[-1].loss < 0.5 * result.curve[0].loss
    assert result.top1_pct > 90
    assert all(tensor.is_cuda for tensor in result.model.state_dict().values())
    assert all(tensor.isfinite().all() for tensor in result.best.state_dict().values())


def test_every_random_part_of_a_recipe_runs() -> None:
    recipe = tiny_recipe(lr=0.02, epochs=6)
    model = tiny_model(drop_rate=recipe.dropout, drop_path_rate=recipe.drop_path)
    run = dataclasses.replace(tiny_run(recipe=recipe), hardware=Hardware.of("cuda"))
    result = train(model, tiny_images(192), tiny_images(seed=1), run)
    assert result.curve[-1].loss < result.curve[0].loss


def test_the_callers_generators_are_left_alone() -> None:
    model = tiny_model()  # which seeds them
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    run = dataclasses.replace(run_on("cuda"), stop_epoch=1)
    train(model, tiny_images(192), tiny_images(seed=1), run)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gpu_trains_as_a_cpu_does(optimizer: str, accumulate: int) -> None:
    """Order, augmentation and mixup are drawn on the CPU; the GPU repeats a graph of the step."""
    losses = []
    for device in ("cpu", "cuda"):
        run = run_on(device, optimizer=optimizer)
        recipe = dataclasses.replace(
            run.recipe, augment="autoaugment", mixup=0.2, clip_norm=1.0, balance="loss"
        )
        run = dataclasses.replace(run, recipe=recipe, accumulate=accumulate)
        losses.append([log.loss for log in trained_by(run).curve])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def assert_losses_are_close(change: dict[str, Any], rel: float) -> None:
    """Compares with float32, channels last and not compiled."""
    usual, other = (
        trained_by(dataclasses.replace(run_on("cuda", **fields), stop_epoch=2)).curve
        for fields in ({}, change)
    )
    assert [log.loss for log in other] == pytest.approx([log.loss for log in usual], rel=rel)


def test_the_memory_layout_leaves_the_losses_close() -> None:
    assert_losses_are_close({"channels_last": False}, 5e-3)


def test_bfloat16_leaves_the_losses_close() -> None:
    assert_losses_are_close({"bf16": True}, 2e-2)


def test_float16_leaves_the_losses_close() -> None:
    assert_losses_are_close({"fp16": True}, 1e-1)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_stopped_run_goes_on_on_another_device(
    tmp_path: Path, first: str, then: str, optimizer: str
) -> None:
    def stop(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == (3, 5):
            raise InterruptedError

    seen: list[EpochLog] = []
    begun = run_on(first, tmp_path / "stopped", optimizer=optimizer)
    begun = dataclasses.replace(begun, checkpoint_steps=2)
    with pytest.raises(InterruptedError):
        trained_by(begun, on_epoch=seen.append, on_step=stop)
    steps: list[tuple[int, int]] = []
    resumed = trained_by(
        run_on(then, tmp_path / "stopped", optimizer=optimizer),
        on_step=lambda epoch, step, _steps: steps.append((epoch, step)),
    )
    # 192 images are 12 steps; the last checkpoint is that of step 4.
    assert steps == [(3, step) for step in range(5, 13)] + [(4, step) for step in range(1, 13)]
    assert list(resumed.curve[:2]) == seen
    whole = trained_by(run_on(then, optimizer=optimizer))
    assert [log.loss for log in resumed.curve] == pytest.approx(
        [log.loss for log in whole.curve], rel=1e-2
    )
    assert next(resumed.model.parameters()).device.type == then


def test_a_checkpoint_holds_the_tensors_of_the_gpu(tmp_path: Path) -> None:
    result = trained_by(run_on("cuda", tmp_path))
    found = checkpointing.load_newest(tmp_path / "checkpoints")
    assert found is not None
    stored = found[0]
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(stored[f"model.{name}"], tensor.cpu()), name


def test_synchronised_batch_norm_leaves_its_statistics_behind(tmp_path: Path) -> None:
    model = tiny_model().to(CUDA)
    alone = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    x = torch.randn(8, 3, 16, 16, device=CUDA)
    with world_of_one("nccl", tmp_path), synchronised_batch_norm(model, World(size=2)):
        synchronised = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
        with torch.autocast("cuda", torch.bfloat16):
            model.train()(x).sum().backward()
    with torch.autocast("cuda", torch.bfloat16):
        alone.train()(x)
    assert len(synchronised) == len(norms) > 0
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == norms
    assert all(norm.num_batches_tracked == 1 for norm in norms)
    assert_close(model.state_dict(), alone.state_dict())


def test_data_parallel_training_over_nccl_gives_the_gradients_of_a_plain_model(
    tmp_path: Path,
) -> None:
    model = tiny_model().to(device=CUDA, memory_format=torch.channels_last)  # type: ignore[call-overload]
    alone = copy.deepcopy(model)
    x = torch.randn(8, 3, 16, 16, device=CUDA)
    with world_of_one("nccl", tmp_path):
        loop._share_weights(model, World(size=2))
        data_parallel(model, CUDA)(x).square().sum().backward()
    alone(x).square().sum().backward()
    assert_close(
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        {name: p.grad for name, p in alone.named_parameters() if p.grad is not None},
    )


def test_two_processes_on_one_gpu_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_two("train", str(tmp_path / "two"), "--device", "cuda", "--bf16")
    hardware = Hardware(device=CUDA, bf16=True)
    run = dataclasses.replace(tiny_run(tmp_path / "one", shared_recipe()), hardware=hardware)
    train(tiny_model(), tiny_images(), tiny_images(50, seed=1), run)
    one, two = (read_tensors(tmp_path / name / "model_raw.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=5e-2, atol=5e-2, msg=name)
    logs = [json.loads((tmp_path / n / "log.json").read_text())[-1] for n in ("one", "two")]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=2e-2)


def test_cached_logits_teach_what_the_network_teaches(tmp_path: Path) -> None:
    images = tiny_images(192)
    preprocess = default_preprocess(images, 16)
    hardware = Hardware(device=CUDA)
    teacher = NetworkTeacher(
        tiny_model(seed=3), preprocess=preprocess, student=preprocess, hardware=hardware
    )
    path = tmp_path / "logits.safetensors"
    cached = cached_teacher(teacher, images, preprocess, path, hardware=hardware)
    run = dataclasses.replace(run_on("cuda"), stop_epoch=1)
    losses = [trained_by(run, teacher=taught).curve[0].loss for taught in (teacher, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_cached_logits_do_not_wait_for_the_gpu(tmp_path: Path) -> None:
    images = tiny_images()
    preprocess = default_preprocess(images, 16)
    teacher = NetworkTeacher(
        tiny_model(), preprocess=preprocess, student=preprocess, hardware=Hardware(device=CUDA)
    )
    cached = cached_teacher(teacher, images, preprocess, tmp_path / "logits.safetensors")
    indices = torch.arange(16, device=CUDA)
    batch = Batch(torch.zeros(16, 3, 16, 16, device=CUDA), indices, indices)
    first = cached.logits(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = cached.logits(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert again.is_cuda
    assert torch.equal(again, first)


def test_compiling_leaves_the_losses_close() -> None:
    assert_losses_are_close({"compile": True}, 5e-3)
