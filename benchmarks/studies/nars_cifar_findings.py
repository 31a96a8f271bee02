"""What the arms of `nars_cifar` found as proxies: numbers, tables, a picture of each limit.

    python -m benchmarks.studies.nars_cifar_findings --work runs/nars

Reads the folder that `nars_cifar search` was given; writes results/nars_cifar/search.json,
search.md, best_so_far.html, and the search's own report.html.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.records import read_lines, write
from fbnetv3.search.execution.spec import space_of
from fbnetv3.search.nars.fitting import PREDICTOR
from fbnetv3.search.nars.labels import SEARCH_KINDS
from fbnetv3.search.nars.problem import problem_of
from fbnetv3.search.predictors.registry import load_predictor
from fbnetv3.search.report.page import write_report
from fbnetv3.search.report.plots import Series, chart
from fbnetv3.search.report.templates import render
from fbnetv3.search.storage.store import Store

from .nars_cifar import ARMS, BUDGET, JOINT, LIMITS, LINES, RESULTS, macs_of, values_of

# Of the arms that search; `hand` has one candidate a limit.
COLOURS = dict(zip(ARMS, ("accent", "c0", "ink", "c1", "c2"), strict=False))


def arm_of(folder: Path, arm: str) -> dict[str, Any] | None:
    """Returns an arm's trainings in order, and its answers by limit; None before its end."""
    listed = folder / f"{arm}_answers.json"
    if listed.exists():
        found: dict[str, Any] = json.loads(listed.read_text())
        return found
    if arm != "recipe_only":
        return stored(folder / arm, list(LIMITS))
    parts = [stored(folder / f"{arm}_{limit}", [limit]) for limit in LIMITS]
    if any(part is None for part in parts):
        return None
    whole: dict[str, Any] = {"macs": [], "labels": [], "answers": {}}
    for part in parts:
        assert part is not None
        whole["macs"] += part["macs"]
        whole["labels"] += part["labels"]
        whole["answers"] |= part["answers"]
    return whole


def stored(folder: Path, limits: Sequence[str]) -> dict[str, Any] | None:
    """Returns the trainings and answers of a search of ours, None before its end."""
    if not folder.exists():
        return None
    with Store.read(folder) as store:
        stage = store.stage("answers")
        if stage is None:
            return None
        labels = store.labels(kinds=SEARCH_KINDS)
        space = space_of(store.settings)
        answers = {
            limit: [
                {"genes": one["indices"], "macs": int(macs), "labels": one["labels"]}
                for one, macs in zip(
                    answer["contenders"],
                    macs_of(np.array([one["indices"] for one in answer["contenders"]]), space),
                    strict=True,
                )
            ]
            for limit, answer in zip(limits, stage["answers"], strict=True)
        }
    return {
        "macs": macs_of(labels.matrix, space).tolist(),
        "labels": labels.values.tolist(),
        "answers": answers,
    }


