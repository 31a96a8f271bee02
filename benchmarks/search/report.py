"""Tables of the search benchmark: lines of runs in; summary.json, summary.md and plots.html out."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .plots import write_plots

REFERENCE = "nars"
# Which of our searches is set beside peers: rounds of 12 for the smallest budget, else of 48; the
# first that was run.
SMALL = ("nars_auto_12", "nars", "nars_gp")
OURS = {"U": ("nars", "nars_gp"), "C": ("nars", "nars_gp"), "M": ("nars_limits", "nars")}
PEERS = ("random", "local", "evolution", "tpe", "gp_ei", "optuna")
# What the paper says of its parts: (claim, with, without).
CLAIMS = (
    ("pretraining helps the search", "nars", "nars_scratch"),
    ("log error and ensemble help", "nars", "nars_paper"),
    ("bins help", "nars", "nars_nobins"),
    ("stage 3 after stage 2", "nars", "nars_stage2"),
    ("early stopping after the first round", "nars_early", "nars"),
    ("trained again with more seeds", "nars_confirmed", "nars"),
    ("joint over architecture only", "nars", "arch_only"),
    ("joint over recipe only", "nars", "recipe_only"),
    ("joint over one after the other", "nars", "arch_then_recipe"),
)


def write_report(folder: Path, environment: dict[str, Any] | None) -> None:
    """Writes the summary of every `*.jsonl` of a folder; keeps the environment if none is given."""
    target = folder / "summary.json"
    old = json.loads(target.read_text()) if target.exists() else {}
    summary: dict[str, Any] = {"environment": environment or old.get("environment", {})}
    parts, glance = [], []
    for path in sorted(folder.glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        what, name = path.stem.split("_", 1)
        rows = _predictors(records) if what == "predictors" else _regrets(records)
        summary[path.stem] = rows
        parts.append(f"## {what}, {name}\n\n{_markdown(rows)}\n")
        if what == "regret":
            glance += [{"table": name, **row} for row in _beside_best_peer(records)]
        if what == "regret" and (claims := _claims(records)):
            summary[f"{path.stem}_claims"] = claims
            parts.append(
                "What each part gains: the fall of the mean regret, with a 95 % bootstrap interval "
                f"over common seeds:\n\n{_markdown(claims)}\n"
            )
        if what == "predictors" and (gain := efficiency(records)):
            summary[f"{path.stem}_efficiency"] = gain
            parts.append(
                f"Labels that scratch needs for the pretrained error:\n\n{_markdown(gain)}\n"
            )
    summary["beside_best_peer"] = glance
    target.write_text(json.dumps(summary, indent=1) + "\n")
    write_plots(folder / "plots.html", summary)
    about = "\n".join(f"- {key}: {value}" for key, value in summary["environment"].items())
    first = (
        "## Beside the best peer\n\nMean regret of our search (with 48 trainings rounds of 12, "
        "else of 48) and of the peer that turned out best for that table, problem and budget; "
        "`gap` is above 0 where the peer is worse, with a 95 % bootstrap interval over common "
        f"seeds:\n\n{_markdown(glance)}\n"
    )
    text = "\n".join((first, *parts))
    (folder / "summary.md").write_text(f"# Search benchmark\n\n{about}\n\n{text}")


def _predictors(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each number of labels and arm: means over seeds, the median of the MSE."""
    groups = _grouped(records, ("num", "arm"))
    rows = []
    for (num, arm), held in sorted(groups.items()):
        taus = np.array([r["tau"] for r in held])
        errors = [r["mse"] for r in held if r["mse"] is not None]
        rows.append(
            {
                "labels": num,
                "predictor": arm,
                "n": len(held),
                "tau": round(float(taus.mean()), 3),
                "tau_sd": round(float(taus.std()), 3),
                "tau_better_half": _mean(held, "tau_better_half"),
                "spearman": _mean(held, "spearman"),
                "mse_median": _significant(float(np.median(errors))) if errors else None,
            }
        )
    return rows


