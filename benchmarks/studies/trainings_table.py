"""Writes every joint training of our studies on CIFAR-10 as one Parquet table.

    python -m benchmarks.studies.trainings_table

Reads the records of `nars_cifar`, `nars_cifar_recipes`, `nars_cifar_retrain` and
`nars_cifar_final` and writes benchmarks/data/trainings.parquet, a row for each training, and how
many there are into benchmarks/data/README.md, which says what the columns are. Needs pyarrow.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import read_lines, write_block
from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.search.space.space import Space
from fbnetv3.search.training.recipe import SCHEMA

from .nars_cifar import DATA, HAND_RECIPE, JOINT, LIMITS, LINES, PROXY, RESULTS, recipe_only
from .nars_cifar_final import ARMS, KEPT
from .nars_cifar_retrain import HAND_TRAINED, NUM_TRAIN, SCALED, answer_of
from .nars_cifar_retrain import LINES as RETRAINED

OUT = DATA / "trainings.parquet"
FINAL_IMAGES, BATCH = 45_000, PROXY["recipe"]["batch_size"]
GENES = [gene.name for gene in JOINT.genes]


def rows() -> Iterator[dict[str, Any]]:
    """Yields a row of each training, with the columns of benchmarks/data/README.md."""
    for row in chain(_proxies(), _longer(), _retrained(), _final()):
        yield row | {"steps": round(row["epochs"] * (row["train_images"] // BATCH))}


def _proxies() -> Iterator[dict[str, Any]]:
    """Yields the trainings of 250 steps."""
    spaces = {space.name: space for space in (JOINT, *map(recipe_only, LIMITS))}
    for line in read_lines(LINES):
        curve = line["curve"]
        row = _candidate(spaces[line["space"]], line["values"], PROXY["recipe"])
        yield row | {
            "study": "proxies",
            "arm": line["arm"],
            "seed": line["seed"],
            "train_images": PROXY["num_train"],
            "epochs": PROXY["epochs"],
            "judged_on": "validation",
            "curve": curve,
            "label": curve[-1],
            "seconds": line["cpu_s"],
        }


def _longer() -> Iterator[dict[str, Any]]:
    """Yields recipes of 1,250 steps, all with one network."""
    for path in sorted(RESULTS.glob("recipes_*.json")):
        _, arm, limit = path.stem.split("_")
        found, answer = json.loads(path.read_text()), answer_of(arm, limit)
        assert answer is not None
        network = answer[0].values(np.array(answer[1], np.int16))
        for one in found["rows"]:
            own = {name: one[name] for name in HAND_RECIPE}
            yield _candidate(JOINT, {**network, **own}, PROXY["recipe"]) | {
                "study": "longer",
                "arm": "recipes",
                "seed": 0,
                "train_images": found["training"]["num_train"],
                "epochs": found["training"]["epochs"],
                "judged_on": "validation",
                "label": one["label"],
            }


def _retrained() -> Iterator[dict[str, Any]]:
    """Yields the trainings on all images, judged on the test images."""
    for line in read_lines(RETRAINED):
        arch, recipe = Arch.from_dict(line["arch"]), line["recipe"]
        ema = line["ema_top1_pct"]
        yield (
            _of(arch, recipe)
            | _genes_of(line["arm"], line["limit"])
            | {
                "study": "retrained",
                "arm": line["arm"],
                "seed": line["seed"],
                "train_images": NUM_TRAIN,
                "epochs": line["epochs"],
                "judged_on": "test",
                "distilled": line["distilled"],
                "label": line["raw_top1_pct"] if ema is None else ema,
            }
        )


def _final() -> Iterator[dict[str, Any]]:
    """Yields what the arms of `nars_cifar_final` have trained so far."""
    for path in (KEPT / f"{arm}.jsonl" for arm in ARMS):
        for line in read_lines(path):
            values = {**HAND_RECIPE, **line["values"]}
            curve = line["curve"]
            yield _candidate(JOINT, values, PROXY["recipe"]) | {
                "study": "final",
                "arm": line["arm"],
                "seed": line["seed"],
                "train_images": FINAL_IMAGES,
                "epochs": 10 * line["share"],
                "judged_on": "validation",
                "curve": curve,
                "label": curve[-1] if curve else None,
                "seconds": line["seconds"],
            }


def _candidate(
    space: Space, values: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the columns of a candidate: genes by name, network, recipe and costs."""
    arch, fields = space.decode(space.from_values(values))
    row = _of(arch, {"schema": SCHEMA, **fields, **recipe})
    return row | {"space": space.name} | {name: values.get(name) for name in GENES}


def _of(arch: Arch, recipe: Mapping[str, Any]) -> dict[str, Any]:
    counts = count(arch, arch.resolution, num_classes=10)
    return {
        "arch": json.dumps(arch.to_dict()),
        "recipe": json.dumps(dict(recipe)),
        "cost:macs_paper": float(counts.macs_paper),
        "cost:params": float(counts.params),
        "distilled": False,
    }


def _genes_of(arm: str, limit: str) -> dict[str, Any]:
    """Returns genes of what an arm found, none where its recipe is not one of the space."""
    base = "nars" if arm == HAND_TRAINED else arm
    answer = None if arm.endswith(SCALED) or "longer" in arm else answer_of(base, limit)
    if answer is None or answer[0].name.startswith("cifar_recipe_only"):
        return {"space": None}
    space, genes = answer
    values = {**HAND_RECIPE, **space.values(np.array(genes, np.int16))}
    if arm == HAND_TRAINED:
        values |= HAND_RECIPE
    return {"space": JOINT.name} | {name: values.get(name) for name in GENES}


def counted(found: list[dict[str, Any]]) -> str:
    """Returns a Markdown table of how many trainings there are of each study and length."""
    numbers = Counter((row["study"], row["steps"], row["judged_on"]) for row in found)
    lines = ["| study | steps | judged on | trainings |", "|---|---|---|---|"]
    lines += [
        f"| `{study}` | {steps:,} | {images} images | {number:,} |"
        for (study, steps, images), number in numbers.items()
    ]
    return "\n".join(lines)


def write_table(found: list[dict[str, Any]], path: Path) -> None:
    """Writes the table."""
    import pyarrow as pa
    from pyarrow import parquet

    words = ["study", "arm", "space", "judged_on", "arch", "recipe"]
    numbers = ["epochs", "label", "seconds", "cost:macs_paper", "cost:params"]
    types = {
        **dict.fromkeys(words, pa.string()),
        **dict.fromkeys(["seed", "train_images", "steps"], pa.int32()),
        **dict.fromkeys(numbers, pa.float64()),
        "distilled": pa.bool_(),
        "curve": pa.list_(pa.float32()),
        **{gene.name: _type(pa, gene.values) for gene in JOINT.genes},
    }
    order = ["study", "arm", "space", "seed", "train_images", "epochs", "steps", "judged_on"]
    order += ["distilled", "label", "curve", "seconds", "cost:macs_paper", "cost:params"]
    schema = pa.schema([(name, types[name]) for name in [*order, *GENES, "arch", "recipe"]])
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in schema.names} for row in found], schema
    )
    parquet.write_table(table, path, compression="zstd")


def _type(pa: Any, values: tuple[Any, ...]) -> Any:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int32()
    return pa.string() if str in kinds else pa.float64()


def main() -> None:
    """Writes table and counts."""
    found = list(rows())
    write_table(found, OUT)
    write_block(DATA / "README.md", "trainings", counted(found))
    print(f"{OUT.name}: {len(found):,} trainings")


if __name__ == "__main__":
    main()
