"""Simulates policies of spending a budget, on a truth fitted to trainings that were recorded.

    python -m benchmarks.search.policies --cost 48 150 --seeds 10

The policies are the product's own searches; only their trainings are simulated. The truth is fitted
to results/nars_cifar: `trainings.jsonl` (250 steps; the effect of every gene) and
`retrained.jsonl` (7,810 steps; how much of the short effects is left, and what too much weight
decay, stochastic depth, dropout and mixup cost then). In between, it is interpolated over the
logarithm of the length. Noise is that of the recorded repetitions. The second file has eight pairs
of a network and a recipe in the space, so that the long effects are weak evidence, held near those
of the short ones: use the simulation to compare policies, not to predict accuracies. Within the
limit m. Each run appends a line to results/search/policies.jsonl, and all become policies.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import RESULTS, SEARCH_PAGE, append, read_lines, write_block
from benchmarks.studies.nars_cifar import HAND_RECIPE, JOINT, LIMITS, arch_only
from fbnetv3.search.cost.cost import costs
from fbnetv3.search.execution.engine import InlineEngine
from fbnetv3.search.nars.budget import planned
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.prior import Prior
from fbnetv3.search.nars.problem import Problem
from fbnetv3.search.nars.run import search_problem, with_rungs
from fbnetv3.search.space.space import Floats, Matrix, Space
from fbnetv3.search.storage.store import Store

from .budget_report import spread

STEPS, FULL, EPOCHS = 250, 7810, 10
LIMIT = {"macs_paper": (-np.inf, LIMITS["m"])}
PATH = RESULTS / "search" / "policies.jsonl"
# Decay rate x learning rate x steps above which decay costs accuracy.
MOST_DECAY = 0.03
# What the long effects are held near: half of what networks and rates are worth in short trainings,
# and nothing for the rest; and how near, in points of accuracy.
HELD, NEAR = (0.5, 0.5, 0.0, 0.0, 0.0, 0.0), 1.0
RIDGE = 10.0
POLICIES: Mapping[str, str] = {
    "early_stop": "the paper's: all rounds in full, shortened if the first allows it",
    "rungs": "short trainings first, then rounds in full",
    "rungs_prior": "the same around a person's recipe",
    "networks": "networks only, all with the person's recipe, with rungs",
    "random": "random candidates in full",
}


class Truth:
    """Expected accuracy of every candidate of the joint space at every length.

    Attributes:
        noise: standard deviation over seeds of the shortest and of the longest trainings.
        effects: the fitted effects of the longest trainings.
    """

    def __init__(self) -> None:
        lines = [
            line
            for line in read_lines(RESULTS / "nars_cifar" / "trainings.jsonl")
            if line["space"] == JOINT.name and line["curve"][-1] is not None
        ]
        rows = np.stack([JOINT.from_values(line["values"]) for line in lines])
        labels = np.array([line["curve"][-1] for line in lines], np.float64)
        self._kinds = sorted({self._kind(row) for row in JOINT.pool(2000, seed=0)})
        self._network = np.array([gene.group != "recipe" for gene in JOINT.genes])
        self._columns = np.repeat(self._network, JOINT.sizes) @ (JOINT.encoding > 0) > 0
        encoded = JOINT.encode(rows)[:, self._columns]
        self._mean, self._spread = encoded.mean(0), np.maximum(encoded.std(0), 1e-9)
        x = np.concatenate([self._is_kind(rows), self._scaled(rows), self._arch(rows)], axis=1)
        recipe = x.shape[1] - encoded.shape[1]
        penalty = np.r_[np.full(recipe, 0.3), np.full(encoded.shape[1], RIDGE)]
        beta = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ labels)
        kinds = len(self._kinds)
        self._rate, self._short = beta[:kinds], beta[kinds:recipe]
        self._gene = beta[recipe:]
        self._base, self.noise = 0.0, (_repeated(lines, labels), 0.0)
        self._fit_long(rows)

    def _fit_long(self, rows: Matrix) -> None:
        known = {repr(JOINT.decode(row)[0].to_dict()["rows"]): row for row in rows}
        found = []
        for line in read_lines(RESULTS / "nars_cifar" / "retrained.jsonl"):
            row = known.get(repr(line["arch"]["rows"]))
            if row is None or line["distilled"]:
                continue
            wanted = {g.name: line["recipe"][g.name] for g in JOINT.genes if g.group == "recipe"}
            # A decay scaled to the length is not one of the space's values.
            found.append((line["arm"], line["limit"], row, wanted, line["raw_top1_pct"]))
        groups = {(arm, limit) for arm, limit, *_ in found}
        x, y, within = [], [], []
        for key in sorted(groups):
            own = [one for one in found if one[:2] == key]
            values = {**JOINT.values(own[0][2]), **own[0][3]}
            decay = float(values["weight_decay"])
            scale = JOINT.gene("weight_decay").values
            values["weight_decay"] = min(scale, key=lambda v: abs(np.log(float(v) / decay)))
            row = JOINT.from_values(values)[None]
            x.append(self._long_inputs(row, decay=np.array([decay]))[0])
            y.append(np.mean([one[-1] for one in own]))
            within += list(np.array([one[-1] for one in own]) - y[-1])
        inputs, labels = np.array(x), np.array(y)
        held = np.array(HELD)
        self._base = 0.0
        rest = labels - inputs @ held
        wide = np.c_[np.ones(len(labels)), inputs]
        penalty = np.diag([0.0, *np.full(len(held), 1 / NEAR**2)])
        beta = np.linalg.solve(wide.T @ wide + penalty, wide.T @ rest)
        self._base, self.effects = float(beta[0]), held + beta[1:]
        spare = max(len(within) - len(groups), 1)
        self.noise = (self.noise[0], float(np.sqrt(np.square(within).sum() / spare)))

    def at(self, rows: Matrix, share: float) -> Floats:
        """Returns the expected accuracy (P,) of trainings of a share of the final one's steps."""
        short = self._rate[self._is_kind(rows).argmax(1)]
        short = short + self._scaled(rows) @ self._short + self._arch(rows) @ self._gene
        long = self._base + self._long_inputs(rows) @ self.effects
        weight = self.position(share)
        return np.asarray((1 - weight) * short + weight * long)

    @staticmethod
    def position(share: float) -> float:
        """Returns where a length is between the shortest, 0, and the longest, 1."""
        least = np.log(STEPS / FULL)
        return float(np.clip((np.log(max(share, 1e-9)) - least) / -least, 0, 1))

    def _long_inputs(self, rows: Matrix, decay: Floats | None = None) -> Floats:
        """Returns (P, effects): network, rate, decades of too much decay, and the rest."""
        values = {g.name: np.array(g.values)[rows[:, n]] for n, g in enumerate(JOINT.genes)}
        rate = values["lr"].astype(float)
        decay = values["weight_decay"].astype(float) if decay is None else decay
        deficit = self._rate[self._is_kind(rows).argmax(1)] - self._rate.max()
        much = np.maximum(np.log10(rate * decay * FULL / MOST_DECAY), 0)
        rest = self._scaled(rows)[:, :3]
        network = self._arch(rows) @ self._gene
        return np.asarray(np.c_[network, np.maximum(deficit, -25), much, rest])

    def _scaled(self, rows: Matrix) -> Floats:
        """Returns (P, 4): stochastic depth, dropout, mixup and EMA from 0 to 1."""
        found = []
        for name in ("drop_path", "dropout", "mixup", "ema"):
            gene = JOINT.gene(name)
            values = np.array(gene.values, np.float64)
            found.append((values / values.max())[rows[:, JOINT.column(name)]])
        return np.stack(found, axis=1)

    def _arch(self, rows: Matrix) -> Floats:
        return np.asarray((JOINT.encode(rows)[:, self._columns] - self._mean) / self._spread)

    @staticmethod
    def _kind(row: Any) -> tuple[int, int]:
        return int(row[JOINT.column("optimizer")]), int(row[JOINT.column("lr")])

    def _is_kind(self, rows: Matrix) -> Floats:
        return np.array([[self._kind(row) == one for one in self._kinds] for row in rows], float)


