"""One self-contained HTML page about a search, finished or not: no request leaves the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.files import write_atomically
from fbnetv3.measure.plot import pareto
from fbnetv3.search.execution.spec import plan_of, space_of
from fbnetv3.search.nars.labels import EARLIER, FINAL, SEARCH_KINDS
from fbnetv3.search.nars.limit import limit_text
from fbnetv3.search.nars.prior import prior_title
from fbnetv3.search.nars.spending import LEFT_OUT, spent_of
from fbnetv3.search.nars.status import status_of
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Trial

from .plots import Series, bars, chart
from .templates import render as fill_in
from .words import duration, share_text, short

NUM_TINTS = 7
MOST_GENES = 16


def write_report(store: Store, path: str | Path) -> None:
    """Writes the page.

    Raises:
        OSError: the file cannot be written.
        ValueError: its name is of another kind of file.
    """
    path = Path(path)
    if path.suffix.lower() not in ("", ".html", ".htm"):
        raise ValueError(f"cannot write {path}: the report is HTML; give a name that ends in .html")
    write_atomically(path, render(store))


def render(store: Store) -> str:
    """Returns the page."""
    report = _Report(store)
    plan = report.plan
    text = (
        f"Space {report.space.name} ({short(float(report.space.cardinality()))} candidates), "
        f"predictor {plan['predictor']}, rounds of {plan['batch']}, seed {plan['seed']}."
    )
    title = f"Search {store.folder.resolve().name}"
    return fill_in("report.html", title=title, text=text, report=report)


class _Report:
    """What `report.html` shows, read from the store once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        stages = store.stages()
        self.early = stages.get("early_stop", {})
        self.pretrained = stages.get("pretraining", {})
        self.genes = stages.get("importance", {}).get("genes", {})
        self.found = stages.get("answers", {}).get("answers", [])
        self.space: Space = space_of(store.settings)
        self.plan = plan_of(store.settings)
        self.of_rounds = status_of(store)["of_rounds"]
        spent = spent_of(store.folder) or {}
        self.left_out = [(share_text(share), reason) for share, reason in spent.get(LEFT_OUT, ())]
        self.trials = store.trials()
        self.kinds = {batch.number: batch.kind for batch in store.batches()}
        order = [number for number, kind in self.kinds.items() if kind in SEARCH_KINDS]
        self.round = {number: index for index, number in enumerate(order)}
        self.label = self._labels()
        self.cost = next(iter(self.trials[0].costs), "") if self.trials else ""
        rounds = [stages.get(f"round_{n}", {}) for n in range(len(order))]
        self.gene_effects: dict[str, Any] = next(
            (r["effects"] for r in reversed(rounds) if r.get("effects")), {}
        )
        self.priors = self.plan.get("priors", [])
        self.quality = [one for one in rounds if "tau" in one]

    def _labels(self) -> dict[int, float]:
        """Returns trial -> label: of rounds after the epoch that all share, else after the last."""
        epoch = self.early.get("epoch")
        found = [self.store.labels(), self.store.labels(epoch, kinds=SEARCH_KINDS)]
        return {
            seq: value
            for labels in found
            for seq, value in zip(labels.seq.tolist(), labels.values.tolist(), strict=True)
        }

    def tiles(self) -> list[tuple[str, str]]:
        counts = self.store.counts()
        finite = [v for v in self.label.values() if np.isfinite(v)]
        spent = sum(trial.seconds or 0.0 for trial in self.trials)
        return [
            ("trials with a label", f"{counts['done']}"),
            ("failed", f"{counts['failed']}"),
            ("pending", f"{counts['queued'] + counts['leased']}"),
            ("rounds", f"{len(self.round)} of {self.of_rounds}"),
            ("best label", f"{max(finite):.2f}" if finite else "-"),
            ("training time", duration(spent)),
        ]

    def answers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for answer in self.found:
            limit = limit_text(answer["limit"], short) or "none"
            if not answer["contenders"]:
                rows.append({"limit": limit, "nearest": _costs_text(answer["nearest"])})
                continue
            best, *others = answer["contenders"]
            with_prior = [one for one in answer["contenders"] if one.get("prior")]
            means = [one["mean"] for one in others if one["mean"] is not None]
            spread = f" \N{PLUS-MINUS SIGN} {best['sd']:.2f}" if len(best["labels"]) > 1 else ""
            rows.append(
                {
                    "limit": limit,
                    "nearest": "",
                    "mean": "-" if best["mean"] is None else f"{best['mean']:.2f}{spread}",
                    "next_best": f"{max(means):.2f}" if means else "-",
                    "won": _winner_text(best),
                    "with_prior": _with_prior_text(with_prior),
                    "costs": _costs_text(best["costs"]),
                    "genes": [f"{k}={v}" for k, v in best["genes"].items()],
                }
            )
        return rows

    def _done(self, *kinds: str) -> list[Trial]:
        return [
            t
            for t in self.trials
            if t.seq in self.label and (self.kinds[t.batch] in kinds or not kinds)
        ]

    def _points(self, name: str, trials: list[Trial], x: list[float], colour: str) -> Series:
        """Returns trials as points at their labels."""
        titles = [
            f"{t.id[:10]}: {self.label[t.seq]:.2f}, {self.cost} "
            f"{short(t.costs.get(self.cost, np.nan))}, seed {t.seed}"
            for t in trials
        ]
        return Series(name, x, [self.label[t.seq] for t in trials], "points", colour, titles)

    def _of_rounds(self) -> list[tuple[int, str, list[Trial]]]:
        """Returns (index, colour, trials) of each round that has labels."""
        last = max(1, len(self.round) - 1)
        done = self._done()
        groups = [
            (index, f"r{round(index * (NUM_TINTS - 1) / last)}",
             [t for t in done if self.round.get(t.batch) == index])
            for index in range(len(self.round))
        ]  # fmt: skip
        return [group for group in groups if group[2]]

    def front(self) -> str:
        groups = [
            (f"round {index}" if index else "random", colour, trials)
            for index, colour, trials in self._of_rounds()
        ]
        groups.append(("retrained", "accent", self._done(EARLIER, FINAL)))
        groups.append(("imported", "c1", self._done("import")))
        series = [
            self._points(name, trials, [t.costs[self.cost] for t in trials], colour)
            for name, colour, trials in groups
            if trials
        ]
        points = [
            (t.costs[self.cost], self.label[t.seq])
            for t in self._done(*SEARCH_KINDS, "import")
            if np.isfinite(self.label[t.seq])
        ]
        front = [points[number] for number in pareto(points)]
        series.append(
            Series("Pareto front", [x for x, _ in front], [y for _, y in front], "steps", "ink")
        )
        return chart(series, x=self.cost, y="label", cut_tail=True)

    def rounds(self) -> str:
        series = []
        for index, colour, trials in self._of_rounds():
            spread = [index + 0.5 * (n / max(1, len(trials) - 1) - 0.5) for n in range(len(trials))]
            series.append(self._points("", trials, spread, colour))
            finite = [v for t in trials if np.isfinite(v := self.label[t.seq])]
            if finite:
                middle = [float(np.median(finite))] * 2
                ends = [index - 0.32, index + 0.32]
                series.append(Series("" if index else "median", ends, middle, "line", "ink"))
        return chart(series, x="round (0 is random)", y="label", whole_x=True, cut_tail=True)

    def best_so_far(self) -> str:
        done = self._done(*SEARCH_KINDS)
        values = np.array([self.label[t.seq] for t in done])
        best = np.maximum.accumulate(np.nan_to_num(values, nan=-np.inf)).tolist()
        count = list(range(1, len(done) + 1))
        series = [
            self._points("trial", done, [*map(float, count)], "r2"),
            Series("best so far", count, best, "steps", "ink"),
        ]
        return chart(series, x="trials trained", y="label", cut_tail=True)

    def calibration(self) -> str:
        series = [Series("", [], [], "diagonal")]
        if self.quality:
            last = self.quality[-1]
            plain = last.get("predicted_unpretrained")
            if plain is not None:
                series.append(Series("without pretraining", plain, last["truth"], colour="soft"))
            name = "held out, five-fold cross-validation"
            held = Series(name, last["predicted"], last["truth"], colour="r4")
            series.append(held)
        chosen = [
            t for t in self._done("bins") if t.predicted is not None and self.round[t.batch] > 0
        ]
        if chosen:
            expected = [float(t.predicted or 0) for t in chosen]
            name = "chosen trials, predicted before training"
            series.append(self._points(name, chosen, expected, "accent"))
        return chart(series, x="predicted", y="true")

    def _over_labels(self, name: str, key: str, colour: str) -> Series:
        """Returns a measure of the predictor's quality over the number of labels it had."""
        held = [one for one in self.quality if one.get(key) is not None]
        x, y = [one["trials"] for one in held], [one[key] for one in held]
        return Series(name if held else "", x, y, "line", colour)

    def efficiency(self) -> str:
        series = [
            self._over_labels("Kendall, held out", "tau", "c0"),
            self._over_labels("in the better half", "tau_better_half", "c1"),
            self._over_labels("without pretraining", "tau_unpretrained", "c2"),
            self._over_labels("network alone", "tau_network", "r2"),
            self._over_labels("recipe alone", "tau_recipe", "r5"),
            self._over_labels(f"{self.cost} alone", "tau_of_cost", "soft"),
        ]
        return chart(series, x="number of labels", y="rank correlation")

    def error(self) -> str:
        series = [
            self._over_labels("held out", "mse", "c0"),
            self._over_labels("without pretraining", "mse_unpretrained", "c2"),
        ]
        return chart(series, x="number of labels", y="mean squared error")

    def pretraining(self) -> str:
        series = [Series("", [], [], "diagonal")]
        for number, (name, cost) in enumerate(self.pretrained["costs"].items()):
            text = f"{name}, R2 {cost['r2']:.4f}"
            colour = f"c{number % 3}"
            series.append(Series(text, cost["predicted"], cost["truth"], colour=colour))
        return chart(series, x="predicted", y="true")

    def early_stop(self) -> str:
        found = self.early
        epochs = list(range(1, len(found["correlation"]) + 1))
        series = [
            Series("Spearman with the last epoch", epochs, found["correlation"], "line", "c0"),
            Series("its lower 5 % bound", epochs, found["lower"], "line", "soft"),
        ]
        return chart(series, x="epoch", y="rank correlation", marks=(0.92, 0.85), whole_x=True)

    def effects(self) -> list[dict[str, str]]:
        """Returns the rows of the table of effects, the resolved ones first."""
        ranked = sorted(
            self.gene_effects.items(), key=lambda one: (not one[1]["resolved"], -one[1]["effect"])
        )
        return [
            {
                "gene": gene,
                "low": str(one["low"]),
                "high": str(one["high"]),
                "effect": f"{one['effect']:.2f} \N{PLUS-MINUS SIGN} {one['half']:.2f}",
                "resolved": "yes" if one["resolved"] else "no",
            }
            for gene, one in ranked
        ]

    def unresolved(self) -> str:
        """Returns the names of the genes that the trainings do not resolve, as text."""
        return ", ".join(gene for gene, one in self.gene_effects.items() if not one["resolved"])

    def importance(self) -> str:
        ranked = sorted(self.genes.items(), key=lambda item: -item[1])[:MOST_GENES]
        name = "share of the variance by gene"
        return bars([(gene, 100 * share) for gene, share in ranked], name=name, unit="%")

    def columns(self) -> list[tuple[str, str]]:
        """Returns name and CSS class of the table's columns; those of numbers have none."""
        costs = dict.fromkeys(name for t in self.trials for name in t.costs)
        text = ("id", "kind", "state", "genes")
        names = ("#", "id", "kind", "round", "state", "label", "predicted", *costs, "seed",
                 "epochs", "seconds", "failures", "genes")  # fmt: skip
        return [(name, "text" if name in text else "") for name in names]

    def rows(self) -> Iterator[list[str]]:
        """Yields the cells of each trial."""
        costs = dict.fromkeys(name for t in self.trials for name in t.costs)
        for trial in self.trials:
            label = self.label.get(trial.seq)
            genes = self.space.values(np.array(trial.genes))
            yield [
                str(trial.seq),
                trial.id[:10],
                self.kinds[trial.batch],
                _number(self.round.get(trial.batch)),
                trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
                _number(label, 4) if label is None or np.isfinite(label) else "diverged",
                _number(trial.predicted, 4),
                *(_number(trial.costs.get(name)) for name in costs),
                str(trial.seed),
                str(trial.epochs),
                _number(trial.seconds, 1),
                str(trial.failures),
                " ".join(f"{name}={value}" for name, value in genes.items()),
            ]


def _winner_text(best: Mapping[str, Any]) -> str:
    """Returns what the winner's recipe is."""
    return prior_title(best["prior"]) if best.get("prior") else "searched"


def _with_prior_text(contenders: list[Mapping[str, Any]]) -> str:
    """Returns the best mean with each prior's recipe."""
    means = {one["prior"]: one["mean"] for one in reversed(contenders)}
    return ", ".join(
        f"{name}: {'-' if mean is None else format(mean, '.2f')}" for name, mean in means.items()
    )


def _costs_text(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in costs.items())


def _number(value: float | None, digits: int | None = None) -> str:
    """Returns a cell of the table; the page's script reads it again to sort."""
    if value is None:
        return ""
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return str(value if digits is None else round(value, digits))
