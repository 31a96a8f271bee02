"""How well predictors rank networks under one recipe, with and without features that cost nothing.

    python -m benchmarks.studies.nars_cifar_networks

Reads results/nars_cifar/trainings.jsonl and writes networks.md beside it. The labels are those of
the networks that `arch_only` trained with one recipe and seed 0. A Gaussian process is given the
genes alone, also the exact costs (as in a search), or also depth, width, receptive field, and MACs
and weights of each stage. Held out: five-fold cross-validation over several splits, and networks
that remain after a few. The second table asks Gaussian processes that were fitted to the labels of
other arms, which vary networks and recipes at once. Two minutes of one core.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.records import read_lines
from fbnetv3.arch.arch import Arch
from fbnetv3.search.cost.cost import costs
from fbnetv3.search.predictors.gp import GpPredictor
from fbnetv3.search.space.space import CostsOf, Matrix

from .nars_cifar import JOINT, RESULTS

SPLITS, FOLDS, DRAWS = 3, 5, 400
FEW = (24, 48)
JOINT_ARMS = ("random", "evolution", "nars")

Floats = NDArray[np.float64]


def known_costs(rows: Matrix) -> dict[str, Any]:
    """Returns the costs that a search knows: name -> (P,)."""
    return costs(JOINT, rows, num_classes=10).as_dict()


def known_features(rows: Matrix) -> dict[str, Any]:
    """Returns costs and features: name -> (P,)."""
    found = [features(JOINT.decode(row)[0]) for row in rows]
    return {**known_costs(rows), **{key: np.array([f[key] for f in found]) for key in found[0]}}


def features(arch: Arch) -> dict[str, float]:
    """Returns depth, width and receptive field, and MACs and weights of each stage.

    Those of squeeze-and-excite are left out.
    """
    field, jump, side = 3, 2, (arch.resolution + 1) // 2
    macs, weights = np.zeros(len(arch.rows)), np.zeros(len(arch.rows))
    blocks = list(arch.blocks())
    for block in blocks:
        field += (block.kernel - 1) * jump
        jump *= block.stride
        expand = block.in_channels * block.mid_channels * block.has_expand
        macs[block.row] += expand * side * side
        side = (side + 2 * block.padding - block.kernel) // block.stride + 1
        rest = block.mid_channels * (block.kernel**2 + block.out_channels)
        macs[block.row] += rest * side * side
        weights[block.row] += expand + rest
    stages = {
        f"{name}_{row.name}": float(values[n])
        for name, values in (("macs", macs), ("weights", weights))
        for n, row in enumerate(arch.rows)
    }
    width = sum(block.out_channels for block in blocks) / len(blocks)
    return {"depth": len(blocks), "width": width, "receptive_field": field, **stages}


INPUTS: Mapping[str, CostsOf | None] = {
    "genes": None,
    "genes and costs": known_costs,
    "genes, costs and features": known_features,
}


def labelled(arm: str) -> tuple[Matrix, Floats]:
    """Returns the candidates (n, genes) and the labels (n,) of an arm's first search."""
    lines = [
        line
        for line in read_lines(RESULTS / "trainings.jsonl")
        if (line["arm"], line["space"], line["seed"]) == (arm, JOINT.name, 0)
        and line["curve"][-1] is not None
    ]
    rows = np.stack([JOINT.from_values(line["values"]) for line in lines])
    return rows, np.array([line["curve"][-1] for line in lines], np.float64)


def held_out(rows: Matrix, labels: Floats, known: CostsOf | None, seed: int) -> Floats:
    """Returns (n,) the predictions of five-fold cross-validation."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    predicted = np.empty(len(labels))
    for number in range(FOLDS):
        own = fold == number
        predictor = GpPredictor(JOINT, costs=known)
        predictor.fit(rows[~own], labels[~own])
        predicted[own] = predictor.predict(rows[own]).mean
    return predicted


def after_few(rows: Matrix, labels: Floats, known: CostsOf | None, num: int) -> list[float]:
    """Returns tau on the remaining networks after labels of `num` random ones, by split."""
    taus = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(labels))
        predictor = GpPredictor(JOINT, costs=known)
        predictor.fit(rows[order[:num]], labels[order[:num]])
        guess = predictor.predict(rows[order[num:]]).mean
        taus.append(float(kendalltau(guess, labels[order[num:]]).statistic))
    return taus


def interval(guesses: list[Floats], labels: Floats) -> str:
    """Returns the mean tau of several predictions, with its interval over drawn candidates."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(labels), size=(DRAWS, len(labels)))
    mean = np.mean([kendalltau(guess, labels).statistic for guess in guesses])
    drawn = [
        np.mean([kendalltau(guess[draw], labels[draw]).statistic for guess in guesses])
        for draw in draws
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Reads, fits, writes."""
    rows, labels = labelled("arch_only")
    macs = np.asarray(known_costs(rows)["macs_paper"], np.float64)
    text = [
        f"Kendall's tau on {len(labels)} networks under one recipe, held out; {SPLITS} splits.",
        "In parentheses the 95 % interval over networks.",
        "",
        "| ranked by | five-fold | after 24 labels | after 48 labels |",
        "|---|---|---|---|",
        f"| MACs alone | {interval([macs], labels)} | | |",
    ]
    for name, known in INPUTS.items():
        guesses = [held_out(rows, labels, known, seed) for seed in range(SPLITS)]
        few = [f"{np.mean(after_few(rows, labels, known, num)):.2f}" for num in FEW]
        text.append(
            f"| Gaussian process, {name} | {interval(guesses, labels)} | {' | '.join(few)} |"
        )
    text += [
        "",
        "The same networks, ranked by Gaussian processes (genes and costs) that were fitted to the",
        "labels of other arms, over networks and recipes:",
        "",
        "| labels of | number | tau |",
        "|---|---|---|",
    ]
    for arm in JOINT_ARMS:
        others, values = labelled(arm)
        predictor = GpPredictor(JOINT, costs=known_costs)
        predictor.fit(others, values)
        tau = interval([predictor.predict(rows).mean], labels)
        text.append(f"| {arm} | {len(values)} | {tau} |")
    (RESULTS / "networks.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
