"""The tables inside pages are those that the records give."""

import json
from typing import Any

import pytest

from tests.modules import benchmark


def _budgets() -> str:
    records = benchmark("records")
    lines = records.read_lines(records.RESULTS / "search" / "budgets.jsonl")
    return str(benchmark("search.budget_report").block(lines))


def _wide() -> str:
    wide = benchmark("search.wide")
    return str(wide.block(wide.read_lines(wide.PATH), "spaces"))


def _policies() -> str:
    policies = benchmark("search.policies")
    return str(policies.table(policies.read_lines(policies.PATH)))


def _latency() -> str:
    records = benchmark("records")
    return str(
        benchmark("latency.report").block(records.read_lines(records.RESULTS / "latency.jsonl"))
    )


def _startup() -> str:
    record = json.loads((benchmark("records").RESULTS / "startup.json").read_text())
    return str(benchmark("latency.startup").table(record["rows"]))


@pytest.mark.parametrize(
    ("page", "name", "content"),
    [
        ("SEARCH_PAGE", "budgets", _budgets),
        ("SEARCH_PAGE", "wide", _wide),
        ("SEARCH_PAGE", "policies", _policies),
        ("PERFORMANCE_PAGE", "latency", _latency),
        ("PERFORMANCE_PAGE", "startup", _startup),
    ],
)
def test_a_table_of_a_page_has_not_drifted(page: str, name: str, content: Any) -> None:
    records = benchmark("records")
    text = getattr(records, page).read_text()
    assert records.with_block(text, name, content()) == text
