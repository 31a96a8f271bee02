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
from typing import Any, NamedTuple

import numpy as np

from fbnetv3.search.execution.coordinator import Coordinator, Progress
from fbnetv3.search.predictors.protocol import Posterior, Predictor
from fbnetv3.search.predictors.registry import save_predictor
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import Floats, Mask, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels, Proposal, Trial

from .acquisition import ExpectedImprovement, Optimism
from .candidates import Candidates
from .closing import early_stop_of, figures_of
from .config import IN_TURN, SearchConfig
from .fitting import PREDICTOR, Fitting
from .fresh import dense, fresh
from .labels import FINAL, SEARCH_KINDS, compared_epoch, labels_of
from .pool import pool_of
from .problem import Problem
from .round_quality import importance
from .schedule import Schedule
from .selection import Selection

Notify = Callable[[str, Mapping[str, Any]], None]
# After so many labels, their unit is known to be right.
CHECKED = 10


class Options(NamedTuple):
    """What a round chooses from.

    Attributes:
        candidates: the candidates.
        scores: (P,) predicted values; None before there are labels.
        std: (P,) their standard deviations, likewise.
    """

    candidates: Candidates
    scores: Floats | None
    std: Floats | None


class Optimizer:
    """Stages 1 and 2 of one search. Every step skips what the store shows as done.

    Attributes:
        pool: the candidates that rounds choose from, beside those that are made for a round.
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
        self.pool = Candidates(problem, config, pool_of(problem, config))
        rows, costs = self.pool.rows, self.pool.costs
        self._fitting = Fitting(problem.space, config, rows, costs, problem.costs)
        self._dense = dense(problem, rows)
        # The round of the latest options, and these.
        self._options: tuple[int, Options] | None = None
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
                if any(batch.kind == FINAL for batch in self.store.batches()):
                    return
                free = int((~self._taken(index)).sum())
                size = schedule.size(index, free=free)
                if size is None:
                    if self.config.time_s and not free:
                        whole = len(self.pool) >= self.space.cardinality()
                        self.notify("exhausted", {"candidates": len(self.pool), "whole": whole})
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
        if self._taken(index).all():
            raise ValueError("every candidate of the pool has been trained; enlarge the pool")
        options = self._options_of(index)
        choosing, taken = options.candidates.choosing, self._taken(index, options)
        if options.scores is None:
            selection = choosing.random(num, taken=taken, rng=rng)
        elif index <= len(self.config.rungs):
            selection = choosing.promoted(
                self._sizes(index), num, scores=options.scores, taken=taken, rng=rng
            )
        else:
            selection = self._best(index, num, options, taken)
        proposals = [
            self.proposal(int(row), int(slot), index, options)
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

    def proposal(self, row: int, slot: int, index: int, options: Options | None = None) -> Proposal:
        """Returns a trial of a candidate, as long as those of a round.

        Args:
            row: its index in the options, or in the pool.
            slot: the limit or the bin that it is for.
            index: number of the round.
            options: what the round chooses from; None: the pool, of which nothing is predicted.
        """
        options = Options(self.pool, None, None) if options is None else options
        candidates, scores = options.candidates, options.scores
        rungs = self.config.rung_epochs
        return Proposal(
            genes=tuple(candidates.rows[row].tolist()),
            costs=candidates.costs_at(row),
            epochs=rungs[index] if index < len(self.config.rungs) else self.epoch,
            seed=self.config.seed,
            slot=slot,
            predicted=None if scores is None else float(scores[row]),
            fidelity=self.config.fidelity(index),
        )

    def _options_of(self, index: int) -> Options:
        """Returns what a round chooses from.

        This is the pool and, where that has little of all there is, what is made for rounds that
        are chosen by all that was learnt.
        """
        if not index:
            return Options(self.pool, None, None)
        self.fit(index)
        if self._options is not None and self._options[0] == index:
            return self._options[1]
        options = Options(self.pool, self._fitting.scores, self._fitting.std)
        if self.config.bins == IN_TURN and index > len(self.config.rungs) and not self._dense:
            more = self._fresh(index)
            if len(more):
                predicted = self.predictor.predict(more)
                options = Options(
                    Candidates(self._problem, self.config, np.concatenate([self.pool.rows, more])),
                    np.concatenate([self._fitting.scores, predicted.mean]),
                    np.concatenate([self._fitting.std, predicted.std]),
                )
        self._options = index, options
        return options

    def _fresh(self, index: int) -> Matrix:
        """Returns candidates outside the pool that are made for a round, see `fresh`."""
        found = fresh(self._problem, self.config, *self._fitting.compared, index=index)
        return found[~self.pool.have(found)]

    def _best(self, index: int, num: int, options: Options, taken: Mask) -> Selection:
        sizes, scores, std = self._sizes(index), options.scores, options.std
        assert scores is not None
        assert std is not None
        in_turn, acquisition = self.config.bins == IN_TURN, Optimism(scores, std, sum(sizes))
        posterior = self.predictor.posterior(options.candidates.rows) if in_turn else None
        return options.candidates.choosing.best(
            sizes,
            num,
            scores=scores,
            acquisition=acquisition
            if posterior is None
            else ExpectedImprovement(posterior, self._best_of(posterior)),
            taken=taken,
        )

    def _best_of(self, posterior: Posterior) -> Floats:
        """Returns the best label within each limit, (limits,), on a posterior's scale."""
        rows, values = self._fitting.compared
        found = posterior.scaled(values)
        best = [
            found[within].max() if within.any() else found.min()
            for within in (self._problem.feasible(limit)(rows) for limit in self.config.limits)
        ]
        return np.array(best)

    def _taken(
        self, index: int, options: Options | None = None, *, upto: int | None = None
    ) -> Mask:
        """Returns (P,): which candidates cannot be trained again for as long as in a round.

        Args:
            index: number of the round.
            options: the candidates; None: those of the pool.
            upto: looks at batches up to this number; None: at all.
        """
        candidates = self.pool if options is None else options.candidates
        known = self.store.known_genes(upto=upto, fidelity=self.config.fidelity(index))
        return candidates.among(known)

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
        options = self._options_of(index)
        taken = self._taken(index, options)
        if taken.all():
            return None
        candidates, slot = options.candidates, trial.slot
        scores = np.zeros(len(candidates)) if options.scores is None else options.scores
        choosing, own = candidates.choosing, candidates.index(trial.genes)
        row = choosing.same_prior(own, slot, scores=scores, taken=taken)
        if row is None:
            in_bins = self.config.bins != IN_TURN and index > len(self.config.rungs)
            if index and in_bins:
                chosen = self._chosen(index, trial, options)
                row = choosing.next_of_its_bin(chosen, slot, scores=scores, taken=taken)
            else:
                row = choosing.next_of_its_limit(slot, scores=scores, taken=taken)
        return self.proposal(row, slot, index, options)

    def _chosen(self, index: int, trial: Trial, options: Options) -> Selection:
        """Returns the selection that a trial of a round with bins is of."""
        taken = self._taken(index, options, upto=self._rounds()[index - 1].number)
        # Each was chosen for a bin of its own.
        bins = {one.slot for one in self.store.trials(batch=trial.batch)}
        num = len(bins) if self.config.time_s else self.config.sizes[index]
        return self._best(index, num, options, taken)

    def _close(self, index: int) -> None:
        """Records the quality of the predictor and refits it to all labels."""
        name = f"round_{index}"
        if self.store.stage(name) is None:
            self.fit(index + 1)
            genes = importance(self.space, self.pool.rows, self._fitting.scores)
            chosen = self.predictor.chosen
            content = {
                "epoch": self.epoch,
                **figures_of(
                    self._problem,
                    self.config,
                    self._known(index + 1),
                    chosen,
                    self._fitting.made(chosen.kind) if chosen.pretrained else None,
                    self.pool.bin_by,
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