def _repeated(lines: Sequence[Mapping[str, Any]], labels: Floats) -> float:
    """Returns the standard deviation over seeds of candidates that were trained several times."""
    groups: dict[str, list[float]] = {}
    for line, label in zip(lines, labels, strict=True):
        groups.setdefault(line["digest"], []).append(float(label))
    many = [np.array(group) for group in groups.values() if len(group) > 1]
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in many)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in many)))


class Simulated:
    """Trainings of the truth, as an objective of the product."""

    epochs, num_classes, target = EPOCHS, 10, "log_error"

    def __init__(self, truth: Truth, space: Space) -> None:
        self.truth, self.space = truth, space

    def joint(self, rows: Matrix) -> Matrix:
        """Returns the candidates of the joint space that candidates of a part of it are."""
        if self.space is JOINT:
            return rows
        return np.stack(
            [JOINT.from_values({**self.space.values(row), **HAND_RECIPE}) for row in rows]
        )

    def epochs_at(self, fidelity: float) -> int:
        """Returns the number of labels of a rung: the last only."""
        return 1

    def evaluate(
        self, genes: Sequence[int], *, seed: int, epochs: int, fidelity: float = 1.0
    ) -> Iterator[float]:
        """Yields the label after each epoch; one that is not the last is that of a rung."""
        row = self.joint(np.array([genes], np.int16))
        for epoch in range(1, epochs + 1):
            share = fidelity if fidelity < 1 else epoch / EPOCHS
            weight = self.truth.position(share)
            sd = (1 - weight) * self.truth.noise[0] + weight * self.truth.noise[1]
            rng = np.random.default_rng([seed, epoch, *map(int, row[0])])
            yield float(np.clip(self.truth.at(row, share)[0] + sd * rng.normal(), 0, 100))


