"""Processes that train together; what they compute is tested in `test_train`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fbnetv3.search.training.parallel import (
    World,
    current_world,
    joined,
    summed,
    synchronised_batch_norm,
)


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
    with synchronised_batch_norm(model):
        assert model[0] is norm
