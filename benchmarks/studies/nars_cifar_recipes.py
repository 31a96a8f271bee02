"""Recipes searched again, with longer trainings, for a network that `nars_cifar` found.

    python -m benchmarks.studies.nars_cifar_recipes --data cifar-10-batches-py --work runs/recipes

The proxies of `nars_cifar` are 250 steps long, the trainings that follow 7,800: what suits the one
need not suit the other. Here the network is fixed and its recipe is searched by labels of 1,250
steps: 12 at random, two rounds of 12, the three best with a second seed. Each recipe is also
trained as a proxy, to see whether the short trainings rank as the longer ones do; and the recipe of
the answer and a person's are trained so long too. Killed, the same command goes on. Writes
results/nars_cifar/recipes_ARM_LIMIT.json; about an hour of one core.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.records import write
from fbnetv3.search.execution.engine import LocalEngine
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.labels import SEARCH_KINDS
from fbnetv3.search.nars.run import create_search, run_search
from fbnetv3.search.space.layout import Layout
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store

from .nars_cifar import (
    HAND_RECIPE,
    JOINT,
    LIMITS,
    LINES,
    PROXY,
    RESULTS,
    recorded,
    values_of,
)
from .nars_cifar_exchange import crossed
from .nars_cifar_retrain import answer_of

LONGER = {**PROXY, "num_train": 20_000}
PLAN = SearchConfig(
    batch=12, rounds=2, bins="none", limits=({},), top=3, final_seeds=2, early_stop=False
)


def recipes_of(arm: str, limit: str) -> tuple[Space, dict[str, Any]]:
    """Returns the joint space's recipes on the network that an arm found, and its answer's genes.

    Raises:
        ValueError: the arm has not ended.
    """
    found = answer_of(arm, limit)
    if found is None:
        raise ValueError(f"no answer of {arm}; run `nars_cifar search` and its findings first")
    space, genes = found
    arch, _ = space.decode(np.array(genes, np.int16))
    recipes = Space(
        f"cifar_recipes_{arm}_{limit}",
        tuple(gene for gene in JOINT.genes if gene.group == "recipe"),
        Layout(arch=arch.to_dict(), recipe=JOINT.layout.recipe, round_widths=False),
    )
    return recipes, values_of(space, genes)


def search(space: Space, data: Path, folder: Path) -> None:
    """Starts the search or goes on with it, and carries it to its end."""
    path = folder.with_suffix(".json")
    path.write_text(space.to_json())
    objective = {"kind": "train", "space": str(path.resolve()), "data": str(data.resolve())}
    if not folder.exists():
        create_search(folder, space=space, objective=objective | LONGER, config=PLAN).close()
    with Store.open(folder) as store:
        engine = LocalEngine(store.settings["objective"], folder, workers=1, threads=1)
        with contextlib.closing(engine):
            run_search(store, engine, notify=lambda name, fields: print(name, fields, flush=True))


def record(space: Space, network: dict[str, Any], data: Path, folder: Path) -> dict[str, Any]:
    """Returns every recipe with its label and its proxy's, the best by its mean, references."""
    proxies = recorded(JOINT.name, str(data), str(LINES), "recipes")
    with Store.read(folder) as store:
        labels = store.labels(kinds=SEARCH_KINDS)
        stage = store.stage("answers")
        settings = store.settings["objective"]
    assert stage is not None
    rows = [
        {
            **space.values(row),
            "label": float(label),
            "proxy": proxies.label(crossed(network, dict(space.values(row)))),
        }
        for row, label in zip(labels.matrix, labels.values, strict=True)
    ]
    long, short = (np.array([row[name] for row in rows]) for name in ("label", "proxy"))
    better = long >= np.median(long)
    objective = load_objective(settings)
    known = {"own": network, "hand": HAND_RECIPE}
    references = {
        name: list(
            objective.evaluate(
                space.from_values({gene.name: fields[gene.name] for gene in space.genes}).tolist(),
                seed=0,
                epochs=LONGER["epochs"],
            )
        )[-1]
        for name, fields in known.items()
    }
    first = stage["answers"][0]["contenders"][0]
    return {
        "recipe": dict(space.values(np.array(first["indices"], np.int16))),
        "labels": first["labels"],
        "references": references,
        "tau_of_proxies": float(kendalltau(short, long).statistic),
        "tau_of_proxies_better_half": float(kendalltau(short[better], long[better]).statistic),
        "rows": rows,
        "training": LONGER,
    }


def main() -> None:
    """Searches, trains the proxies, writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the search's folder lies in it")
    parser.add_argument("--arm", choices=("nars", "arch_only"), default="nars")
    parser.add_argument("--limit", choices=tuple(LIMITS), default="m")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    space, network = recipes_of(args.arm, args.limit)
    name = f"recipes_{args.arm}_{args.limit}"
    search(space, args.data, args.work / name)
    found = record(space, network, args.data, args.work / name)
    write(RESULTS / f"{name}.json", found)
    print({key: found[key] for key in ("recipe", "labels", "references", "tau_of_proxies")})


if __name__ == "__main__":
    main()
