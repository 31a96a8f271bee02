"""The commands of `fbnetv3-search` that carry a search out: run, resume, status, rebuild."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fbnetv3._internal.optional import need
from fbnetv3.cli import completion
from fbnetv3.cli.group import note

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
    parse_setting,
    read_latency_table,
)

# Of a full training on --data; enough to rank networks on images of CIFAR-10's size.
_EPOCHS = 10


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
        typer.Option(help="Training images: class folders, train/, CIFAR-10, or parquet."),
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
            "schedule; repeatable; default 1/32."
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
            help=f"Epochs of a full training; 0: the objective's default, for --data {_EPOCHS}."
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
    from fbnetv3.search.execution.train_objective import recipes_of
    from fbnetv3.search.nars.budget import parse_time
    from fbnetv3.search.nars.config import SearchConfig
    from fbnetv3.search.nars.export import read_labels
    from fbnetv3.search.nars.latency_margin import margin_note
    from fbnetv3.search.nars.limit import cost_names, parse_limit
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
    spec = _objective(space, table, data, objective, set_, folder, epochs)
    made = _table_space(space) if table is not None else open_space(space)
    if model is not None:
        if data is None:
            raise ValueError(f"--model is {model} without --data; expected images to train it on")
        spec["model"], made = model, recipes_of(made, model)
    priors = [read_prior(made, source) for source in prior or ()]
    names = cost_names(problem_of(_bare_settings(made, spec)))
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
        rounds=rounds,
        epochs=epochs,
        early_stop=early_stop,
        threshold=threshold,
        bins=bins or "",
        bin_by=names.get(bin_by, bin_by),
        within=parse_limit(within, names),
        predictor=predictor,
        limits=tuple(parse_limit(text, names) for text in limit or [""]),
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
    make = _engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
    policy = _policy(straggler, attempts, timeout)
    with create_search(folder, space=made, objective=spec, config=plan, latency=timed) as store:
        _learn_from(store, labels)
        _carry_out(store, make, policy, as_json)


def resume(
    folder: Folder,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of more labels to learn from.", autocompletion=completion.files(".csv")
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
    """Resume a search that was stopped, was killed or has failed.

    The result is the one of an undisturbed search. Options of the engine are not remembered: give
    them again. Writes FOLDER, as `run` does; of a finished search only answers and report, again.

    Examples:
        fbnetv3-search resume runs/t
        fbnetv3-search resume runs/s --workers 2 --labels more.csv
    """
    from fbnetv3.search.storage.store import Store

    with Store.open(folder) as store:
        _learn_from(store, labels)
        make = _engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
        _carry_out(store, make, _policy(straggler, attempts, timeout), as_json)


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show the progress of a search, also while it runs.

    Rounds, trials, and the best label within each limit so far. Writes nothing.

    Examples:
        fbnetv3-search status runs/t
        fbnetv3-search status runs/t --json
    """
    from fbnetv3.search.nars.status import status_of
    from fbnetv3.search.storage.store import Store

    with Store.read(folder) as store:
        found = status_of(store)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    counts = found["trials"]
    typer.echo(
        f"{found['state']}: round {found['rounds']} of {found['of_rounds']}, "
        f"{counts['done']} done, {counts['leased']} running, {counts['queued']} waiting, "
        f"{counts['failed']} failed"
    )
    for one in found["best"]:
        value = "none yet" if one["label"] is None else f"{one['label']:.3f}"
        typer.echo(f"best within {one['limit'] or 'no limit'}: {value}")
    if found["coordinator"]:
        typer.echo(f"coordinator: {found['coordinator']}")


def rebuild(folder: Folder) -> None:
    """Make the database again from the search's other files.

    For a lost or damaged search.sqlite; writes FOLDER/search.sqlite. Nothing is trained again.

    Examples:
        fbnetv3-search rebuild runs/t
    """
    from fbnetv3.search.storage.store import Store

    with Store.rebuild(folder) as store:
        counts = store.counts()
        for message in store.messages:
            typer.echo(message, err=True)
    typer.echo(f"{sum(counts.values())} trials, {counts['done']} of them with a label")


def _rung_sizes(
    policy: str | None, rung: list[float] | None, size: int, *, budget: bool
) -> tuple[int, ...]:
    """Returns the number of trainings of all rungs; with a budget it is planned."""
    return (size,) if not budget and (policy == "rungs" or rung) else ()


def _is_default(ctx: typer.Context, name: str) -> bool:
    """Returns whether an option of `run` was left out; `limits` are of `--limit`."""
    source = ctx.get_parameter_source({"limits": "limit"}.get(name, name))
    return source is not None and source.name == "DEFAULT"


def _bare_settings(space: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"space": space.to_dict(), "objective": dict(spec), "num_classes": 1000}


