"""The page and the picture of `budgets`: mean regret of each method with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.records import SEARCH_PAGE, write_block

# The order of the page; the first are drawn too.
METHODS = {
    "ours": "ours, `run(trainings=N)`",
    "random": "random",
    "evolution": "regularized evolution",
    "optuna_tpe_multivariate": "Optuna TPE, multivariate",
    "optuna_gp": "Optuna GP",
    "gp_ei_1": "GP, expected improvement",
    "gp_ei_8": "GP, expected improvement, 8 at a time",
    "smac": "SMAC3",
    "ours_cost": "ours by cost, `run(budget=N)`",
    "asha": "ASHA (Optuna)",
    "hyperband": "Hyperband with TPE (Optuna)",
    "pbt": "PBT",
    "curve_gp": "GP over curves (DyHPO-like)",
}
COLOURS = ("#c0392b", "0.6", "#7f6000", "#1f77b4", "#17becf", "#2ca02c", "#98df8a", "#9467bd")
FEWEST = 3

Cell = tuple[float, float, int]


def cells_of(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, int], Cell]:
    """Returns (table, problem, method, budget) -> mean, half of its 95 % interval, n."""
    groups: dict[tuple[str, str, str, int], list[float]] = {}
    for line in lines:
        key = (line["table"], line["problem"], line["method"], line["budget"])
        groups.setdefault(key, []).append(line["regret"])
    return {key: spread(values) for key, values in groups.items()}


def spread(values: Sequence[float]) -> Cell:
    """Returns mean, half of the 95 % interval, and number of values."""
    num = len(values)
    if num < 2:
        return float(np.mean(values)), float("nan"), num
    half = float(student.ppf(0.975, num - 1) * np.std(values, ddof=1) / num**0.5)
    return float(np.mean(values)), half, num


def lead(lines: Sequence[Mapping[str, Any]], ours: Any, peer: Any) -> tuple[float, float]:
    """Returns the peer's mean regret less ours, and half of its 95 % interval (Welch)."""
    a, b = (
        np.array(
            [
                line["regret"]
                for line in lines
                if (line["table"], line["problem"], line["method"], line["budget"]) == key
            ]
        )
        for key in (ours, peer)
    )
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return float(b.mean() - a.mean()), 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(b.mean() - a.mean()), float(student.ppf(0.975, freedom) * (va + vb) ** 0.5)


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean, half, num = cell
    spread = f" +- {half:.2g}" if np.isfinite(half) else ""
    return f"{mean:.3g}{spread} ({num})"


def beside(lines: Sequence[Mapping[str, Any]], problem: str) -> list[str]:
    """Returns the rows of ours beside the best peer of each table and budget."""
    cells = cells_of([line for line in lines if line["problem"] == problem])
    rows = []
    for table in sorted({key[0] for key in cells}):
        for budget in sorted({key[3] for key in cells if key[0] == table}):
            own = (table, problem, "ours", budget)
            peers = {
                key[2]: cell
                for key, cell in cells.items()
                if (key[0], key[3]) == (table, budget)
                and not key[2].startswith("ours")
                and cell[2] >= FEWEST
            }
            if own not in cells or cells[own][2] < FEWEST or not peers:
                continue
            best = min(peers, key=lambda name: peers[name][0])
            gap, half = lead(lines, own, (table, problem, best, budget))
            word = "ahead" if gap > half else "behind" if gap < -half else "level"
            rows.append(
                f"| {table} | {budget} | {_text(cells[own])} | {METHODS.get(best, best)} | "
                f"{_text(peers[best])} | {gap:+.3g} +- {half:.2g} | {word} |"
            )
    return rows


def relative(lines: Sequence[Mapping[str, Any]], problem: str) -> list[str]:
    """Returns the rows of regret over that of random search, mean over tables."""
    cells = cells_of([line for line in lines if line["problem"] == problem])
    budgets = sorted({key[3] for key in cells})
    rows = []
    for method, name in METHODS.items():
        texts = []
        for budget in budgets:
            shares = [
                cell[0] / cells[key[0], problem, "random", budget][0]
                for key, cell in cells.items()
                if key[2:] == (method, budget)
                and cell[2] >= FEWEST
                and cells.get((key[0], problem, "random", budget), (0.0,))[0] > 0
            ]
            texts.append(f"{np.mean(shares):.2f} ({len(shares)})" if shares else "")
        if any(texts):
            rows.append(f"| {name} | {' | '.join(texts)} |")
    head = f"| method | {' | '.join(map(str, budgets))} |"
    return [head, "|---" * (len(budgets) + 1) + "|", *rows]


