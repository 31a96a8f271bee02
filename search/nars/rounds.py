"""Stages 1 and 2: a pool, an encoder pretrained on its costs, rounds of propose, train, refit.

Every decision depends only on the store: the settings' seed, the generator state of the previous
round, and labels in the order of proposal. So a search that is killed and resumed proposes the same
trials in the same order, whichever engine trains them and in whatever order they end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3.search.execution.coordinator import Coordinator, Progress
from fbnetv3.search.predictors.protocol import Predictor
from fbnetv3.search.predictors.registry import load_predictor, make_predictor, save_predictor
from fbnetv3.search.predictors.targets import check_percent
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Labels, Proposal, Trial

from .config import IN_TURN, SearchConfig
from .early_stop import FEWEST_NETWORKS, find_early_stop
from .gene_effects import gene_effects
from .pool import pool_of
from .prior_pool import PriorPicks
from .problem import Problem
from .round_quality import importance, round_quality
from .selection import (
    Optimism,
    Selection,
    Wish,
    best_within,
    next_best,
    select_batch,
    select_in_turn,
)

Notify = Callable[[str, Mapping[str, Any]], None]
PREDICTOR = "predictor.safetensors"
SEARCH_KINDS = ("random", "bins")
# Batches that the predictor is fitted to: rounds, and labels of earlier searches.
LABEL_KINDS = (*SEARCH_KINDS, "import")
# More labels than this are subsampled evenly: a network of width 24 does not profit from more.
MOST_FITTED = 4000
# After so many labels, their unit is known to be right.
CHECKED = 10


def usable(labels: Labels) -> Floats:
    """Returns the labels to fit; a diverged training gets the worst finite label.

    Raises:
        ValueError: there is no finite label.
    """
    finite = labels.values[np.isfinite(labels.values)]
    if not len(finite):
        raise ValueError(
            f"all {len(labels.values)} labels are NaN, so there is nothing to learn from; lower "
            "the learning rates of the space, or fix the labels"
        )
    return np.where(np.isfinite(labels.values), labels.values, finite.min())


class Optimizer:
    """Stages 1 and 2 of one search. Every step skips what the store shows as done."""

    def __init__(
        self,
        problem: Problem,
        config: SearchConfig,
        store: Store,
        coordinator: Coordinator,
        notify: Notify = lambda _name, _fields: None,
    ) -> None:
        self._problem, self._config, self._store = problem, config, store
        self._coordinator, self._notify = coordinator, notify
        self.pool = pool_of(problem, config)
        self.costs = self.costs_of(self.pool)
        self.bin_by = config.bin_by or next(iter(self.costs), "")
        self.predictor = self._make_predictor(config.predictor)
        self._hashes = problem.space.hashes(self.pool)
        self._inside = np.stack([problem.feasible(limit)(self.pool) for limit in config.limits])
        self._prior = PriorPicks(problem.space, self.pool, config.priors)
        self._fitted, self._checked = -1, False
        self._scores: Floats = np.zeros(0)
        self._std: Floats = np.zeros(0)

    def _make_predictor(self, kind: str) -> Predictor:
        return make_predictor(
            kind,
            self._problem.space,
            target=self._config.target,
            seed=self._config.seed,
            costs=self._problem.costs if self._varied else None,
        )

    @property
    def _varied(self) -> dict[str, Floats]:
        """Costs that differ among the candidates of the pool."""
        return {name: cost for name, cost in self.costs.items() if np.ptp(cost) > 0}

    @property
    def epoch(self) -> int:
        """The epoch at which labels are compared: that of early stopping, or the last."""
        found = self._store.stage("early_stop")
        return self._config.epochs if found is None else int(found["epoch"])

    @property
    def space(self) -> Space:
        """The search space."""
        return self._problem.space

    def pretrain(self) -> None:
        """Stage 1: pretrains the predictor on the costs of the pool, or loads it if it was."""
        path = self._store.folder / "pretrained.safetensors"
        if self._store.stage("pretraining") is not None and path.exists():
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
        self._store.set_stage("pretraining", {"pool": len(self.pool), "costs": shown})
        self._notify("pretraining", {name: cost["r2"] for name, cost in shown.items()})

    def run(self) -> None:
        """Stage 2: trains all rounds; leaves the predictor fitted to them."""
        for index in range(self._config.rounds + 1):
            if index >= len(self._rounds()):
                self.propose(index)
            batch = self._rounds()[index]
            self._notify("round", {"index": index, "rounds": self._config.rounds})
            self._coordinator.complete(partial(self._replacement, index), self.report)
            if index == 0:
                self._stop_early(batch)
            self._close(index)

    def fit(self, index: int) -> None:
        """Fits the predictor to all labels older than round `index`."""
        if self._fitted == index:
            return
        rounds = self._rounds()
        before = rounds[index].number if index < len(rounds) else None
        labels = self.labels(before)
        values = usable(labels)
        some = np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int)
        self.predictor.fit(labels.matrix[some], values[some])
        self._fitted = index
        predicted = self.predictor.predict(self.pool)
        self._scores, self._std = predicted.mean, predicted.std

    def labels(self, before: int | None = None) -> Labels:
        """Returns the labels that the predictor is fitted to: of batches below a number, or all."""
        return self._store.labels(
            self.epoch, kinds=LABEL_KINDS, before=before, seed=self._config.seed
        )

    def costs_of(self, rows: Matrix) -> dict[str, Floats]:
        """Returns cost -> (P,) of candidates."""
        return {k: np.asarray(v, np.float64) for k, v in self._problem.costs(rows).items()}

    def _rounds(self) -> list[Batch]:
        return [batch for batch in self._store.batches() if batch.kind in SEARCH_KINDS]

    def _rng(self, index: int) -> np.random.Generator:
        """Returns the generator in its state after the round before `index`."""
        rng = np.random.default_rng(self._config.seed)
        if index:
            rng.bit_generator.state = self._rounds()[index - 1].rng_state
        return rng

    def propose(self, index: int) -> None:
        """Writes all trials of a round into the store, before any of them starts."""
        rng = self._rng(index)
        taken = self._taken()
        if taken.all():
            raise ValueError("every candidate of the pool has been trained; enlarge the pool")
        if index == 0:
            selection, predicted = self._random(taken, rng), None
        else:
            self.fit(index)
            selection, predicted = self._select(index, taken), self._scores
        proposals = [
            self._proposal(int(row), int(slot), predicted)
            for row, slot in zip(selection.indices, selection.bins, strict=True)
        ]
        batches = self._store.batches()
        batch = Batch(
            batches[-1].number + 1 if batches else 0,
            SEARCH_KINDS[min(index, 1)],
            rng.bit_generator.state,
            self.predictor.kind if index else "",
        )
        self._store.add_batch(batch, proposals)

    def _proposal(self, row: int, slot: int, predicted: Floats | None) -> Proposal:
        return Proposal(
            genes=tuple(self.pool[row].tolist()),
            costs={name: float(cost[row]) for name, cost in self.costs.items()},
            epochs=self.epoch,
            seed=self._config.seed,
            slot=slot,
            predicted=None if predicted is None else float(predicted[row]),
        )

    def _taken(self) -> npt.NDArray[np.bool_]:
        known = self._store.known_genes()
        if not len(known):
            return np.zeros(len(self.pool), np.bool_)
        return np.isin(self._hashes, self._problem.space.hashes(known))

    def _random(self, taken: npt.NDArray[np.bool_], rng: np.random.Generator) -> Selection:
        """Returns the first round: random candidates, as many for each limit."""
        order = rng.permutation(np.flatnonzero(~taken))
        first = np.zeros(len(self.pool))
        first[order] = -np.arange(len(order))
        wishes = self._wishes(0, taken)
        num = self._config.sizes[0]
        return select_in_turn(first, self._inside, num=num, taken=taken, wishes=wishes)

    def _wishes(self, index: int, taken: npt.NDArray[np.bool_]) -> list[Wish | None]:
        sizes = self._config.sizes
        labels = sum(sizes[:index])
        return self._prior.wishes(index, sizes[index], labels=labels, first=sizes[0], taken=taken)

    def _select(self, index: int, taken: npt.NDArray[np.bool_]) -> Selection:
        num, before = self._config.sizes[index], sum(self._config.sizes[:index])
        optimism, wishes = Optimism(self._std, start=before), self._wishes(index, taken)
        if self._config.bins == IN_TURN:
            return select_in_turn(
                self._scores,
                self._inside,
                num=num,
                taken=taken,
                optimism=optimism,
                first=before % len(self._inside),
                wishes=wishes,
            )
        costs = self.costs.get(self.bin_by, np.zeros(len(self.pool)))
        bins = self._config.bins if np.ptp(costs) > 0 else "none"
        ends = self._config.within.get(self.bin_by)
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

    def _replacement(self, index: int, trial: Trial) -> Proposal:
        """Returns the replacement of a failed trial: the next best of its bin."""
        taken = self._taken()
        # In the first round of searches before 0.3 a slot was a number in the round.
        limit = self._inside[trial.slot % len(self._inside)]
        own = self._with_same_prior(trial)
        if own is not None and (own & limit & ~taken).any():
            if index:
                self.fit(index)
            scores = self._scores if index else np.zeros(len(taken))
            row = best_within(scores, own & limit, taken)
            return self._proposal(row, trial.slot, scores if index else None)
        if index == 0:
            row, predicted = best_within(np.zeros(len(taken)), limit, taken), None
        else:
            self.fit(index)
            if self._config.bins == IN_TURN:
                row = best_within(self._scores, limit, taken)
                return self._proposal(row, trial.slot, self._scores)
            older = [b.number for b in self._rounds()[:index]]
            known = self._store.known_genes(upto=older[-1])
            taken_before = np.isin(self._hashes, self._problem.space.hashes(known))
            costs = self.costs.get(self.bin_by, np.zeros(len(self.pool)))
            selection = self._select(index, taken_before)
            row = next_best(selection, trial.slot, self._scores, costs, taken)
            predicted = self._scores
        return self._proposal(row, trial.slot, predicted)

    def _with_same_prior(self, trial: Trial) -> npt.NDArray[np.bool_] | None:
        """Returns the candidates with the recipe of a prior, if the trial has it."""
        rows = np.flatnonzero(
            self._hashes == self._problem.space.hashes(np.array([trial.genes], np.int16))[0]
        )
        return self._prior.own(int(rows[0])) if len(rows) else None

    def _stop_early(self, batch: Batch) -> None:
        if self._store.stage("early_stop") is not None:
            return
        trials = self._store.trials("done", batch=batch.number)
        full = self._config.epochs
        imported = any(one.kind == "import" for one in self._store.batches())
        # Imported labels are of full trainings; shorter ones could not be compared with them.
        if not self._config.early_stop or full == 1 or len(trials) < FEWEST_NETWORKS or imported:
            self._store.set_stage("early_stop", {"epoch": full, "found": False, "tried": False})
            return
        curves = np.full((len(trials), full), np.nan)
        for row, trial in enumerate(trials):
            curve = self._store.curve(trial.seq)
            curves[row, : len(curve)] = [np.nan if v is None else v for v in curve]
        found = find_early_stop(curves, self._rng(1), threshold=self._config.threshold)
        self._store.set_stage("early_stop", {**dataclasses.asdict(found), "tried": True})
        self._notify("early_stop", {**dataclasses.asdict(found), "epochs": full})

    def _close(self, index: int) -> None:
        """Records the quality of the predictor and refits it to all labels."""
        name = f"round_{index}"
        if self._store.stage(name) is None:
            rounds = self._rounds()
            labels = self.labels(rounds[index + 1].number if index + 1 < len(rounds) else None)
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
                **self._quality(labels.matrix, values),
            }
            # Cross-validation leaves the predictor fitted to a part of the labels.
            self._fitted = -1
            self._store.set_stage("importance", {"genes": genes})
            self._store.set_stage(name, content)
            self._notify("closed", {"index": index, **content})
        self.fit(index + 1)
        save_predictor(self.predictor, self._store.folder / PREDICTOR)

    def _quality(self, rows: Matrix, values: Floats) -> dict[str, Any]:
        chosen = self.predictor.chosen
        return round_quality(
            chosen,
            self._make_predictor(chosen.kind) if chosen.pretrained else None,
            rows,
            values,
            self.costs_of(rows)[self.bin_by] if self.bin_by else None,
            seed=self._config.seed,
        )

    def report(self, progress: Progress) -> None:
        """Notifies of a round's progress, after a look at the first labels.

        Raises:
            ValueError: the labels are fractions in place of percent.
        """
        if progress.done and not self._checked:
            values = self.labels().values
            check_percent(values, self._config.target)
            self._checked = len(values) >= CHECKED
        self._notify("progress", dataclasses.asdict(progress))
