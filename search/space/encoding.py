"""Encodes genes for a predictor: choices one-hot, ordered genes and grids in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .gene import Gene


def encoding_of(genes: Sequence[Gene]) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Returns the encoding of each value (sum of sizes, D), and the names of its columns.

    A block-diagonal matrix with one block of rows and columns for each gene.
    """
    names: list[str] = []
    blocks: list[npt.NDArray[np.float64]] = []
    for gene in genes:
        if gene.kind == "choice":
            names += [f"{gene.name}={value}" for value in gene.values]
            blocks.append(np.eye(len(gene.values)))
        else:
            grid = gene.kind.endswith("grid")
            raw = np.array(gene.values if grid else range(len(gene.values)), np.float64)
            names.append(gene.name)
            blocks.append(((raw - raw.min()) / max(float(np.ptp(raw)), 1e-300))[:, None])
    table = np.zeros((sum(len(block) for block in blocks), len(names)))
    row = column = 0
    for block in blocks:
        table[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return table, tuple(names)
