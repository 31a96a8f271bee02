"""One self-contained HTML page about a search, finished or not: no request leaves the page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3.search.execution.spec import space_of
from fbnetv3.search.nars.rounds import SEARCH_KINDS
from fbnetv3.search.space.space import Space
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Trial

from .style import SCRIPT, STYLE
from .svg import Series, bars, chart, short

NUM_TINTS = 7
MOST_GENES = 16


def write_report(store: Store, path: Path) -> None:
    """Writes the page.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(render(store), encoding="utf-8")
    temporary.replace(path)


def render(store: Store) -> str:
    """Returns the page."""
    page = _Page(store)
    sections = [
        ("Answers", page.answers()),
        ("Every trial: label against cost", page.front()),
        ("Rounds", page.rounds()),
        ("Best label so far", page.best_so_far()),
        ("Predictor: expected against true", page.calibration()),
        ("Predictor: error against labels", page.error()),
        ("Predictor: rank correlation against labels", page.efficiency()),
        ("Stage 1: costs, expected against true", page.pretraining()),
        ("Early stopping", page.early_stop()),
        ("What matters: genes", page.importance()),
        ("All trials", page.table()),
    ]
    body = "".join(
        f"<section class='{'wide' if name in _WIDE else ''}'><h2>{name}</h2>{text}</section>"
        for name, text in sections
        if text
    )
    name = html.escape(store.folder.resolve().name)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Search {name}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>Search {name}</h1>{page.summary()}</header><main>{body}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


_WIDE = ("Answers", "All trials")


