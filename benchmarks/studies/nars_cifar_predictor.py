"""How well the paper's predictor ranks the trainings of `nars_cifar`, as in the paper's figures.

    python -m benchmarks.studies.nars_cifar_predictor

Reads results/nars_cifar/trainings.jsonl and trains no network, only predictors: `mlp`, the paper's,
with its encoder pretrained on costs and without. Writes results/nars_cifar/predictor.json:

* costs of candidates of the pool that pretraining did not see, predicted and true;
* labels of the 150 trainings of `nars`, predicted by five-fold cross-validation and true;
* error and rank correlation against the number of labels, on 150 held-out candidates of the joint
  arms, ten draws each;
* rank correlation of each epoch with the last, for the first round and for random candidates;
* cost and label of every training by round.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.records import read_lines, write
from benchmarks.search.report import efficiency
from fbnetv3.search.cost.cost import costs
from fbnetv3.search.nars.early_stop import find_early_stop
from fbnetv3.search.predictors.mlp import MlpPredictor, single_mlp
from fbnetv3.search.predictors.quality import cross_validate, quality
from fbnetv3.search.space.space import Floats, Matrix

from .nars_cifar import BUDGET, FIRST, JOINT, LIMITS, LINES, RESULTS, feasible, macs_of

OUT = RESULTS / "predictor.json"
ARMS = ("nars", "random", "evolution")
NUMS = (10, 20, 30, 48, 75, 100, 150, 200)
HELD_OUT, DRAWS, SHOWN = 150, 10, 200


def joint_trainings() -> list[dict[str, Any]]:
    """Returns the searches' own trainings in the joint space, in order, each candidate once."""
    known: dict[str, dict[str, Any]] = {}
    for line in read_lines(LINES):
        if line["arm"] in ARMS and line["seed"] == 0 and line["curve"][-1] is not None:
            known.setdefault(line["digest"], line)
    return list(known.values())


def rows_of(lines: list[dict[str, Any]]) -> Matrix:
    """Returns the candidates (n, num_genes) of some trainings."""
    return np.stack([JOINT.from_values(line["values"]) for line in lines])


def pretrained(pool: Matrix, seed: int) -> tuple[MlpPredictor, Any]:
    """Returns the paper's predictor with a pretrained encoder, and how well it knows costs."""
    predictor = single_mlp(JOINT, target="raw", seed=seed)
    known = costs(JOINT, pool, num_classes=10).as_dict()
    return predictor, predictor.pretrain(pool, {n: v for n, v in known.items() if np.ptp(v) > 0})


def proxies(found: Any) -> dict[str, Any]:
    """Returns R2, and some true and predicted standardised costs, by cost."""
    return {
        name: {
            "r2": round(float(found.r2[name]), 5),
            "truth": found.truth[name][:SHOWN].round(3).tolist(),
            "predicted": found.predicted[name][:SHOWN].round(3).tolist(),
        }
        for name in found.r2
    }


def labels_against_error(rows: Matrix, labels: Floats, pool: Matrix) -> list[dict[str, Any]]:
    """Returns a record for each number of labels, kind of predictor and draw."""
    records = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(rows))
        rest, test = order[:-HELD_OUT], order[-HELD_OUT:]
        for arm in ("paper", "paper_scratch"):
            if arm == "paper":
                predictor, _ = pretrained(pool, draw)
            else:
                predictor = single_mlp(JOINT, target="raw", seed=draw)
            for num in NUMS:
                predictor.fit(rows[rest[:num]], labels[rest[:num]])
                found = quality(predictor.predict(rows[test]).mean, labels[test])
                record = {"arm": arm, "num": num, "draw": draw}
                figures = {"mse": found.mse, "tau": found.tau, "spearman": found.spearman}
                records.append(record | {key: round(v, 4) for key, v in figures.items()})
    return records


def ranks(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the correlation of each epoch's ranking with the last one's, and its bound."""
    curves = np.array([line["curve"] for line in lines], np.float64)
    found = find_early_stop(curves, np.random.default_rng(0))
    return {
        "candidates": len(lines),
        "correlation": found.correlation,
        "lower": found.lower,
        "epoch": found.epoch,
        "found": found.found,
    }


def main() -> None:
    """Reads, fits, writes."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    lines = joint_trainings()
    nars = [line for line in lines if line["arm"] == "nars"][:BUDGET]
    rows, labels = rows_of(nars), np.array([line["curve"][-1] for line in nars])
    macs = macs_of(rows)
    pool = JOINT.pool(20_000, seed=0, feasible=feasible(max(LIMITS.values())))
    predictor, found = pretrained(pool, 0)
    cross = {
        "with": cross_validate(predictor, rows, labels),
        "without": cross_validate(single_mlp(JOINT, target="raw", seed=0), rows, labels),
    }
    everyone = rows_of(lines), np.array([line["curve"][-1] for line in lines])
    records = labels_against_error(*everyone, pool)
    fewer = [
        {key: value for key, value in row.items() if key != "predictor"}
        for row in efficiency(records)
    ]
    write(
        OUT,
        {
            "pool": len(pool),
            "proxies": proxies(found),
            "cross_validated": {
                "trainings": len(labels),
                "truth": labels.tolist(),
                **{
                    name: {
                        "predicted": one.predicted.round(2).tolist(),
                        "tau": round(one.tau, 4),
                        "spearman": round(one.spearman, 4),
                        "mse": round(one.mse, 3),
                    }
                    for name, one in cross.items()
                },
            },
            "labels": {"trainings": len(lines), "held_out": HELD_OUT, "records": records},
            "times_fewer": fewer,
            "epochs": {
                "the first round": ranks(nars[:FIRST]),
                "random search": ranks([line for line in lines if line["arm"] == "random"]),
            },
            "rounds": [
                {
                    "round": number,
                    "macs": macs[start : start + FIRST].astype(int).tolist(),
                    "labels": labels[start : start + FIRST].tolist(),
                }
                for number, start in enumerate(range(0, BUDGET, FIRST))
            ],
        },
    )
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
