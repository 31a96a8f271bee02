"""The frontier's page is what the figures give, and the figures are the published ones."""

from __future__ import annotations

import csv
import re
import xml.dom.minidom
from pathlib import Path
from types import ModuleType

import pytest

from fbnetv3.hub.published import published
from tests.modules import benchmark
from tests.paths import ROOT

RESULTS = ROOT.parent / "shared" / "data" / "timm_results"


@pytest.fixture(scope="module")
def frontier() -> ModuleType:
    return benchmark("latency.frontier")


def test_the_page_is_what_the_figures_give(frontier: ModuleType) -> None:
    assert frontier.PAGE.read_text() == frontier.render()


def test_the_picture_shows_every_family_and_follows_the_scheme(frontier: ModuleType) -> None:
    text = frontier.PICTURE.read_text()
    xml.dom.minidom.parseString(text)
    assert all(f">{family}<" in text for family in {row.family for row in published()})
    assert "prefers-color-scheme: dark" in text
    assert len(text.encode()) < 80_000


def test_the_papers_share_follows_from_its_own_figures(frontier: ModuleType) -> None:
    text = frontier.sentences(frontier.latencies())
    # 1 - 2.13/4.2, and 5.37 G of ResNeSt-50 over 762 M.
    assert "authors state, 49.3 %" in text
    assert "By our count 7.05 times" in text


def test_a_front_holds_what_nothing_else_beats(frontier: ModuleType) -> None:
    rows = published()
    front = frontier.front(rows, lambda row: float(row.macs))
    for row in rows:
        beaten = any(f.macs <= row.macs and f.top1_pct > row.top1_pct for f in front)
        assert beaten or row in front or any(f.top1_pct == row.top1_pct for f in front)


@pytest.mark.skipif(not RESULTS.is_dir(), reason="timm's results are not at hand")
def test_accuracies_and_costs_are_those_that_timm_publishes() -> None:
    def column(name: str, key: str, size: str) -> dict[tuple[str, int], float]:
        with Path(RESULTS / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {(row["model"], int(row[size])): float(row[key]) for row in rows}

    top1 = column("results-imagenet.csv", "top1", "img_size")
    gpu = "benchmark-infer-amp-nchw-pt291-cu130-5090-dynamo.csv"
    gmacs = column(gpu, "infer_gmacs", "infer_img_size")
    rows = [row for row in published() if row.source == "timm"]
    assert len(rows) > 200
    assert [row for row in rows if top1[row.name, row.resolution] != row.top1_pct] == []
    # timm counts batch-norm and activations too, and rounds to 0.01 G.
    compared = [row for row in rows if (row.model, row.resolution) in gmacs]
    assert len(compared) > 100
    for row in compared:
        theirs = gmacs[row.model, row.resolution] * 1e9
        assert -0.08 * theirs - 1e7 <= row.macs - theirs <= 0.02 * theirs + 1e7, row


def test_no_weights_have_seen_more_than_imagenet() -> None:
    more = re.compile(r"in12k|in21k|jft|swsl|ssl")
    assert [row.name for row in published() if more.search(row.name)] == []
