"""Whether recipes that were found with one network suit a smaller or a larger one.

    python -m benchmarks.studies.nars_cifar_exchange --data cifar-10-batches-py

Every network that `nars_cifar search --arm nars` answered with is trained with the recipe of every
answer, its own too: as proxies, with seeds that the search did not use. The paper says that recipes
do not carry over. The trainings join the others' record, and what has a line is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import write
from fbnetv3.search.space.space import Matrix

from .nars_cifar import JOINT, LIMITS, LINES, RESULTS, SEEDS, recorded
from .nars_cifar_retrain import SEARCH, answer_of
from .training_ablation import spread


def answers() -> dict[str, dict[str, Any]]:
    """Returns the values of the genes of each limit's answer.

    Raises:
        ValueError: the search has not ended.
    """
    found = {}
    for limit in LIMITS:
        answer = answer_of("nars", limit)
        if answer is None:
            raise ValueError(f"{SEARCH} has no answers; run `nars_cifar_findings` first")
        found[limit] = dict(JOINT.values(np.array(answer[1], np.int16)))
    return found


def crossed(network: dict[str, Any], recipe: dict[str, Any]) -> Matrix:
    """Returns the candidate that has the network of one and the recipe of another."""
    names = {gene.name for gene in JOINT.genes if gene.group == "recipe"}
    return JOINT.from_values({**network, **{name: recipe[name] for name in names}})


def report(labels: dict[tuple[str, str], list[float]]) -> str:
    """Returns a table: a row a network, a column a recipe; in brackets less its own, by seed."""
    out = [
        "Validation accuracy of proxies in percent, mean over "
        f"{len(next(iter(labels.values())))} new seeds; in brackets the difference to the "
        "network's own recipe, paired by seed, +- half of its 95 % interval (Student's t).",
        "",
        f"| network | {' | '.join(f'recipe of {name}' for name in LIMITS)} |",
        "|---" * (1 + len(LIMITS)) + "|",
    ]
    for network in LIMITS:
        cells = []
        for recipe in LIMITS:
            values, own = labels[network, recipe], labels[network, network]
            cell = f"{np.mean(values):.2f}"
            if recipe != network:
                gap = spread([a - b for a, b in zip(values, own, strict=True)])
                cell += f" ({gap['mean']:+.2f} +- {gap['reach']:.2f})"
            cells.append(cell)
        out.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Trains what is missing, writes numbers and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5, help="of each pair's trainings")
    args = parser.parse_args()
    try:
        found = answers()
    except ValueError as error:
        parser.error(str(error))
    trainings = recorded(JOINT.name, str(args.data), str(LINES), "exchange")
    seeds = range(SEEDS, SEEDS + args.seeds)
    labels = {
        (network, recipe): [
            trainings.label(crossed(found[network], found[recipe]), seed) for seed in seeds
        ]
        for network, recipe in itertools.product(LIMITS, LIMITS)
    }
    table = report(labels)
    numbers = {f"network {n}, recipe {r}": values for (n, r), values in labels.items()}
    write(RESULTS / "exchange.json", {"labels": numbers})
    (RESULTS / "exchange.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