class _Page:
    """What is drawn, read from the store once."""

    def __init__(self, store: Store) -> None:
        self.store, self.stages = store, store.stages()
        self.space: Space = space_of(store.settings)
        self.plan: Mapping[str, Any] = store.settings["plan"]
        self.trials = store.trials()
        self.kinds = {batch.number: batch.kind for batch in store.batches()}
        order = [number for number, kind in self.kinds.items() if kind in SEARCH_KINDS]
        self.round = {number: index for index, number in enumerate(order)}
        self.label = self._labels()
        self.cost = next(iter(self.trials[0].costs), "") if self.trials else ""

    def _labels(self) -> dict[int, float]:
        """Returns trial -> label: of rounds after the epoch that all share, else after the last."""
        epoch = self.stages.get("early_stop", {}).get("epoch")
        found = [self.store.labels(), self.store.labels(epoch, kinds=SEARCH_KINDS)]
        return {
            seq: value
            for labels in found
            for seq, value in zip(labels.seq.tolist(), labels.values.tolist(), strict=True)
        }

    def summary(self) -> str:
        counts = self.store.counts()
        finite = [v for v in self.label.values() if np.isfinite(v)]
        spent = sum((t.ended - t.started) for t in self.trials if t.ended and t.started)
        tiles = [
            ("trials with a label", f"{counts['done']}"),
            ("failed", f"{counts['failed']}"),
            ("open", f"{counts['queued'] + counts['leased']}"),
            ("rounds", f"{len(self.round)} of {self.plan['rounds'] + 1}"),
            ("best label", f"{max(finite):.2f}" if finite else "-"),
            ("training time", _duration(spent)),
        ]
        shown = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in tiles)
        told = (
            f"Space {self.space.name} ({short(float(self.space.cardinality()))} candidates), "
            f"predictor {self.plan['predictor']}, rounds of {self.plan['batch']}, seed "
            f"{self.plan['seed']}."
        )
        return f"<p>{html.escape(told)}</p><div class='tiles'>{shown}</div>"

    def answers(self) -> str:
        found = self.stages.get("answers", {}).get("answers", [])
        rows = []
        for number, answer in enumerate(found):
            limit = _limit_text(answer["limit"])
            if not answer["contenders"]:
                near = ", ".join(f"{k} {short(v)}" for k, v in answer["nearest"].items())
                rows.append(f"<tr><td>{number}</td><td>{limit}</td><td colspan='4'>out of reach; "
                            f"nearest: {html.escape(near)}</td></tr>")  # fmt: skip
                continue
            best = answer["contenders"][0]
            others = [c["mean"] for c in answer["contenders"][1:] if c["mean"] is not None]
            spread = f" &plusmn; {best['sd']:.2f}" if len(best["labels"]) > 1 else ""
            mean = "-" if best["mean"] is None else f"{best['mean']:.2f}{spread}"
            next_best = f"{max(others):.2f}" if others else "-"
            costs = ", ".join(f"{k} {short(v)}" for k, v in best["costs"].items())
            genes = ", ".join(f"{k}={v}" for k, v in best["genes"].items())
            rows.append(
                f"<tr><td>{number}</td><td>{limit}</td><td class='num'><b>{mean}</b></td>"
                f"<td class='num'>{next_best}</td><td>{html.escape(costs)}</td>"
                f"<td class='genes'>{html.escape(genes)}</td></tr>"
            )
        if not rows:
            return "<p class='none'>The search has not come to its end yet.</p>"
        head = "<tr><th>#</th><th>limit</th><th class='num'>label, mean over seeds</th>"
        head += "<th class='num'>next best</th>"
        return (
            f"<div class='scroll'><table><thead>{head}<th>costs</th><th>genes</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )

    def _done(self, *kinds: str) -> list[Trial]:
        return [
            t
            for t in self.trials
            if t.seq in self.label and (self.kinds[t.batch] in kinds or not kinds)
        ]

    def _tint(self, index: int) -> str:
        last = max(1, len(self.round) - 1)
        return f"r{round(index * (NUM_TINTS - 1) / last)}"

    def _by_round(self) -> list[tuple[str, str, list[Trial]]]:
        done = self._done()
        groups = [
            (f"round {index}" if index else "random", self._tint(index),
             [t for t in done if self.round.get(t.batch) == index])
            for index in sorted(self.round.values())
        ]  # fmt: skip
        groups.append(
            ("trained again", "accent", [t for t in done if self.kinds[t.batch] == "final"])
        )
        groups.append(("imported", "c1", [t for t in done if self.kinds[t.batch] == "import"]))
        return [group for group in groups if group[2]]

    def front(self) -> str:
        if not self.cost:
            return ""
        series = [
            Series(name, [t.costs[self.cost] for t in trials], [self.label[t.seq] for t in trials],
                   css=css, titles=[self._title(t) for t in trials])
            for name, css, trials in self._by_round()
        ]  # fmt: skip
        points = [
            (t.costs[self.cost], self.label[t.seq])
            for t in self._done(*SEARCH_KINDS, "import")
            if np.isfinite(self.label[t.seq])
        ]
        front = pareto(points)
        series.append(
            Series("Pareto front", [x for x, _ in front], [y for _, y in front], "steps", "ink")
        )
        epoch = self.stages.get("early_stop", {}).get("epoch", self.plan["epochs"])
        note = f"Labels of rounds after epoch {epoch}, of those trained again after "
        note += f"{self.plan['epochs']}; the front is that of the rounds."
        return f"{chart(series, x=self.cost, y='label', cut_tail=True)}<p class='note'>{note}</p>"

    def _title(self, trial: Trial) -> str:
        return (
            f"{trial.id[:10]}: {self.label[trial.seq]:.2f}, {self.cost} "
            f"{short(trial.costs.get(self.cost, np.nan))}, seed {trial.seed}"
        )

    def rounds(self) -> str:
        series = []
        for name, css, trials in self._by_round():
            if name in ("imported", "trained again"):
                continue
            index = self.round[trials[0].batch]
            spread = [index + 0.5 * (n / max(1, len(trials) - 1) - 0.5) for n in range(len(trials))]
            series.append(
                Series("", spread, [self.label[t.seq] for t in trials], css=css,
                       titles=[self._title(t) for t in trials])
            )  # fmt: skip
            finite = [v for v in (self.label[t.seq] for t in trials) if np.isfinite(v)]
            if finite:
                middle = float(np.median(finite))
                series.append(
                    Series(
                        "" if index else "median",
                        [index - 0.32, index + 0.32],
                        [middle] * 2,
                        "line",
                        "ink",
                    )
                )
        note = "Within a round in the order of the bins that trials were chosen for, cheap to dear."
        drawn = chart(series, x="round (0 is random)", y="label", whole_x=True, cut_tail=True)
        return f"{drawn}<p class='note'>{note}</p>"

    def best_so_far(self) -> str:
        done = self._done(*SEARCH_KINDS)
        values = [self.label[t.seq] for t in done]
        best = np.maximum.accumulate(np.nan_to_num(np.array(values), nan=-np.inf)).tolist()
        count = list(range(1, len(done) + 1))
        return chart(
            [
                Series("trial", count, values, css="r2", titles=[self._title(t) for t in done]),
                Series("best so far", count, best, "steps", "ink"),
            ],
            x="trials trained",
            y="label",
            cut_tail=True,
        )

    def _quality(self) -> list[dict[str, Any]]:
        found = [self.stages.get(f"round_{n}", {}) for n in range(len(self.round))]
        return [one for one in found if "tau" in one]

    def calibration(self) -> str:
        done = [t for t in self._done("bins") if t.predicted is not None]
        series = [Series("", [], [], "diagonal")]
        quality = self._quality()
        if quality:
            last = quality[-1]
            plain = last.get("predicted_unpretrained")
            if plain is not None:
                series.append(Series("without pretraining", plain, last["truth"], css="faint"))
            series.append(Series("held out, five-fold", last["predicted"], last["truth"], css="r4"))
        for index in sorted(set(self.round.values()) - {0}):
            trials = [t for t in done if self.round.get(t.batch) == index]
            series.append(
                Series("chosen, before it was trained" if index == 1 else "",
                       [float(t.predicted or 0) for t in trials],
                       [self.label[t.seq] for t in trials], css="accent",
                       titles=[self._title(t) for t in trials])
            )  # fmt: skip
        if quality:
            text = (
                f"Held out after the last round: Kendall {quality[-1]['tau']:.3f}, Spearman "
                f"{quality[-1]['spearman']:.3f}, mean squared error {quality[-1]['mse']:.3g}, "
                f"Kendall in the better half {quality[-1]['tau_better_half']:.3f}."
            )
            warn = ""
            if quality[-1].get("worse_than_cost"):
                warn = f" <b>No better than {self.cost} alone.</b>"
            return chart(series, x="expected", y="true") + f"<p class='note'>{text}{warn}</p>"
        return chart(series, x="expected", y="true")

    def efficiency(self) -> str:
        quality = self._quality()
        count = [one["trials"] for one in quality]
        series = [
            Series("Kendall, held out", count, [one["tau"] for one in quality], "line", "c0"),
            Series("in the better half", count, [one["tau_better_half"] for one in quality], "line",
                   "c1"),
        ]  # fmt: skip
        plain = [(one["trials"], one["tau_unpretrained"]) for one in quality
                 if one.get("tau_unpretrained") is not None]  # fmt: skip
        if plain:
            series.append(
                Series("without pretraining", [n for n, _ in plain], [t for _, t in plain], "line",
                       "c2")
            )  # fmt: skip
        known = [(one["trials"], one["tau_of_cost"]) for one in quality if "tau_of_cost" in one]
        if known:
            series.append(
                Series(f"{self.cost} alone", [n for n, _ in known], [t for _, t in known], "line",
                       "faint")
            )  # fmt: skip
        return chart(series, x="labels", y="rank correlation")

    def error(self) -> str:
        quality = self._quality()
        arms = (("held out", "mse", "c0"), ("without pretraining", "mse_unpretrained", "c2"))
        series = []
        for name, key, css in arms:
            held = [one for one in quality if one.get(key) is not None]
            x, y = [one["trials"] for one in held], [one[key] for one in held]
            series.append(Series(name, x, y, "line", css))
        return chart([one for one in series if one.x], x="labels", y="mean squared error")

    def pretraining(self) -> str:
        found = self.stages.get("pretraining")
        if not found:
            return ""
        series = [Series("", [], [], "diagonal")]
        for number, (name, cost) in enumerate(found["costs"].items()):
            series.append(
                Series(f"{name}, R2 {cost['r2']:.4f}", cost["predicted"], cost["truth"],
                       css=f"c{number % 3}")
            )  # fmt: skip
        note = (
            f"<p class='note'>A held-out fifth of the {found['pool']} candidates, standardised.</p>"
        )
        return chart(series, x="expected", y="true") + note

    def early_stop(self) -> str:
        found = self.stages.get("early_stop")
        if not found or not found.get("tried"):
            return ""
        epochs = list(range(1, len(found["correlation"]) + 1))
        text = (
            f"After epoch {found['epoch']} the ranking stays; later rounds are that long."
            if found["found"]
            else "No epoch before the last ranks as the last one does; all epochs are trained."
        )
        return (
            chart(
                [
                    Series("Spearman with the last epoch", epochs, found["correlation"], "line",
                           "c0"),
                    Series("its 5 % bound", epochs, found["lower"], "line", "faint"),
                ],
                x="epoch", y="rank correlation", marks=[(0.92, "0.92"), (0.85, "0.85")],
                whole_x=True,
            )
            + f"<p class='note'>{text}</p>"
        )  # fmt: skip

    def importance(self) -> str:
        found = self.stages.get("importance", {}).get("genes", {})
        ranked = sorted(found.items(), key=lambda item: -item[1])[:MOST_GENES]
        if not ranked:
            return ""
        note = (
            "<p class='note'>Share of the variance of what the predictor expects of the pool that "
            "each gene explains alone.</p>"
        )
        return bars([(name, 100 * share) for name, share in ranked], unit="%") + note

    def table(self) -> str:
        names = list(dict.fromkeys(name for t in self.trials for name in t.costs))
        head = ["#", "id", "kind", "round", "state", "label", "expected", *names, "seed", "epochs",
                "seconds", "failures", "genes"]  # fmt: skip
        rows = []
        for trial in self.trials:
            value = self.label.get(trial.seq)
            ended = trial.ended - trial.started if trial.ended and trial.started else None
            genes = self.space.values(np.array(trial.genes))
            rows.append(
                [trial.seq, trial.id[:10], self.kinds[trial.batch], self.round.get(trial.batch),
                 trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
                 None if value is None else round(value, 4) if np.isfinite(value) else "diverged",
                 None if trial.predicted is None else round(trial.predicted, 4),
                 *[trial.costs.get(name) for name in names], trial.seed, trial.epochs,
                 None if ended is None else round(ended, 1), trial.failures,
                 " ".join(f"{k}={v}" for k, v in genes.items())]
            )  # fmt: skip
        data = json.dumps({"head": head, "rows": rows}).replace("<", "\\u003c")
        return (
            "<p class='controls'><input id='filter' placeholder='filter' aria-label='filter'>"
            "<button id='back'>&lsaquo;</button><span id='where'></span>"
            "<button id='on'>&rsaquo;</button></p><div class='scroll'><table id='trials'></table>"
            f"</div><script type='application/json' id='data'>{data}</script>"
        )


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no other beats in cost (first, lower) and label, by cost."""
    front: list[tuple[float, float]] = []
    for cost, label in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or label > front[-1][1]:
            front.append((cost, label))
    return front


def _limit_text(limit: Mapping[str, Sequence[float | None]]) -> str:
    if not limit:
        return "none"
    words = []
    for name, (low, high) in limit.items():
        below = "" if low is None else f"{short(low)} &le; "
        above = "" if high is None else f" &le; {short(high)}"
        words.append(f"{below}{html.escape(name)}{above}")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
