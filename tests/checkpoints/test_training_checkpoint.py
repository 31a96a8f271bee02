"""Checkpoints that other tools wrote: each dialect gives the right weights under our names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fbnetv3
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_checkpoint, write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.checkpoints.training_checkpoint import ENTRIES
from fbnetv3.models.model import build

ARCH = ARCHS["fbnetv3_nano"].small_image(32)
State = dict[str, Tensor]


@functools.cache
def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(ARCH, num_classes=4)


def raw() -> State:
    return network(0).state_dict()


def averaged() -> State:
    return network(1).state_dict()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def lightning() -> State:
    return {"loss.pos_weight": torch.ones(4), **under("model.", raw()), "acc.hits": torch.zeros(1)}


def compiled_inside() -> State:
    return {
        name.replace("stages.0.", "stages._orig_mod.0._checkpoint_wrapped_module."): tensor
        for name, tensor in raw().items()
    }


# What a tool stores, and whether the EMA weights are in it.
DIALECTS: dict[str, tuple[Callable[[], Any], bool]] = {
    "timm": (lambda: {"state_dict": raw(), "state_dict_ema": averaged(), "arch": "x"}, True),
    "timm without EMA": (lambda: {"state_dict": raw(), "optimizer": {"state": {}}}, False),
    "torchvision": (lambda: {"model": raw(), "epoch": 3}, False),
    "torchvision with EMA": (
        lambda: {
            "model": raw(),
            "model_ema": {"n_averaged": torch.tensor(7), **under("module.", averaged())},
        },
        True,
    ),
    "torchvision with EMA in processes": (
        lambda: {
            "model": raw(),
            "model_ema": {"n_averaged": torch.tensor(7), **under("module.module.", averaged())},
        },
        True,
    ),
    "compiled": (lambda: under("_orig_mod.", raw()), False),
    "compiled, then in processes": (lambda: under("module._orig_mod.", raw()), False),
    "in processes, then compiled": (lambda: under("_orig_mod.module.", raw()), False),
    "parts compiled": (compiled_inside, False),
    "PyTorch's tutorial": (lambda: {"model_state_dict": raw(), "loss": 0.1}, False),
    "Lightning": (lambda: {"state_dict": lightning(), "hyper_parameters": {"lr": 1}}, False),
    "Lightning, compiled": (lambda: {"state_dict": under("model._orig_mod.", raw())}, False),
    "Lightning with an EMA model": (
        lambda: {"state_dict": {**under("model.", raw()), **under("ema_model.", averaged())}},
        True,
    ),
    "MMCV with EMA": (
        lambda: {
            "meta": {"epoch": 3},
            "state_dict": {
                **averaged(),
                **{f"ema_{name.replace('.', '_')}": tensor for name, tensor in raw().items()},
            },
        },
        True,
    ),
    "Composer": (lambda: {"state": {"model": under("module.", raw())}, "rng": [1]}, False),
    "transformers": (lambda: under("timm_model.", raw()), False),
    "a profiler's": (lambda: {**raw(), "stem.total_ops": torch.zeros(1)}, False),
    "timm, official layout": (
        lambda: {
            "state_dict": from_fbnetv3(raw(), ARCH, "official"),
            "state_dict_ema": from_fbnetv3(averaged(), ARCH, "official"),
        },
        True,
    ),
    "under another name in a Lightning module": (
        lambda: {"state_dict": {"loss.weight": torch.ones(4), **under("student.", raw())}},
        False,
    ),
    "official layout under another name": (
        lambda: under("student.", from_fbnetv3(raw(), ARCH, "official")),
        False,
    ),
    "a loop's EMA with its settings": (
        lambda: {"model": raw(), "ema": {"module": averaged(), "decay": 0.99}},
        True,
    ),
    "a loop's EMA of shadows": (
        lambda: {"model": raw(), "ema": {"decay": 0.99, "shadow": averaged()}},
        True,
    ),
    "PyTorch's SWA": (
        lambda: {
            "model": raw(),
            "swa_model": {"n_averaged": torch.tensor(2), **under("module.", averaged())},
        },
        True,
    ),
    "of before batches were counted": (
        lambda: {n: t for n, t in raw().items() if not n.endswith("num_batches_tracked")},
        False,
    ),
    "a name of one's own": (
        lambda: {"my net": {"model": under("module.", raw())}, "optimizer": {"a": torch.ones(1)}},
        False,
    ),
    "an epoch among the tensors": (lambda: {**raw(), "epoch": 5, "names": ["a"]}, False),
    "EMA not kept": (lambda: {"state_dict": raw(), "state_dict_ema": None}, False),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_right_weights(dialect: str, tmp_path: Path) -> None:
    made, is_averaged = DIALECTS[dialect]
    path = tmp_path / "theirs.pth"
    torch.save(made(), path)
    _, taken = read_checkpoint(path)
    assert taken.averaged == is_averaged
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = fbnetv3.create(ARCH, checkpoint=path)
    expected = averaged() if is_averaged else raw()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_every_row_of_the_table_is_read(entry: Any, tmp_path: Path) -> None:
    torch.save({entry.key: {"w": torch.ones(2)}, "epoch": 1}, tmp_path / "m.pth")
    tensors, taken = read_checkpoint(tmp_path / "m.pth")
    assert tensors["w"].tolist() == [1, 1]
    assert (taken.entry, taken.averaged) == (entry.key, entry.averaged)


def test_ema_weights_come_before_all_raw_ones() -> None:
    kinds = [entry.averaged for entry in ENTRIES]
    assert kinds == sorted(kinds, reverse=True)


def test_what_was_taken_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "theirs.ckpt"
    torch.save({"state_dict": under("module.", raw()), "state_dict_ema": averaged()}, path)
    with pytest.warns(UserWarning, match="the EMA weights of its entry 'state_dict_ema', not"):
        fbnetv3.create(ARCH, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fbnetv3.create(ARCH, checkpoint=path)
    torch.save({"state_dict": lightning()}, tmp_path / "lightning.ckpt")
    said = str(read_checkpoint(tmp_path / "lightning.ckpt")[1])
    assert said == (
        "taken: the weights of its entry 'state_dict'; names without 'model.'; 2 values outside "
        "the model left out"
    )


def test_of_a_plain_state_dict_nothing_is_said(tmp_path: Path) -> None:
    write_tensors(tmp_path / "plain.safetensors", raw(), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fbnetv3.create(ARCH, checkpoint=tmp_path / "plain.safetensors")


def test_wrapped_names_in_safetensors_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.safetensors"
    write_tensors(path, under("module._orig_mod.", raw()), {})
    tensors, taken = read_checkpoint(path)
    assert tensors.keys() == raw().keys()
    assert taken.removed == "module._orig_mod."


def test_several_networks_under_names_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    torch.save({**under("student.", raw()), **under("teacher.", averaged())}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"several networks, student\., teacher\.; save the one"):
        read_checkpoint(tmp_path / "m.pth")


def test_several_networks_under_names_of_ones_own_are_refused(tmp_path: Path) -> None:
    torch.save({"student": raw(), "teacher": averaged()}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="several networks, 'student', 'teacher'; save the one"):
        read_checkpoint(tmp_path / "m.pth")


def test_arrays_of_numpy_are_refused_with_the_cure(tmp_path: Path) -> None:
    torch.save({name: tensor.numpy() for name, tensor in raw().items()}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"class numpy\..*tensors of numpy's arrays with torch\."):
        read_checkpoint(tmp_path / "m.pth")


def test_a_backbone_in_another_network_is_not_taken_out_of_it(tmp_path: Path) -> None:
    trunk = {n: t for n, t in raw().items() if not n.startswith("classifier.")}
    torch.save({**under("trunk.", trunk), "roi.weight": torch.ones(1)}, tmp_path / "m.pth")
    assert "roi.weight" in read_checkpoint(tmp_path / "m.pth")[0]


def test_a_model_pickled_whole_is_not_executed_and_the_cure_is_said(tmp_path: Path) -> None:
    # As Ultralytics does, `ema` being the model itself.
    torch.save({"model": None, "ema": network(0), "epoch": 1}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"'ema' holds an object of class .*state_dict\(\)"):
        read_checkpoint(tmp_path / "m.pt")


def test_names_that_become_the_same_are_refused(tmp_path: Path) -> None:
    torch.save({"_orig_mod.w": torch.ones(1), "w": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="both with and without a wrapper"):
        read_checkpoint(tmp_path / "m.pth")
