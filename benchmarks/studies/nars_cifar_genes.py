"""Which recipe genes the proxies of the joint arms could tell apart: effects with intervals.

    python -m benchmarks.studies.nars_cifar_genes

Reads results/nars_cifar/trainings.jsonl and writes gene_effects.md beside it. Least squares of the
last label over optimizer x rate, EMA, the other recipe genes from their lowest to their highest
value (weight decay by its logarithm), and the logarithm of width-like genes of the network; 95 %
intervals from residuals grouped by candidate, as its seeds are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.records import read_lines

from .nars_cifar import RESULTS

ARMS = ("nars", "evolution", "random")
# Gene -> (lowest, highest) of the space.
SCALED = {"weight_decay": (1e-6, 1e-3), "dropout": (0, 0.3), "drop_path": (0, 0.2)}
SCALED |= {"mixup": (0, 0.4)}

Floats = NDArray[np.float64]


def effects(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Returns gene -> (effect from lowest to highest in points, half of its 95 % interval)."""
    kinds = sorted({(row["values"]["optimizer"], row["values"]["lr"]) for row in rows})
    widths = sorted({key for row in rows for key in row["values"] if key.endswith("_channels")})
    repeats = sorted({key for row in rows for key in row["values"] if key.endswith("_repeats")})
    columns = []
    for row in rows:
        values = row["values"]
        kind = [(values["optimizer"], values["lr"]) == one for one in kinds]
        network = [np.log(values[name]) for name in widths] + [values[name] for name in repeats]
        columns.append([*(_share(values, name) for name in SCALED), values["ema"], *kind, *network])
    x = np.array(columns, np.float64)
    y = np.array([row["curve"][-1] for row in rows], np.float64)
    groups = np.unique([row["digest"] for row in rows], return_inverse=True)[1]
    beta, half = _fit(x, y, groups)
    return {name: (beta[n], half[n]) for n, name in enumerate((*SCALED, "ema"))}


def _share(values: Mapping[str, Any], name: str) -> float:
    """Returns where a gene stands between its lowest and its highest value, 0 to 1."""
    low, high = SCALED[name]
    if name == "weight_decay":
        return float(np.log(values[name] / low) / np.log(high / low))
    return float((values[name] - low) / (high - low))


def _fit(x: Floats, y: Floats, groups: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Returns coefficients and 1.96 of their standard errors, robust over groups of rows."""
    inverse = np.linalg.pinv(x.T @ x)
    beta = inverse @ x.T @ y
    scores = np.zeros((groups.max() + 1, x.shape[1]))
    np.add.at(scores, groups, x * (y - x @ beta)[:, None])
    covariance = inverse @ scores.T @ scores @ inverse
    return beta, 1.96 * np.sqrt(np.diag(covariance))


def main() -> None:
    """Reads, computes, writes."""
    rows = [row for row in read_lines(RESULTS / "trainings.jsonl") if row["arm"] in ARMS]
    found = effects(rows)
    text = [
        f"Effect of recipe genes on {len(rows)} proxies of the arms {', '.join(ARMS)}: points of "
        "accuracy",
        "from the lowest to the highest value of the space, with half of the 95 % interval.",
        "",
        "| gene | from | to | effect |",
        "|---|---|---|---|",
    ]
    for name, (effect, half) in found.items():
        low, high = SCALED.get(name, ("off", "on"))
        text.append(f"| {name} | {low} | {high} | {effect:+.1f} +- {half:.1f} |")
    (RESULTS / "gene_effects.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
