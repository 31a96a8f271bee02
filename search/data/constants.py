"""Small constant tensors, made once for each device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns the numbers as a tensor, (n,), which must not be changed.

    A copy to a GPU at each step would make Python wait for it.
    """
    return torch.tensor(values, device=device)
