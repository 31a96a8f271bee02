"""Ground truths that no table can list: accuracies of joint spaces of 8 to 64 genes, as functions.

A family fixes the genes and how they act; a seed draws the function: which genes matter, which of
their values are best, which pairs matter together. So a method is never measured twice on one
function, and none can be tuned to it. Accuracies are in percent. A training's label is the truth
plus noise of `NOISE` points.

What they have of real trainings: returns that diminish, learning rates that depend on other genes
and diverge when too high, genes that matter little, and networks that are better the more they
cost. What they lack: everything that nobody thought of when these were written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fbnetv3.search.nars.evolution import EvolutionSettings, evolve
from fbnetv3.search.nars.limit import Limit
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Floats, Matrix, Space

NOISE = 0.3
TOP, CHANCE = 96.0, 10.0
# Standard deviation of the accuracies of random candidates, in points, before they are squashed.
SPREAD = 5.0
# Of the costs of random candidates, the quantile that a limit is at.
LIMIT_AT = 0.3
_SAMPLE = 4096


@dataclass(frozen=True)
class Wide:
    """One function.

    Attributes:
        space: the search space.
        truth: (P, num_genes) -> (P,) accuracies in percent, without noise.
        cost: gene -> value to name -> cost; None: there is none.
        limit: bounds of the costs; empty without one.
        best: the highest truth within the limit that was found by a search that sees truths.
    """

    space: Space
    truth: Callable[[Matrix], Floats]
    cost: Callable[[Mapping[str, object]], Mapping[str, float]] | None
    limit: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    best: float = 0.0

    def costs(self, rows: Matrix) -> dict[str, Floats]:
        """Returns name -> (P,) of candidates."""
        if self.cost is None:
            return {}
        # No gene of these spaces depends on another.
        genes = self.space.genes
        found = [
            self.cost({gene.name: gene.values[n] for gene, n in zip(genes, row, strict=True)})
            for row in rows.tolist()
        ]
        return {name: np.array([one[name] for one in found], float) for name in found[0]}

    def label(self, rows: Matrix, seed: int) -> Floats:
        """Returns (P,) labels of one training each; a candidate and a seed always have the same."""
        hashes = self.space.hashes(rows)
        noise = [np.random.default_rng([seed, int(one)]).normal() for one in hashes]
        return np.clip(self.truth(rows) + NOISE * np.array(noise), 0.1, 99.9)


def _recipe(num: int) -> list[Gene]:
    """Returns the first `num` of the recipe genes of a usual training script."""
    known = [
        Gene.log("lr", 1e-4, 1e-1, recipe=True),
        Gene.log("weight_decay", 1e-6, 1e-2, recipe=True),
        Gene("optimizer", ("sgd", "adamw", "lamb", "rmsprop"), group="recipe"),
        Gene.grid("dropout", 0.0, 0.5, 0.1, recipe=True),
        Gene("batch", (32, 64, 128, 256), kind="ordered", group="recipe"),
        Gene.grid("mixup", 0.0, 0.8, 0.2, recipe=True),
        Gene("schedule", ("cosine", "step", "linear"), group="recipe"),
        Gene.grid("smoothing", 0.0, 0.2, 0.05, recipe=True),
        Gene.log("warmup", 1e-3, 1e-1, recipe=True),
        Gene("augment", ("none", "flip", "rand", "auto"), group="recipe"),
        Gene.log("ema", 1e-4, 1e-2, recipe=True),
        Gene.grid("erasing", 0.0, 0.4, 0.1, recipe=True),
    ]
    extra = [Gene.grid(f"extra_{n}", 0, 9, recipe=True) for n in range(num - len(known))]
    return [*known, *extra][:num]


def _network(num: int) -> list[Gene]:
    """Returns `num` genes of a network of stages: width, depth, kernel and activation of each."""
    genes = []
    for stage in range(-(-num // 4)):
        genes += [
            Gene.grid(f"width_{stage}", 16, 256, 16),
            Gene.grid(f"depth_{stage}", 1, 6),
            Gene(f"kernel_{stage}", (3, 5, 7), kind="ordered"),
            Gene(f"act_{stage}", ("relu", "gelu", "silu", "hardswish")),
        ]
    return genes[:num]


def _positions(space: Space, rows: Matrix) -> Floats:
    return np.asarray(rows / np.maximum(space.sizes - 1, 1))


class _Function:
    """A loss: weighted terms of single genes and of pairs, and learning rates that diverge."""

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        *,
        weights: Floats,
        pairs: Sequence[tuple[int, int]] = (),
        of_pairs: float = 0.5,
        size: float = 0.0,
        cliff: bool = True,
    ) -> None:
        self.space, self.weights, self.pairs = space, weights, list(pairs)
        self.of_pairs, self.size = of_pairs, size
        self.names = [gene.name for gene in space.genes]
        self.ordered = np.array([gene.kind != "choice" for gene in space.genes])
        self.best = rng.random(len(space.genes))
        self.power = rng.choice([1.0, 2.0], len(space.genes))
        self.levels = [np.append(0.0, np.sort(rng.random(n - 1)))[rng.permutation(n)]
                       for n in space.sizes]  # fmt: skip
        self.tables = [rng.normal(size=(space.sizes[a], space.sizes[b])) for a, b in self.pairs]
        self.slopes = rng.uniform(0.5, 1.5, len(self.pairs)) * rng.choice([-1, 1], len(self.pairs))
        self.cliff = cliff and "lr" in self.names
        self.edge = rng.uniform(0.75, 0.95)
        self.scale, self.shift = 1.0, 0.0
        some = self._loss(space.sample(_SAMPLE, rng))
        self.scale, self.shift = SPREAD / float(some.std()), float(some.min())

    def _loss(self, rows: Matrix) -> Floats:
        place = _positions(self.space, rows)
        loss = np.zeros(len(rows))
        for n, weight in enumerate(self.weights):
            far = np.abs(place[:, n] - self.best[n]) / max(self.best[n], 1 - self.best[n])
            own = far ** self.power[n] if self.ordered[n] else self.levels[n][rows[:, n]]
            loss += weight * own
        for (a, b), table, slope in zip(self.pairs, self.tables, self.slopes, strict=True):
            weight = self.of_pairs * (self.weights[a] + self.weights[b])
            if self.ordered[a] and self.ordered[b]:
                # A valley: what is best of one moves with the other.
                moved = place[:, a] - self.best[a] + slope * (place[:, b] - self.best[b])
                loss += weight * moved**2
            else:
                loss += 0.5 * weight * table[rows[:, a], rows[:, b]]
        if self.size:
            loss -= self.size * self._log_size(rows)
        return loss

    def _log_size(self, rows: Matrix) -> Floats:
        sizes = [n for n, name in enumerate(self.names) if name.startswith(("width", "depth"))]
        return np.asarray(np.log1p(4 * _positions(self.space, rows)[:, sizes]).sum(1))

    def __call__(self, rows: Matrix) -> Floats:
        """Returns (P,) accuracies in percent."""
        rows = self.space.canonical(rows)
        loss = (self._loss(rows) - self.shift) * self.scale + 2.0
        # Better than the best of a sample is possible, but ever harder.
        loss = np.where(loss < 2, 2 * np.exp((np.minimum(loss, 2) - 2) / 2), loss)
        accuracy = TOP - loss
        if self.cliff:
            lr = _positions(self.space, rows)[:, self.names.index("lr")]
            accuracy = np.where(lr > self.edge, CHANCE + 0.02 * accuracy, accuracy)
        return np.asarray(np.clip(accuracy, CHANCE, TOP))


def macs(values: Mapping[str, object]) -> dict[str, float]:
    """Returns the multiply-adds of a network of stages, in millions."""
    total, before = 0.0, 16.0
    for stage in range(len(values)):
        width = values.get(f"width_{stage}")
        if width is None:
            break
        depth = values.get(f"depth_{stage}", 1)
        kernel = values.get(f"kernel_{stage}", 3)
        assert isinstance(width, int)
        assert isinstance(depth, int)
        assert isinstance(kernel, int)
        total += (before * width + depth * width * (width + kernel**2)) * 4.0 ** (3 - stage % 4)
        before = width
    return {"macs": total / 1e3}


def _power(num: int, rng: np.random.Generator) -> Floats:
    """Returns weights 1, 1/2, 1/3, ... in random order."""
    return np.asarray(rng.permutation(1 / np.arange(1.0, num + 1)))


def _few(num: int, some: int, rng: np.random.Generator) -> Floats:
    """Returns weights of which `some` are large and all others 1 %."""
    weights = np.full(num, 0.01)
    weights[:some] = rng.uniform(0.5, 1.0, some)
    return np.asarray(rng.permutation(weights))


def _heaviest(weights: Floats, num: int) -> list[tuple[int, int]]:
    """Returns `num` pairs among the genes with the largest weights."""
    order = np.argsort(-weights)
    return [(int(order[n]), int(order[n + 1])) for n in range(num)]


def _mlp8(rng: np.random.Generator) -> Wide:
    space = Space("mlp8", [*_network(2), Gene("act", ("relu", "gelu", "tanh")), *_recipe(5)])
    weights = rng.uniform(0.2, 1.0, 8)
    function = _Function(space, rng, weights=weights, pairs=[(3, 4), (3, 5), (0, 6)], size=0.2)
    return Wide(space, function, None)


def _joint16(rng: np.random.Generator) -> Wide:
    space = Space("joint16", [*_network(8), *_recipe(8)])
    weights = _power(16, rng)
    return Wide(space, _Function(space, rng, weights=weights, pairs=_heaviest(weights, 4)), None)


def _even32(rng: np.random.Generator) -> Wide:
    space = Space("even32", [*_network(20), *_recipe(12)])
    weights = rng.uniform(0.5, 1.0, 32)
    return Wide(space, _Function(space, rng, weights=weights, pairs=_heaviest(weights, 6)), None)


def _few64(rng: np.random.Generator) -> Wide:
    space = Space("few64", [*_network(40), *_recipe(24)])
    weights = _few(64, 6, rng)
    return Wide(space, _Function(space, rng, weights=weights, pairs=_heaviest(weights, 3)), None)


def _choice24(rng: np.random.Generator) -> Wide:
    genes = [
        Gene(f"op_{n}", ("none", "skip", "conv1", "conv3", "pool"), group=group)
        for group, part in (("arch", range(16)), ("recipe", range(16, 24)))
        for n in part
    ]
    space = Space("choice24", genes)
    weights = _power(24, rng)
    pairs = [(n, n + 1) for n in range(0, 24, 2)]
    return Wide(space, _Function(space, rng, weights=weights, pairs=pairs, of_pairs=1.0), None)


def _limited32(rng: np.random.Generator) -> Wide:
    space = Space("limited32", [*_network(20), *_recipe(12)])
    weights = _power(32, rng)
    function = _Function(space, rng, weights=weights, pairs=_heaviest(weights, 4), size=0.5)
    made = Wide(space, function, macs)
    known = made.costs(space.sample(_SAMPLE, rng))["macs"]
    most = float(f"{np.quantile(known, LIMIT_AT):.4g}")
    return Wide(space, function, macs, {"macs": (-np.inf, most)})


_FAMILIES: Mapping[str, Callable[[np.random.Generator], Wide]] = {
    "mlp8": _mlp8,
    "joint16": _joint16,
    "choice24": _choice24,
    "even32": _even32,
    "limited32": _limited32,
    "few64": _few64,
}
FAMILIES = tuple(_FAMILIES)


def wide(family: str, seed: int) -> Wide:
    """Returns the function of a family that a seed draws, with the best that it can give."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    made = _FAMILIES[family](rng)
    [found] = evolve(
        made.space,
        made.truth,
        made.costs,
        [Limit(made.limit)],
        start=made.space.sample(4000, rng),
        rng=rng,
        settings=EvolutionSettings(patience=15, tolerance=1e-4),
    )
    best = _climbed(made, found.rows[:4])
    return Wide(made.space, made.truth, made.cost, made.limit, best)


