"""The figures of docs/paper.md, each computed from a committed file of results.

A claim in `claims.toml` names a figure in braces, `{wide_short}`; the page shows its value, and
the file and command that it comes from.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.records import RESULTS, read_lines
from benchmarks.studies.nars_cifar_tested import by_candidate
from benchmarks.studies.paper_trainings import SEARCHED, USUAL
from benchmarks.studies.resnet_rank import DEEP, WIDE
from benchmarks.studies.training_ablation import spread

# File in benchmarks/results/ -> what writes it.
COMMANDS = {
    "detection_cost.json": "python -m benchmarks.detection.cost",
    "nars_cifar/exchange.json": "python -m benchmarks.studies.nars_cifar_exchange",
    "nars_cifar/final/tested.jsonl": "python -m benchmarks.studies.nars_cifar_tested",
    "nars_cifar/imagenet_dry_run.json": "python -m benchmarks.studies.imagenet_scale",
    "nars_cifar/predictor.json": "python -m benchmarks.studies.nars_cifar_predictor",
    "nars_cifar/resnet_rank.jsonl": "python -m benchmarks.studies.resnet_rank",
    "nars_cifar/retrained.jsonl": "python -m benchmarks.studies.nars_cifar_retrain",
    "nars_cifar/search.json": "python -m benchmarks.studies.nars_cifar_findings",
    "paper/recipes.jsonl": "python -m benchmarks.studies.paper_trainings recipes",
    "paper/resnet_recipe.json": "python -m benchmarks.studies.resnet_recipe",
    "search/costs.json": "python -m benchmarks.search.speed",
    "search/stage3.json": "python -m benchmarks.search.speed",
    "search/summary.json": "python -m benchmarks.search.compare",
    "training/ablation.jsonl": "python -m benchmarks.studies.training_ablation",
    "training/fbnetv3_nano.cifar10.log.json": "fbnetv3 train",
    "training/fbnetv3_a.cifar10.log.json": "python -m benchmarks.gpu.training",
    "training/nars_cifar_l.cifar10.log.json": "fbnetv3 train",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the page.

    Attributes:
        file: in benchmarks/results/.
        value: the figure as text, of what the file holds.
    """

    file: str
    value: Callable[[Any], str]

    def text(self) -> str:
        """Returns the figure as the page shows it."""
        return self.value(_content(self.file))


@functools.cache
def _content(file: str) -> Any:
    path = RESULTS / file
    return read_lines(path) if path.suffix == ".jsonl" else json.loads(path.read_text())


def mean_of(values: Sequence[float]) -> str:
    """Returns a mean over seeds with its 95 % interval (Student's t)."""
    found = spread(list(values))
    low, high = found["mean"] - found["reach"], found["mean"] + found["reach"]
    return f"{found['mean']:+.2f} (95 % interval {low:.2f} to {high:.2f}; {found['n']} seeds)"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def wide_less_deep(recipe: str) -> Callable[[Any], str]:
    """Returns the lead of the wide ResNet over the deep one, paired by seed."""
    return lambda lines: mean_of(list(_leads(lines, recipe).values()))


def seeds_to_tell(recipe: str) -> Callable[[Any], str]:
    """Returns how many seeds would tell the lead from chance, if it and its spread stay."""

    def value(lines: Any) -> str:
        found = spread(list(_leads(lines, recipe).values()))
        return f"{math.ceil((1.96 * found['sd'] / found['mean']) ** 2)}"

    return value


def _leads(lines: Sequence[Mapping[str, Any]], recipe: str) -> dict[int, float]:
    found = {(r["network"], r["seed"]): r["top1_pct"] for r in lines if r["recipe"] == recipe}
    seeds = sorted({seed for _, seed in found})
    return {seed: found[WIDE, seed] - found[DEEP, seed] for seed in seeds}


def change_of_lead(first: str, second: str) -> Callable[[Any], str]:
    """Returns by how much the wide network's lead grows from one recipe to another."""

    def value(lines: Any) -> str:
        before, after = _leads(lines, first), _leads(lines, second)
        return mean_of([after[seed] - before[seed] for seed in sorted(before.keys() & after)])

    return value


