"""A person's recipe as a prior: values of some genes that are believed to be good.

Only what a prior says: how it is read, which candidates have it, and how likely it makes others.
`prior_pool` draws candidates around it.

Source: the density (a normal distribution around the value, cut off at the ends of the range, and
more weight on one choice) is that of PriorBand, Mallik et al. 2023, arXiv 2306.12370.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.json_record import keywords_of, read_json
from fbnetv3._internal.messages import shown
from fbnetv3.search.space.gene import Gene, span
from fbnetv3.search.space.layout import Value, gene_of, is_number
from fbnetv3.search.space.space import Floats, Mask, Matrix, Space
from fbnetv3.search.training.presets import PRESETS, get_recipe
from fbnetv3.search.training.recipe import SCHEMA, Recipe

# Standard deviation around an ordered gene's value as a share of its range, and the probability
# of a choice's own value; both as in PriorBand.
SPREAD, OWN = 0.25, 0.75


@dataclass(frozen=True)
class Prior:
    """Values of some genes of a space.

    Attributes:
        name: how messages and reports call it.
        values: gene -> value, each a value of the gene.
    """

    name: str
    values: Mapping[str, Value]

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Prior:
        """Returns the prior of a mapping that `dataclasses.asdict` returned."""
        return Prior(**keywords_of(Prior, fields, "a prior of the search config"))


@dataclass(frozen=True)
class ReadPrior:
    """A prior, and what of the recipe that was given it does not have.

    Attributes:
        prior: the prior.
        moved: gene -> (value given, value of the prior): the nearest that the gene can have.
        fixed: field of the recipe -> (value given, value of all candidates of the space).
    """

    prior: Prior
    moved: Mapping[str, tuple[Value, Value]]
    fixed: Mapping[str, tuple[Value, Value]]

    def __str__(self) -> str:
        """What differs from the recipe that was given, one line; empty if nothing does."""
        parts = [f"{name} {own} for {given}" for name, (given, own) in self.moved.items()]
        text = f"the nearest values of the space: {', '.join(parts)}" if parts else ""
        rest = [f"{name} {own} (not {given})" for name, (given, own) in self.fixed.items()]
        more = f"fixed by the space: {', '.join(rest)}" if rest else ""
        both = "; ".join(part for part in (text, more) if part)
        return f"{prior_title(self.prior.name)}: {both}" if both else ""


def read_prior(space: Space, source: str) -> ReadPrior:
    """Returns the prior of a preset's name, of a JSON file, or of JSON.

    JSON has a complete recipe, as `Recipe.to_json` writes it, or an object of gene -> value
    with some genes of the space.

    Raises:
        ValueError: the file is not such an object, a gene is unknown or cannot have its value, or
            there is no preset of this name.
        FileNotFoundError: the file does not exist.
    """
    if source.lstrip().startswith("{"):
        return make_prior(space, read_json(source, "the prior"), name="prior")
    path = Path(source)
    if source in PRESETS:
        return make_prior(space, get_recipe(source).to_dict(), name=source)
    if not path.is_file():
        if path.suffix == ".json":
            raise FileNotFoundError(f"no prior at {path}; expected a recipe as JSON")
        raise ValueError(
            f"prior {shown(source)} is neither a file nor a preset; expected a recipe as JSON, or "
            f"one of {', '.join(PRESETS)}"
        )
    fields = read_json(path.read_bytes(), f"prior {path}")
    return make_prior(space, fields, name=path.stem)


def make_prior(space: Space, fields: Any, *, name: str) -> ReadPrior:
    """Returns the prior of a complete recipe (with its schema), or of gene -> value.

    A number between two values of its gene becomes the nearer one.

    Raises:
        ValueError: there is no gene, one is unknown, or it cannot have its value.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"{prior_title(name)} is {shown(fields)}; expected an object of gene: value"
        )
    fixed: dict[str, tuple[Value, Value]] = {}
    if "schema" in fields:
        given, fixed = _of_recipe(space, fields, name)
    else:
        given = {_gene_named(space, key, name).name: value for key, value in fields.items()}
    if not given:
        raise ValueError(
            f"{prior_title(name)} has no gene of space {space.name!r}; expected some of "
            f"{_names(space)}"
        )
    values = {key: _nearest(space.gene(key), value, name) for key, value in given.items()}
    moved = {
        key: (given[key], value) for key, value in values.items() if not _same(given[key], value)
    }
    return ReadPrior(Prior(name, values), moved, fixed)


