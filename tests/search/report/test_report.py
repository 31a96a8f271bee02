"""The report: one page, nothing fetched, every trial in it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.search.report.page import pareto, render, write_report
from fbnetv3.search.report.svg import Series, bars, chart, short
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal
from tests.search.killable import PLAN, SPACE, toy

SETTINGS = {"space": SPACE.to_dict(), "plan": PLAN.to_dict(), "objective": toy()}


class Outline(HTMLParser):
    """Collects tags, checks that they close, and what they refer to."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def make_store(folder: Path, num: int = 30) -> Store:
    store = Store.create(folder, SETTINGS)
    rows = SPACE.unique(SPACE.sample(3 * num, np.random.default_rng(0)))[:num]
    proposals = [
        Proposal(tuple(row.tolist()), {"macs": 100.0 + n}, 4, 0, n % 8, 70.0 + n,
                 value=60 + n / 3)
        for n, row in enumerate(rows)
    ]  # fmt: skip
    state = np.random.default_rng(0).bit_generator.state
    store.add_batch(Batch(0, "random", state, ""), proposals[: num // 2])
    store.add_batch(Batch(1, "bins", state, "gp"), proposals[num // 2 :])
    return store


def test_page_is_whole_and_refers_to_nothing(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        write_report(store, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    outline = Outline(text)
    assert outline.open == []
    assert outline.links == []
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "All trials" in outline.headings


def test_every_trial_is_in_the_table(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        text = render(store)
        ids = [trial.id[:10] for trial in store.trials()]
    found = re.search(r"<script type='application/json' id='data'>(.*?)</script>", text)
    assert found is not None
    data = json.loads(found[1])
    assert [row[1] for row in data["rows"]] == ids
    assert all(len(row) == len(data["head"]) for row in data["rows"])


def test_text_of_users_cannot_leave_its_place(tmp_path: Path) -> None:
    with make_store(tmp_path / "<b>s") as store:
        (trial,) = store.trials()[:1]
        store.release(trial, "</script><script>alert(1)</script>", 1)
        text = render(store)
    assert "<script>alert" not in text
    assert "<b>s" not in text


def test_page_of_a_search_that_has_just_begun(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s", SETTINGS) as store:
        assert Outline(render(store)).open == []


def test_front_is_what_nothing_else_beats() -> None:
    points = [(3.0, 5.0), (1.0, 1.0), (2.0, 4.0), (2.0, 3.0), (4.0, 5.0), (2.5, 3.9)]
    assert pareto(points) == [(1.0, 1.0), (2.0, 4.0), (3.0, 5.0)]


def test_points_stand_where_their_numbers_are() -> None:
    text = chart([Series("", [0, 1, 2], [10, 30, 20])], x="x", y="y")
    places = [tuple(map(float, p)) for p in re.findall(r"cx='?\"?([\d.]+)\"? cy=\"([\d.]+)", text)]
    assert len(places) == 3
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y2 > y1
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.2)


def test_points_far_below_are_drawn_at_the_edge_and_counted() -> None:
    values = [90.0 + n / 10 for n in range(20)] + [10.0]
    series = [Series("", list(range(21)), values)]
    plain, cut = (chart(series, x="x", y="y", cut_tail=cut) for cut in (False, True))
    assert "1 points below" in cut
    assert "points below" not in plain
    assert cut.count("<circle") == 21


def test_numbers_that_are_none_are_left_out() -> None:
    text = chart([Series("", [0, 1, 2], [1, float("nan"), 2])], x="x", y="y")
    assert text.count("<circle") == 2
    assert "Nothing to draw" in chart([Series("", [], [])], x="x", y="y")
    assert "Nothing to draw" in bars([], unit="%")


@pytest.mark.parametrize(
    ("value", "text"), [(1.2e6, "1.2M"), (0, "0"), (512, "512"), (2.5e9, "2.5G"), (0.05, "0.05")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_spans_reach_from_one_end_to_the_other() -> None:
    text = chart([Series("", [1, 1, 3, 3], [2, 5, 1, 5], "spans")], x="x", y="y")
    strokes = re.findall(r"M([\d.]+),([\d.]+)L([\d.]+),([\d.]+)", text)
    assert len(strokes) == 2
    for x, y, x_end, y_end in strokes:
        assert x == x_end
        assert float(y) > float(y_end)