def times_fewer(table: str, by: str) -> Callable[[Any], str]:
    """Returns how many times fewer labels a pretrained predictor needs on a table."""

    def value(summary: Any) -> str:
        rows = summary[f"predictors_{table}_efficiency"]
        return _times(next(r for r in rows if (r["predictor"], r["by"]) == ("paper", by)))

    return value


def _times(row: Mapping[str, Any]) -> str:
    return f"{row['times_fewer']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def times_fewer_cifar(by: str) -> Callable[[Any], str]:
    """Returns the same on the trainings of the search on CIFAR-10."""
    return lambda found: _times(next(row for row in found["times_fewer"] if row["by"] == by))


def gain(table: str, claim: str, problem: str, budget: int) -> Callable[[Any], str]:
    """Returns what a part of the search gains on a table, with its 95 % interval."""

    def value(summary: Any) -> str:
        key = (claim, problem, budget)
        row = next(
            r
            for r in summary[f"regret_{table}_claims"]
            if (r["claim"], r["problem"], r["budget"]) == key
        )
        return f"{row['gain']:+.3f} (95 % interval {row['low']:.3f} to {row['high']:.3f})"

    return value


def tables_won(claim: str, budget: int = 240) -> Callable[[Any], str]:
    """Returns on how many tables a gain's interval is above 0."""

    def value(summary: Any) -> str:
        rows = [
            row
            for key, claims in summary.items()
            if key.endswith("_claims")
            for row in claims
            if (row["claim"], row["problem"], row["budget"]) == (claim, "U", budget)
        ]
        return f"{sum(row['low'] > 0 for row in rows)} of {len(rows)}"

    return value


def unseen(arm: str, name: str) -> Callable[[Any], str]:
    """Returns Kendall's tau on candidates that another arm trained."""

    def value(search: Any) -> str:
        row = next(row for row in search["unseen"] if row["arm"] == arm)
        low, high = row[f"{name}_interval"]
        return f"{row[f'{name}_tau']:.2f} ({low:.2f} to {high:.2f})"

    return value


def proxies_ahead(arm: str) -> Callable[[Any], str]:
    """Returns by how much `nars` is ahead of an arm as proxies: the three limits' range."""

    def value(search: Any) -> str:
        means = [
            {
                limit: sum(answers[0]["labels"]) / len(answers[0]["labels"])
                for limit, answers in search["arms"][name]["answers"].items()
            }
            for name in ("nars", arm)
        ]
        return _range([means[0][limit] - means[1][limit] for limit in means[0]])

    return value


def stage3_ahead(search: Any) -> str:
    """Returns by how much candidates of stage 3 beat those of stage 2: the limits' range."""
    best = {(row["limit"], row["from"]): row["best_mean"] for row in search["stages"]}
    limits = sorted({limit for limit, _ in best})
    return _range([best[limit, "stage 3"] - best[limit, "stage 2"] for limit in limits])


def retrained(ours: str, other: str, distilled: bool = False) -> Callable[[Any], str]:
    """Returns what one arm has more than another, trained on all images, limit m."""

    def top1(lines: Any, arm: str, taught: bool) -> dict[int, float]:
        return {
            line["seed"]: line["ema_top1_pct"] or line["raw_top1_pct"]
            for line in lines
            if (line["limit"], line["arm"], line["distilled"]) == ("m", arm, taught)
        }

    def value(lines: Any) -> str:
        mine, theirs = top1(lines, ours, distilled), top1(lines, other, False)
        return mean_of([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs)])

    return value


def tested_ahead(other: str) -> Callable[[Any], str]:
    """Returns what the answer of the joint search has more than another arm's, on test images."""

    def value(lines: Any) -> str:
        mine, theirs = by_candidate(lines, "joint")[0], by_candidate(lines, other)[0]
        pairs = zip(mine, theirs, strict=True)
        return mean_of([one["top1_pct"] - another["top1_pct"] for one, another in pairs])

    return value


