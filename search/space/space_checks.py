"""What a search space has to be, said clearly where it is not: its genes, layout and packs fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fbnetv3._internal.messages import shown

from .layout import WIDTHS, is_number

if TYPE_CHECKING:
    from .space import Space


def check_space(space: Space) -> None:
    """Checks a new space.

    Raises:
        ValueError: it is empty, or genes, layout and packs do not fit together.
    """
    _check_names(space)
    names = [gene.name for gene in space.genes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"space {space.name!r} has gene {twice[0]!r} twice")
    parents = {gene.when[0] for gene in space.genes if gene.when}
    _check_layout(space, names, parents)
    _check_conditions(space, names)
    _check_packs(space, names, parents)


def _check_names(space: Space) -> None:
    name, version = space.name, space.version
    if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= 80):
        raise ValueError(f"the space's name is {shown(name)}; expected up to 80 printable letters")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"the space's version is {shown(version)}; expected a whole number from 1")
    if not space.genes:
        raise ValueError(f"space {name!r} is empty; expected at least one gene")


def _check_layout(space: Space, names: list[str], parents: set[str]) -> None:
    cells = list(space.layout.cells())
    for cell, _, place in cells:
        if cell not in names:
            raise ValueError(
                f"{place} names gene {shown('$' + cell)}; the space has {shown(names)}"
            )
    for name, kind, place in cells:
        if kind in WIDTHS and not all(map(is_number, space.gene(name).values)):
            raise ValueError(f"{place} is gene {name!r}; expected a gene of numbers")
    unused = [n for n in names if n not in parents and n not in {c[0] for c in cells}]
    if cells and unused:
        raise ValueError(f"gene {unused[0]!r} is in no cell of the layout; use it or drop it")


def _check_conditions(space: Space, names: list[str]) -> None:
    for index, gene in enumerate(space.genes):
        if gene.when is None:
            continue
        if gene.when[0] not in names[:index]:
            raise ValueError(
                f"gene {gene.name!r} depends on {shown(gene.when[0])}; expected an earlier gene"
            )
        for value in gene.when[1]:
            space.genes[names.index(gene.when[0])].index(value)


def _check_packs(space: Space, names: list[str], parents: set[str]) -> None:
    packed = [name for members, _ in space.packs for name in members]
    for members, value in space.packs:
        if not members or any(packed.count(name) > 1 for name in members):
            raise ValueError(f"pack {shown(members)}: expected genes that are in no other pack")
        for name in members:
            if name not in names or space.gene(name).values != space.gene(members[0]).values:
                raise ValueError(f"pack {shown(members)}: expected genes with the same values")
            if space.gene(name).when or name in parents:
                raise ValueError(f"pack {shown(members)}: {name!r} is conditional; use free genes")
        space.gene(members[0]).index(value)
