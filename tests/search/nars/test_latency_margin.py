"""Limits on latency: a margin for the error of the table, and a warning where it is large."""

from pathlib import Path

import pytest

from fbnetv3.search.cost.latency_table import LatencyTable, Timing
from fbnetv3.search.cost.operators import operators_of_space
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.latency_margin import keep_margin, margin_note
from fbnetv3.search.nars.run import create_search
from fbnetv3.search.space.spaces import get_space
from tests.search.killable import INFINITE, toy


def table(error_pct: float | None) -> LatencyTable:
    return LatencyTable({}, error_pct=error_pct, num_networks=(20, 20))


def test_a_network_that_is_slower_by_the_tables_error_still_keeps_the_limit() -> None:
    limit = {"latency_ms": (2.0, 5.0), "macs": (0.0, 9.0)}
    kept = keep_margin(limit, table(25.0))
    assert kept == {"latency_ms": (2.5, 4.0), "macs": (0.0, 9.0)}
    assert keep_margin({"latency_ms": (-INFINITE, 5.0)}, table(None)) == {
        "latency_ms": (-INFINITE, 5.0)
    }
    assert keep_margin({"macs": (0.0, 9.0)}, table(25.0)) == {"macs": (0.0, 9.0)}


@pytest.mark.parametrize(
    ("error_pct", "expected"),
    [
        (69.0, r"^warning: .* off by 69.0 % on 20 models .*latency_ms<=5 is searched as "
               r"latency_ms<=2.959; measure it again"),
        (4.0, r"^the latency table is off by 4.0 % .*latency_ms<=5 is searched as "
              r"latency_ms<=4.808$"),
        (None, "^warning: the error of this latency table is not known"),
    ],
)  # fmt: skip
def test_the_tables_error_is_said(error_pct: float | None, expected: str) -> None:
    note = margin_note(table(error_pct), [{"latency_ms": (-INFINITE, 5.0)}, {}])
    with pytest.raises(ValueError, match=expected):
        raise ValueError(note)


def test_nothing_is_said_without_a_limit_on_latency() -> None:
    assert margin_note(table(69.0), [{}, {"macs": (0.0, 1.0)}]) == ""


def test_a_search_is_within_its_limit_less_the_margin(tmp_path: Path) -> None:
    space = get_space("cifar_joint")
    timing = Timing(0.1, 0.1, 0.1, 9)
    timings = dict.fromkeys(operators_of_space(space, num_classes=1000), timing)
    plan = SearchConfig(
        pool=64, batch=8, rounds=1, limits=({"latency_ms": (-INFINITE, 4.0)},), predictor="gp"
    )
    latency = LatencyTable(timings, error_pct=10.0, num_networks=(20, 20))
    folder = tmp_path / "s"
    with create_search(folder, space=space, objective=toy(), config=plan, latency=latency) as store:
        (limit,) = SearchConfig.from_dict(store.settings["plan"]).limits
    assert limit["latency_ms"][1] == pytest.approx(4 / 1.1)
