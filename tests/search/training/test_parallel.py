"""Processes that train together; what they compute is tested in `test_train`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from fbnetv3.search.training.parallel import (
    World,
    current_world,
    data_parallel,
    joined,
    summed,
    synchronised_batch_norm,
)
from tests.search.distributed import normalised_layer, one_step, run_two, world_of_one


def test_one_process_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as world:
        assert world == current_world() == World(rank=0, size=1, nodes=1)
    assert summed(torch.tensor(3)) == 3


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(dist, "init_process_group", calls.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))
    with joined(torch.device("cuda")):
        assert calls == [3, "nccl"]
    assert calls[-1] == "left"


def test_batch_norm_of_one_process_stays_what_it_is() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    norm = model[0]
    with synchronised_batch_norm(model, World()):
        assert model[0] is norm


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_of_two_processes_is_that_of_one_with_the_whole_batch(
    tmp_path: Path, bf16: bool
) -> None:
    run_two("step", str(tmp_path), *(["--bf16"] if bf16 else []))
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    layer = normalised_layer()
    whole = one_step(layer, World(), bf16=bf16)
    assert whole["out"].dtype == (torch.bfloat16 if bf16 else torch.float32)
    for name, expected in whole.items():
        shares = name in ("out", "x.grad")
        found = torch.stack((one[name], two[name]), 1).flatten(0, 1) if shares else one[name]
        error = (found - expected).float().norm() / expected.float().norm()
        # By how processors round bfloat16.
        assert error < (2e-2 if bf16 else 1e-5), name
    for name, tensor in layer.state_dict().items():
        # Statistics are float32, whatever the outputs are rounded to.
        torch.testing.assert_close(one[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(one[name], two[name])


def test_statistics_are_kept_where_the_model_is_moved_meanwhile(tmp_path: Path) -> None:
    layer = normalised_layer()
    norm = layer[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with world_of_one("gloo", tmp_path), synchronised_batch_norm(layer, World(size=2)):
        layer.double()
        layer(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    assert layer[1] is norm
    assert norm.num_batches_tracked == 1
    assert norm.running_mean is not None
    assert norm.running_mean.abs().min() > 0
    assert norm.running_mean.dtype == torch.float64


def test_timms_batch_norm_keeps_its_activation(tmp_path: Path) -> None:
    norm = BatchNormAct2d(3, act_layer=nn.ReLU)
    x = torch.randn(4, 3, 8, 8)
    model = nn.Sequential(norm)
    expected = copy.deepcopy(model)(x)
    with world_of_one("gloo", tmp_path), synchronised_batch_norm(model, World(size=2)):
        assert model[0] is not norm
        torch.testing.assert_close(model(x), expected)
    assert model[0] is norm


@pytest.mark.filterwarnings("error")
def test_gradients_are_shared_and_buffers_are_not(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with world_of_one("gloo", tmp_path):
        parallel = data_parallel(model, torch.device("cpu"))
        assert isinstance(parallel, nn.parallel.DistributedDataParallel)
        assert parallel.module is model
        assert not parallel.broadcast_buffers
        parallel(torch.ones(3, 2)).sum().backward()
    assert model[0].weight.grad is not None


def test_a_loss_that_one_process_finds_not_finite_ends_them_all() -> None:
    run_two("diverge", "")
