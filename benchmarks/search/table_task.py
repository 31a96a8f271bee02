"""One run of a search method on a table of trainings, and the rule that all of them are under.

A method may look at genes and costs of every candidate for nothing, and pays one training for each
label. Its answer is the candidate with the best label it has seen, unless it has trained some again
with other seeds: then the best mean of those. The truth, the mean of all trainings of a candidate,
is never shown to it. Where a table has curves, a training may be stopped early and costs its share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.nars.limit import Limit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
POOL = 20_000


class SpentError(Exception):
    """The budget is spent; ends a method."""


@dataclass
class Task:
    """One run: a table, the limit to search under, and a budget of trainings.

    Attributes:
        table: candidates, costs, labels.
        limits: cost bounds to find the best candidate for, one or several.
        budget: trainings.
        seed: of the labels that are drawn and of the method.
        shares: what each point of the table's curves costs, the last being 1, a whole training.
        trained: candidates in the order in which their labels came.
        labels: of these, after the last epoch.
        paid: trainings spent when each label came.
        again: candidate -> its labels with other seeds.
        finals: budget -> what a search would have seen that ends there.
    """

    table: TableObjective
    limits: Sequence[Limit]
    budget: int
    seed: int
    shares: tuple[float, ...] = (1.0,)
    trained: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    paid: list[float] = field(default_factory=list)
    again: dict[int, list[float]] = field(default_factory=dict)
    spent: float = 0
    finals: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 77])
        runs = self.table.labels[:, :, -1]
        order = np.argsort(np.where(np.isnan(runs), 2.0, rng.random(runs.shape)), axis=1)
        self.seeds: Ints = order
        self.curves: Floats = self.table.labels[np.arange(len(runs)), order[:, 0]]
        self.drawn: Floats = self.curves[:, -1]
        self.reached: dict[int, int] = {}
        self.rng = np.random.default_rng(self.seed)
        self.inside = [limit.violation(self.table.known) == 0 for limit in self.limits]
        self.feasible = np.any(self.inside, axis=0)
        self.known: dict[int, float] = {}

    @property
    def rows(self) -> npt.NDArray[np.int16]:
        """(N, num_genes) every candidate."""
        return self.table.rows

    def train(self, index: int) -> float:
        """Pays one training and returns its label; a candidate always has the same one.

        Raises:
            SpentError: the budget is used up.
        """
        self._pay(1)
        return self._learn(index)

    def train_part(self, index: int, step: int) -> float:
        """Pays for a training up to a point of its curve, and returns the label there.

        What was paid for this candidate before counts: training goes on from where it stopped.

        Raises:
            SpentError: the budget is used up.
        """
        done = self.reached.get(index, -1)
        if step > done:
            self._pay(self.shares[step] - (self.shares[done] if done >= 0 else 0))
            self.reached[index] = step
        if step == len(self.shares) - 1:
            self._learn(index)
        return float(self.curves[index, step])

    def go_on(self, index: int, step: int) -> float:
        """Pays for the part of a training up to a point of its curve; returns the label there.

        What came before was paid for, perhaps with another candidate whose weights this one has.

        Raises:
            SpentError: the budget is used up.
        """
        self._pay(self.shares[step] - (self.shares[step - 1] if step else 0))
        if step == len(self.shares) - 1:
            self._learn(index)
        return float(self.curves[index, step])

    def train_again(self, index: int) -> None:
        """Pays one more training of a candidate, with a seed that was not used for it.

        Raises:
            SpentError: the budget is used up.
        """
        self._pay(1)
        held = self.again.setdefault(index, [])
        held.append(float(self.table.labels[index, self.seeds[index, 1 + len(held)], -1]))

    def answers(self) -> tuple[list[int], list[float]]:
        """Returns candidates and what they are judged by; those trained again come first."""
        if not self.again:
            return self.trained, self.labels
        held = [n for n in self.trained if n in self.again]
        return held, [float(np.mean([self.known[n], *self.again[n]])) for n in held]

    def _pay(self, share: float) -> None:
        if self.spent + share > self.budget + 1e-9:
            raise SpentError
        self.spent += share

    def _learn(self, index: int) -> float:
        if index not in self.known:
            self.known[index] = float(self.drawn[index])
            self.trained.append(index)
            self.labels.append(self.known[index])
            self.paid.append(self.spent)
        return self.known[index]

    def taken(self) -> npt.NDArray[np.bool_]:
        """(N,) which candidates have a label."""
        mask = np.zeros(len(self.rows), np.bool_)
        mask[self.trained] = True
        return mask

    def neighbours(self, index: int) -> Ints:
        """Returns candidates one gene away, or the 24 nearest where the table is a sample."""
        space, row = self.table.space, self.rows[index]
        near = np.repeat(row[None], int(space.sizes.sum()), axis=0)
        columns = np.repeat(np.arange(len(space.sizes)), space.sizes)
        near[np.arange(len(near)), columns] = np.concatenate([np.arange(s) for s in space.sizes])
        place = np.unique(self.table.find(near))
        found = place[(place >= 0) & (place != index)]
        if len(found) < 8:
            found = np.argsort((self.rows != row).sum(1), kind="stable")[1:25]
        return np.asarray(found)


Method = Callable[[Task], None]


def run(method: Method, task: Task) -> None:
    """Runs a method until it ends or its budget is spent."""
    try:
        method(task)
    except SpentError:
        return
