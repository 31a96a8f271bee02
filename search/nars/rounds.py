"""Stages 1 and 2: a pool, an encoder pretrained on its costs, rounds of propose, train, refit.

Every decision depends only on the store: the settings' seed, the generator state of the previous
round, and labels in the order of proposal. So a search that is killed and resumed proposes the same
trials in the same order, whichever engine trains them and in whatever order they end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.execution.coordinator import Coordinator, Progress
from fbnetv3.search.predictors.protocol import Predictor, fit_to
from fbnetv3.search.predictors.registry import load_predictor, make_predictor, save_predictor
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels, Proposal, Trial

from .config import FEWEST, IN_TURN, SearchConfig
from .early_stop import FEWEST_NETWORKS, find_early_stop
from .gene_effects import gene_effects
from .pool import pool_of
from .prior_pool import PriorPicks
from .problem import Problem
from .round_quality import importance, round_quality
from .schedule import Schedule
from .selection import (
    Optimism,
    Selection,
    Wish,
    best_within,
    next_best,
    select_batch,
    select_in_turn,
    shuffled_best,
)

Notify = Callable[[str, Mapping[str, Any]], None]
PREDICTOR = "predictor.safetensors"
SEARCH_KINDS = ("random", "bins")
# One training of each rung, see `measuring`.
MEASURED = "measure"
# Batches that the predictor is fitted to: rounds, and labels of earlier searches.
LABEL_KINDS = (*SEARCH_KINDS, MEASURED, "import")
# More labels than this are subsampled evenly: a network of width 24 does not profit from more.
MOST_FITTED = 4000
# After so many labels, their unit is known to be right.
CHECKED = 10


def usable(labels: Labels) -> Floats:
    """Returns the labels to fit; a diverged training gets the worst finite one of its length.

    Raises:
        ValueError: there is no finite label.
    """
    finite = labels.values[np.isfinite(labels.values)]
    if not len(finite):
        raise ValueError(
            f"all {len(labels.values)} labels are NaN, so there is nothing to learn from; lower "
            "the learning rates of the space, or fix the labels"
        )
    values = labels.values.copy()
    for share in np.unique(labels.fidelity):
        own = labels.fidelity == share
        known = values[own & np.isfinite(values)]
        values[own & ~np.isfinite(values)] = (known if len(known) else finite).min()
    return values


def compared(shares: Floats) -> float:
    """Returns the share of the final training at which candidates are compared.

    It is the highest of the labels' (N,) that has enough of them: a few labels of the next rung say
    less than many of this one.
    """
    if not len(shares):
        return 1.0
    known, counts = np.unique(shares, return_counts=True)
    enough = known[counts >= FEWEST]
    return float(enough.max() if len(enough) else known[np.argmax(counts)])


class Optimizer:
    """Stages 1 and 2 of one search. Every step skips what the store shows as done.

    Attributes:
        pool: (P, num_genes) the candidates that rounds choose from.
        costs: cost -> (P,).
        inside: (limits, P) whether each candidate is within each limit.
        predictor: the predictor, fitted to the labels so far.
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
        self.predictor = self._make_predictor(config.predictor)
        self._hashes = problem.space.hashes(self.pool)
        self.inside = np.stack([problem.feasible(limit)(self.pool) for limit in config.limits])
        self._prior = PriorPicks(problem.space, self.pool, config.priors)
        self._fitted, self._checked = -1, False
        self._scores: Floats = np.zeros(0)
        self._std: Floats = np.zeros(0)

    def _make_predictor(self, kind: str) -> Predictor:
        return make_predictor(
            kind,
            self._problem.space,
            target=self.config.target,
            seed=self.config.seed,
            costs=self._problem.costs if self._varied else None,
        )

    @property
    def _varied(self) -> dict[str, Floats]:
        """Costs that differ among the candidates of the pool."""
        return {name: cost for name, cost in self.costs.items() if np.ptp(cost) > 0}

    @property
    def epoch(self) -> int:
        """The epoch at which full trainings are compared: that of early stopping, or the last."""
        found = self.store.stage("early_stop")
        return self.config.epochs if found is None else int(found["epoch"])

    @property
    def space(self) -> Space:
        """The search space."""
        return self._problem.space

    def pretrain(self) -> None:
        """Stage 1: pretrains the predictor on the costs of the pool, or loads it if it was."""
        path = self.store.folder / "pretrained.safetensors"
        if self.store.stage("pretraining") is not None and path.exists():
            self.predictor.restore(*load_predictor(path).state())
            return
        found = self.predictor.pretrain(self.pool, self._varied) if self._varied else None
        if found is None:
            return
        save_predictor(self.predictor, path)
        shown = {
            name: {
                "r2": float(found.r2[name]),
                "truth": found.truth[name][:400].round(4).tolist(),
                "predicted": found.predicted[name][:400].round(4).tolist(),
            }
            for name in found.r2
        }
        self.store.set_stage("pretraining", {"pool": len(self.pool), "costs": shown})
        self.notify("pretraining", {name: cost["r2"] for name, cost in shown.items()})

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
            self.notify("round", self._about(index))
            with training():
                self.coordinator.complete(partial(self._replacement, index), self.report)
            if index == 0:
                self._stop_early(batch)
            self._close(index)

    def _about(self, index: int) -> dict[str, Any]:
        rounds = max(len(self.config.sizes) - 1, index)
        return {"index": index, "rounds": rounds, "fidelity": self.config.fidelity(index)}

    def fit(self, index: int) -> None:
        """Fits the predictor to all labels older than round `index`."""
        if self._fitted == index:
            return
        rounds = self._rounds()
        before = rounds[index].number if index < len(rounds) else None
        labels = self.labels(before, fidelity=None)
        labels = labels.where(labels.fidelity <= compared(labels.fidelity))
        values = usable(labels)
        some = np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int)
        fit_to(self.predictor, labels.matrix[some], values[some], labels.fidelity[some])
        self._fitted = index
        predicted = self.predictor.predict(self.pool)
        self._scores, self._std = predicted.mean, predicted.std

    def labels(self, before: int | None = None, *, fidelity: float | None = 1.0) -> Labels:
        """Returns the labels that the predictor is fitted to.

        Args:
            before: keeps those of batches below this number; None: all.
            fidelity: keeps those of this share of the final training; None: all.
        """
        return self.store.labels(
            self.epoch, kinds=LABEL_KINDS, before=before, seed=self.config.seed, fidelity=fidelity
        )

    def costs_of(self, rows: Matrix) -> dict[str, Floats]:
        """Returns cost -> (P,) of candidates."""
        return {k: np.asarray(v, np.float64) for k, v in self._problem.costs(rows).items()}

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
            selection, predicted = self._random(taken, num, rng), None
        else:
            self.fit(index)
            predicted = self._scores
            if index <= len(self.config.rungs):
                selection = self._promoted(taken, num, rng)
            else:
                selection = self._select(index, num, taken)
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

    def _taken(self, index: int) -> npt.NDArray[np.bool_]:
        """Returns (P,): which candidates cannot be trained again for as long as in a round."""
        known = self.store.known_genes(fidelity=self.config.fidelity(index))
        if not len(known):
            return np.zeros(len(self.pool), np.bool_)
        return np.isin(self._hashes, self._problem.space.hashes(known))

    def _random(
        self, taken: npt.NDArray[np.bool_], num: int, rng: np.random.Generator
    ) -> Selection:
        """Returns the first round: random candidates, as many for each limit."""
        order = rng.permutation(np.flatnonzero(~taken))
        first = np.zeros(len(self.pool))
        first[order] = -np.arange(len(order))
        wishes = self._wishes(0, num, taken)
        return select_in_turn(first, self.inside, num=num, taken=taken, wishes=wishes)

    def _wishes(self, index: int, num: int, taken: npt.NDArray[np.bool_]) -> list[Wish | None]:
        sizes = [self._size(earlier) for earlier in range(index)] or [num]
        labels = sum(sizes) if index else 0
        return self._prior.wishes(index, num, labels=labels, first=sizes[0], taken=taken)

    def _promoted(
        self, taken: npt.NDArray[np.bool_], num: int, rng: np.random.Generator
    ) -> Selection:
        """Returns the first round of a rung: random among the best predicted of each limit.

        Random, because a predictor of the rung below would choose near-copies of its best, which
        show little of how the rungs differ.
        """
        scores = shuffled_best(self._scores, self.inside, rng)
        wishes = self._wishes(len(self._rounds()), num, taken)
        return select_in_turn(scores, self.inside, num=num, taken=taken, wishes=wishes)

    def _select(self, index: int, num: int, taken: npt.NDArray[np.bool_]) -> Selection:
        before = sum(self._size(earlier) for earlier in range(index))
        optimism, wishes = Optimism(self._std, start=before), self._wishes(index, num, taken)
        if self.config.bins == IN_TURN:
            return select_in_turn(
                self._scores,
                self.inside,
                num=num,
                taken=taken,
                optimism=optimism,
                first=before % len(self.inside),
                wishes=wishes,
            )
        costs = self.costs.get(self.bin_by, np.zeros(len(self.pool)))
        bins = self.config.bins if np.ptp(costs) > 0 else "none"
        ends = self.config.within.get(self.bin_by)
        finite = ends is not None and bool(np.isfinite(ends).all())
        return select_batch(
            self._scores,
            costs,
            num=num,
            bins=bins,
            limits=ends if finite else None,
            taken=taken,
            optimism=optimism,
            wishes=wishes,
        )

    def _size(self, index: int) -> int:
        """Returns the number of trials that an earlier round was to have."""
        if not self.config.time_s:
            return self.config.sizes[index]
        trials = self.store.trials(batch=self._rounds()[index].number)
        return sum(trial.state != "failed" for trial in trials)

    def _replacement(self, index: int, trial: Trial) -> Proposal:
        """Returns the replacement of a failed trial: the next best of its bin."""
        taken = self._taken(index)
        # In the first round of searches before 0.3 a slot was a number in the round.
        limit = self.inside[trial.slot % len(self.inside)]
        own = self._with_same_prior(trial)
        if own is not None and (own & limit & ~taken).any():
            if index:
                self.fit(index)
            scores = self._scores if index else np.zeros(len(taken))
            row = best_within(scores, own & limit, taken)
            return self.proposal(row, trial.slot, scores if index else None, index)
        if index == 0:
            row, predicted = best_within(np.zeros(len(taken)), limit, taken), None
        else:
            self.fit(index)
            predicted = self._scores
            if self.config.bins == IN_TURN or index <= len(self.config.rungs):
                row = best_within(self._scores, limit, taken)
            else:
                row = self._next_of_its_bin(index, trial, taken)
        return self.proposal(row, trial.slot, predicted, index)

    def _next_of_its_bin(self, index: int, trial: Trial, taken: npt.NDArray[np.bool_]) -> int:
        older = [b.number for b in self._rounds()[:index]]
        known = self.store.known_genes(upto=older[-1], fidelity=self.config.fidelity(index))
        taken_before = np.isin(self._hashes, self._problem.space.hashes(known))
        costs = self.costs.get(self.bin_by, np.zeros(len(self.pool)))
        # Each was chosen for a bin of its own.
        bins = {one.slot for one in self.store.trials(batch=trial.batch)}
        num = len(bins) if self.config.time_s else self.config.sizes[index]
        selection = self._select(index, num, taken_before)
        return next_best(selection, trial.slot, self._scores, costs, taken)

    def _with_same_prior(self, trial: Trial) -> npt.NDArray[np.bool_] | None:
        """Returns the candidates with the recipe of a prior, if the trial has it."""
        rows = np.flatnonzero(
            self._hashes == self._problem.space.hashes(np.array([trial.genes], np.int16))[0]
        )
        return self._prior.own(int(rows[0])) if len(rows) else None

    def _stop_early(self, batch: Batch) -> None:
        if self.store.stage("early_stop") is not None:
            return
        trials = self.store.trials("done", batch=batch.number)
        full = self.config.epochs
        imported = any(one.kind == "import" for one in self.store.batches())
        # Imported labels are of full trainings; shorter ones could not be compared with them.
        stops = self.config.early_stop and self.config.policy == "early_stop"
        if not stops or full == 1 or len(trials) < FEWEST_NETWORKS or imported:
            self.store.set_stage("early_stop", {"epoch": full, "found": False, "tried": False})
            return
        curves = np.full((len(trials), full), np.nan)
        for row, trial in enumerate(trials):
            curve = self.store.curve(trial.seq)
            curves[row, : len(curve)] = [np.nan if v is None else v for v in curve]
        found = find_early_stop(curves, self._rng(1), threshold=self.config.threshold)
        self.store.set_stage("early_stop", {**dataclasses.asdict(found), "tried": True})
        self.notify("early_stop", {**dataclasses.asdict(found), "epochs": full})

    def _close(self, index: int) -> None:
        """Records the quality of the predictor and refits it to all labels."""
        name = f"round_{index}"
        if self.store.stage(name) is None:
            rounds = self._rounds()
            before = rounds[index + 1].number if index + 1 < len(rounds) else None
            known = self.labels(before, fidelity=None)
            share = compared(known.fidelity)
            known = known.where(known.fidelity <= share)
            labels = known.where(known.fidelity == share)
            values = usable(labels)
            self.fit(index + 1)
            genes = importance(self._problem.space, self.pool, self._scores)
            content = {
                "trials": len(values),
                "epoch": self.epoch,
                "best": float(values.max()),
                "effects": gene_effects(
                    self.space, labels.matrix, values, self.costs_of(labels.matrix)
                ),
                **({"fidelity": share} if self.config.rungs else {}),
                **self._quality(known),
            }
            self.store.set_stage("importance", {"genes": genes})
            self.store.set_stage(name, content)
            self.notify("closed", {"index": index, **content})
        self.fit(index + 1)
        save_predictor(self.predictor, self.store.folder / PREDICTOR)

    def _quality(self, labels: Labels) -> dict[str, Any]:
        chosen = self.predictor.chosen
        return round_quality(
            chosen,
            self._make_predictor(chosen.kind) if chosen.pretrained else None,
            labels.matrix,
            usable(labels),
            self.costs_of(labels.matrix)[self.bin_by] if self.bin_by else None,
            seed=self.config.seed,
            shares=labels.fidelity,
        )

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
