"""Validates a search space: its genes, layout and packs must be consistent."""

from __future__ import annotations

from collections.abc import Sequence

from fbnetv3._internal.messages import shown

from .gene import Gene
from .layout import WIDTHS, Layout, Value, is_number


def check_space(
    name: str,
    version: int,
    genes: Sequence[Gene],
    layout: Layout,
    packs: Sequence[tuple[tuple[str, ...], Value]],
) -> None:
    """Checks the fields of a new space.

    Raises:
        ValueError: the space is empty, or genes, layout and packs are inconsistent.
    """
    _check_name(name, version)
    if not genes:
        raise ValueError(f"space {name!r} is empty; expected at least one gene")
    names = [gene.name for gene in genes]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise ValueError(f"space {name!r} has gene {twice[0]!r} twice")
    known = dict(zip(names, genes, strict=True))
    parents = {gene.when[0] for gene in genes if gene.when}
    _check_layout(layout, known, parents)
    _check_conditions(known)
    _check_packs(packs, known, parents)


def _check_name(name: str, version: int) -> None:
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= 80):
        raise ValueError(
            f"the space's name is {shown(name)}; expected up to 80 printable characters"
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"the space's version is {shown(version)}; expected a whole number from 1")


def _check_layout(layout: Layout, genes: dict[str, Gene], parents: set[str]) -> None:
    cells = list(layout.cells())
    for cell, _, path in cells:
        if cell not in genes:
            raise ValueError(
                f"{path} names gene {shown('$' + cell)}; the space has {shown(list(genes))}"
            )
    for name, kind, path in cells:
        if kind in WIDTHS and not all(map(is_number, genes[name].values)):
            raise ValueError(f"{path} is gene {name!r}; expected a gene with numeric values")
    unused = [n for n in genes if n not in parents and n not in {c[0] for c in cells}]
    if cells and unused:
        raise ValueError(f"gene {unused[0]!r} is in no cell of the layout; use it or remove it")


def _check_conditions(genes: dict[str, Gene]) -> None:
    earlier = set[str]()
    for gene in genes.values():
        if gene.when is not None:
            parent, values = gene.when
            if parent not in earlier:
                raise ValueError(
                    f"gene {gene.name!r} depends on {shown(parent)}; expected an earlier gene"
                )
            for value in values:
                genes[parent].index(value)
        earlier.add(gene.name)


def _check_packs(
    packs: Sequence[tuple[tuple[str, ...], Value]], genes: dict[str, Gene], parents: set[str]
) -> None:
    packed = [name for members, _ in packs for name in members]
    for members, value in packs:
        if not members or any(packed.count(name) > 1 for name in members):
            raise ValueError(f"pack {shown(members)}: expected genes that are in no other pack")
        for name in members:
            if name not in list(genes) or genes[name].values != genes[members[0]].values:
                raise ValueError(f"pack {shown(members)}: expected genes with the same values")
            if genes[name].when or name in parents:
                raise ValueError(
                    f"pack {shown(members)}: {name!r} is conditional; use unconditional genes"
                )
        genes[members[0]].index(value)
