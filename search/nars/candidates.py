"""What a round chooses from: candidates with all that is known of them without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fbnetv3.search.space.space import Mask, Matrix

from .choosing import Choosing
from .config import SearchConfig
from .prior_pool import PriorPicks
from .problem import Problem


class Candidates:
    """Candidates of a search.

    Attributes:
        rows: (P, num_genes), canonical and distinct.
        costs: cost -> (P,).
        inside: (limits, P) whether each is within each limit.
        bin_by: the cost that bins divide; empty if there is none.
        choosing: chooses among them.
    """

    def __init__(self, problem: Problem, config: SearchConfig, rows: Matrix) -> None:
        self.rows = rows
        self.costs = {k: np.asarray(v, np.float64) for k, v in problem.costs(rows).items()}
        self.bin_by = config.bin_by or next(iter(self.costs), "")
        self.inside: Mask = np.stack([problem.feasible(limit)(rows) for limit in config.limits])
        self._space = problem.space
        self._hashes = problem.space.hashes(rows)
        self.choosing = Choosing(
            bins=config.bins,
            costs=self.costs.get(self.bin_by, np.zeros(len(rows))),
            ends=config.within.get(self.bin_by),
            inside=self.inside,
            prior=PriorPicks(problem.space, rows, config.priors),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def among(self, rows: Matrix) -> Mask:
        """Returns (P,): which of the candidates are among others (n, num_genes)."""
        if not len(rows):
            return np.zeros(len(self.rows), np.bool_)
        return np.isin(self._hashes, self._space.hashes(rows))

    def have(self, rows: Matrix) -> Mask:
        """Returns (n,): which of some rows (n, num_genes) are among the candidates."""
        return np.isin(self._space.hashes(rows), self._hashes)

    def index(self, genes: Sequence[int]) -> int | None:
        """Returns the index of a candidate, None if it is not there."""
        own = self._space.hashes(np.array([genes], np.int16))[0]
        rows = np.flatnonzero(self._hashes == own)
        return int(rows[0]) if len(rows) else None

    def costs_at(self, row: int) -> dict[str, float]:
        """Returns the costs of one candidate."""
        return {name: float(cost[row]) for name, cost in self.costs.items()}
