"""Which devices there are for torch, which is imported when one is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def known_device(name: torch.device | str) -> torch.device:
    """Returns the device of a name.

    Raises:
        ValueError: there is none of that name, or no GPU that torch can use.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; expected cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {name!r}; torch {torch.__version__} finds no GPU here: use cpu, or see "
            "`fbnetv3 doctor`"
        )
    return device
