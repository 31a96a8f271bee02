"""A search space: genes with ranges, and matrices of candidates over them.

A candidate is a row of int16 gene indices; a batch is a matrix (P, num_genes). Functions are
vectorised over the batch and need no torch. `layout` turns a candidate into a network and a recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnetv3._internal.json_record import keywords_of, read_json
from fbnetv3._internal.messages import shown
from fbnetv3.arch.arch import Arch, round_channels

from .counting import count_candidates
from .encoding import encoding_of
from .gene import Gene, span
from .layout import WIDTHS, Layout, Value, same
from .space_checks import check_space

SCHEMA = "fbnetv3-space/1"

Matrix = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Feasible = Callable[[Matrix], Mask]
# (P, num_genes) -> name of a cost, such as "macs" -> (P,).
CostsOf = Callable[[Matrix], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Space:
    """A search space: genes, how they become networks, and which candidates are equal.

    Attributes:
        name: name in messages and files.
        genes: the columns of a batch; kept as a tuple.
        layout: how values become an Arch and a recipe; empty for tables of labels.
        packs: (genes, value): the value is "no layer". Its position among the genes has no meaning,
            so that it is moved behind the layers.
        version: raised whenever the meaning of a candidate changes.

    Raises:
        ValueError: the space is empty, or genes, layout and packs are inconsistent.
    """

    name: str
    genes: Sequence[Gene]
    layout: Layout = field(default_factory=Layout)
    packs: tuple[tuple[tuple[str, ...], Value], ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        genes = tuple(self.genes) if isinstance(self.genes, Iterable) else None
        if genes is None or not all(isinstance(gene, Gene) for gene in genes):
            raise ValueError(
                f"space {shown(self.name)}: genes is {shown(self.genes)}; expected a list of "
                "genes, such as [Gene('act', ('relu', 'gelu'))]"
            )
        object.__setattr__(self, "genes", genes)
        check_space(self.name, self.version, self.genes, self.layout, self.packs)

    # What the space is

    def gene(self, name: str) -> Gene:
        """Returns a gene by name."""
        return self.genes[self.column(name)]

    def column(self, name: str) -> int:
        """Returns the column of a gene, by name."""
        for column, gene in enumerate(self.genes):
            if gene.name == name:
                return column
        raise ValueError(f"space {self.name!r} has no gene {shown(name)}; see space.genes")

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of values of each gene."""
        return np.array([len(gene.values) for gene in self.genes], np.int64)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Start of each gene in the concatenated values of all genes."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def raw_cardinality(self) -> int:
        """Returns the product of the genes' sizes, the count that the paper uses."""
        return math.prod(int(size) for size in self.sizes)

    def cardinality(self) -> int:
        """Returns the exact number of canonical candidates: networks and recipes that differ."""
        blocks = np.split(self._merge, self.offsets[1:])
        kept = {
            gene.name: set(block.tolist()) for gene, block in zip(self.genes, blocks, strict=True)
        }
        return count_candidates(self.genes, self.packs, kept)

    # Canonical form, identity

    @cached_property
    def _merge(self) -> Matrix:
        """Index that represents each value: of widths that round alike, the one nearest to them."""
        kinds: dict[str, set[str]] = {}
        for name, kind, _ in self.layout.cells():
            kinds.setdefault(name, set()).add(kind)
        flat: list[int] = []
        for gene in self.genes:
            if self.layout.round_widths and kinds.get(gene.name, {""}) <= set(WIDTHS):
                raw = [float(value) for value in gene.values]
                wide = [round_channels(value) for value in raw]
                near = sorted(range(len(raw)), key=lambda n: (abs(raw[n] - wide[n]), n))
                flat += [next(m for m in near if wide[m] == wide[n]) for n in range(len(raw))]
            else:
                flat += range(len(gene.values))
        return np.array(flat, np.int16)

    @cached_property
    def _conditions(self) -> list[tuple[int, int, Mask]]:
        """(column, parent's column, parent index -> whether the gene has a meaning)."""
        found = []
        for column, gene in enumerate(self.genes):
            if gene.when:
                parent = self.gene(gene.when[0])
                table = [any(same(v, w) for w in gene.when[1]) for v in parent.values]
                found.append((column, self.column(parent.name), np.array(table, np.bool_)))
        return found

    def canonical(self, matrix: Matrix) -> Matrix:
        """Returns the batch (P, num_genes) with equal candidates as equal rows.

        Widths that round alike become one, "no layer" moves behind the layers, and a gene without
        a meaning becomes 0.
        """
        out: Matrix = self._merge[self.check(matrix) + self.offsets]
        for members, value in self.packs:
            columns = [self.column(name) for name in members]
            part = out[:, columns]
            skip = part == self.gene(members[0]).index(value)
            order = np.argsort(skip, axis=1, kind="stable")
            out[:, columns] = np.take_along_axis(part, order, axis=1)
        out *= self.active(out)
        return out

    def active(self, matrix: Matrix) -> Mask:
        """Returns (P, num_genes): whether each gene has a meaning in each candidate."""
        mask = np.ones(matrix.shape, np.bool_)
        for column, parent, table in self._conditions:
            mask[:, column] = table[matrix[:, parent]] & mask[:, parent]
        return mask

    @cached_property
    def _weights(self) -> npt.NDArray[np.uint64]:
        if self.raw_cardinality() < 2**63:
            radix = np.cumprod(np.concatenate([[1], self.sizes[:-1]]))
            return radix.astype(np.uint64)
        draws = np.random.PCG64(0).random_raw(len(self.genes))
        return np.asarray(draws, np.uint64) | np.uint64(1)

    def hashes(self, matrix: Matrix) -> npt.NDArray[np.uint64]:
        """Returns a 64-bit number for each candidate (P,), equal for equal candidates.

        Exact in spaces of fewer than 2**63 candidates; in larger ones two candidates collide with a
        probability of about 2**-60. For deduplication; `digest` is the identity on disk.
        """
        canonical = self.canonical(matrix)
        total = np.zeros(len(canonical), np.uint64)
        for column, weight in enumerate(self._weights):
            total += canonical[:, column].astype(np.uint64) * weight
        return total

    def unique(self, matrix: Matrix) -> Matrix:
        """Returns the canonical candidates of a batch, each once, in order of first appearance."""
        canonical = self.canonical(matrix)
        _, first = np.unique(self.hashes(canonical), return_index=True)
        return canonical[np.sort(first)]

    def digest(self, row: npt.ArrayLike) -> str:
        """Returns the SHA-256 (hex) of one candidate's values, without unused genes."""
        values = self.values(row)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    # Making candidates

    def sample(self, num: int, rng: np.random.Generator) -> Matrix:
        """Returns `num` candidates (num, num_genes) with uniformly drawn genes, canonical."""
        draws = rng.random((num, len(self.genes)))
        return self.canonical((draws * self.sizes).astype(np.int16))

    def sobol(self, num: int, seed: int) -> Matrix:
        """Returns `num` quasi-random candidates (num, num_genes), canonical.

        From a scrambled Sobol sequence of the next power of two; other lengths are not balanced.
        """
        from scipy.stats import qmc

        power = max(0, math.ceil(math.log2(max(1, num))))
        draws = qmc.Sobol(len(self.genes), scramble=True, rng=seed).random_base2(power)[:num]
        return self.canonical(np.minimum(draws * self.sizes, self.sizes - 1).astype(np.int16))

    def pool(self, num: int, *, seed: int, feasible: Feasible | None = None) -> Matrix:
        """Returns up to `num` distinct quasi-random candidates that are feasible, canonical.

        Draws at most 64 times as many, so that a small or narrow space may give fewer than `num`.

        Raises:
            ValueError: no drawn candidate is feasible.
        """
        found = np.zeros((0, len(self.genes)), np.int16)
        for scale in (2, 8, 64):
            found = self.unique(self.sobol(num * scale, seed))
            if feasible is not None:
                found = found[feasible(found)]
            if len(found) >= num:
                break
        if not len(found):
            raise ValueError(
                f"none of {num * 64} candidates drawn from {self.name!r} is feasible; widen the "
                "limits"
            )
        return found[:num]

    def mutate(
        self, matrix: Matrix, rng: np.random.Generator, rate: float | Floats = 0.1
    ) -> Matrix:
        """Returns the batch with each gene redrawn with probability `rate`, canonical.

        Args:
            matrix: (P, num_genes).
            rng: random generator.
            rate: one probability, or (P,) one for each candidate. A redrawn gene always changes if
                it has more than one value.
        """
        wide = np.broadcast_to(np.asarray(rate, np.float64).reshape(-1, 1), matrix.shape)
        hit = rng.random(matrix.shape) < wide
        rows, columns = np.nonzero(hit)
        sizes = self.sizes[columns]
        shift = 1 + (rng.random(len(rows)) * (sizes - 1)).astype(np.int64)
        out = matrix.copy()
        out[rows, columns] = (out[rows, columns] + shift * (sizes > 1)) % sizes
        return self.canonical(out)

    def crossover(self, first: Matrix, second: Matrix, rng: np.random.Generator) -> Matrix:
        """Returns children (P, num_genes) with each gene from either parent, canonical."""
        return self.canonical(np.where(rng.random(first.shape) < 0.5, first, second))

    # Encoding, decoding

    @cached_property
    def _encoding(self) -> tuple[Floats, tuple[str, ...]]:
        """Encoding of each value (sum of sizes, D), and the names of its columns."""
        return encoding_of(self.genes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `encode`."""
        return self._encoding[1]

    @property
    def encoding(self) -> Floats:
        """Encoding of each value (sum of sizes, D); `encode` sums the rows of a candidate."""
        return self._encoding[0]

    def encode(self, matrix: Matrix) -> Floats:
        """Returns (P, D): choices one-hot, ordered genes and grids scaled to [0, 1]."""
        batch = self.canonical(matrix)
        out = np.zeros((len(batch), len(self.columns)))
        column = 0
        for gene, start, indices in zip(self.genes, self.offsets, batch.T, strict=True):
            width = len(gene.values) if gene.kind == "choice" else 1
            block = self.encoding[start : start + len(gene.values), column : column + width]
            out[:, column : column + width] = block[indices]
            column += width
        return out

    def values(self, row: npt.ArrayLike) -> dict[str, Value]:
        """Returns gene -> value of one candidate, without genes that it does not use."""
        matrix = self.canonical(np.atleast_2d(np.asarray(row)))
        mask = self.active(matrix)[0]
        return {
            gene.name: gene.values[int(index)]
            for gene, index, used in zip(self.genes, matrix[0], mask, strict=True)
            if used
        }

    def from_values(self, values: Mapping[str, Any]) -> Matrix:
        """Returns the canonical candidate (num_genes,) with the given values, as gene -> value.

        Raises:
            ValueError: a gene is unknown, out of range, or missing although it has a meaning.
        """
        for name in values:
            self.column(name)
        given = [g.index(values[g.name]) if g.name in values else 0 for g in self.genes]
        row = np.array([given], np.int16)
        for gene, used in zip(self.genes, self.active(row)[0], strict=True):
            if used and gene.name not in values:
                raise ValueError(
                    f"gene {gene.name!r} is missing; expected one of {span(gene.values)}"
                )
        candidate: Matrix = self.canonical(row)[0]
        return candidate

    def decode(self, row: npt.ArrayLike) -> tuple[Arch, dict[str, Any]]:
        """Returns the network and the recipe (a plain dict) of one candidate.

        Raises:
            ValueError: the space describes no network, or the candidate is not of the space.
        """
        return self.layout.network(self._all_values(row)), self.recipe(row)

    def recipe(self, row: npt.ArrayLike) -> dict[str, Any]:
        """Returns the recipe of one candidate, even if the space describes no network."""
        return self.layout.settings(self._all_values(row))

    def _all_values(self, row: npt.ArrayLike) -> dict[str, Value]:
        indices = self.canonical(np.atleast_2d(np.asarray(row)))[0]
        return {g.name: g.values[int(n)] for g, n in zip(self.genes, indices, strict=True)}

    def locate(self, arch: Arch, recipe: Mapping[str, Any] | None = None) -> Matrix:
        """Returns the canonical candidate of an architecture, ignoring paddings, and recipe genes.

        Args:
            arch: the architecture.
            recipe: gene -> value of the genes that the architecture does not determine; missing
                ones get their first value.

        Raises:
            ValueError: the architecture is outside the space; the message names the cell.
        """
        cells = self.layout.locate(arch) | dict(recipe or {})
        kinds = {name: kind for name, kind, _ in self.layout.cells()}
        row = np.zeros((1, len(self.genes)), np.int16)
        for column, gene in enumerate(self.genes):
            if gene.name not in cells:
                continue
            value = cells[gene.name]
            if self.layout.round_widths and kinds.get(gene.name) in WIDTHS:
                wide = [v for v in gene.values if round_channels(float(v)) == value]
                value = wide[0] if wide else value
            row[0, column] = gene.index(value)
        candidate: Matrix = self.canonical(row)[0]
        return candidate

    def check(self, matrix: npt.ArrayLike) -> Matrix:
        """Returns the batch.

        Raises:
            ValueError: shape, type or an index is not of this space.
        """
        out = np.asarray(matrix)
        if out.ndim != 2 or out.shape[1] != len(self.genes):
            raise ValueError(
                f"the batch has shape {out.shape}; {self.name!r} expects (P, {len(self.genes)})"
            )
        if out.dtype.kind not in "iu":
            raise ValueError(f"the batch has type {out.dtype}; expected gene indices, int16")
        if len(out) and (out.min() < 0 or bool((out.max(axis=0) >= self.sizes).any())):
            raise ValueError(f"a gene index is outside 0..size-1 of space {self.name!r}")
        return out

    # JSON

    def to_dict(self) -> dict[str, Any]:
        """Returns the space as plain JSON types."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "genes": [gene.to_dict() for gene in self.genes],
            "layout": self.layout.to_dict(),
            "packs": [[list(members), value] for members, value in self.packs],
        }

    def to_json(self) -> str:
        """Returns the space as JSON text, for `from_json`."""
        return self._json

    @cached_property
    def _json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """Identity of the space: name, version, genes and layout."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @staticmethod
    def from_json(text: str | bytes) -> Space:
        """Returns the space of a JSON text.

        Raises:
            ValueError: the text is not JSON, or a field is missing, unknown or out of range.
        """
        fields = read_json(text, "the space")
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            given = fields.get("schema") if isinstance(fields, dict) else fields
            raise ValueError(f"the space's schema is {shown(given)}; expected {SCHEMA!r}")
        del fields["schema"]
        given = keywords_of(Space, fields, "the space")
        packs = given.get("packs", [])
        for name, listed in (("genes", given["genes"]), ("packs", packs)):
            if not isinstance(listed, list):
                raise ValueError(f"the space's {name} are {shown(listed)}; expected a list")
        for pack in packs:
            if not (isinstance(pack, list) and len(pack) == 2 and isinstance(pack[0], list)):
                raise ValueError(f"a pack is {shown(pack)}; expected [genes, value]")
        given["genes"] = tuple(Gene.from_dict(gene) for gene in given["genes"])
        given["layout"] = Layout.from_dict(given.get("layout", {}))
        given["packs"] = tuple((tuple(members), value) for members, value in packs)
        return Space(**given)
