"""The commands of `fbnetv3-search` that ask a search: predict, evolve, report, export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnetv3._internal.messages import counted
from fbnetv3.cli import completion
from fbnetv3.cli.group import note

from .words import AsJson, Folder, Latency, Limits, read_latency_table


def predict(
    folder: Folder,
    candidates: Annotated[
        Path,
        typer.Argument(
            help="CSV with gene columns, or architecture JSON, or - for stdin.",
            autocompletion=completion.files(".csv", ".json"),
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Predict the accuracy of candidates without training.

    The search's predictor answers with a mean, its uncertainty and the costs of each candidate.
    Writes nothing.

    Examples:
        fbnetv3-search predict runs/t candidates.csv
        cat candidates.csv | fbnetv3-search predict runs/t - --json
    """
    import numpy as np

    from fbnetv3.search.nars.export import read_candidates
    from fbnetv3.search.nars.problem import problem_to_ask
    from fbnetv3.search.nars.run import open_predictor
    from fbnetv3.search.storage.store import Store

    with Store.read(folder) as store:
        problem = problem_to_ask(store.settings)
        predictor = open_predictor(store, problem)
    rows = read_candidates(problem.space, candidates)
    found = predictor.predict(rows)
    costs = problem.costs(rows)
    answers = [
        {
            "label": float(found.mean[n]),
            "sd": float(found.std[n]),
            "costs": {name: float(np.asarray(cost)[n]) for name, cost in costs.items()},
            "genes": problem.space.values(rows[n]),
        }
        for n in range(len(rows))
    ]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
        return
    for one in answers:
        costs_text = ", ".join(f"{k} {v:.6g}" for k, v in one["costs"].items())  # type: ignore[attr-defined]
        typer.echo(f"{one['label']:.3f} +- {one['sd']:.3f}  {costs_text}")


def evolve(
    folder: Folder,
    limit: Limits = None,
    latency: Latency = None,
    show: Annotated[int, typer.Option(help="Number of candidates per limit.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Find the best predicted candidates for new limits.

    The genetic algorithm on the search's predictor; it trains nothing and takes seconds. Limits on
    latency get a margin for the error of the latency table. Writes nothing.

    Examples:
        fbnetv3-search evolve runs/t --limit "macs<=110" --limit "macs<=105"
        fbnetv3-search evolve runs/s --latency here.json --limit "latency_ms<=4"
    """
    from fbnetv3.search.nars.latency_margin import keep_margin, margin_note
    from fbnetv3.search.nars.limit import cost_names, parse_limit
    from fbnetv3.search.nars.problem import latency_table_of, problem_to_ask, with_latency
    from fbnetv3.search.nars.run import evolve_for, open_predictor
    from fbnetv3.search.storage.store import Store

    if show < 1:
        raise ValueError(f"--show is {show}; expected 1 or more")
    with Store.read(folder) as store:
        problem = problem_to_ask(store.settings)
        predictor = open_predictor(store, problem)
        table = latency_table_of(store.settings)
        if latency is not None:
            table = read_latency_table(latency)
            classes = store.settings["num_classes"]
            problem = with_latency(problem, table, num_classes=classes)
        names = cost_names(problem)
        limits = [parse_limit(text, names) for text in limit or [""]]
        if table is not None:
            if text := margin_note(table, limits):
                note(text)
            limits = [keep_margin(one, table) for one in limits]
        found = evolve_for(store, problem, predictor, limits)
    answers = [_evolved(problem, one, show) for one in found]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
        return
    for text, answer in zip(limit or ["no limit"], answers, strict=True):
        typer.echo(f"{text}:")
        if not answer["candidates"]:
            typer.echo(f"  out of reach; the nearest has {_costs_text(answer['nearest'])}")
        for one in answer["candidates"]:
            typer.echo(f"  {one['label']:.3f}  {_costs_text(one['costs'])}  {one['genes']}")


def _evolved(problem: Any, one: Any, show: int) -> dict[str, Any]:
    return {
        "nearest": {name: float(value) for name, value in one.nearest.items()},
        "generations": one.generations,
        "candidates": [
            {
                "label": float(one.scores[n]),
                "costs": {name: float(cost[n]) for name, cost in one.costs.items()},
                "genes": problem.space.values(one.rows[n]),
            }
            for n in range(min(show, len(one.rows)))
        ],
    }


def _costs_text(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in costs.items())


def report(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output file; default: FOLDER/report.html.",
            autocompletion=completion.endings(".html"),
        ),
    ] = None,
) -> None:
    """Write one HTML page about a search.

    Writes FOLDER/report.html, or --out: one file with its pictures, which needs no network.
    The search may still be running.

    Examples:
        fbnetv3-search report runs/t
        fbnetv3-search report runs/t --out report.html
    """
    from fbnetv3.search.report.page import write_report
    from fbnetv3.search.storage.store import Store

    path = out or folder / "report.html"
    with Store.read(folder) as store:
        write_report(store, path)
    typer.echo(str(path))


def export(
    folder: Folder,
    optuna: Annotated[
        str | None, typer.Option(help="Storage for an Optuna study, such as sqlite:///study.db.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write all labels as CSV, which `--labels` reads.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write each limit's architecture, recipe and weights here.")
    ] = None,
) -> None:
    """Export results or trials for other programs.

    --out writes a folder for each limit with architecture.json, recipe.json and, of a search that
    trained, network/; --csv writes all labels; --optuna (an optional part) writes a study.

    Examples:
        fbnetv3-search export runs/t --out answers
        fbnetv3-search export runs/t --csv trials.csv
        fbnetv3-search export runs/t --optuna sqlite:///study.db
    """
    from fbnetv3.search.execution.spec import space_of
    from fbnetv3.search.nars.answers import copy_answers
    from fbnetv3.search.nars.export import to_optuna, write_csv
    from fbnetv3.search.storage.store import Store

    with Store.read(folder) as store:
        space = space_of(store.settings)
        if optuna is None and csv is None and out is None:
            raise ValueError("nothing to export; give --out, --csv or --optuna")
        if optuna is not None:
            typer.echo(f"{counted(to_optuna(store, space, optuna), 'trial')} in {optuna}")
        if csv is not None:
            typer.echo(f"{counted(write_csv(store, space, csv), 'label')} in {csv}")
        if out is not None:
            for path in copy_answers(store, space, out):
                typer.echo(str(path))
