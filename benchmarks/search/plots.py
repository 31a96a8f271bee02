"""Plots of the search benchmark: one self-contained HTML page from the rows of its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fbnetv3.search.report.plots import Series, bars, chart
from fbnetv3.search.report.templates import render

COLOURS = ("c0", "c1", "c2", "accent", "ink", "soft", "r6", "r3")
# Drawn where they were run, in this order of colours; the tables have all.
DRAWN = ("nars", "nars_gp", "gp_ei_48", "gp_ei_8", "tpe_free", "evolution", "random", "hyperband")
ARMS = ("nars", "nars_scratch", "paper", "paper_scratch", "gp", "gp_costs", "cost")
PROBLEMS = {"U": "no limit", "C": "cost at most its 40th percentile", "M": "four limits at once"}


def write_plots(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the page of all tables of a summary."""
    sections = []
    for name, rows in summary.items():
        what, _, table = name.partition("_")
        if what == "regret" and not table.endswith("_claims"):
            for problem in sorted({row["problem"] for row in rows}):
                own = [row for row in rows if row["problem"] == problem]
                drawn = _bars(own) if problem == "M" else _curves(own)
                sections.append((f"Regret, {table}: {PROBLEMS[problem]}", drawn))
        elif what == "predictors" and not table.endswith("_efficiency"):
            sections.append((f"Predictors, {table}: rank correlation", _arms(rows, "tau")))
            sections.append((f"Predictors, {table}: error", _arms(rows, "mse_median")))
    text = (
        "Median regret and quartiles over runs; labels are single trainings, the truth is the mean "
        "over seeds."
    )
    path.write_text(render("page.html", title="Search benchmark", text=text, sections=sections))


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns median and quartiles against trainings, a colour for each method."""
    series = []
    for number, (method, css) in enumerate(zip(DRAWN, COLOURS, strict=True)):
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        place = [row["budget"] + 2.0 * (number - len(DRAWN) / 2) for row in own]
        ends = [end for row in own for end in (row["q25"], row["q75"])]
        series.append(Series(method, place, [row["median"] for row in own], "line", css))
        series.append(Series("", [x for x in place for _ in range(2)], ends, "spans", css))
    return chart(series, x="trainings", y="regret")


def _bars(rows: Sequence[Mapping[str, Any]]) -> str:
    return bars([(row["method"], row["mean"]) for row in rows], name="mean regret", unit="")


def _arms(rows: Sequence[Mapping[str, Any]], figure: str) -> str:
    series = []
    for arm, css in zip(ARMS, COLOURS, strict=False):
        own = [row for row in rows if row["predictor"] == arm and row[figure] is not None]
        if own:
            x, y = [row["labels"] for row in own], [row[figure] for row in own]
            series.append(Series(arm, x, y, "line", css))
    return chart(series, x="labels", y=figure)
