r"""A real joint search on CIFAR-10, and other ways to spend as many trainings.

    python -m benchmarks.studies.nars_cifar search --data cifar-10-batches-py --work runs/nars \
        --arm nars
    python -m benchmarks.studies.nars_cifar table

Arms, each of 150 proxy trainings and then five candidates a limit with two more seeds:

* `nars`: `fbnetv3-search run` on the joint space, 30 at random and four rounds of 30.
* `arch_only`: the same with the recipe that a person would take.
* `recipe_only`: the same on FBNetV3-A scaled down by hand to each limit, 50 trainings a limit.
* `random`: 150 of the pool.
* `evolution`: regularised evolution, 50 trainings a limit.
* `hand`: no search, and one candidate a limit: FBNetV3-A scaled down by hand, a person's recipe.

The searches of ours ran with costs of the default of 1,000 classes, 0.25 M multiply-adds more than
those of the ten that are trained. So their limits were that much tighter than those of the other
arms; this stays, so that the same command gives the same trainings. Reports count ten classes.

Every finished training of every arm is a line of results/nars_cifar/trainings.jsonl and is not run
again: after a kill, or on another machine that has the file, the same command goes on. Each arm
uses one core; the proxy takes about 30 seconds of it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import ROOT, append, read_lines, write
from fbnetv3.arch.arch import Arch, round_channels
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cost.cost import costs
from fbnetv3.search.cost.scale import Scaling, scale
from fbnetv3.search.data.datasets import cifar_arch
from fbnetv3.search.execution.engine import LocalEngine
from fbnetv3.search.execution.objective import Objective
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.run import create_search, run_search
from fbnetv3.search.space.layout import Layout
from fbnetv3.search.space.space import Matrix, Space
from fbnetv3.search.space.spaces import get_space, open_space
from fbnetv3.search.storage.store import Store

RESULTS = ROOT / "benchmarks" / "results" / "nars_cifar"
DATA = ROOT / "benchmarks" / "data"
LINES = RESULTS / "trainings.jsonl"
ARMS = ("nars", "evolution", "random", "arch_only", "recipe_only", "hand")
# Multiply-adds, in the paper's convention.
LIMITS = {"s": 1.5e6, "m": 2.25e6, "l": 3.25e6}
BUDGET, FIRST, TOP, SEEDS = 150, 30, 5, 3
PROXY: dict[str, Any] = {
    "epochs": 4,
    "num_train": 4000,
    "num_val": 2500,
    "recipe": {"batch_size": 64},
}
# What a person would take, of the values that the space has.
HAND_RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.015,
    "weight_decay": 2e-4,
    "dropout": 0.0,
    "drop_path": 0.0,
    "mixup": 0.0,
    "ema": True,
}
JOINT = get_space("cifar_joint")


# Spaces


def arch_only() -> Space:
    """Returns the joint space with the recipe of `HAND_RECIPE`."""
    return Space(
        "cifar_arch_only",
        tuple(gene for gene in JOINT.genes if gene.group != "recipe"),
        Layout(arch=JOINT.layout.arch, recipe=JOINT.layout.settings(HAND_RECIPE)),
    )


def recipe_only(limit: str) -> Space:
    """Returns the joint space's recipes on FBNetV3-A, scaled down to a limit."""
    return Space(
        f"cifar_recipe_only_{limit}",
        tuple(gene for gene in JOINT.genes if gene.group == "recipe"),
        Layout(
            arch=scaled_a(LIMITS[limit]).to_dict(),
            recipe=JOINT.layout.recipe,
            round_widths=False,
        ),
    )


def space_of_arm(arm: str, limit: str) -> Space:
    """Returns the space of what an arm finds for a limit."""
    if arm == "arch_only":
        return arch_only()
    return recipe_only(limit) if arm in ("recipe_only", "hand") else JOINT


