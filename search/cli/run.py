"""The command `run` of `fbnetv3-search`: from options to the config of a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fbnetv3.cli import completion
from fbnetv3.cli.group import note

from .carrying_out import (
    carry_out,
    engine_maker,
    learn_from,
    policy_of,
    resumable,
    trained_at_a_time,
)
from .objectives import EPOCHS, bare_settings, objective_settings, table_space
from .words import (
    A_SPACE,
    TABLES,
    Address,
    AsJson,
    Attempts,
    Batch,
    Bins,
    Cpus,
    EngineName,
    Folder,
    Gpus,
    GpusEach,
    Latency,
    Limits,
    MaxRunning,
    Pool,
    Predictor,
    Rounds,
    Straggler,
    Timeout,
    Trainings,
    Workers,
    read_latency_table,
)


def _presets(incomplete: str) -> list[str]:
    from fbnetv3.search.training.presets import PRESETS

    return completion.choices(*PRESETS)(incomplete)


def run(
    ctx: typer.Context,
    folder: Folder,
    space: Annotated[
        str,
        typer.Option(
            help="Built-in space, or space.json; with --table, the space of the table.",
            autocompletion=A_SPACE,
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            help="Table of measured labels to search instead of training.", autocompletion=TABLES
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Training images, in any form that `fbnetv3 train` reads."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Network to search recipes for, such as timm:resnet50; needs --data and a space "
            "of recipes.",
            autocompletion=completion.networks,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Custom objective, as module:name or file.py:name.",
            autocompletion=completion.files(".py"),
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Setting of the objective, as field=value; with --data: num_classes, "
            "num_train, num_val, split_seed, device, recipe.",
        ),
    ] = None,
    preset: Annotated[
        Literal["paper"] | None,
        typer.Option(
            help="paper: the constants of the paper's joint search; options given replace them."
        ),
    ] = None,
    limit: Limits = None,
    within: Annotated[
        str, typer.Option(help="Constraint on every candidate, such as macs>=4e8.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    pool: Pool = 20_000,
    trainings: Trainings = 0,
    cost: Annotated[
        float,
        typer.Option(
            help="Budget in full trainings, for short trainings and rounds in full; replaces "
            "--trainings, --batch and --rounds."
        ),
    ] = 0.0,
    time: Annotated[
        str | None,
        typer.Option(
            help="Budget in time, such as 20m or 8h: measures one training of each length, then "
            "plans as --cost does."
        ),
    ] = None,
    policy: Annotated[
        Literal["early_stop", "rungs"] | None,
        typer.Option(
            help="early_stop: a first round in full (the paper); rungs: many short trainings "
            "first. Default: rungs with --cost, --time or --rung."
        ),
    ] = None,
    rung: Annotated[
        list[float] | None,
        typer.Option(
            help="Length of short trainings as a share of the final one, each with a complete "
            "schedule; repeatable; default 1/32, or more where that is under 128 steps."
        ),
    ] = None,
    rung_trainings: Annotated[
        int, typer.Option(help="Trainings of each rung, without a budget.")
    ] = 160,
    batch: Batch = 48,
    rounds: Rounds = 5,
    epochs: Annotated[
        int,
        typer.Option(
            help=f"Epochs of a full training; 0: the objective's default, for --data {EPOCHS}."
        ),
    ] = 0,
    early_stop: Annotated[
        bool, typer.Option(help="Shorten trainings if the ranking of candidates allows it.")
    ] = True,
    threshold: Annotated[
        float,
        typer.Option(help="Rank correlation (Spearman) from which on trainings are shortened."),
    ] = 0.92,
    bins: Bins = None,
    bin_by: Annotated[str, typer.Option(help="Cost that the bins divide.")] = "",
    predictor: Predictor = "auto",
    population: Annotated[
        int, typer.Option(help="Candidates of evolution's first generation, per limit.")
    ] = 100,
    children: Annotated[
        int, typer.Option(help="Children per candidate in a generation of evolution.")
    ] = 24,
    keep: Annotated[
        int, typer.Option(help="Candidates that a generation of evolution keeps, per limit.")
    ] = 40,
    top: Annotated[int, typer.Option(help="Candidates per limit to retrain.")] = 5,
    final_seeds: Annotated[int, typer.Option(help="Number of seeds per retrained candidate.")] = 3,
    latency: Latency = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="Recipe believed to be good: preset, recipe.json, or JSON of some genes' values; "
            "repeatable. The search starts around it and retrains it in the end.",
            autocompletion=completion.any_of(_presets, completion.files(".json")),
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of earlier labels to learn from; repeatable.",
            autocompletion=completion.files(".csv"),
        ),
    ] = None,
    workers: Workers = 1,
    gpus: Gpus = "",
    engine: EngineName = "local",
    address: Address = None,
    max_running: MaxRunning = None,
    cpus: Cpus = 1.0,
    gpus_each: GpusEach = 0.0,
    straggler: Straggler = None,
    attempts: Attempts = 3,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    r"""Run a search.

    One objective gives the labels: --data trains networks, --table looks them up, --objective asks
    your own code. Writes FOLDER: the database, every trial's results, answers and report.html.
    Ctrl-C stops it, `resume` goes on.

    Examples:
        fbnetv3-search run runs/t --space space.json --table labels.csv \
            --batch 8 --rounds 1 --predictor gp --limit "macs<=110"
        fbnetv3-search run runs/o --space space.json --objective mine.py:make \
            --batch 6 --rounds 1 --pool 200 --top 2 --final-seeds 2
        fbnetv3-search run runs/s --space cifar_joint --data cifar-10-batches-py \
            --epochs 10 --set num_train=10000 --limit "macs<=3e6,params<=3e5"
        fbnetv3-search run runs/h --space cifar_joint --data cifar-10-batches-py \
            --epochs 10 --limit "macs<=3e6" --time 8h
        fbnetv3-search run runs/r --space recipe_only --model timm:resnet50 \
            --data imagenet --epochs 150 --set num_classes=200
    """
    from fbnetv3.search.execution.spec import load_objective
    from fbnetv3.search.execution.train_objective import recipes_of
    from fbnetv3.search.nars.budget import parse_time
    from fbnetv3.search.nars.config import SearchConfig
    from fbnetv3.search.nars.export import read_labels
    from fbnetv3.search.nars.latency_margin import margin_note
    from fbnetv3.search.nars.limit import cost_names, parse_limit, parse_limits
    from fbnetv3.search.nars.paper import DATA, JOINT
    from fbnetv3.search.nars.prior import read_prior
    from fbnetv3.search.nars.problem import problem_of
    from fbnetv3.search.nars.run import create_search
    from fbnetv3.search.space.spaces import open_space

    if trainings and (cost or time):
        raise ValueError("--trainings given with --cost or --time; expected one budget")
    if preset == "paper":
        epochs = JOINT["epochs"] if _is_default(ctx, "epochs") else epochs
        given = [f"{name}={value}" for name, value in DATA.items()] if data is not None else []
        set_ = [*given, *(set_ or [])]
    spec = objective_settings(space, table, data, objective, set_, folder, epochs)
    made = table_space(space) if table is not None else open_space(space)
    if model is not None:
        if data is None:
            raise ValueError(f"--model is {model} without --data; expected images to train it on")
        spec["model"], made = model, recipes_of(made, model)
    priors = [read_prior(made, source) for source in prior or ()]
    # Made once: it may open data. Its images are not needed to know what networks cost.
    asked = None if spec["kind"] == "train" else load_objective(spec)
    names = cost_names(problem_of(bare_settings(made, spec), asked))
    plan = SearchConfig(
        seed=seed,
        pool=pool,
        trainings=trainings,
        cost=cost,
        time_s=0.0 if time is None else parse_time(time),
        policy=policy or "",
        rungs=tuple(sorted(rung or ())),
        rung_sizes=_rung_sizes(policy, rung, rung_trainings, budget=bool(cost or time)),
        batch=batch,
        parallel=max(1, trained_at_a_time(workers, gpus, max_running)),
        rounds=rounds,
        epochs=epochs,
        early_stop=early_stop,
        threshold=threshold,
        bins=bins or "",
        bin_by=names.get(bin_by, bin_by),
        within=parse_limit(within, names),
        predictor=predictor,
        limits=parse_limits(limit or (), names),
        population=population,
        children=children,
        keep=keep,
        top=top,
        final_seeds=final_seeds,
        priors=tuple(one.prior for one in priors),
    )
    if preset == "paper":
        left = {name: value for name, value in JOINT.items() if _is_default(ctx, name)}
        plan = dataclasses.replace(plan, **left)
    for one in priors:
        if str(one):
            note(str(one))
    timed = None if latency is None else read_latency_table(latency)
    if timed is not None and (text := margin_note(timed, (plan.within, *plan.limits))):
        note(text)
    for path in labels or ():
        read_labels(made, path)  # what is wrong with them shows before there is a folder
    make = engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
    policy = policy_of(straggler, attempts, timeout)
    with (
        resumable(folder),
        create_search(
            folder,
            space=made,
            objective=spec,
            config=plan,
            latency=timed,
            made=asked,
            on_objective=_say,
        ) as store,
    ):
        try:
            learn_from(store, labels, asked)
        except ValueError as error:
            raise ValueError(
                f"{error}; the search in {folder} has no labels yet: correct the file, then "
                f"fbnetv3-search resume {folder} --labels FILE"
            ) from None
        carry_out(store, make, policy, as_json, asked)


def _say(objective: Any) -> None:
    """Says what data a search has."""
    from fbnetv3.search.execution.objective import TableObjective
    from fbnetv3.search.execution.train_objective import TrainObjective

    if isinstance(objective, TableObjective | TrainObjective):
        note(str(objective))


def _rung_sizes(
    policy: str | None, rung: list[float] | None, size: int, *, budget: bool
) -> tuple[int, ...]:
    """Returns the number of trainings of all rungs; with a budget it is planned."""
    return (size,) if not budget and (policy == "rungs" or rung) else ()


def _is_default(ctx: typer.Context, name: str) -> bool:
    """Returns whether an option of `run` was left out; `limits` are of `--limit`."""
    source = ctx.get_parameter_source({"limits": "limit"}.get(name, name))
    return source is not None and source.name == "DEFAULT"
