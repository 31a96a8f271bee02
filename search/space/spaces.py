"""The built-in search spaces, as tables with ranges in the cells.

A range is (lowest, highest, step), both ends included; `rest` means every block of a row but the
first. A gene's `confidence` says how reliably its range in the paper (arXiv 2006.02049, table 1) is
known; "low" could not be checked against the paper and must not be quoted as the paper's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS

from .gene import Gene
from .layout import Layout
from .space import Space

# Row, kernels, expansion first and rest (first None: 1; rest None: like first; a name: the genes of
# another row), channels, repeats, stride, SE. Kernels list all choices. Without a step it is 1.
_PAPER_ROWS: tuple[tuple[Any, ...], ...] = (
    ("mb1", (3, 5), None, None, (16, 24, 2), (1, 4), 1, False),
    ("mb2", (3, 5), (4, 7), (2, 5), (20, 32, 4), (4, 7), 2, False),
    ("mb3", (3, 5), (4, 7), (2, 5), (24, 48, 4), (4, 7), 2, True),
    ("mb4", (3, 5), (4, 7), (2, 5), (56, 84, 4), (4, 8), 2, False),
    ("mb5", (3, 5), "mb4", "mb4", (96, 144, 4), (6, 10), 1, True),
    ("mb6", (3, 5), (4, 7), (2, 5), (180, 224, 4), (5, 9), 2, True),
    ("mb7", (3, 5), (6, 6), None, (180, 240, 4), (1, 1), 1, True),
)
_CONFIDENCE = {
    "kernel": "medium: a separate choice for first and rest follows from the released networks",
    "expansion_first": "high, except mb6 medium: also in a third-party re-implementation",
    "expansion_rest": "medium: consistent with the released networks (2..5)",
    "mb4_expansion": "medium: shared by mb4 and mb5, as in every released network",
    "channels": "medium: consistent with the released networks, ends included",
    "mb7_channels": "low: the recalled range ends at 224, released D and E need 240; 240 is ours",
    "repeats": "medium: lower ends are those of the smallest published network",
}
_PAPER_RECIPE = (
    Gene(
        "optimizer",
        ("rmsprop", "sgd"),
        group="recipe",
        confidence="high; SGD's rate is four times the gene, the recipe sees to it",
    ),
    Gene.grid("lr", 0.02, 0.03, 0.001, group="recipe", confidence="low: or 0.03..0.04"),
    Gene.grid("weight_decay", 7e-6, 21e-6, 1e-6, group="recipe", confidence="high"),
    Gene.grid("dropout", 0.01, 0.31, 0.01, group="recipe", confidence="low"),
    Gene.grid("drop_path", 0.01, 0.31, 0.01, group="recipe", confidence="low: or from 0.10"),
    Gene.grid("mixup", 0.0, 0.41, 0.01, group="recipe", confidence="low"),
)
_EMA = Gene("ema", (True, False), group="recipe", confidence="high; always on in the joint search")
_SEARCH_RECIPE: dict[str, Any] = {
    "batch_size": 256,
    "schedule": "exponential",
    "decay_per_epoch": 0.963,
    "ema_decay": 0.99985,
    "label_smoothing": 0.1,
    "augment": "autoaugment",
}


def _recipe(genes: tuple[Gene, ...], fixed: dict[str, Any]) -> dict[str, Any]:
    return {**fixed, **{gene.name: f"${gene.name}" for gene in genes}}


def _joint_rows(table: tuple[tuple[Any, ...], ...]) -> tuple[list[Gene], list[dict[str, Any]]]:
    """Returns the genes and the template rows of a table such as `_PAPER_ROWS`."""
    genes: list[Gene] = []

    def cell(name: str, span: Any, when: Any = None, group: str = "arch") -> Any:
        if len(span) > 1 and span[0] == span[1]:
            return span[0]
        key = name.split("_", 1)[1]
        known = _CONFIDENCE.get(name.removesuffix("_first").removesuffix("_rest"))
        note = known or _CONFIDENCE.get(key, _CONFIDENCE.get(key.split("_")[0], ""))
        if key.startswith("kernel"):
            genes.append(Gene(name, span, when=when, group=group, confidence=note))
        else:
            genes.append(Gene.grid(name, *span, when=when, group=group, confidence=note))
        return f"${name}"

    rows, shared = [], {row[2] for row in table}
    for name, kernels, first, rest, channels, repeats, stride, se in table:
        row: dict[str, Any] = {"name": name.upper(), "stride": stride, "se": se}
        row["repeats"] = cell(f"{name}_repeats", repeats)
        many = None
        if repeats[0] == 1 and repeats[1] > 1:
            many = (f"{name}_repeats", tuple(range(2, repeats[1] + 1)))
        single = repeats == (1, 1)
        kernel = cell(f"{name}_kernel_first", kernels)
        row["kernel"] = [
            kernel,
            kernel if single else cell(f"{name}_kernel_rest", kernels, when=many),
        ]
        if first is None:
            row["expansion"] = 1
        elif isinstance(first, str):
            row["expansion"] = [f"${first}_expansion_first", f"${first}_expansion_rest"]
        else:
            expansion = cell(f"{name}_expansion_first", first)
            # A gene that another row uses too has a meaning even if this row has one block.
            when = many if name not in shared else None
            other = expansion if rest is None else cell(f"{name}_expansion_rest", rest, when=when)
            row["expansion"] = [expansion, other]
        row["channels"] = cell(f"{name}_channels", channels)
        rows.append(row)
    return genes, rows


def paper_joint() -> Space:
    """Returns the paper's joint space, with inclusive ranges; it contains released B, C, D and E.

    Kernels are chosen separately for first and rest, MB4 and MB5 share their expansion genes, and
    the last row goes up to 240 channels. The paper states 1e17 networks; no interpretation of the
    ranges that contains the released networks gives that number. This one has 4e20 candidates;
    `Space.cardinality` counts those that differ after rounding.
    """
    genes, rows = _joint_rows(_PAPER_ROWS)
    stem = Gene.grid("stem_channels", 16, 24, 2, confidence="high")
    resolution = Gene.grid("resolution", 224, 272, 8, confidence="medium: consistent with B..E")
    arch = {
        "resolution": "$resolution",
        "stem_channels": "$stem_channels",
        "rows": rows,
        "head_expansion": 6,
        "head_channels": 1984,
    }
    recipe = {**_recipe(_PAPER_RECIPE, _SEARCH_RECIPE), "ema": True}
    return Space(
        name="paper_joint",
        genes=(resolution, stem, *genes, *_PAPER_RECIPE),
        layout=Layout(arch=arch, recipe=recipe),
    )


# The paper's recipe-only search trains FBNetV2-L3 at 256 pixels; it was published at 288.
_RECIPE_BASE = dataclasses.replace(ARCHS["fbnetv2_l3"], resolution=256)


def recipe_only(arch: Arch | None = _RECIPE_BASE, name: str = "recipe_only") -> Space:
    """Returns the paper's recipe genes for one fixed network, by default FBNetV2-L3 at 256 pixels.

    Args:
        arch: the architecture; None for a network of another library, which the space does not
            describe and the objective names.
        name: name of the space.
    """
    genes = (*_PAPER_RECIPE, _EMA)
    return Space(
        name=name,
        genes=genes,
        layout=Layout(
            arch=None if arch is None else arch.to_dict(),
            recipe=_recipe(genes, _SEARCH_RECIPE),
            round_widths=False,
        ),
    )


def with_network(space: Space, arch: Arch | None, *, without: Collection[str] = ()) -> Space:
    """Returns a space of recipes for another fixed network.

    Args:
        space: a space whose genes are all of the recipe.
        arch: the architecture; None for a network of another library.
        without: recipe fields that the network does not take; they become 0, and their genes go.

    Raises:
        ValueError: a gene of the space is in its architecture.
    """
    searched = [name for name, kind, _ in space.layout.cells() if kind != "recipe"]
    if searched:
        raise ValueError(
            f"space {space.name!r} searches the network (gene {searched[0]!r}); expected a space "
            "of recipes for a fixed network, such as recipe_only"
        )
    recipe = {**space.layout.recipe, **dict.fromkeys(without, 0.0)}
    gone = {space.layout.recipe.get(name) for name in without}
    return dataclasses.replace(
        space,
        genes=tuple(gene for gene in space.genes if f"${gene.name}" not in gone),
        layout=dataclasses.replace(
            space.layout, arch=None if arch is None else arch.to_dict(), recipe=recipe
        ),
    )


# Ours: about 0.5 to 4 M MACs at 32 x 32 pixels; a candidate trains on a CPU core in a minute.
_SMALL_ROWS: tuple[tuple[Any, ...], ...] = (
    ("mb1", (3, 5), None, None, (8, 16, 8), (1, 2), 1, False),
    ("mb2", (3, 5), (2, 3), (1, 2), (8, 16, 8), (1, 3), 1, False),
    ("mb3", (3, 5), (2, 5), (1, 3), (16, 32, 8), (1, 3), 2, True),
    ("mb4", (3, 5), (2, 5), (2, 4), (24, 48, 8), (1, 3), 2, False),
    ("mb5", (3, 5), "mb4", "mb4", (32, 56, 8), (2, 3), 1, True),
    ("mb6", (3, 5), (2, 5), (2, 4), (48, 80, 8), (1, 2), 2, True),
)
_SMALL_RECIPE = (
    Gene("optimizer", ("rmsprop", "sgd"), group="recipe", confidence="ours"),
    Gene(
        "lr",
        (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06),
        kind="ordered",
        group="recipe",
        confidence="ours; RMSProp learns at the low end, SGD at the high end",
    ),
    Gene(
        "weight_decay",
        (1e-6, 1e-5, 5e-5, 2e-4, 1e-3),
        kind="ordered",
        group="recipe",
        confidence="ours",
    ),
    Gene.grid("dropout", 0.0, 0.3, 0.05, group="recipe", confidence="ours"),
    Gene.grid("drop_path", 0.0, 0.2, 0.05, group="recipe", confidence="ours"),
    Gene.grid("mixup", 0.0, 0.4, 0.1, group="recipe", confidence="ours"),
    Gene("ema", (True, False), group="recipe", confidence="ours"),
)


def cifar_joint() -> Space:
    """Returns our joint space for 32 x 32 images, sized for training on a CPU."""
    genes, rows = _joint_rows(_SMALL_ROWS)
    genes = [Gene.from_dict({**gene.to_dict(), "confidence": "ours"}) for gene in genes]
    arch = {
        "resolution": 32,
        "stem_channels": "$stem_channels",
        "rows": rows,
        "head_expansion": 3,
        "head_channels": 256,
    }
    fixed = {"batch_size": 128, "schedule": "linear", "ema_decay": 0.99, "augment": "crop"}
    return Space(
        name="cifar_joint",
        genes=(Gene.grid("stem_channels", 8, 16, 8, confidence="ours"), *genes, *_SMALL_RECIPE),
        layout=Layout(arch=arch, recipe=_recipe(_SMALL_RECIPE, fixed)),
    )


SPACES: dict[str, Callable[[], Space]] = {
    "paper_joint": paper_joint,
    "recipe_only": recipe_only,
    "cifar_joint": cifar_joint,
}


def get_space(name: str) -> Space:
    """Returns a built-in space.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in SPACES:
        raise ValueError(
            f"unknown space {name!r}; expected one of {', '.join(SPACES)}, or a .json file"
        )
    return SPACES[name]()


def open_space(name: str) -> Space:
    """Returns a built-in space by name, or the space of a JSON file.

    Raises:
        ValueError: the name is unknown, or the file is not a space.
        FileNotFoundError: the file does not exist.
    """
    if not name.endswith(".json"):
        return get_space(name)
    if not Path(name).is_file():
        raise FileNotFoundError(f"no space at {name}; see Space.to_json() for the format")
    return Space.from_json(Path(name).read_bytes())
