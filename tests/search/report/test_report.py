"""The report: one page, nothing fetched, every trial in it."""

import os
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fbnetv3.search.report import templates
from fbnetv3.search.report.page import render, write_report
from fbnetv3.search.report.plots import Series, bars, chart
from fbnetv3.search.report.words import short
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal
from tests.browser import chromium
from tests.contrast import contrast
from tests.search.killable import PLAN, SPACE, toy

SETTINGS = {"space": SPACE.to_dict(), "plan": PLAN.to_dict(), "objective": toy()}


class Outline(HTMLParser):
    """Collects tags, checks that they close, and what they refer to."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        elif self.open[-2:] == ["use", "title"]:
            self.titles.append(data)


def points(text: str) -> list[tuple[float, float]]:
    """Returns where the points of a chart are, from its left upper corner."""
    found = re.findall(r'<use href="#[^"]+" x="([\d.]+)" y="([\d.]+)"', text)
    return [(float(x), float(y)) for x, y in found]


BEST_ON_A_PHONE = """(() => {
    const box = document.createElement("div");
    box.className = "scroll";
    box.innerHTML = `<table><thead><tr><th>#</th><th class="text">limit</th>
        <th>label, mean over seeds</th></tr></thead><tbody><tr><td>0</td>
        <td class="text">macs_paper&lt;=1.5M</td><td><b>87.98 \u00b1 0.123</b></td></tr>
        </tbody></table>`;
    document.querySelector("main section").append(box);
    return box.scrollWidth - box.clientWidth;
})()"""


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
    ids = {attrs.get("id") for _, attrs in outline.tags}
    assert {link.removeprefix("#") for link in outline.links} <= ids, "only its own markers"
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "All trials" in outline.headings


def test_every_trial_is_in_the_table(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        rows = Outline(render(store)).rows
        trials = store.trials()
    head, *body = rows[-len(trials) - 1 :]
    assert head[:3] == ["#", "id", "kind"]
    assert [row[1] for row in body] == [trial.id[:10] for trial in trials]
    assert all(len(row) == len(head) for row in body)


def test_every_point_says_which_trial_it_is(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        titles = Outline(render(store)).titles
        trials = store.trials()
    for trial in trials:
        assert any(title.startswith(f"{trial.id[:10]}: ") for title in titles)
    # Label against cost, its round, best so far; the second batch also with what was expected.
    assert len(titles) == 3 * len(trials) + len(trials) // 2


def test_pictures_and_tables_can_be_read_aloud(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        tags = Outline(render(store)).tags
    pictures = [attrs for tag, attrs in tags if tag == "svg"]
    assert pictures
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert pictures[0]["aria-label"] == (
        "label against macs: random (15 points), round 1 (15 points), Pareto front (30 points)"
    )
    heads = [attrs for tag, attrs in tags if tag == "th"]
    assert heads
    assert all(attrs["scope"] == "col" for attrs in heads)
    assert all(attrs.get("aria-label") for tag, attrs in tags if tag in ("input",))
    # The number of trials that a filter leaves is said; nothing jumps the order of the page.
    assert ("span", {"id": "where", "role": "status"}) in tags
    assert {attrs["tabindex"] for _, attrs in tags if "tabindex" in attrs} == {"0"}
    assert all(attrs["aria-label"] for _, attrs in tags if attrs.get("role") == "region")


def test_colours_are_those_of_a_light_or_a_dark_page(tmp_path: Path) -> None:
    with make_store(tmp_path / "s") as store:
        text = render(store)
    drawn = "".join(re.findall("<svg.*?</svg>", text, re.DOTALL))
    assert not re.findall("(?:fill|stroke): *#", drawn)
    used = set(re.findall(r"var\(--(\w+)\)", text))
    style = text[: text.index("</style>")]
    assert all(style.count(f"--{name}:") == 2 for name in used)


def test_equal_searches_give_equal_bytes(tmp_path: Path) -> None:
    make_store(tmp_path / "s").close()
    script = (
        "import sys, pathlib; from fbnetv3.search.storage.store import Store;"
        "from fbnetv3.search.report.page import write_report;"
        "write_report(Store.read(pathlib.Path('s')), pathlib.Path(sys.argv[1]))"
    )
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 7\nfont.size: 30\n")
    for seed, rc in (("1", os.devnull), ("2", "matplotlibrc")):
        changed = {"PYTHONHASHSEED": seed, "MATPLOTLIBRC": rc}
        command = [sys.executable, "-c", script, f"{seed}.html"]
        subprocess.run(command, cwd=tmp_path, env=os.environ | changed, check=True)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


EVIL = "</script><script>alert(1)</script><b>\"'"


def test_text_of_users_cannot_leave_its_place(tmp_path: Path) -> None:
    space = Space(EVIL, (Gene(EVIL, (0, 1), kind="ordered"), Gene("g", (EVIL, "x"))))
    settings = {"space": space.to_dict(), "plan": PLAN.to_dict(), "objective": toy()}
    with Store.create(tmp_path / "<b>s", settings) as store:
        state = np.random.default_rng(0).bit_generator.state
        proposals = [Proposal((n, n), {EVIL: 1.0 + n}, 4, 0, n, 70.0, value=60.0 + n)
                     for n in range(2)]  # fmt: skip
        store.add_batch(Batch(0, "bins", state, ""), proposals)
        store.release(store.trials()[0], EVIL, 1)
        limit = {EVIL: [None, 5.0]}
        best = {"genes": {EVIL: EVIL}, "mean": 1.0, "sd": 0.0, "labels": [1.0], "costs": {EVIL: 1}}
        store.set_stage(
            "answers",
            {
                "answers": [
                    {"limit": limit, "contenders": [best], "nearest": {}},
                    {"limit": limit, "contenders": [], "nearest": {EVIL: 9.0}},
                ]
            },
        )
        store.set_stage("importance", {"genes": {EVIL: 0.5}})
        cost = {"r2": 1.0, "predicted": [1.0], "truth": [1.0]}
        store.set_stage("pretraining", {"costs": {EVIL: cost}, "pool": 5})
        text = render(store)
    outline = Outline(text)
    assert outline.open == []
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<b>s" not in text


@pytest.mark.needs("chromium")
def test_the_table_is_sorted_filtered_and_turned_over(tmp_path: Path) -> None:
    with make_store(tmp_path / "s", num=60) as store:
        first, second = store.trials()[:2]
        store.release(first, "out of memory", 1)
        write_report(store, tmp_path / "report.html")
    page_is_there = """new Promise(done => {
        const there = () => document.querySelector("#where")?.textContent;
        const look = () => there() ? done() : setTimeout(look);
        look();
    })"""
    with chromium(tmp_path / "profile") as page:
        page.send("Page.navigate", url=(tmp_path / "report.html").as_uri())
        page.evaluate(page_is_there)

        def column(number: int) -> list[str]:
            cells = f"[...trials.tBodies[0].rows].map(row => row.cells[{number}].textContent)"
            found: list[str] = page.evaluate(cells)
            return found

        def where() -> str:
            return str(page.evaluate("where.textContent"))

        def click(number: int) -> str:
            head = f"trials.tHead.rows[0].cells[{number}]"
            page.evaluate(f"{head}.querySelector('button').click()")
            return str(page.evaluate(f"{head}.ariaSort"))

        assert where() == "60 trials, page 1 of 2"
        assert column(1)[:2] == [first.id[:10], second.id[:10]]
        assert click(5) == "descending"
        labels = [float(text) for text in column(5)]
        assert labels == sorted(labels, reverse=True)
        assert click(5) == "ascending"
        labels = [float(text) for text in column(5)]
        assert labels == sorted(labels)
        page.evaluate("on.click()")
        assert where() == "60 trials, page 2 of 2"
        assert column(1)[-1] == first.id[:10], "without a label, so last in both orders"
        page.evaluate("filter.value = 'Memory'; filter.oninput()")
        assert where() == "1 trial, page 1 of 1"
        assert column(1) == [first.id[:10]]
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=844,
            deviceScaleFactor=1,
            mobile=True,
        )
        hidden = page.evaluate(BEST_ON_A_PHONE)
        assert hidden == 0, "limit and label of a winner are seen on a phone without scrolling"


def test_names_are_drawn_as_they_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = chart([Series("", [1], [2])], x="$x^2$ \x01\N{CJK UNIFIED IDEOGRAPH-6A21}", y="a_b")
        drawn = bars([("$a$" * 27, 1.0)], name="n", unit="%")
    assert "$x^2$ \\x01\N{CJK UNIFIED IDEOGRAPH-6A21}</text>" in text
    assert f"{'$a$' * 9}$...</text>" in drawn


def test_page_of_a_search_that_has_just_begun(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s", SETTINGS) as store:
        assert Outline(render(store)).open == []


def test_points_stand_where_their_numbers_are() -> None:
    (x0, y0), (x1, y1), (x2, y2) = points(
        chart([Series("", [0, 1, 2], [10, 30, 20])], x="x", y="y")
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y0 > y2 > y1
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.02)


def test_points_far_below_are_drawn_at_the_edge_and_counted() -> None:
    values = [90.0 + n / 10 for n in range(20)] + [10.0]
    series = [Series("", list(range(21)), values)]
    plain, cut = (chart(series, x="x", y="y", cut_tail=cut) for cut in (False, True))
    assert "1 points below" in cut
    assert "points below" not in plain
    assert len(points(cut)) == 21
    assert max(y for _, y in points(cut)[:20]) > 2 * max(y for _, y in points(plain)[:20])


def test_numbers_that_are_none_are_left_out() -> None:
    titles = ["a", "b", "c"]
    series = Series("", [0, 1, 2], [1, float("nan"), 2], titles=titles)
    text = chart([series], x="x", y="y")
    assert len(points(text)) == 2
    assert Outline(text).titles == ["a", "c"]
    assert "Nothing to draw" in chart([Series("", [], [])], x="x", y="y")
    assert "Nothing to draw" in bars([], name="n", unit="%")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.2e6, "1.2M"),
        (0, "0"),
        (512, "512"),
        (2.5e9, "2.5G"),
        (0.05, "0.05"),
        (5.681e16, "5.68e+16"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("number", "card"), [(0, "#ffffff"), (1, "#1c232a")])
def test_what_is_drawn_stands_out_from_a_light_and_from_a_dark_card(number: int, card: str) -> None:
    style = (Path(templates.__file__).with_name("html") / "style.css").read_text()
    assert f"--card:{card[:4] if number == 0 else card}" in style
    for name, pair in templates.COLOURS.items():
        # WCAG asks for 3 of what is drawn, for 4.5 of text; lines of a grid may be faint.
        least = {"line": 1.2, "ink": 4.5, "soft": 4.5}.get(name, 3.0)
        assert contrast(pair[number], card) >= least, name


def test_spans_reach_from_one_end_to_the_other() -> None:
    text = chart([Series("", [1, 1, 3, 3], [2, 5, 1, 5], "spans", "c2")], x="x", y="y")
    strokes = re.findall(r'd="M ([\d.]+) ([\d.]+) +L ([\d.]+) ([\d.]+) *"[^>]+--c2', text)
    assert len(strokes) == 2
    for x, y, x_end, y_end in strokes:
        assert x == x_end
        assert float(y) > float(y_end)


@pytest.mark.parametrize("kept", ["space", "plan"])
def test_a_folder_without_space_or_config_is_refused_in_words(tmp_path: Path, kept: str) -> None:
    Store.create(tmp_path / "s", {kept: SETTINGS[kept]}).close()
    with (
        Store.read(tmp_path / "s") as store,
        pytest.raises(ValueError, match=r"settings have no '\w+'; expected those of a search that"),
    ):
        write_report(store, tmp_path / "r.html")