def _table_space(path: str) -> Any:
    from fbnetv3._internal.json_record import read_json
    from fbnetv3.search.space.space import Space

    if not Path(path).is_file():
        raise FileNotFoundError(f"no space at {path}; a table needs its space as JSON")
    fields = read_json(Path(path).read_bytes(), Path(path).name)
    own = fields.get("space", fields) if isinstance(fields, dict) else fields
    return Space.from_json(json.dumps(own))


def _objective(
    space: str,
    table: Path | None,
    data: Path | None,
    target: str | None,
    settings: list[str] | None,
    folder: Path,
    epochs: int,
) -> dict[str, Any]:
    """Returns the settings of the one objective that was asked for."""
    given = [name for name, value in (("--table", table), ("--data", data),
                                      ("--objective", target)) if value is not None]  # fmt: skip
    if len(given) != 1:
        raise ValueError(
            f"{' and '.join(given) or 'no objective'} given; expected one of --table, --data, "
            "--objective"
        )
    fields = dict(parse_setting(text) for text in settings or ())
    if table is not None:
        return {"kind": "table", "space": str(Path(space).resolve()),
                "table": str(table.resolve())}  # fmt: skip
    if data is not None:
        where = str(Path(space).resolve()) if space.endswith(".json") else space
        return {
            "kind": "train",
            "space": where,
            "data": str(data.resolve()),
            "checkpoints": str((folder / "checkpoints").resolve()),
            "epochs": epochs or _EPOCHS,
            **fields,
        }
    assert target is not None
    file, colon, name = target.rpartition(":")
    absolute = f"{Path(file).resolve()}{colon}{name}" if file.endswith(".py") else target
    return {"kind": "python", "target": absolute, "arguments": fields}


def _learn_from(store: Any, labels: list[Path] | None) -> None:
    """Imports files of labels into a search, and says what of them it left out."""
    from fbnetv3.search.nars.export import import_labels, label_epochs
    from fbnetv3.search.nars.problem import problem_of

    if not labels:
        return
    problem, epochs = problem_of(store.settings), label_epochs(store)
    for path in labels:
        found = import_labels(store, problem.space, problem.costs, path, epochs=epochs)
        if found.left_out:
            note(
                f"{path}: learning from {found.taken} labels; left out {found.left_out} of "
                f"trainings of another length than {epochs} epochs"
            )


def _policy(straggler: float | None, attempts: int, timeout: float | None) -> Any:
    from fbnetv3.search.execution.coordinator import Policy

    return Policy(straggler_factor=straggler, max_attempts=attempts, timeout_s=timeout)


def _engine_maker(
    name: str,
    workers: int,
    gpus: str,
    address: str | None,
    max_running: int | None,
    cpus: float,
    gpus_each: float,
) -> Callable[[Any], Any]:
    """Returns what makes the engine for a store; the words are looked at here, before any work."""
    if workers < 1:
        raise ValueError(f"--workers is {workers}; expected 1 or more")
    if name == "ray":
        need("ray")
    others = {"--address": address, "--max-running": max_running, "--gpus-each": gpus_each or None}
    wrong = [option for option, value in others.items() if value is not None]
    if name == "local" and wrong:
        raise ValueError(f"{', '.join(wrong)}: for --engine ray; --gpus is for this machine's")
    if name == "ray" and gpus:
        raise ValueError(f"--gpus is {gpus}, for --engine local; on Ray give --gpus-each 1")

    def make(store: Any) -> Any:
        spec = store.settings["objective"]
        if name == "ray":
            from fbnetv3.search.execution.ray_engine import RayEngine

            return RayEngine(spec, store.folder, address=address, max_running=max_running,
                             cpus=cpus, gpus=gpus_each)  # fmt: skip
        from fbnetv3.search.execution.engine import LocalEngine

        devices = [device for device in gpus.split(",") if device]
        return LocalEngine(spec, store.folder, gpus=devices, workers=len(devices) or workers)

    return make


def _carry_out(store: Any, make: Callable[[Any], Any], policy: Any, as_json: bool) -> None:
    from fbnetv3.search.execution.spec import space_of
    from fbnetv3.search.nars.answers import describe
    from fbnetv3.search.nars.run import run_search as carry_out
    from fbnetv3.search.report.live import Live, round_line
    from fbnetv3.search.report.page import write_report

    try:
        with contextlib.closing(make(store)) as engine, Live(store, quiet=as_json) as live:
            answers = carry_out(store, engine, policy=policy, notify=live.note)
    except KeyboardInterrupt:
        note(f"stopped; with the same engine, go on: fbnetv3-search resume {store.folder}")
        raise
    for message in store.messages:
        typer.echo(message, err=True)
    write_report(store, store.folder / "report.html")
    space = space_of(store.settings)
    if as_json:
        typer.echo(json.dumps([describe(space, one) for one in answers], indent=2))
        return
    for number, answer in enumerate(answers):
        typer.echo(round_line(number, answer))
    typer.echo(f"report: {store.folder / 'report.html'}")
