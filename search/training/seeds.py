"""Seeds of a training: one for each use, unrelated to those of all other uses."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, *words: object) -> int:
    """Returns a seed for one use, unrelated to that of every other use: below 2 ** 63."""
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seeds the global generators of torch, numpy and Python."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)