def prior_title(name: str) -> str:
    """Returns how messages call a prior: "prior NAME", where the name does not say so."""
    return name if name.split()[:1] == ["prior"] else f"prior {name}"


def _of_recipe(
    space: Space, fields: Mapping[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, tuple[Value, Value]]]:
    """Returns gene -> value of a complete recipe, and the fields that the space has fixed."""
    if fields["schema"] != SCHEMA:
        raise ValueError(
            f"{prior_title(name)}: schema is {shown(fields['schema'])}; expected {SCHEMA!r}"
        )
    recipe = Recipe.from_dict(fields).to_dict()
    genes, fixed = {}, {}
    for field, cell in space.layout.recipe.items():
        gene = gene_of(cell)
        if field not in recipe:
            continue
        if gene is not None:
            genes[gene] = recipe[field]
        elif not _same(recipe[field], cell):
            fixed[field] = (recipe[field], cell)
    return genes, fixed


def _gene_named(space: Space, key: str, name: str) -> Gene:
    """Returns the gene that a key names, itself or as the field of the recipe that it fills."""
    known = {gene.name: gene for gene in space.genes}
    own = gene_of(space.layout.recipe.get(key))
    gene = known.get(key) or known.get(own or "")
    if gene is None:
        raise ValueError(
            f"{prior_title(name)}: unknown gene {shown(key)}; expected some of {_names(space)}"
        )
    return gene


def _names(space: Space) -> str:
    """Returns the names of the genes of recipes, or where there are none, of all."""
    names = [gene.name for gene in space.genes if gene.group != "arch"]
    return ", ".join(names or [gene.name for gene in space.genes])


def _nearest(gene: Gene, value: Any, name: str) -> Value:
    """Returns the gene's value that is nearest to a number within its range, or equal to another.

    Near is by ratio where all values are positive and unevenly spaced.
    """
    for own in gene.values:
        if _same(own, value):
            return own
    numbers = [float(own) for own in gene.values if is_number(own)]
    inside = gene.kind != "choice" and is_number(value) and len(numbers) == len(gene.values)
    if not inside or not min(numbers) <= value <= max(numbers):
        ends = f"{min(numbers):g} to {max(numbers):g}" if gene.kind != "choice" and numbers else ""
        raise ValueError(
            f"{prior_title(name)}: gene {gene.name!r} cannot be {shown(value)}; expected "
            f"{ends or 'one of ' + span(gene.values)}"
        )
    ratio = min(numbers) > 0 and not gene.kind.endswith("grid")
    gaps = [abs(math.log(own / value)) if ratio else abs(own - value) for own in numbers]
    return gene.values[int(np.argmin(gaps))]


def _same(first: object, second: object) -> bool:
    """Returns whether two values are equal, where true is not 1."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if is_number(first) and is_number(second):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-15)  # type: ignore[arg-type]
    return first == second


def pin(space: Space, rows: Matrix, values: Mapping[str, Value]) -> Matrix:
    """Returns the batch (P, num_genes) with the given genes at the given values, canonical."""
    out = np.array(rows, np.int16)
    for name, value in values.items():
        column = space.column(name)
        out[:, column] = space.genes[column].index(value)
    return space.canonical(out)


def has(space: Space, rows: Matrix, prior: Prior) -> Mask:
    """Returns (P,): whether each candidate has the prior's values, of the genes that it uses."""
    mask: Mask = (space.canonical(rows) == pin(space, rows, prior.values)).all(axis=1)
    return mask


def weights_of(gene: Gene, value: Value) -> Floats:
    """Returns (values,) how likely a prior makes each value of a gene; they sum to 1."""
    own, size = gene.index(value), len(gene.values)
    if size == 1:
        return np.ones(1)
    if gene.kind == "choice":
        weights = np.full(size, (1 - OWN) / (size - 1))
        weights[own] = OWN
        return weights
    away = (np.arange(size) - own) / (SPREAD * (size - 1))
    weights = np.exp(-0.5 * away**2)
    return np.asarray(weights / weights.sum())


def log_density(space: Space, rows: Matrix, prior: Prior) -> Floats:
    """Returns (P,) the logarithm of how many times likelier a prior makes each candidate.

    Compared with uniformly drawn genes, over the genes of the prior that the candidate uses.
    """
    total = np.zeros(len(rows))
    active = space.active(rows)
    for name, value in prior.values.items():
        column = space.column(name)
        gene = space.genes[column]
        ratio = np.log(weights_of(gene, value) * len(gene.values))
        total += np.where(active[:, column], ratio[rows[:, column]], 0.0)
    return total
