"""Which devices there are for torch, which is imported when one is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def known_device(name: torch.device | str) -> torch.device:
    """Returns the device of a name.

    Raises:
        ValueError: there is none of that name, no GPU that torch can use, or fewer GPUs.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; expected cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {name!r}; torch {torch.__version__} finds no GPU here: use cpu, or see "
            "`fbnetv3 doctor`"
        )
    if device.type == "cuda" and device.index is not None:
        found = torch.cuda.device_count()
        if device.index >= found:
            there = "cuda:0" if found == 1 else f"cuda:0 to cuda:{found - 1}"
            raise ValueError(f"device is {name!r}; expected {there}, the GPUs that torch finds")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device is {name!r}; torch finds no Apple GPU here: use cpu")
    return device


def sum_dtype(device: torch.device) -> torch.dtype:
    """Returns the data type for sums over many images: float64, which Apple's GPUs lack."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64
