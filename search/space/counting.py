"""How many candidates a space has, equal ones (same network and recipe) counted once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .gene import Gene
from .layout import Value, same


def count_candidates(
    genes: Sequence[Gene],
    packs: Sequence[tuple[tuple[str, ...], Value]],
    kept: Mapping[str, set[int]],
) -> int:
    """Returns the exact number of canonical candidates.

    Args:
        genes: genes of the space.
        packs: packs of the space, whose layers count whatever the positions of "no layer".
        kept: gene -> indices of its values without duplicates.
    """
    packed = {name for members, _ in packs for name in members}
    total = 1
    for members, _ in packs:
        kinds = len(kept[members[0]]) - 1
        total *= sum(kinds**layers for layers in range(len(members) + 1))
    roots = [gene for gene in genes if gene.when is None and gene.name not in packed]
    return total * math.prod(_count(gene, genes, kept) for gene in roots)


def _count(gene: Gene, genes: Sequence[Gene], kept: Mapping[str, set[int]]) -> int:
    """Returns how many ways a gene and the genes that depend on it can be set."""
    children = [(one, one.when[1]) for one in genes if one.when and one.when[0] == gene.name]
    total = 0
    for index in kept[gene.name]:
        value = gene.values[index]
        total += math.prod(
            _count(child, genes, kept)
            for child, enabling in children
            if any(same(value, one) for one in enabling)
        )
    return total