def _climbed(made: Wide, rows: Matrix) -> float:
    """Returns the truth that no change of one or two genes improves, from the best of some."""
    space, limit = made.space, Limit(made.limit)
    best = -np.inf
    for row in rows:
        here, value = row[None], float(made.truth(row[None])[0])
        while True:
            singles = _changed(space, here)
            near = space.unique(np.concatenate([_changed(space, singles[[n]])
                                for n in _promising(made, singles)]))  # fmt: skip
            near = near[np.argsort(-made.truth(near), kind="stable")][:64]
            if made.limit:
                near = near[limit.violation(made.costs(near)) == 0]
            if not len(near) or float(made.truth(near[:1])[0]) <= value + 1e-9:
                break
            here, value = near[:1], float(made.truth(near[:1])[0])
        best = max(best, value)
    return best


def _promising(made: Wide, rows: Matrix) -> npt.NDArray[np.int64]:
    return np.argsort(-made.truth(rows), kind="stable")[:24]


def _changed(space: Space, row: Matrix) -> Matrix:
    """Returns a candidate (1, num_genes) and all that differ from it in one gene."""
    near = np.repeat(row, int(space.sizes.sum()), axis=0)
    columns = np.repeat(np.arange(len(space.sizes)), space.sizes)
    near[np.arange(len(near)), columns] = np.concatenate([np.arange(n) for n in space.sizes])
    return space.unique(near)
