"""Latency tables: every operator of a network, sums over spaces, measuring that goes on."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cost.latency_table import LatencyTable, Timing
from fbnetv3.search.cost.operator_timing import calibrate, measure_operators
from fbnetv3.search.cost.operators import Operator, operators_of, operators_of_space
from fbnetv3.search.space.spaces import get_space, recipe_only


def macs(operator: Operator) -> int:
    """Counts an operator by itself, from what it is."""
    if operator.kind == "gate":
        return 2 * operator.inputs * operator.outputs
    after = (operator.side + 2 * operator.padding - operator.kernel) // operator.stride + 1
    weights = operator.inputs // operator.groups * operator.outputs * operator.kernel**2
    return weights * after**2


def invented(operators: list[Operator]) -> LatencyTable:
    timings = {operator: Timing(1e-6 * macs(operator) + 0.01, 0, 0, 1) for operator in operators}
    return LatencyTable(timings, slope=1.5, offset_ms=2.0)


@pytest.mark.parametrize(
    "model", ["fbnetv3_a", "fbnetv3_c", "fbnetv3_g", "fbnetv3_20g", "fbnetv2_l3"]
)
def test_operators_hold_every_multiply_add_of_a_network(model: str) -> None:
    arch = ARCHS[model]
    operators = list(operators_of(arch))
    side = (arch.resolution + 1) // 2
    pooled = arch.head_channels
    for block in arch.blocks():
        if block.kernel > 1:
            side = (side + 2 * block.padding - block.kernel) // block.stride + 1
        pooled += block.mid_channels * side * side * (block.se_channels > 0)
    pooled += arch.head_mid_channels * side * side
    assert sum(map(macs, operators)) == count(arch).macs_paper - pooled


@pytest.mark.parametrize("name", ["cifar_joint", "paper_joint"])
def test_candidates_cost_what_their_networks_do(name: str) -> None:
    space = get_space(name)
    table = invented(operators_of_space(space))
    batch = space.sample(20, np.random.default_rng(0))
    found = table.cost(space)(batch)
    assert found == pytest.approx([table.predict_arch(space.decode(row)[0]) for row in batch])


@pytest.mark.parametrize("model", ["fbnetv3_c", "fbnetv3_20g", "fbnetv2_l3"])
def test_paddings_groups_and_plain_rows_are_operators_too(model: str) -> None:
    space = recipe_only(ARCHS[model])
    table = invented(operators_of_space(space))
    one = space.sample(1, np.random.default_rng(0))
    assert table.cost(space)(one)[0] == pytest.approx(table.predict_arch(ARCHS[model]))


def test_table_survives_json() -> None:
    table = invented(list(operators_of(ARCHS["fbnetv3_nano"])))
    assert LatencyTable.from_json(table.to_json()) == table
    with pytest.raises(ValueError, match="not a latency table"):
        LatencyTable.from_json("{}")
    with pytest.raises(ValueError, match="not in the table"):
        table.predict_arch(ARCHS["fbnetv3_a"])


def test_measuring_goes_on_where_it_ended(tmp_path: Path) -> None:
    space = get_space("cifar_joint")
    archs = [space.decode(row)[0] for row in space.pool(4, seed=0)]
    operators = sorted({o for arch in archs for o in operators_of(arch, num_classes=10)})
    path = tmp_path / "table.json"
    quick = partial(measure_operators, min_runs=3, seconds_each=0.005)
    first = quick(operators[:20], path=path)
    counts: list[tuple[int, int]] = []
    table = quick(operators, path=path, notify=lambda done, total: counts.append((done, total)))
    assert counts[-1] == (len(operators) - 20,) * 2
    assert all(table.timings[operator] == first.timings[operator] for operator in operators[:20])
    assert all(timing.median_ms > 0 for timing in table.timings.values())
    fitted = calibrate(table, archs, num_classes=10, min_runs=3, seconds_each=0.02)
    assert fitted.num_networks == (2, 2)
    assert fitted.slope > 0
    assert fitted.error_pct is not None
    with pytest.raises(ValueError, match="at least 4"):
        calibrate(table, archs[:3])
    with pytest.raises(ValueError, match="use another file"):
        measure_operators(operators, path=path, batch=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timings": 3}, "timings are 3; expected a list"),
        ({"timings": [7]}, r"timings\[0\] is 7; expected a JSON object with kind, inputs"),
        ({"timings": [{"kind": "conv"}]}, r"timings\[0\] is .*expected a JSON object"),
        ({"num_networks": [1]}, r"num_networks is \[1\]; expected two counts"),
        ({"num_networks": None}, "num_networks is None"),
        ({"slope": "1"}, "slope is '1'; expected a finite number"),
        ({"offset_ms": float("nan")}, "offset_ms is nan"),
        ({"error_pct": []}, "error_pct is"),
        ({"device": 1}, "device is 1; expected a JSON object"),
        ({"speed": 1}, "unknown field 'speed'"),
    ],
)
def test_a_damaged_table_is_refused_by_field(change: dict[str, object], message: str) -> None:
    table = invented(list(operators_of(ARCHS["fbnetv3_nano"])))
    fields = json.loads(table.to_json())
    with pytest.raises(ValueError, match=message):
        LatencyTable.from_json(json.dumps({**fields, **change}))
    for cell, value in (("kind", 1), ("inputs", 1.5), ("median_ms", -1), ("num_runs", "9")):
        row = {**fields["timings"][0], cell: value}
        with pytest.raises(ValueError, match=rf"timings\[0\]: {cell} is {value!r}; expected"):
            LatencyTable.from_json(json.dumps({**fields, "timings": [row]}))
    del fields["timings"]
    with pytest.raises(ValueError, match="lacks field 'timings'"):
        LatencyTable.from_json(json.dumps(fields))