def scaled_a(macs: float) -> Arch:
    """Returns FBNetV3-A for 32 pixels, narrower and shallower by like factors, nearest to a cost.

    B has the same table. Widths are multiples of 8 and depths whole, so that one factor for both
    would stay far below.
    """
    base = cifar_arch(ARCHS["fbnetv3_a"])
    best: tuple[int, Arch] | None = None
    for width in np.geomspace(0.1, 0.6, 60):
        for depth in width * np.geomspace(0.7, 1.4, 15):
            made = scale(base, Scaling(width=float(width), depth=float(depth)))
            head = round_channels(base.head_channels * float(width))
            made = dataclasses.replace(made, head_channels=head)
            cost = count(made, 32, num_classes=10).macs_paper
            if cost <= macs and (best is None or cost > best[0]):
                best = (cost, made)
    if best is None:
        raise ValueError(f"no scaling of FBNetV3-A has {macs:g} multiply-adds")
    return best[1]


# Trainings


class Recorded:
    """Trains, and keeps a line of every finished training; what has a line is not trained again.

    All arms share one file, so that whoever has it goes on where it ends, on another machine too.

    Args:
        space: of the candidates.
        lines: the file.
        arm: named in the lines.
        make: gives the objective, when the first training is due.

    Attributes:
        epochs: of a whole training.
    """

    def __init__(self, space: Space, lines: Path, arm: str, make: Callable[[], Objective]) -> None:
        self._space, self._lines, self._arm, self._make = space, lines, arm, make
        self._objective: Objective | None = None
        self.epochs: int = PROXY["epochs"]
        self._done = {
            (found["space"], found["digest"], found["seed"]): _numbers(found["curve"])
            for found in read_lines(lines)
        }

    def evaluate(self, row: Sequence[int], *, seed: int, epochs: int) -> Iterator[float]:
        """Yields the accuracy after each epoch, in percent; NaN ends it."""
        values, name = values_of(self._space, row), _table_of(self._space)
        digest = self._space.digest(np.array(row, np.int16))
        if name == JOINT.name:
            digest = JOINT.digest(JOINT.from_values(values))
        known = self._done.get((name, digest, seed), [])
        if len(known) >= epochs or (known and np.isnan(known[-1])):
            yield from known[:epochs]
            return
        self._objective = self._objective or self._make()
        began, curve = time.process_time(), []
        for accuracy in self._objective.evaluate(row, seed=seed, epochs=epochs):
            curve.append(accuracy)
            if len(curve) == epochs or np.isnan(accuracy):
                # Before it is given away: nobody asks for more than the last.
                self._done[name, digest, seed] = curve
                self._record(name, digest, seed, values, curve, time.process_time() - began)
            yield accuracy

    def _record(
        self,
        space: str,
        digest: str,
        seed: int,
        values: dict[str, Any],
        curve: list[float],
        seconds: float,
    ) -> None:
        record = {
            "arm": self._arm,
            "space": space,
            "digest": digest,
            "seed": seed,
            "values": values,
            "curve": [None if np.isnan(x) else x for x in curve],
            "cpu_s": round(seconds, 2),
        }
        append(self._lines, [record])
        print(f"{self._arm} {len(self._done)}: {curve[-1]:.2f} %", flush=True)

    def label(self, row: npt.NDArray[np.int16], seed: int = 0) -> float:
        """Returns the accuracy of a whole proxy training; -1 where it diverged."""
        *_, last = self.evaluate(row.tolist(), seed=seed, epochs=PROXY["epochs"])
        return -1.0 if np.isnan(last) else last


def recorded(space: str, data: str, lines: str, arm: str) -> Recorded:
    """Returns the proxy training on candidates of a space, by name or path."""
    settings = {"kind": "train", "space": space, "data": data, **PROXY}
    return Recorded(open_space(space), Path(lines), arm, lambda: load_objective(settings))


def values_of(space: Space, row: Sequence[int]) -> dict[str, Any]:
    """Returns genes by name, those of the recipe too where a space leaves them out."""
    known = HAND_RECIPE if space.name == "cifar_arch_only" else {}
    return {**space.values(np.array(row, np.int16)), **known}


def _table_of(space: Space) -> str:
    # A candidate without a recipe of its own is one of the joint space with the hand's.
    return JOINT.name if space.name == "cifar_arch_only" else space.name


def _numbers(curve: Sequence[float | None]) -> list[float]:
    return [np.nan if x is None else x for x in curve]


