"""Stage 2: rounds of propose, train, refit.

Every decision depends only on the store: the settings' seed, the generator state of the previous
round, and labels in the order of proposal. So a search that is killed and resumed proposes the same
trials in the same order, whichever engine trains them and in whatever order they end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

import numpy as np

from fbnetv3.search.execution.coordinator import Coordinator, Progress
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.registry import save_predictor
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import Floats, Mask, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels, Proposal, Trial

from .acquisition import Acquisition, ExpectedImprovement, Optimism
from .choosing import Choosing
from .closing import early_stop_of, figures_of
from .config import IN_TURN, SearchConfig
from .fitting import PREDICTOR, Fitting
from .labels import SEARCH_KINDS, compared_epoch, labels_of
from .pool import pool_of
from .prior_pool import PriorPicks
from .problem import Problem
from .round_quality import importance
from .schedule import Schedule
from .selection import Selection

Notify = Callable[[str, Mapping[str, Any]], None]
# After so many labels, their unit is known to be right.
CHECKED = 10


class Optimizer:
    """Stages 1 and 2 of one search. Every step skips what the store shows as done.

    Attributes:
        pool: (P, num_genes) the candidates that rounds choose from.
        costs: cost -> (P,).
        inside: (limits, P) whether each candidate is within each limit.
        bin_by: the cost that bins divide; empty if there is none.
    """

    def __init__(
        self,
        problem: Problem,
        config: SearchConfig,
        store: Store,
        coordinator: Coordinator,
        notify: Notify = lambda _name, _fields: None,
    ) -> None:
        self._problem, self.config, self.store = problem, config, store
        self.coordinator, self.notify = coordinator, notify
        self.pool = pool_of(problem, config)
        self.costs = self.costs_of(self.pool)
        self.bin_by = config.bin_by or next(iter(self.costs), "")
        self.inside = np.stack([problem.feasible(limit)(self.pool) for limit in config.limits])
        self._fitting = Fitting(problem.space, config, self.pool, self.costs, problem.costs)
        self._hashes = problem.space.hashes(self.pool)
        self._choosing = Choosing(
            bins=config.bins,
            costs=self.costs.get(self.bin_by, np.zeros(len(self.pool))),
            ends=config.within.get(self.bin_by),
            inside=self.inside,
            prior=PriorPicks(problem.space, self.pool, config.priors),
        )
        self._checked = False

    @property
    def predictor(self) -> Predictor:
        """The predictor, fitted to the labels so far."""
        return self._fitting.predictor

    @property
    def epoch(self) -> int:
        """The epoch at which full trainings are compared: that of early stopping, or the last."""
        return compared_epoch(self.store, self.config)

    @property
    def space(self) -> Space:
        """The search space."""
        return self._problem.space

    def pretrain(self) -> None:
        """Stage 1: pretrains the predictor on the costs of the pool, or loads it if it was."""
        if found := self._fitting.pretrain(self.store):
            self.notify("pretraining", found)

    def run(
        self,
        schedule: Schedule | None = None,
        training: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Stage 2: trains all rounds; leaves the predictor fitted to them.

        Args:
            schedule: which rounds there are; None: those of the config.
            training: entered around the trainings of each round.
        """
        schedule = Schedule(self.config) if schedule is None else schedule
        self.config = schedule.config
        for index in count():
            if index >= len(self._rounds()):
                if any(batch.kind == "final" for batch in self.store.batches()):
                    return
                size = schedule.size(index, free=int((~self._taken(index)).sum()))
                if size is None:
                    return
                self.propose(index, size)
            batch = self._rounds()[index]
            # After a resume, open trials belong to what was proposed last.
            if not any(
                b.number > batch.number and b.kind != "import" for b in self.store.batches()
            ):
                self.notify("round", self._about(index))
                with training():
                    self.coordinator.complete(self._replacement, self.report)
            if index == 0:
                found = early_stop_of(self.store, self.config, batch, self._rng(1))
                if found is not None:
                    fields = {**dataclasses.asdict(found), "epochs": self.config.epochs}
                    self.notify("early_stop", fields)
            self._close(index)

    def _about(self, index: int) -> dict[str, Any]:
        rounds = max(len(self.config.sizes) - 1, index)
        return {"index": index, "rounds": rounds, "fidelity": self.config.fidelity(index)}

    def fit(self, index: int) -> None:
        """Fits the predictor to all labels older than round `index`."""
        if not self._fitting.fitted(index):
            self._fitting.fit(index, self._known(index))

    def labels(self, before: int | None = None, *, fidelity: float | None = 1.0) -> Labels:
        """Returns the labels that the predictor is fitted to, see `labels_of`."""
        return labels_of(self.store, self.config, before=before, fidelity=fidelity)

    def costs_of(self, rows: Matrix) -> dict[str, Floats]:
        """Returns cost -> (P,) of candidates."""
        return {k: np.asarray(v, np.float64) for k, v in self._problem.costs(rows).items()}

    def _known(self, index: int) -> Labels:
        """Returns all labels older than round `index`, of every length."""
        rounds = self._rounds()
        before = rounds[index].number if index < len(rounds) else None
        return self.labels(before, fidelity=None)

    def _rounds(self) -> list[Batch]:
        return [batch for batch in self.store.batches() if batch.kind in SEARCH_KINDS]

    def _rng(self, index: int) -> np.random.Generator:
        """Returns the generator in its state after the round before `index`."""
        rng = np.random.default_rng(self.config.seed)
        if index:
            rng.bit_generator.state = self._rounds()[index - 1].rng_state
        return rng

    def propose(self, index: int, num: int) -> None:
        """Writes all trials of a round into the store, before any of them starts.

        Args:
            index: number of the round.
            num: number of its trials.

        Raises:
            ValueError: every candidate has been trained.
        """
        rng = self._rng(index)
        taken = self._taken(index)
        if taken.all():
            raise ValueError("every candidate of the pool has been trained; enlarge the pool")
        if index == 0:
            selection, predicted = self._choosing.random(num, taken=taken, rng=rng), None
        else:
            self.fit(index)
            predicted = self._fitting.scores
            if index <= len(self.config.rungs):
                selection = self._choosing.promoted(
                    self._sizes(index), num, scores=predicted, taken=taken, rng=rng
                )
            else:
                selection = self._best(index, num, taken)
        proposals = [
            self.proposal(int(row), int(slot), predicted, index)
            for row, slot in zip(selection.indices, selection.bins, strict=True)
        ]
        batches = self.store.batches()
        batch = Batch(
            batches[-1].number + 1 if batches else 0,
            SEARCH_KINDS[min(index, 1)],
            rng.bit_generator.state,
            self.predictor.kind if index else "",
        )
        self.store.add_batch(batch, proposals)

    def proposal(self, row: int, slot: int, predicted: Floats | None, index: int) -> Proposal:
        """Returns a trial of a candidate of the pool, as long as those of a round."""
        rungs = self.config.rung_epochs
        return Proposal(
            genes=tuple(self.pool[row].tolist()),
            costs={name: float(cost[row]) for name, cost in self.costs.items()},
            epochs=rungs[index] if index < len(self.config.rungs) else self.epoch,
            seed=self.config.seed,
            slot=slot,
            predicted=None if predicted is None else float(predicted[row]),
            fidelity=self.config.fidelity(index),
        )

    def _best(self, index: int, num: int, taken: Mask) -> Selection:
        sizes, scores = self._sizes(index), self._fitting.scores
        return self._choosing.best(
            sizes, num, scores=scores, acquisition=self._acquisition(sum(sizes)), taken=taken
        )

    def _acquisition(self, start: int) -> Acquisition:
        """Returns what scores the picks of a round that is chosen after `start` trials."""
        posterior = self._fitting.posterior() if self.config.bins == IN_TURN else None
        if posterior is None:
            return Optimism(self._fitting.scores, self._fitting.std, start)
        rows, values = self._fitting.compared
        found = posterior.scaled(values)
        best = [
            found[within].max() if within.any() else found.min()
            for within in (self._problem.feasible(limit)(rows) for limit in self.config.limits)
        ]
        return ExpectedImprovement(posterior, np.array(best))

    def _taken(self, index: int, *, upto: int | None = None) -> Mask:
        """Returns (P,): which candidates cannot be trained again for as long as in a round.

        Args:
            index: number of the round.
            upto: looks at batches up to this number; None: at all.
        """
        known = self.store.known_genes(upto=upto, fidelity=self.config.fidelity(index))
        if not len(known):
            return np.zeros(len(self.pool), np.bool_)
        return np.isin(self._hashes, self._problem.space.hashes(known))

    def _sizes(self, index: int) -> list[int]:
        """Returns the number of trials that each round before `index` was to have."""
        if not self.config.time_s:
            return list(self.config.sizes[:index])
        return [
            sum(trial.state != "failed" for trial in self.store.trials(batch=batch.number))
            for batch in self._rounds()[:index]
        ]

    def _replacement(self, trial: Trial) -> Proposal | None:
        """Returns the replacement of a failed trial: the next best of its bin, in its own round.

        None if there is no other candidate.
        """
        numbers = [batch.number for batch in self._rounds()]
        if trial.batch not in numbers:
            return None
        index = numbers.index(trial.batch)
        taken = self._taken(index)
        if taken.all():
            return None
        if index:
            self.fit(index)
        predicted = self._fitting.scores if index else None
        scores = np.zeros(len(self.pool)) if predicted is None else predicted
        choosing, slot = self._choosing, trial.slot
        row = choosing.same_prior(self._row(trial), slot, scores=scores, taken=taken)
        if row is None:
            in_bins = self.config.bins != IN_TURN and index > len(self.config.rungs)
            if index and in_bins:
                chosen = self._chosen(index, trial)
                row = choosing.next_of_its_bin(chosen, slot, scores=scores, taken=taken)
            else:
                row = choosing.next_of_its_limit(slot, scores=scores, taken=taken)
        return self.proposal(row, slot, predicted, index)

    def _chosen(self, index: int, trial: Trial) -> Selection:
        """Returns the selection that a trial of a round with bins is of."""
        taken = self._taken(index, upto=self._rounds()[index - 1].number)
        # Each was chosen for a bin of its own.
        bins = {one.slot for one in self.store.trials(batch=trial.batch)}
        num = len(bins) if self.config.time_s else self.config.sizes[index]
        return self._best(index, num, taken)

    def _row(self, trial: Trial) -> int | None:
        """Returns the index of a trial's candidate in the pool, None if it is not there."""
        own = self._problem.space.hashes(np.array([trial.genes], np.int16))[0]
        rows = np.flatnonzero(self._hashes == own)
        return int(rows[0]) if len(rows) else None

    def _close(self, index: int) -> None:
        """Records the quality of the predictor and refits it to all labels."""
        name = f"round_{index}"
        if self.store.stage(name) is None:
            self.fit(index + 1)
            genes = importance(self.space, self.pool, self._fitting.scores)
            chosen = self.predictor.chosen
            content = {
                "epoch": self.epoch,
                **figures_of(
                    self._problem,
                    self.config,
                    self._known(index + 1),
                    chosen,
                    self._fitting.made(chosen.kind) if chosen.pretrained else None,
                    self.bin_by,
                ),
            }
            self.store.set_stage("importance", {"genes": genes})
            self.store.set_stage(name, content)
            self.notify("closed", {"index": index, **content})
        self.fit(index + 1)
        save_predictor(self.predictor, self.store.folder / PREDICTOR)

    def report(self, progress: Progress) -> None:
        """Notifies of a round's progress, after a look at the first labels.

        Raises:
            ValueError: the labels are fractions in place of percent.
        """
        if progress.done and not self._checked:
            values = self.labels(fidelity=None).values
            check_percent(values, self.config.target)
            self._checked = len(values) >= CHECKED
        self.notify("progress", dataclasses.asdict(progress))
