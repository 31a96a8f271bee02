"""Spaces: identity, sampling, variation, decoding, refusals."""

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.layout import Layout
from fbnetv3.search.space.space import Space
from fbnetv3.search.space.spaces import SPACES, get_space, with_network
from fbnetv3.search.training.recipe import Recipe

NAMES = sorted(SPACES)


def toy() -> Space:
    return Space(
        name="toy",
        genes=(
            Gene.grid("layers", 1, 3),
            Gene("kernel_rest", (3, 5), when=("layers", (2, 3))),
            Gene("color", ("red", "green", "blue")),
            Gene.grid("lr", 0.1, 0.5, 0.1, group="recipe"),
        ),
    )


def packed() -> Space:
    block = ("none", "small", "large")
    genes = tuple(Gene(f"b{n}", block) for n in range(3))
    return Space(name="packed", genes=genes, packs=((("b1", "b2"), "none"),))


def every(space: Space) -> np.ndarray:
    grid = np.indices([len(g.values) for g in space.genes]).reshape(len(space.genes), -1).T
    return grid.astype(np.int16)


@pytest.mark.parametrize("model", ["fbnetv3_b", "fbnetv3_c", "fbnetv3_d", "fbnetv3_e"])
def test_released_networks_lie_in_the_paper_space(model: str) -> None:
    space = get_space("paper_joint")
    arch, _ = space.decode(space.locate(ARCHS[model]))
    assert arch == ARCHS[model].same_padding()