def by_limit(arms: dict[str, dict[str, Any]]) -> str:
    """Returns what each arm's answers reach as proxies."""
    out = [
        "| limit | arm | MACs (M) | mean of 3 seeds, % | sd | seeds | best single training | "
        "next best mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for limit, macs in LIMITS.items():
        for arm, found in arms.items():
            first, *others = found["answers"][limit]
            inside = [
                label
                for label, cost in zip(found["labels"], found["macs"], strict=True)
                if cost <= macs
            ]
            labels = np.array(first["labels"], float)
            next_best = f"{np.mean(others[0]['labels']):.2f}" if others else ""
            out.append(
                f"| {limit} | {arm} | {first['macs'] / 1e6:.2f} | {labels.mean():.2f} | "
                f"{labels.std(ddof=1):.2f} | {', '.join(f'{x:.2f}' for x in labels)} | "
                f"{np.nanmax(inside):.2f} | {next_best} |"
            )
    return "\n".join(out)


def rounds(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Returns, round by round, what was found and how well it had been foreseen."""
    with Store.read(folder) as store:
        stages, batches = store.stages(), store.batches()
        label = {
            seq: value
            for labels in (store.labels(), store.labels(_epoch(store), kinds=SEARCH_KINDS))
            for seq, value in zip(labels.seq.tolist(), labels.values.tolist(), strict=True)
        }
        trials = store.trials("done")
    rows = []
    kept = [batch for batch in batches if batch.kind in SEARCH_KINDS]
    for index, batch in enumerate(kept):
        own = [trial for trial in trials if trial.batch == batch.number]
        values = np.array([label[trial.seq] for trial in own], float)
        known = [trial.predicted for trial in own if trial.predicted is not None]
        unseen = kendalltau(known, values).statistic if len(known) == len(own) else np.nan
        macs = kendalltau([trial.costs["macs_paper"] for trial in own], values).statistic
        quality = stages.get(f"round_{index}", {})
        rows.append(
            {
                "round": index,
                "trainings": len(own),
                "median": float(np.nanmedian(values)),
                "best": float(np.nanmax(values)),
                "unseen_tau": None if np.isnan(unseen) else float(unseen),
                "unseen_tau_of_macs": float(macs),
                **{
                    key: quality.get(key)
                    for key in ("trials", "tau", "spearman", "tau_of_cost", "tau_unpretrained")
                },
            }
        )
    out = [
        "| round | trainings | median | best | tau, before training | tau of MACs alone | "
        "tau, five-fold after the round | without stage 1 | MACs alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[key]:.2f}" if row[key] is not None else ""
            for key in ("median", "best", "unseen_tau", "unseen_tau_of_macs", "tau",
                        "tau_unpretrained", "tau_of_cost")
        ]  # fmt: skip
        out.append(f"| {row['round']} | {row['trainings']} | {' | '.join(cells)} |")
    return "\n".join(out), rows


def _epoch(store: Store) -> int | None:
    found = (store.stage("early_stop") or {}).get("epoch")
    return None if found is None else int(found)


def stages(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Returns, for each limit, the best of what evolution proposed and of what rounds trained."""
    with Store.read(folder) as store:
        stage = store.stage("answers")
        space = space_of(store.settings)
        trained = {space.digest(row) for row in store.labels(kinds=SEARCH_KINDS).matrix}
    assert stage is not None
    rows = []
    for limit, answer in zip(LIMITS, stage["answers"], strict=True):
        for new in (True, False):
            means = [
                (one["mean"], one["predicted"])
                for one in answer["contenders"]
                if (space.digest(np.array(one["indices"], np.int16)) not in trained) == new
                and one["mean"] is not None
            ]
            best = max(means, default=(None, None))
            rows.append(
                {
                    "limit": limit,
                    "from": "stage 3" if new else "stage 2",
                    "contenders": len(means),
                    "best_mean": best[0],
                    "expected": best[1],
                }
            )
    out = ["| limit | from | contenders | best mean of 3 seeds, % |", "|---|---|---|---|"]
    for row in rows:
        mean = "" if row["best_mean"] is None else f"{row['best_mean']:.2f}"
        out.append(f"| {row['limit']} | {row['from']} | {row['contenders']} | {mean} |")
    return "\n".join(out), rows


def unseen(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Returns how well the last predictor of `nars` ranks what other arms trained and it did not.

    Intervals are bootstrapped over candidates.
    """
    with Store.read(folder) as store:
        known = {JOINT.digest(row) for row in store.labels(kinds=SEARCH_KINDS).matrix}
        problem = problem_of(store.settings)
    predictor = load_predictor(folder / PREDICTOR, costs=problem.costs)
    rng, rows = np.random.default_rng(0), []
    for arm in ("random", "evolution", "arch_only"):
        lines = [
            line
            for line in read_lines(LINES)
            if (line["arm"], line["space"], line["seed"]) == (arm, JOINT.name, 0)
            and line["digest"] not in known
            and line["curve"][-1] is not None
        ]
        matrix = np.stack([JOINT.from_values(line["values"]) for line in lines])
        labels = np.array([line["curve"][-1] for line in lines])
        better = labels >= np.median(labels)
        row: dict[str, Any] = {"arm": arm, "candidates": len(labels)}
        for name, guess in (
            ("predictor", predictor.predict(matrix).mean),
            ("macs", macs_of(matrix)),
        ):
            draws = rng.integers(len(labels), size=(1000, len(labels)))
            taus = [kendalltau(guess[draw], labels[draw]).statistic for draw in draws]
            row |= {
                f"{name}_tau": float(kendalltau(guess, labels).statistic),
                f"{name}_interval": np.quantile(taus, (0.025, 0.975)).tolist(),
                f"{name}_tau_better_half": float(
                    kendalltau(guess[better], labels[better]).statistic
                ),
            }
        rows.append(row)
    out = [
        "| trained by | candidates | tau of the predictor | 95 % interval | in the better half | "
        "tau of MACs | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, second = (
            " to ".join(f"{end:.2f}" for end in row[f"{name}_interval"])
            for name in ("predictor", "macs")
        )
        out.append(
            f"| {row['arm']} | {row['candidates']} | {row['predictor_tau']:.2f} | {first} | "
            f"{row['predictor_tau_better_half']:.2f} | {row['macs_tau']:.2f} | {second} |"
        )
    return "\n".join(out), rows


def noise() -> dict[str, float]:
    """Returns the standard deviation over seeds of one candidate, pooled, and over candidates."""
    groups: dict[tuple[str, str], list[float]] = {}
    for line in read_lines(LINES):
        if line["curve"][-1] is not None:
            groups.setdefault((line["space"], line["digest"]), []).append(line["curve"][-1])
    several = [np.array(labels) for labels in groups.values() if len(labels) > 1]
    free = sum(len(labels) - 1 for labels in several)
    squares = sum(float(((labels - labels.mean()) ** 2).sum()) for labels in several)
    return {
        "candidates": len(groups),
        "with_several_seeds": len(several),
        "sd_over_seeds": float(np.sqrt(squares / free)) if free else np.nan,
        "sd_over_candidates": float(np.std([labels[0] for labels in groups.values()], ddof=1)),
    }


def picture(arms: dict[str, dict[str, Any]]) -> str:
    """Returns a page of the best label within each limit against trainings."""
    sections = []
    searched = {arm: found for arm, found in arms.items() if arm in COLOURS}
    for limit, macs in LIMITS.items():
        series = []
        for arm, found in searched.items():
            values = np.array(found["labels"], float)
            counted = np.isfinite(values) & (np.array(found["macs"]) <= macs)
            best = np.maximum.accumulate(np.where(counted, values, -np.inf))
            known = np.flatnonzero(np.isfinite(best))
            series.append(
                Series(arm, (known + 1).tolist(), best[known].tolist(), "steps", COLOURS[arm])
            )
        drawn = chart(series, x="trainings", y="best label, %", cut_tail=True)
        title = f"{limit}: at most {macs / 1e6:g} M multiply-adds"
        sections.append((title, drawn))
    text = (
        f"Best single proxy training so far within each limit; {BUDGET} trainings an arm. An arm "
        "that searches limit after limit begins late in the later ones."
    )
    return render("page.html", title="Arms at equal cost", text=text, sections=sections)


def main() -> None:
    """Reads the arms, writes numbers and pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="as `nars_cifar search` was given")
    parser.add_argument("--seed", type=int, default=0, help="of the searches")
    args = parser.parse_args()
    folder = args.work / f"seed{args.seed}"
    arms = {arm: found for arm in ARMS if (found := arm_of(folder, arm)) is not None}
    if "nars" not in arms:
        parser.error(f"{folder} has no answers; run `nars_cifar search --arm nars` first")
    round_table, round_rows = rounds(folder / "nars")
    stage_table, stage_rows = stages(folder / "nars")
    unseen_table, unseen_rows = unseen(folder / "nars")
    spread = noise()
    recipes = {
        arm: {limit: recipe_of(found["answers"][limit][0]) for limit in LIMITS}
        for arm, found in arms.items()
        if arm in ("nars", "random", "evolution")
    }
    text = [
        "# The arms as proxies",
        by_limit(arms),
        "## Rounds of `nars`",
        round_table,
        "## Stage 3 against stage 2",
        stage_table,
        "## The predictor on candidates that other arms trained",
        unseen_table,
        "## Noise",
        f"One candidate over seeds has a standard deviation of {spread['sd_over_seeds']:.2f} "
        f"points (pooled over {spread['with_several_seeds']} candidates); {spread['candidates']} "
        f"candidates, one training each, {spread['sd_over_candidates']:.2f}.",
    ]
    (RESULTS / "search.md").write_text("\n\n".join(text) + "\n")
    record = {
        "arms": arms,
        "rounds": round_rows,
        "stages": stage_rows,
        "unseen": unseen_rows,
        "noise": spread,
        "recipes": recipes,
    }
    write(RESULTS / "search.json", record)
    (RESULTS / "best_so_far.html").write_text(picture(arms))
    with Store.read(folder / "nars") as store:
        write_report(store, RESULTS / "report.html")
    print("\n\n".join(text))


def recipe_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Returns the genes of an answer's recipe by name."""
    known = values_of(JOINT, answer["genes"])
    return {gene.name: known[gene.name] for gene in JOINT.genes if gene.group == "recipe"}


if __name__ == "__main__":
    main()