def macs_of(rows: Matrix, space: Space = JOINT) -> npt.NDArray[np.float64]:
    """Returns multiply-adds of candidates."""
    return np.asarray(costs(space, rows, num_classes=10).as_dict()["macs_paper"], np.float64)


def feasible(limit: float) -> Callable[[Matrix], npt.NDArray[np.bool_]]:
    """Returns what says which candidates keep a limit."""
    return lambda rows: macs_of(rows) <= limit


def random_arm(trainings: Recorded, seed: int) -> Matrix:
    """Trains candidates of the pool in random order."""
    rows = JOINT.pool(20_000, seed=seed, feasible=feasible(max(LIMITS.values())))
    chosen = rows[np.random.default_rng(seed).permutation(len(rows))[:BUDGET]]
    for row in chosen:
        trainings.label(row)
    return chosen


def evolution_arm(trainings: Recorded, seed: int) -> Matrix:
    """Regularised evolution: of each limit's share two fifths random, then children of the best.

    Tournaments of 8 in a population of 20; a child has one or two genes drawn again.
    """
    rng = np.random.default_rng(seed)
    everything: list[npt.NDArray[np.int16]] = []
    seen: set[str] = set()
    share = BUDGET // len(LIMITS)
    for limit in LIMITS.values():
        inside = feasible(limit)
        alive: list[tuple[float, npt.NDArray[np.int16]]] = []
        for step in range(share):
            while True:
                if step < 2 * share // 5:
                    child = JOINT.sample(1, rng)
                else:
                    few = rng.choice(len(alive), size=min(8, len(alive)), replace=False)
                    parent = max((alive[n] for n in few), key=lambda pair: pair[0])[1]
                    child = JOINT.mutate(parent[None], rng, 1.5 / len(JOINT.genes))
                if inside(child)[0] and JOINT.digest(child[0]) not in seen:
                    break
            seen.add(JOINT.digest(child[0]))
            everything.append(child[0])
            alive = [*alive, (trainings.label(child[0]), child[0])][-20:]
    return np.stack(everything)


def confirm(
    trainings: Recorded, rows: Matrix, labels: Sequence[float]
) -> dict[str, list[dict[str, Any]]]:
    """Trains each limit's five best with more seeds; returns them, best mean first."""
    macs = macs_of(rows)
    answers = {}
    for name, limit in LIMITS.items():
        order = np.argsort(np.where(macs <= limit, -np.array(labels), np.inf), kind="stable")[:TOP]
        found = [
            {
                "genes": rows[n].tolist(),
                "macs": int(macs[n]),
                "labels": [trainings.label(rows[n], seed) for seed in range(SEEDS)],
            }
            for n in order
        ]
        answers[name] = sorted(found, key=lambda one: -float(np.mean(one["labels"])))
    return answers


def hand_arm(data: Path, folder: Path) -> dict[str, Any]:
    """Trains what a person would take for each limit, with the seeds of the answers."""
    answers = {}
    for name in LIMITS:
        space = recipe_only(name)
        path = folder / f"hand_{name}_space.json"
        path.write_text(space.to_json())
        trainings = recorded(str(path), str(data), str(LINES), "hand")
        row = space.from_values(HAND_RECIPE)
        answers[name] = [
            {
                "genes": row.tolist(),
                "macs": int(macs_of(row[None], space)[0]),
                "labels": [trainings.label(row, seed) for seed in range(SEEDS)],
            }
        ]
    firsts = [found[0] for found in answers.values()]
    return {
        "macs": [one["macs"] for one in firsts],
        "labels": [one["labels"][0] for one in firsts],
        "answers": answers,
    }


# Arms


def objective(space: str, data: Path, arm: str) -> dict[str, Any]:
    """Returns the settings of the proxy training, with its record."""
    arguments = {"space": space, "data": str(data.resolve()), "lines": str(LINES), "arm": arm}
    return {
        "kind": "python",
        "target": "benchmarks.studies.nars_cifar:recorded",
        "arguments": arguments,
    }