def exchanged(network: str, recipe: str) -> Callable[[Any], str]:
    """Returns what a network gains with another's recipe, paired by seed."""

    def value(exchange: Any) -> str:
        labels = exchange["labels"]
        own = labels[f"network {network}, recipe {network}"]
        with_other = labels[f"network {network}, recipe {recipe}"]
        return mean_of([b - a for a, b in zip(own, with_other, strict=True)])

    return value


def ablation(one: str, other: str) -> Callable[[Any], str]:
    """Returns the difference of two arms of the ablation, averaged weights, paired by seed."""

    def value(lines: Any) -> str:
        by = {(line["arm"], line["seed"]): line["ema_top1_pct"] for line in lines}
        seeds = sorted({seed for arm, seed in by if arm == one})
        return mean_of([by[one, seed] - by[other, seed] for seed in seeds])

    return value


def averaged(suffix: str) -> Callable[[Any], str]:
    """Returns what averaged weights gain in the ablation: the range of the arms' means."""

    def value(lines: Any) -> str:
        arms: dict[str, list[float]] = {}
        for line in lines:
            more = line[f"ema_top1_pct{suffix}"] - line[f"raw_top1_pct{suffix}"]
            arms.setdefault(line["arm"], []).append(more)
        return _range([sum(values) / len(values) for values in arms.values()])

    return value


def tau_gained(found: Any) -> str:
    """Returns what pretraining adds to Kendall's tau, with a bootstrap interval over trainings."""
    from scipy.stats import kendalltau

    cross = found["cross_validated"]
    truth = np.array(cross["truth"])
    both = [np.array(cross[name]["predicted"]) for name in ("with", "without")]
    rng = np.random.default_rng(0)
    gains = []
    for draw in rng.integers(len(truth), size=(500, len(truth))):
        taus = [kendalltau(one[draw], truth[draw]).statistic for one in both]
        gains.append(taus[0] - taus[1])
    low, high = np.quantile(gains, (0.025, 0.975))
    more = cross["with"]["tau"] - cross["without"]["tau"]
    return f"{more:+.2f} (95 % interval {low:.2f} to {high:.2f})"


def medians(found: Any) -> str:
    """Returns the median label of each round."""
    return ", ".join(f"{np.median(one['labels']):.1f}" for one in found["rounds"])


def rounds_gained(found: Any) -> str:
    """Returns the mean label of rounds 1 to 4 less that of the random one, bootstrapped."""
    first, *others = (np.array(one["labels"]) for one in found["rounds"])
    later, rng = np.concatenate(others), np.random.default_rng(0)
    gains = [
        later[rng.integers(len(later), size=len(later))].mean()
        - first[rng.integers(len(first), size=len(first))].mean()
        for _ in range(1000)
    ]
    low, high = np.quantile(gains, (0.025, 0.975))
    return f"{later.mean() - first.mean():+.1f} (95 % interval {low:.1f} to {high:.1f})"


def correlations(which: str) -> Callable[[Any], str]:
    """Returns Spearman's correlation of each epoch with the last, its bound in brackets."""

    def value(found: Any) -> str:
        one = found["epochs"][which]
        pairs = list(zip(one["correlation"], one["lower"], strict=True))[:-1]
        return ", ".join(f"{rho:.2f} ({low:.2f})" for rho, low in pairs)

    return value


def accuracy(epochs: Any) -> str:
    """Returns a training's last accuracy, averaged and raw."""
    return f"{epochs[-1]['ema_top1_pct']:.2f} % averaged, {epochs[-1]['top1_pct']:.2f} % raw"


def averaged_at(epoch: int) -> Callable[[Any], str]:
    """Returns the averaged and the raw accuracy after an epoch of the embedded network's log."""

    def value(curve: Any) -> str:
        one = next(one for one in curve if one["epoch"] == epoch)
        return f"{one['ema_top1_pct']:.2f} and {one['top1_pct']:.2f} %"

    return value


def recipe_gained(network: str) -> Callable[[Any], str]:
    """Returns what a network gains with the found recipe over a person's, paired by seed."""

    def value(lines: Any) -> str:
        found = {
            (line["recipe"], line["seed"]): line["top1_pct"]
            for line in lines
            if line["network"] == network and line["top1_pct"] is not None
        }
        seeds = sorted(seed for recipe, seed in found if recipe == SEARCHED)
        return mean_of([found[SEARCHED, seed] - found[USUAL, seed] for seed in seeds])

    return value