def simulate(policy: str, cost: int, seed: int, truth: Truth) -> dict[str, Any]:
    """Returns the record of one search."""
    space = arch_only() if policy == "networks" else JOINT
    objective = Simulated(truth, space)
    began = time.process_time()

    def known(rows: Matrix) -> Mapping[str, Any]:
        return costs(space, rows, num_classes=10).as_dict()

    problem = Problem(space, known)
    if policy == "random":
        pool = space.pool(cost, seed=seed, feasible=problem.feasible(LIMIT))[:cost]
        labels = [[*objective.evaluate(r, seed=seed, epochs=EPOCHS)][-1] for r in pool.tolist()]
        best, spent = pool[int(np.argmax(labels))], float(len(pool))
    else:
        paper = policy == "early_stop"
        config = SearchConfig(
            seed=seed,
            cost=float(cost),
            policy="early_stop" if paper else "rungs",
            limits=(LIMIT,),
            epochs=EPOCHS,
            target="log_error",
            priors=(Prior("person", HAND_RECIPE),) if policy == "rungs_prior" else (),
        )
        config = planned(with_rungs(config, objective))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "search"
            with Store.create(path, {"plan": config.to_dict()}) as store:
                answer = search_problem(store, problem, InlineEngine(objective))[0]
                trials = store.trials("done")
        best = np.array(answer.contenders[0].genes, np.int16)
        spent = sum(t.fidelity if t.fidelity < 1 else t.epochs / EPOCHS for t in trials)
    found = float(truth.at(objective.joint(best[None]), 1.0)[0])
    seconds = round(time.process_time() - began, 1)
    key = {"policy": policy, "cost": cost, "seed": seed}
    return {**key, "top1_pct": round(found, 3), "spent": round(spent, 1), "cpu_s": seconds}


def page(lines: Sequence[Mapping[str, Any]], truth: Truth) -> str:
    """Returns the page of all lines."""
    names = ("network", "rate", "too much decay", "stochastic depth", "dropout", "mixup")
    effects = ", ".join(f"{n} {e:+.2f}" for n, e in zip(names, truth.effects, strict=True))
    text = [
        "Written by `python -m benchmarks.search.policies`, which says what is simulated: expected",
        "accuracy at 7,810 steps of the answer for the limit m, mean +- half of the 95 % interval",
        "over searches, their number in parentheses. The cost is in full trainings.",
        "",
        f"Noise of a training: {truth.noise[0]:.2f} points at {STEPS} steps, {truth.noise[1]:.2f} "
        f"at {FULL}. Effects at {FULL} steps: {effects} (points; of network and rate, the share",
        "of the short effect; of decay, for each decade).",
        "",
    ]
    return "\n".join([*text, table(lines)]) + "\n"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the policies' table, which SEARCH.md shows too."""
    amounts = sorted({line["cost"] for line in lines})
    text = [f"| policy | {' | '.join(f'cost {n}' for n in amounts)} |"]
    text += ["|---" * (len(amounts) + 1) + "|"]
    for policy, about in POLICIES.items():
        cells = []
        for amount in amounts:
            own = [x["top1_pct"] for x in lines if (x["policy"], x["cost"]) == (policy, amount)]
            mean, half, num = spread(own) if own else (0.0, 0.0, 0)
            cells.append(f"{mean:.2f} +- {half:.2f} ({num})" if num else "")
        text.append(f"| `{policy}`: {about} | {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> None:
    """Parses, simulates, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--cost", nargs="+", type=int, default=[48, 150])
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    truth = Truth()
    for cost, seed, policy in itertools.product(given.cost, range(given.seeds), given.policies):
        done = {(line["policy"], line["cost"], line["seed"]) for line in read_lines(PATH)}
        if (policy, cost, seed) not in done:
            append(PATH, [simulate(policy, cost, seed, truth)])
            print(policy, cost, seed, file=sys.stderr, flush=True)
    lines = read_lines(PATH)
    PATH.with_suffix(".md").write_text(page(lines, truth))
    write_block(SEARCH_PAGE, "policies", table(lines))


if __name__ == "__main__":
    main()