def plan_of(arm: str, seed: int) -> SearchConfig:
    """Returns the plan of a search of ours."""
    one_limit = arm.startswith("recipe_only")
    share = len(LIMITS) if one_limit else 1
    return SearchConfig(
        seed=seed,
        batch=FIRST // share,
        rounds=(BUDGET - FIRST) // FIRST,
        bins="none" if one_limit else "limits",
        limits=({},)
        if one_limit
        else tuple({"macs_paper": (-np.inf, limit)} for limit in LIMITS.values()),
        top=TOP,
        final_seeds=SEEDS,
    )


def search_arm(arm: str, space: Space, data: Path, folder: Path, seed: int) -> None:
    """Starts a search of ours or goes on with it, and carries it to its end."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.parent / f"{arm}_space.json"
        path.write_text(space.to_json())
        settings = objective(str(path.resolve()), data, arm)
        create_search(folder, space=space, objective=settings, config=plan_of(arm, seed)).close()
    with Store.open(folder) as store:
        engine = LocalEngine(store.settings["objective"], folder, workers=1, threads=1)
        with contextlib.closing(engine):
            run_search(
                store, engine, notify=lambda name, fields: print(arm, name, fields, flush=True)
            )


def search(args: argparse.Namespace) -> None:
    """Carries out one arm."""
    folder = args.work / f"seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if args.arm == "nars":
        search_arm("nars", JOINT, args.data, folder / "nars", args.seed)
    elif args.arm == "arch_only":
        search_arm("arch_only", arch_only(), args.data, folder / "arch_only", args.seed)
    elif args.arm == "recipe_only":
        for limit in LIMITS:
            name = f"recipe_only_{limit}"
            search_arm(name, recipe_only(limit), args.data, folder / name, args.seed)
    else:
        if args.arm == "hand":
            found = hand_arm(args.data, folder)
        else:
            trainings = recorded(JOINT.name, str(args.data), str(LINES), args.arm)
            take = {"random": random_arm, "evolution": evolution_arm}[args.arm]
            rows = take(trainings, args.seed)
            labels = [trainings.label(row) for row in rows]
            found = {
                "macs": macs_of(rows).tolist(),
                "labels": labels,
                "answers": confirm(trainings, rows, labels),
            }
        write(folder / f"{args.arm}_answers.json", found)


# The tables of all trainings


def write_tables() -> None:
    """Writes every training as CSV, a table for each space, and the spaces beside them."""
    lines = read_lines(LINES)
    DATA.mkdir(parents=True, exist_ok=True)
    for space in (JOINT, *map(recipe_only, LIMITS)):
        own = [line for line in lines if line["space"] == space.name]
        if not own:
            continue
        name = space.name.replace("cifar", "nars_cifar").removesuffix("_joint")
        candidates, labels = write_table(space, own, DATA / f"{name}.csv")
        (DATA / f"{name}_space.json").write_text(space.to_json() + "\n")
        print(f"{name}: {candidates} candidates, {labels} labels")


def write_table(space: Space, lines: list[dict[str, Any]], path: Path) -> tuple[int, int]:
    """Writes the trainings of one space; returns how many candidates and labels there are."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    values: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        values[line["digest"]] = line["values"]
        labels = found.setdefault(line["digest"], {})
        curve = enumerate(_numbers(line["curve"]), 1)
        labels.update({(line["seed"], n): x for n, x in curve if np.isfinite(x)})
    keys = sorted({key for labels in found.values() for key in labels})
    names = [gene.name for gene in space.genes]
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        columns = [f"label:{seed}:{epoch}" for seed, epoch in keys]
        table.writerow([*names, "cost:macs_paper", *columns])
        digests = sorted(found)
        rows = np.stack([space.from_values(values[digest]) for digest in digests])
        for digest, row, macs in zip(digests, rows, macs_of(rows, space), strict=True):
            known = space.values(row)
            cells = [found[digest].get(key, "") for key in keys]
            table.writerow([*(known.get(name, "") for name in names), int(macs), *cells])
    return len(found), sum(map(len, found.values()))


def main() -> None:
    """Parses and carries out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("search", help="carry out an arm")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--arm", required=True, choices=ARMS)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(call=search)
    two = commands.add_parser("table", help="write all trainings as CSV")
    two.set_defaults(call=lambda _: write_tables())
    one.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