def _regrets(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each problem, method and budget, with a paired test against NARS."""
    groups = _grouped(records, ("problem", "method"))
    rows = []
    for (problem, method), held in sorted(groups.items()):
        for key in [k for k in held[0] if k.startswith("regret_")]:
            budget = key.split("_")[1]
            values = np.array([r[key] for r in held])
            low, middle, high = np.percentile(values, (25, 50, 75))
            pairs = _pairs(groups.get((problem, REFERENCE), []), held, key)
            rows.append(
                {
                    "problem": problem,
                    "budget": int(budget),
                    "method": method,
                    "n": len(held),
                    "mean": _significant(float(values.mean())),
                    "median": _significant(float(middle)),
                    "q25": _significant(float(low)),
                    "q75": _significant(float(high)),
                    "top5_mean": _mean(held, f"top5_{budget}"),
                    "best_trained": _mean(held, f"trained_{budget}"),
                    "p_vs_nars": pairs,
                    "distinct": _mean(held, "distinct"),
                    "cpu_s": _mean(held, "cpu_s"),
                }
            )
    return sorted(rows, key=lambda row: (row["problem"], row["budget"], row["mean"]))


def _beside_best_peer(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns our search and the best peer at each problem and budget."""
    groups = _grouped(records, ("problem", "method"))
    rows = []
    for problem, budget in itertools.product(OURS, (48, 96, 240)):
        names = SMALL if budget == 48 else OURS[problem]
        ours = next((groups[problem, name] for name in names if (problem, name) in groups), [])
        key = f"regret_{budget}"
        peers = [
            held
            for (at, method), held in groups.items()
            if at == problem and method.startswith(PEERS) and "confirmed" not in method
        ]
        if not ours or not peers or key not in ours[0]:
            continue
        best = min(peers, key=lambda held: float(np.mean([r[key] for r in held])))
        known = {r["seed"]: r[key] for r in best}
        pairs = [(r[key], known[r["seed"]]) for r in ours if r["seed"] in known]
        gaps = np.array([theirs - mine for mine, theirs in pairs])
        draws = np.random.default_rng(0).integers(len(gaps), size=(10_000, len(gaps)))
        low, high = np.percentile(gaps[draws].mean(1), (2.5, 97.5))
        rows.append(
            {
                "problem": problem,
                "budget": budget,
                "ours": ours[0]["method"],
                "mean": _significant(float(np.mean([mine for mine, _ in pairs]))),
                "best_peer": best[0]["method"],
                "its_mean": _significant(float(np.mean([theirs for _, theirs in pairs]))),
                "n": len(gaps),
                "gap": _significant(float(gaps.mean())),
                "low": _significant(float(low)),
                "high": _significant(float(high)),
            }
        )
    return rows


def _pairs(reference: list[dict[str, Any]], held: list[dict[str, Any]], key: str) -> float | None:
    """Returns the two-sided p of a paired permutation test over common seeds, 10,000 sign flips."""
    ours = {r["seed"]: r[key] for r in reference}
    gaps = np.array([r[key] - ours[r["seed"]] for r in held if r["seed"] in ours])
    if len(gaps) < 5 or not gaps.any():
        return None
    signs = np.random.default_rng(0).choice([-1, 1], (10_000, len(gaps)))
    return float((np.abs((signs * gaps).mean(1)) >= abs(gaps.mean()) - 1e-12).mean())


def _claims(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what a part of the search gains at each problem and budget; above 0 is better."""
    groups = _grouped(records, ("problem", "method"))
    rows = []
    for problem in sorted({record["problem"] for record in records}):
        for claim, ours, other in CLAIMS:
            first, second = (
                {r["seed"]: r for r in groups.get((problem, name), [])} for name in (ours, other)
            )
            seeds = sorted(set(first) & set(second))
            for budget in (96, 144, 240):
                key = f"regret_{budget}"
                pairs = [(first[n], second[n]) for n in seeds]
                if len(pairs) < 5 or any(key not in r for pair in pairs for r in pair):
                    continue
                gaps = np.array([b[key] - a[key] for a, b in pairs])
                draws = np.random.default_rng(0).integers(len(gaps), size=(10_000, len(gaps)))
                low, high = np.percentile(gaps[draws].mean(1), (2.5, 97.5))
                rows.append(
                    {
                        "claim": claim,
                        "problem": problem,
                        "budget": budget,
                        "n": len(gaps),
                        "with": _significant(float(np.mean([a[key] for a, _ in pairs]))),
                        "without": _significant(float(np.mean([b[key] for _, b in pairs]))),
                        "gain": _significant(float(gaps.mean())),
                        "low": _significant(float(low)),
                        "high": _significant(float(high)),
                    }
                )
    return rows


def efficiency(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how many labels scratch needs to match pretraining, with a bootstrap interval."""
    rows = []
    for base in ("paper", "nars"):
        for figure in ("mse", "tau"):
            curves = {
                arm: {
                    num: np.array([r[figure] for r in held])
                    for (a, num), held in _grouped(records, ("arm", "num")).items()
                    if a == arm
                }
                for arm in (base, f"{base}_scratch")
            }
            nums = sorted(set(curves[base]) & set(curves[f"{base}_scratch"]))
            if len(nums) < 3:
                continue
            rng = np.random.default_rng(0)
            draws = [_ratio(curves, base, nums, figure, rng) for _ in range(500)]
            low, high = np.nanpercentile(draws, (2.5, 97.5))
            middle = _ratio(curves, base, nums, figure, None)
            rows.append(
                {
                    "predictor": base,
                    "by": figure,
                    "labels": f"{nums[0]}..{nums[-1]}",
                    "times_fewer": round(middle, 2),
                    "low": round(float(low), 2),
                    "high": round(float(high), 2),
                }
            )
    return rows


def _ratio(
    curves: dict[str, dict[int, Any]],
    base: str,
    nums: list[int],
    figure: str,
    rng: np.random.Generator | None,
) -> float:
    """Returns the geometric mean over sizes of (labels scratch needs) / (labels pretrained had)."""
    lines = []
    for arm in (base, f"{base}_scratch"):
        points = []
        for num in nums:
            values = curves[arm][num]
            if rng is not None:
                values = values[rng.integers(len(values), size=len(values))]
            points.append(np.log(np.median(values)) if figure == "mse" else values.mean())
        sign = -1 if figure == "mse" else 1
        lines.append(np.maximum.accumulate(sign * np.array(points)))
    logs = np.log(nums)
    inner = [
        np.interp(value, lines[1] + 1e-9 * np.arange(len(nums)), logs) - log
        for value, log in zip(lines[0], logs, strict=True)
        if lines[1][0] <= value <= lines[1][-1]
    ]
    return float(np.exp(np.mean(inner))) if inner else float("nan")


def _grouped(
    records: list[dict[str, Any]], keys: tuple[str, ...]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[key] for key in keys)].append(record)
    return groups


def _mean(records: list[dict[str, Any]], key: str) -> float:
    return _significant(float(np.mean([record[key] for record in records])))


def _significant(value: float) -> float:
    return float(f"{value:.3g}")


def _markdown(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no runs"
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        lines.append("| " + " | ".join("" if v is None else str(v) for v in row.values()) + " |")
    return "\n".join(lines)