def genes_of(search: Any) -> str:
    """Returns the recipe that a search found, as words."""
    return ", ".join(f"{name} {value}" for name, value in search["genes"].items())


def saved(number: int, cost: str) -> Callable[[Any], str]:
    """Returns what a detector saves beside its counterpart, in percent."""
    return lambda found: f"{found['comparisons'][number]['saved_pct'][cost]:.1f} %"


_RANK = "nars_cifar/resnet_rank.jsonl"
_SUMMARY = "search/summary.json"
_PREDICTOR = "nars_cifar/predictor.json"
_SEARCH = "nars_cifar/search.json"
_TESTED = "nars_cifar/final/tested.jsonl"
_RETRAINED = "nars_cifar/retrained.jsonl"
_EXCHANGE = "nars_cifar/exchange.json"
_ABLATION = "training/ablation.jsonl"
_COST = "detection_cost.json"
_RECIPES = "paper/recipes.jsonl"
_PRETRAINING, _LARGE, _SMALL = "pretraining helps the search", "large, ", "small, "

FIGURES: Mapping[str, Figure] = {
    "resnet_macs": Figure(_RANK, lambda f: f"{f[0]['fvcore_macs'] / 1e6:.1f} million"),
    "wide_short": Figure(_RANK, wide_less_deep("6 epochs")),
    "wide_short_seeds": Figure(_RANK, seeds_to_tell("6 epochs")),
    "wide_long_seeds": Figure(_RANK, seeds_to_tell("18 epochs")),
    "wide_long": Figure(_RANK, wide_less_deep("18 epochs")),
    "wide_decay": Figure(_RANK, wide_less_deep("18 epochs, decay 4e-3")),
    "decay_change": Figure(_RANK, change_of_lead("18 epochs", "18 epochs, decay 4e-3")),
    "r2_macs": Figure(_PREDICTOR, lambda f: f"{f['proxies']['macs_paper']['r2']:.4f}"),
    "r2_params": Figure(_PREDICTOR, lambda f: f"{f['proxies']['params']['r2']:.4f}"),
    "tau_with": Figure(_PREDICTOR, lambda f: f"{f['cross_validated']['with']['tau']:.2f}"),
    "tau_gained": Figure(_PREDICTOR, tau_gained),
    "rounds_gained": Figure(_PREDICTOR, rounds_gained),
    "round_medians": Figure(_PREDICTOR, medians),
    "tau_without": Figure(_PREDICTOR, lambda f: f"{f['cross_validated']['without']['tau']:.2f}"),
    "fewer_cifar_mse": Figure(_PREDICTOR, times_fewer_cifar("mse")),
    "fewer_cifar_tau": Figure(_PREDICTOR, times_fewer_cifar("tau")),
    "fewer_accel": Figure(_SUMMARY, times_fewer("accel", "mse")),
    "fewer_macro": Figure(_SUMMARY, times_fewer("macro", "mse")),
    "fewer_jahs": Figure(_SUMMARY, times_fewer("jahs", "mse")),
    "fewer_protein": Figure(_SUMMARY, times_fewer("fcnet_protein", "mse")),
    "epochs_first": Figure(_PREDICTOR, correlations("the first round")),
    "epochs_random": Figure(_PREDICTOR, correlations("random search")),
    "unseen_random": Figure(_SEARCH, unseen("random", "predictor")),
    "unseen_arch_only": Figure(_SEARCH, unseen("arch_only", "predictor")),
    "unseen_arch_only_macs": Figure(_SEARCH, unseen("arch_only", "macs")),
    "stage3_proxies": Figure(_SEARCH, stage3_ahead),
    "proxies_random": Figure(_SEARCH, proxies_ahead("random")),
    "proxies_evolution": Figure(_SEARCH, proxies_ahead("evolution")),
    "proxies_arch_only": Figure(_SEARCH, proxies_ahead("arch_only")),
    "proxies_recipe_only": Figure(_SEARCH, proxies_ahead("recipe_only")),
    "pretraining_macro": Figure(_SUMMARY, gain("macro", _PRETRAINING, "U", 96)),
    "pretraining_protein": Figure(_SUMMARY, gain("fcnet_protein", _PRETRAINING, "U", 96)),
    "stage3_macro": Figure(_SUMMARY, gain("macro", "stage 3 after stage 2", "M", 240)),
    "bins_macro": Figure(_SUMMARY, gain("macro", "bins help", "M", 240)),
    "again_macro": Figure(_SUMMARY, gain("macro", "trained again with more seeds", "M", 240)),
    "tables_arch": Figure(_SUMMARY, tables_won("joint over architecture only")),
    "tables_recipe": Figure(_SUMMARY, tables_won("joint over recipe only")),
    "tables_turn": Figure(_SUMMARY, tables_won("joint over one after the other")),
    "tested_networks": Figure(_TESTED, tested_ahead("networks")),
    "tested_random": Figure(_TESTED, tested_ahead("random")),
    "retrained_arch_only": Figure(_RETRAINED, retrained("nars", "arch_only")),
    "retrained_random": Figure(_RETRAINED, retrained("nars", "random")),
    "retrained_evolution": Figure(_RETRAINED, retrained("nars", "evolution")),
    "retrained_recipe_only": Figure(_RETRAINED, retrained("recipe_only", "hand")),
    "retrained_person": Figure(_RETRAINED, retrained("nars", "nars_hand_recipe")),
    "distilled_cifar": Figure(
        _RETRAINED, retrained("nars_decay_scaled", "nars_decay_scaled", distilled=True)
    ),
    "exchange_s": Figure(_EXCHANGE, exchanged("s", "m")),
    "exchange_l": Figure(_EXCHANGE, exchanged("l", "s")),
    "ema_end": Figure(_ABLATION, averaged("")),
    "ema_half": Figure(_ABLATION, averaged("_half_way")),
    "distilled_small": Figure(
        _ABLATION, ablation(f"{_SMALL}small rates, distilled", f"{_SMALL}small rates")
    ),
    "distilled_large": Figure(
        _ABLATION, ablation(f"{_LARGE}large rates, distilled", f"{_LARGE}large rates")
    ),
    "swap_small": Figure(_ABLATION, ablation(f"{_SMALL}large rates", f"{_SMALL}small rates")),
    "swap_large": Figure(_ABLATION, ablation(f"{_LARGE}small rates", f"{_LARGE}large rates")),
    "recipe_resnet18": Figure(_RECIPES, recipe_gained("resnet18")),
    "recipe_resnet50": Figure(_RECIPES, recipe_gained("resnet50")),
    "recipe_alexnet": Figure(_RECIPES, recipe_gained("alexnet")),
    "recipe_found": Figure("paper/resnet_recipe.json", genes_of),
    "children": Figure("search/stage3.json", lambda f: f"{f['children_per_s']:,}"),
    "stage3_seconds": Figure(
        "search/stage3.json", lambda f: f"{f['until_saturated']['cpu_s']:.1f} s"
    ),
    "candidates": Figure(
        "search/costs.json", lambda f: f"{f['candidates_per_s'] / 1e6:.1f} million"
    ),
    "averaged_half": Figure("training/fbnetv3_nano.cifar10.log.json", averaged_at(50)),
    "averaged_end": Figure("training/fbnetv3_nano.cifar10.log.json", averaged_at(100)),
    "cifar_a": Figure("training/fbnetv3_a.cifar10.log.json", accuracy),
    "cifar_l": Figure("training/nars_cifar_l.cifar10.log.json", accuracy),
    "coco_macs": Figure(_COST, saved(0, "macs")),
    "coco_params": Figure(_COST, saved(0, "params")),
    "coco_macs_released": Figure(_COST, saved(2, "macs")),
    "dry_run": Figure(
        "nars_cifar/imagenet_dry_run.json",
        lambda f: f"{sum(f['seconds'].values()) / 60:.0f} minutes",
    ),
}