@pytest.mark.parametrize("model", ["fbnetv3_f", "fbnetv3_g", "fbnetv3_a0"])
def test_networks_outside_a_space_are_refused_by_cell(model: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be|fixed at"):
        get_space("paper_joint").locate(ARCHS[model])


def test_paper_space_counts_what_its_ranges_say() -> None:
    # (resolution) (stem) kernels, expansions, channels, repeats: counted by hand from the table.
    channels = 5 * 4 * 7 * 8 * 13 * 12 * 16
    repeats = 4 * 4 * 4 * 5 * 5 * 5
    kernels = 2**13
    expansions = (4 * 4) ** 4
    arch = 7 * 5 * channels * repeats * kernels * expansions
    recipe = 2 * 11 * 15 * 31 * 31 * 42
    assert get_space("paper_joint").raw_cardinality() == arch * recipe


@pytest.mark.parametrize("space", [toy(), packed()], ids=["toy", "packed"])
def test_cardinality_equals_enumeration(space: Space) -> None:
    rows = {tuple(row) for row in space.canonical(every(space)).tolist()}
    assert space.cardinality() == len(rows) == len(space.unique(every(space)))
    assert len({space.digest(row) for row in rows}) == len(rows)


def test_widths_that_round_alike_are_one_candidate() -> None:
    space = get_space("paper_joint")
    one = space.values(space.sample(1, np.random.default_rng(0))[0])
    low, high = (space.from_values(one | {"mb2_channels": c}) for c in (20, 24))
    assert space.decode(low) == space.decode(high)
    assert space.digest(low) == space.digest(high)
    assert np.array_equal(low, high)


@pytest.mark.parametrize("name", NAMES)
def test_equal_candidates_are_equal_networks_and_recipes(name: str) -> None:
    space = get_space(name)
    raw = (np.random.default_rng(3).random((60, len(space.genes))) * space.sizes).astype(np.int16)
    for row in raw:
        values = {g.name: g.values[i] for g, i in zip(space.genes, row, strict=True)}
        arch, recipe = space.decode(row)
        assert arch == space.layout.network(values)
        active = space.values(row)
        assert {k: v for k, v in space.layout.settings(values).items() if k in active} == {
            k: v for k, v in recipe.items() if k in active
        }


@pytest.mark.parametrize("name", NAMES)
def test_candidate_survives_values_json_and_back(name: str) -> None:
    space = get_space(name)
    again = Space.from_json(space.to_json())
    assert again == space
    assert again.sha256 == space.sha256
    for row in space.sample(50, np.random.default_rng(1)):
        values = json.loads(json.dumps(space.values(row)))
        assert np.array_equal(again.from_values(values), row)
        assert (
            again.digest(row)
            == hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        )


@pytest.mark.parametrize("name", NAMES)
def test_candidates_decode_to_networks_and_recipes(name: str) -> None:
    space = get_space(name)
    for row in space.sample(20, np.random.default_rng(2)):
        arch, recipe = space.decode(row)
        assert isinstance(arch, Arch)
        Recipe(**{"epochs": 10, **recipe})


@pytest.mark.parametrize("name", NAMES)
def test_seed_repeats_and_seeds_differ(name: str) -> None:
    space = get_space(name)
    first = space.sample(40, np.random.default_rng(5))
    assert np.array_equal(first, space.sample(40, np.random.default_rng(5)))
    assert not np.array_equal(first, space.sample(40, np.random.default_rng(6)))
    assert np.array_equal(space.sobol(40, 5), space.sobol(40, 5))
    assert not np.array_equal(space.sobol(40, 5), space.sobol(40, 6))


def test_identity_is_the_same_in_a_fresh_process() -> None:
    code = (
        "import numpy as np; from fbnetv3.search.space.spaces import get_space\n"
        "s = get_space('paper_joint'); m = s.sobol(8, 1)\n"
        "print(s.sha256, [s.digest(r) for r in m], s.hashes(m).tolist())\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    space = get_space("paper_joint")
    matrix = space.sobol(8, 1)
    digests = [space.digest(row) for row in matrix]
    assert out.strip() == f"{space.sha256} {digests} {space.hashes(matrix).tolist()}"


def test_recipes_are_searched_at_the_resolution_of_the_text() -> None:
    arch = get_space("recipe_only").layout.network({})
    assert arch.resolution == 256
    assert arch.rows == ARCHS["fbnetv2_l3"].rows
    assert count(arch).macs_paper == pytest.approx(595e6, rel=0.01)


def test_a_space_of_recipes_takes_another_network() -> None:
    space = get_space("recipe_only")
    other = with_network(space, ARCHS["fbnetv3_nano"])
    assert other.layout.network({}) == ARCHS["fbnetv3_nano"]
    assert other.genes == space.genes
    without = with_network(space, None, without=["drop_path"])
    assert without.layout.arch is None
    assert {gene.name for gene in space.genes} - {gene.name for gene in without.genes} == {
        "drop_path"
    }
    assert without.recipe(np.zeros(len(without.genes), np.int16))["drop_path"] == 0.0
    with pytest.raises(ValueError, match="searches the network"):
        with_network(get_space("paper_joint"), None)


def test_sobol_spreads_better_than_chance() -> None:
    space = get_space("recipe_only")
    column = space.column("dropout")
    spread = [
        np.bincount(batch[:, column], minlength=31).std()
        for batch in (space.sobol(1024, 0), space.sample(1024, np.random.default_rng(0)))
    ]
    assert spread[0] < 0.3 * spread[1]


@given(st.integers(0, 2**31), st.sampled_from(NAMES), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_variation_stays_in_the_space_and_canonical(seed: int, name: str, rate: float) -> None:
    space, rng = get_space(name), np.random.default_rng(seed)
    parents = space.sample(30, rng)
    for children in (
        space.mutate(parents, rng, rate),
        space.crossover(parents, parents[::-1], rng),
    ):
        assert np.array_equal(space.canonical(space.check(children)), children)
    same = (space.crossover(parents, parents, rng), space.mutate(parents, rng, 0.0))
    assert all(np.array_equal(batch, parents) for batch in same)


def test_mutation_rate_is_the_share_of_genes_that_change() -> None:
    space = Space(name="wide", genes=tuple(Gene(f"g{n}", (0, 1, 2)) for n in range(50)))
    parents = space.sample(400, np.random.default_rng(0))
    rates = np.repeat([0.05, 0.6], 200)
    changed = space.mutate(parents, np.random.default_rng(1), rates) != parents
    assert changed[:200].mean() == pytest.approx(0.05, abs=0.01)
    assert changed[200:].mean() == pytest.approx(0.6, abs=0.02)


def test_encoding_is_one_hot_and_min_max_with_named_columns() -> None:
    space = toy()
    row = space.from_values({"layers": 2, "kernel_rest": 5, "color": "blue", "lr": 0.4})
    named = dict(zip(space.columns, space.encode(row[None])[0].tolist(), strict=True))
    assert named == {
        "layers": 0.5,
        "kernel_rest=3": 0.0,
        "kernel_rest=5": 1.0,
        "color=red": 0.0,
        "color=green": 0.0,
        "color=blue": 1.0,
        "lr": pytest.approx(0.75),
    }


def test_pool_is_distinct_and_feasible() -> None:
    space = get_space("paper_joint")
    column = space.column("resolution")
    pool = space.pool(3000, seed=1, feasible=lambda batch: batch[:, column] <= 2)
    assert len(pool) == 3000
    assert len(np.unique(space.hashes(pool))) == 3000
    assert pool[:, column].max() <= 2
    with pytest.raises(ValueError, match=r"none of .* is feasible"):
        toy().pool(16, seed=0, feasible=lambda batch: np.zeros(len(batch), bool))
    assert len(toy().pool(10_000, seed=0)) == toy().cardinality()


def test_hash_is_exact_in_small_spaces_and_spreads_in_large_ones() -> None:
    assert len(np.unique(packed().hashes(every(packed())))) == packed().cardinality()
    space = get_space("paper_joint")
    batch = space.sample(50_000, np.random.default_rng(0))
    assert space.raw_cardinality() > 2**63
    assert len(np.unique(space.hashes(batch))) == len(np.unique(batch, axis=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space(name="x", genes=()), "empty"),
        (lambda: Gene("a", ()), "no values"),
        (lambda: Gene("a", "relu"), "values is 'relu'; expected a tuple"),  # type: ignore[arg-type]
        (lambda: Gene("a", 3), "values is 3; expected a tuple of values"),  # type: ignore[arg-type]
        (lambda: Space("x", Gene("a", (1,))), "expected a list of genes"),  # type: ignore[arg-type]
        (lambda: Space("x", {"a": (1, 2)}), "expected a list of genes"),  # type: ignore[arg-type]
        (lambda: Gene("a", (1, 1)), "twice"),
        (lambda: Gene("a", (1,), kind="real"), "kind"),
        (lambda: Gene.grid("a", 3, 1), "low <= high"),
        (lambda: Gene.grid("a", 0, 1, 0.3), "not on the grid"),
        (lambda: Space(name="x", genes=(Gene("a", (1,)), Gene("a", (1,)))), "twice"),
        (lambda: Space(name="x", genes=(Gene("a", (1,), when=("b", (1,))),)), "earlier gene"),
        (
            lambda: Gene.from_dict({"name": "a", "values": [1], "when": ["b"]}),
            "expected .gene, values.",
        ),
        (lambda: Gene.from_dict({"name": "a", "values": [1], "colour": 1}), "unknown field 'col"),
        (lambda: Gene.from_dict({"name": "a"}), "lacks the field 'values'"),
        (
            lambda: Space(
                name="x",
                genes=(Gene("a", (1,)), Gene("b", (1,))),
                layout=Layout(recipe={"lr": "$a"}),
            ),
            "'b' is in no cell",
        ),
        (
            lambda: dataclasses.replace(toy(), packs=((("kernel_rest",), 3),)),
            "'kernel_rest' is conditional",
        ),
        (lambda: toy().gene("weight"), "no gene 'weight'; see space.genes"),
        (
            lambda: Space(
                name="x", genes=(Gene("a", (1,)),), layout=Layout(recipe={"lr": "$rate"})
            ),
            r"\$rate",
        ),
        (
            lambda: Space(name="x", genes=(Gene("a", (1,)),), layout=Layout(recipe={"lr": 1})),
            None,
        ),
        (lambda: Space.from_json("{"), "not valid JSON"),
        (lambda: Space.from_json('{"schema": "other"}'), "schema"),
        (lambda: Space.from_json('{"schema": "fbnetv3-space/1", "name": "x"}'), "lacks"),
        (lambda: toy().from_values({"layers": 9}), "cannot be 9"),
        (lambda: toy().from_values({"layers": 1}), "'color' is missing"),
        (lambda: toy().from_values({"shape": 1}), "no gene 'shape'"),
        (lambda: toy().canonical(np.zeros((2, 3), np.int16)), "expects"),
        (lambda: toy().canonical(np.full((2, 4), 7, np.int16)), "outside"),
        (lambda: toy().decode(np.zeros(4, np.int16)), "no network"),
        (lambda: get_space("paper"), "unknown space"),
    ],
)
def test_wrong_spaces_are_refused_in_words(make, message) -> None:  # type: ignore[no-untyped-def]
    if message is None:
        assert make()
        return
    with pytest.raises(ValueError, match=message):
        make()


def test_unused_genes_do_not_make_a_new_candidate() -> None:
    space = toy()
    batch = np.array([[0, 0, 1, 2], [0, 1, 1, 2], [1, 0, 1, 2], [1, 1, 1, 2]], np.int16)
    assert len(space.unique(batch)) == 3
    assert "kernel_rest" not in space.values(batch[1])
    assert math.prod(len(g.values) for g in space.genes) == 90
    assert space.cardinality() == (1 + 2 * 2) * 3 * 5


def _changed(**change: object) -> str:
    fields = {**cifar().to_dict(), **change}
    return json.dumps(fields)


def cifar() -> Space:
    return get_space("cifar_joint")


def _layout(**change: object) -> str:
    return _changed(layout={**cifar().to_dict()["layout"], **change})


def _arch(**change: object) -> str:
    return _layout(arch={**cifar().to_dict()["layout"]["arch"], **change})


def _row(**change: object) -> str:
    rows = cifar().to_dict()["layout"]["arch"]["rows"]
    return _arch(rows=[{**rows[0], **change}, *rows[1:]])


def _gene(**change: object) -> str:
    return _changed(genes=[{"name": "a", **change}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_changed(name=7), "name is 7"),
        (_changed(version="2"), "version is '2'"),
        (_changed(version=True), "version is True"),
        (_changed(genes={}), "genes are {}; expected a list"),
        (_changed(genes=[3]), "a gene is 3; expected a JSON object"),
        (_changed(packs=7), "packs are 7; expected a list"),
        (_changed(packs=[7]), r"a pack is 7; expected \[genes, value\]"),
        (_changed(packs=[[[], 1]]), "expected genes that are in no other pack"),
        (_changed(packs=[[["stem_channels", "stem_channels"], 8]]), "in no other pack"),
        (_gene(), "lacks the field 'values'"),
        (_gene(values=3), "values is 3; expected a list"),
        (_gene(values=[None]), "has the value None"),
        (_gene(values=[float("nan")]), "has the value nan"),
        (_gene(values=[10**400, 1]), "finite number"),
        (_gene(values=[1, 2], color=1), "unknown field 'color'"),
        (_gene(values=[1, 2], kind=["x"]), r"kind is \['x'\]"),
        (_gene(values=[1, 2], confidence=3), "confidence is 3"),
        (_gene(values=[1, 2], when=True), "when is True; expected"),
        (_gene(values=[1, 2], when=["b", 3]), "when is .*; expected"),
        (_gene(values=["x", "y"], kind="int-grid"), "increase in equal steps"),
        (_gene(values=[1, 2, 4], kind="int-grid"), "increase in equal steps"),
        (_gene(low=1, high=9), "lacks the field 'step'"),
        (_gene(low="1", high=9, step=1), "expected numbers low <= high"),
        (_gene(low=0, high=float("inf"), step=1), "expected numbers low <= high"),
        (_gene(low=0, high=10**12, step=1), "too many values"),
        (_gene(low=0, high=1, step=1, kind="choice"), "expected a grid if low is given"),
        (_layout(arch=3), "layout.arch is 3; expected a JSON object"),
        (_layout(recipe=3), "layout.recipe is 3; expected a JSON object"),
        (_layout(recipe={"lr": []}), r"layout.recipe.lr is \[\]; expected text"),
        (_layout(recipe={"x" * 3000: "$none"}), "expected a short name"),
        (_layout(round_widths=1), "round_widths is 1"),
        (_arch(rows=3), "rows is 3; expected a list"),
        (_arch(rows=["row"]), r"rows\[0\] is 'row'; expected a JSON object"),
        (_arch(colour=1), "layout.arch has unknown field 'colour'"),
        (_arch(resolution=[32]), r"layout.arch.resolution is \[32\]"),
        (_row(kernel=[3, 3, 3]), "expected one cell or two"),
        (_row(kernel=[[3], 3]), r"kernel is \[3\]; expected text"),
        (_row(channels="$ema"), "expected a gene with numeric values"),
    ],
)
def test_a_damaged_space_is_refused_by_its_part(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Space.from_json(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_whole_numbers_of_a_float_grid_are_floats_before_and_after_a_file() -> None:
    space = Space("s", (Gene("width", (2, 3), kind="float-grid"), Gene("depth", (1, 2))))
    again = Space.from_json(space.to_json())
    assert again.to_json() == space.to_json()
    assert again.sha256 == space.sha256


def test_a_log_gene_has_equal_ratios_both_ends_and_a_file() -> None:
    gene = Gene.log("lr", 1e-4, 1e-1, recipe=True)
    assert (gene.kind, gene.group) == ("ordered", "recipe")
    assert (gene.values[0], gene.values[-1], len(gene.values)) == (1e-4, 1e-1, 13)
    assert np.allclose(np.diff(np.log10(np.array(gene.values, np.float64))), 0.25, atol=2e-3)
    assert Gene.from_dict(gene.to_dict()) == gene
    assert Gene.log("lr", 1, 100, 3).values == (1.0, 10.0, 100.0)
    assert Gene.grid("width", 16, 64, 16, recipe=True).group == "recipe"
    assert Gene.grid("width", 16, 64, 16).group == "arch"


@pytest.mark.parametrize(
    ("ends", "num", "message"),
    [
        ((0.0, 1.0), None, "expected numbers 0 < low < high"),
        ((1.0, 1.0), None, "expected numbers 0 < low < high"),
        ((1.0, 2.0), 1, "num is 1; expected 2 to 70"),
        ((1.0, 2.0), 71, "num is 71; expected 2 to 70"),
    ],
)
def test_a_log_gene_needs_a_range_and_values_apart(
    ends: tuple[float, float], num: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Gene.log("lr", *ends, num)


def test_a_space_takes_a_list_of_genes_and_keeps_a_tuple() -> None:
    genes = [Gene("a", (1, 2)), Gene("b", (3, 4))]
    space = Space("s", genes)
    assert space.genes == tuple(genes)
    assert space == Space("s", tuple(genes))


def test_a_long_list_of_values_is_checked_at_once() -> None:
    start = time.process_time()
    values = tuple(n / 7 for n in range(4096))
    assert len(Gene("a", values).values) == 4096
    with pytest.raises(ValueError, match="has a value twice"):
        Gene("a", (*values[:-1], values[7] * (1 + 1e-12)))
    assert time.process_time() - start < 1


@pytest.mark.parametrize("value", [10**400, float("nan"), "x" * 9000, [[]], None, True])
def test_a_value_that_no_gene_has_is_refused_in_one_line(value: object) -> None:
    with pytest.raises(ValueError, match="gene 'layers' cannot be") as caught:
        toy().from_values({"layers": value})
    assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="no gene") as caught:
        toy().from_values({"x" * 9000: value})
    assert len(str(caught.value)) < 500


def test_values_of_numpy_are_those_of_python() -> None:
    space = Space(
        "x",
        [
            Gene("width", tuple(np.arange(16, 64, 16))),
            Gene.grid("depth", *np.arange(1, 4)[[0, 2]]),
            Gene("rate", tuple(np.array([0.25, 0.5], np.float32))),
            Gene.log("lr", np.float64(0.01), np.float64(0.1), 2),
        ],
    )
    values = [value for gene in space.genes for value in gene.values]
    assert values == [16, 32, 48, 1, 2, 3, 0.25, 0.5, 0.01, 0.1]
    assert {type(value) for value in values} == {int, float}
    assert Space.from_json(space.to_json()) == space