def text_of(lines: Sequence[Mapping[str, Any]], table: str, problem: str) -> list[str]:
    """Returns the rows of all methods on a table, for each budget."""
    cells = cells_of(
        [line for line in lines if (line["table"], line["problem"]) == (table, problem)]
    )
    budgets = sorted({key[3] for key in cells})
    rows = [f"| method | {' | '.join(map(str, budgets))} |", "|---" * (len(budgets) + 1) + "|"]
    for method, name in METHODS.items():
        own = [cells.get((table, problem, method, budget)) for budget in budgets]
        if any(own):
            rows.append(f"| {name} | {' | '.join(map(_text, own))} |")
    return rows


def block(lines: Sequence[Mapping[str, Any]], what: str = "tables") -> str:
    """Returns what SEARCH.md shows."""
    intro = "Regret divided by that of random search, mean over"
    return "\n".join([f"{intro} {what} (their number in parentheses):", "", *relative(lines, "U")])


def write_report(
    folder: Path, lines: Sequence[Mapping[str, Any]], page: Path = SEARCH_PAGE
) -> None:
    """Writes budgets.md and budgets.svg of all lines, and their block of a page."""
    text = [
        "# Regret at small budgets",
        "",
        "Written by `python -m benchmarks.search.budgets --report`. Regret: what the answer lacks",
        "to the best candidate of the table, by the mean over its trainings, in the unit of the",
        "table's labels (points of accuracy; FCNet: -log10 of the loss). Mean +- half of the 95 %",
        "interval over searches, their number in parentheses. ",
        "[SEARCH.md](../../SEARCH.md) has tables and rules.",
    ]
    for problem in sorted({line["problem"] for line in lines}, reverse=True):
        where = {"U": "without a limit", "C": "cost at most its 40th percentile"}[problem]
        text += ["", f"## Beside the best peer, {where}", ""]
        text += ["The best peer is the one that turned out best for the table and the budget.", ""]
        text += ["| table | trainings | ours | best peer | its regret | lead of ours | |"]
        text += ["|---|---|---|---|---|---|---|", *beside(lines, problem)]
        text += ["", f"## Relative to random search, {where}", ""]
        text += ["Mean over tables (their number in parentheses) of the ratio of mean regrets.", ""]
        text += relative(lines, problem)
        cells = cells_of([line for line in lines if line["problem"] == problem])
        for table in sorted({key[0] for key in cells}):
            text += ["", f"## {table}, {where}", "", *text_of(lines, table, problem)]
    (folder / "budgets.md").write_text("\n".join(text) + "\n")
    _draw(folder / "budgets.svg", [line for line in lines if line["problem"] == "U"])
    write_block(page, "budgets", block(lines))


def _draw(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draws mean regret against trainings, a panel for each table."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    cells = cells_of(lines)
    tables = sorted({key[0] for key in cells})
    if not tables:
        return
    # Typed by name in matplotlib, one literal for each of its parameters.
    style: Any = {"svg.hashsalt": "fbnetv3", "svg.fonttype": "none", "font.size": 8}
    with mpl.rc_context(style):
        rows = -(-len(tables) // 4)
        figure = Figure(figsize=(12, 2.6 * rows + 0.5), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, 4, squeeze=False).flat
        for axes, table in zip(panels, tables, strict=False):
            for method, colour in zip(METHODS, COLOURS, strict=False):
                own = {k[3]: c for k, c in cells.items() if k[0] == table and k[2] == method}
                x = sorted(budget for budget, cell in own.items() if cell[2] >= FEWEST)
                if x:
                    y = [own[budget][0] for budget in x]
                    low = [max(own[n][0] - own[n][1], own[n][0] / 4) for n in x]
                    high = [own[n][0] + own[n][1] for n in x]
                    wide = 2.2 if method == "ours" else 1.0
                    axes.plot(x, y, color=colour, label=METHODS[method].split(",")[0], lw=wide)
                    axes.fill_between(x, low, high, color=colour, alpha=0.08, lw=0)
            axes.set(title=table, xscale="log", yscale="symlog" if _has_zero(own) else "log")
            axes.set_xticks([24, 48, 96, 240], ["24", "48", "96", "240"], minor=False)
            axes.minorticks_off()
        for axes in list(figure.axes)[len(tables) :]:
            axes.set_axis_off()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _has_zero(cells: Mapping[int, Cell]) -> bool:
    return any(cell[0] <= 0 for cell in cells.values())
