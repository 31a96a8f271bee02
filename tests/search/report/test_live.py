"""What a search says while it runs."""

from pathlib import Path

import pytest

from fbnetv3.search.nars.answers import Answer, Contender
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.schedule import describe_plan
from fbnetv3.search.nars.spending import Spending
from fbnetv3.search.report.live import Live, round_line
from fbnetv3.search.report.page import render
from fbnetv3.search.storage.store import Store
from tests.search.killable import PLAN, SPACE, toy


def progress(overdue_s: float) -> dict[str, float | None]:
    return {"done": 1, "failed": 0, "running": 1, "waiting": 0, "seconds_left": None,
            "overdue_s": overdue_s}  # fmt: skip


def test_a_hanging_trial_is_said_with_the_way_out_and_seldom_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.create(tmp_path / "s", {"plan": PLAN.to_dict()}) as store, Live(store) as live:
        for overdue_s in (0.0, 700.0, 800.0, 1500.0):
            live.note("progress", progress(overdue_s))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert all("--timeout SECONDS" in line for line in warnings)


def test_early_stopping_says_why_it_did_not_happen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.create(tmp_path / "s", {"plan": PLAN.to_dict()}) as store, Live(store) as live:
        fields = {"epoch": 9, "found": False, "reason": "labels hardly change", "epochs": 9}
        live.note("early_stop", fields)
    expected = "early stopping: labels hardly change; training all 9 epochs"
    assert expected in capsys.readouterr().err


def test_a_result_without_costs_has_none_in_its_line() -> None:
    best = Contender((0,), (70.0,), {}, 70.0)
    assert round_line(0, Answer({}, (best,), {})).endswith("70.000 +- 0.000 over 1 seed")
    costly = Contender((0,), (70.0,), {"macs": 1e6, "params": 5.0}, 70.0)
    assert round_line(0, Answer({}, (costly,), {})).endswith("seed, macs 1e+06, params 5")


def test_a_rung_that_is_left_out_is_told_with_the_plan_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "12 of them show nothing, with 9.6 to 10.6 where a full training has 51.2"
    plan = {**describe_plan(SearchConfig(trainings=24)), "left_out": {1 / 32: reason}}
    settings = {"space": SPACE.to_dict(), "plan": PLAN.to_dict(), "objective": toy()}
    with Store.create(tmp_path / "s", settings) as store, Live(store) as live:
        live.note("plan", plan)
        Spending(store.folder).keep(left_out=[[1 / 32, reason]])
        page = render(store)
    assert f"none of 1/32 of the final steps: {reason};" in capsys.readouterr().err
    assert f"No trainings of 1/32 of the final steps: {reason}." in page
