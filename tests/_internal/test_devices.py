"""Devices: what there is comes back, what there is not is named with what to use."""

from __future__ import annotations

import pytest
import torch

from fbnetv3._internal.devices import known_device


def gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: number > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: number)


def test_a_device_comes_back_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert known_device("cpu") == torch.device("cpu")
    assert known_device("cuda") == torch.device("cuda")
    assert known_device("cuda:1") == torch.device("cuda", 1)
    assert known_device(torch.device("cuda:0")) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("tpu", 0, "device is 'tpu'; expected cpu, cuda, cuda:1 or mps"),
        ("cuda", 0, "finds no GPU here: use cpu, or see `fbnetv3 doctor`"),
        ("cuda:7", 1, "device is 'cuda:7'; expected cuda:0, the GPUs that torch finds"),
        ("cuda:2", 2, "device is 'cuda:2'; expected cuda:0 to cuda:1, the GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, number: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, number)
    with pytest.raises(ValueError, match=message):
        known_device(name)


def test_an_apple_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no Apple GPU here: use cpu"):
        known_device("mps")
