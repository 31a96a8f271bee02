"""The program `fbnetv3-search`: parsing and printing around `run`, `store`, `report`, `export`.

Exit codes are in `fbnetv3.cli_group`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnetv3 import completion
from fbnetv3.cli_group import Program, note
from fbnetv3.optional import need

app = Program(
    "NARS: search a network and its training recipe together, within limits on its cost. A search "
    "is a folder; it can be stopped at any moment and resumed."
)

# Of a full training on --data; enough to rank networks on images of CIFAR-10's size.
_EPOCHS = 10
# Offered by the shell; the modules that know them are slow to import.
_SPACES = ("paper_joint", "recipe_only", "cifar_joint")
_PREDICTORS = ("auto", "gp", "nars", "paper")
_BINS = ("equal", "quantile", "none", "limits")
_TABLES = completion.files(".csv", ".npz", ".parquet")
_A_SPACE = completion.any_of(completion.choices(*_SPACES), completion.files(".json"))

Folder = Annotated[Path, typer.Argument(help="The search's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Workers = Annotated[int, typer.Option(help="Processes of this machine that train at once.")]
Gpus = Annotated[str, typer.Option(help="Devices of the workers, such as 0,1,2,3.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="local or ray.", autocompletion=completion.choices("local", "ray")
    ),
]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster.")]
MaxRunning = Annotated[
    int | None, typer.Option(help="Trials handed to Ray at once; set it where the cluster grows.")
]
Cpus = Annotated[float, typer.Option(help="Cores of a trial, on Ray.")]
GpusEach = Annotated[float, typer.Option(help="GPUs of a trial, on Ray.")]
Straggler = Annotated[
    float | None,
    typer.Option(help="Close a round at this many median times; not repeatable, off by default."),
]
Attempts = Annotated[int, typer.Option(help="Failed attempts after which a trial is replaced.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds after which an attempt has failed.")]
Latency = Annotated[
    Path | None,
    typer.Option(
        help="Latency table; limits may then name latency_ms.",
        autocompletion=completion.files(".json"),
    ),
]
Bins = Annotated[
    str,
    typer.Option(
        help="equal, quantile, none or limits; default: limits if several, else equal.",
        autocompletion=completion.choices(*_BINS),
    ),
]
Predictor = Annotated[
    str,
    typer.Option(help="paper, nars, gp or auto.", autocompletion=completion.choices(*_PREDICTORS)),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Find the best for macs<=500e6,params<=6e6; repeatable."),
]

_LIMIT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*$")


def parse_limit(text: str, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns cost -> (lowest, highest) of a text such as "macs>=4e8,macs<=6e8".

    Raises:
        ValueError: the text has another form.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for part in filter(None, text.split(",")):
        match = _LIMIT.match(part)
        try:
            name, sign, number = match.groups() if match else ("", "", "")
            value = float(number)
        except ValueError:
            raise ValueError(f"limit {part!r} is not understood; expected macs<=500e6") from None
        name = (names or {}).get(name, name)
        low, high = bounds.get(name, (-float("inf"), float("inf")))
        bounds[name] = (low, value) if sign == "<=" else (value, high)
    return bounds


def _cost_names(problem: Any) -> dict[str, str]:
    """Returns short name -> cost: `macs` is the paper's convention where there are two."""
    import numpy as np

    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    return {"macs": "macs_paper"} if "macs_paper" in known and "macs" not in known else {}


@app.command()
def run(
    folder: Folder,
    space: Annotated[
        str,
        typer.Option(help="Name of a shipped space, or space.json.", autocompletion=_A_SPACE),
    ],
    table: Annotated[
        Path | None,
        typer.Option(help="Labels that were measured before.", autocompletion=_TABLES),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Images to train on.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="module:name or file.py:name.", autocompletion=completion.files(".py")),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of the objective: field=value, such as num_train=5000."),
    ] = None,
    limit: Limits = None,
    within: Annotated[str, typer.Option(help="What every candidate keeps: macs>=4e8,...")] = "",
    seed: Annotated[int, typer.Option(help="Of every choice.")] = 0,
    pool: Annotated[int, typer.Option(help="Candidates that rounds choose from.")] = 20_000,
    batch: Annotated[int, typer.Option(help="Trials of a round.")] = 48,
    rounds: Annotated[int, typer.Option(help="Rounds after the random first one.")] = 5,
    epochs: Annotated[
        int, typer.Option(help=f"Of a full training; 0: the objective's, of --data {_EPOCHS}.")
    ] = 0,
    early_stop: Annotated[bool, typer.Option(help="Shorten trainings where ranks allow.")] = True,
    bins: Bins = "",
    bin_by: Annotated[str, typer.Option(help="The cost that rounds are spread over.")] = "",
    predictor: Predictor = "auto",
    top: Annotated[int, typer.Option(help="Candidates a limit that are trained again.")] = 5,
    final_seeds: Annotated[int, typer.Option(help="Seeds of that.")] = 3,
    latency: Latency = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of labels to learn from; repeatable.",
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
    r"""Start a search and carry it to its end.

    One objective gives the labels: --data trains networks, --table looks them up, --objective asks
    your own code. Writes FOLDER: the database, every trial's results, answers and report.html.
    Ctrl-C stops it, `resume` goes on.

    Examples:
        fbnetv3-search run runs/t --space space.json --table labels.csv \
            --batch 8 --rounds 1 --predictor gp --limit "macs<=110"
        fbnetv3-search run runs/o --space space.json --objective mine.py:make \
            --batch 6 --rounds 1 --pool 200 --top 2 --final-seeds 2
        fbnetv3-search run runs/s --space cifar_joint --data cifar-10-batches-py \
            --set epochs=10 --set num_train=10000 --limit "macs<=3e6,params<=3e5"
    """
    from .export import import_labels, read_labels
    from .optimize import Plan
    from .run import create, problem_of
    from .spec import open_space

    spec = _objective(space, table, data, objective, set_, folder, epochs)
    made = _table_space(space) if table is not None else open_space(space)
    names = _cost_names(problem_of(_bare_settings(made, spec)))
    plan = Plan(
        seed=seed,
        pool=pool,
        batch=batch,
        rounds=rounds,
        epochs=epochs,
        early_stop=early_stop,
        bins=bins,
        bin_by=names.get(bin_by, bin_by),
        within=parse_limit(within, names),
        predictor=predictor,
        limits=tuple(parse_limit(text, names) for text in limit or [""]),
        top=top,
        final_seeds=final_seeds,
    )
    timed = None if latency is None else _latency_table(latency)
    for path in labels or ():
        read_labels(made, path)  # what is wrong with them shows before there is a folder
    make = _engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
    policy = _policy(straggler, attempts, timeout)
    with create(folder, space=made, objective=spec, plan=plan, latency=timed) as store:
        for path in labels or ():
            problem = problem_of(store.settings)
            full = store.settings["plan"]["epochs"]
            import_labels(store, made, problem.costs, path, epochs=full)
        _carry_out(store, make, policy, as_json)


@app.command()
def resume(
    folder: Folder,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of further labels to learn from.", autocompletion=completion.files(".csv")
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
    """Go on with a search that was stopped, killed or has failed.

    The result is the one of an undisturbed search. Writes FOLDER, as `run` does; where the search
    is finished it only writes its answers and report again.

    Examples:
        fbnetv3-search resume runs/t
        fbnetv3-search resume runs/s --workers 2 --labels more.csv
    """
    from .export import import_labels
    from .run import problem_of
    from .store import Store

    with Store.open(folder) as store:
        problem = problem_of(store.settings) if labels else None
        for path in labels or ():
            assert problem is not None
            full = store.settings["plan"]["epochs"]
            import_labels(store, problem.space, problem.costs, path, epochs=full)
        make = _engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
        _carry_out(store, make, _policy(straggler, attempts, timeout), as_json)


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Say how far a search is; it may be running.

    Rounds, trials, and the best label within each limit so far. Writes nothing.

    Examples:
        fbnetv3-search status runs/t
        fbnetv3-search status runs/t --json
    """
    from .status import status_of
    from .store import Store

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


@app.command()
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
    """Predict the labels of candidates; trains nothing.

    The search's predictor answers with a mean, its uncertainty and the costs of each candidate.
    Writes nothing.

    Examples:
        fbnetv3-search predict runs/t candidates.csv
        cat candidates.csv | fbnetv3-search predict runs/t - --json
    """
    import numpy as np

    from .export import read_candidates
    from .run import open_predictor, problem_of
    from .store import Store

    with Store.read(folder) as store:
        problem = problem_of(store.settings)
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


@app.command()
def evolve(
    folder: Folder,
    limit: Limits = None,
    latency: Latency = None,
    show: Annotated[int, typer.Option(help="Candidates of each limit.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Find the best predicted candidates for new limits.

    The genetic algorithm on the search's predictor; it trains nothing and takes seconds. Writes
    nothing.

    Examples:
        fbnetv3-search evolve runs/t --limit "macs<=110" --limit "macs<=105"
        fbnetv3-search evolve runs/s --latency phone.json --limit "latency_ms<=4"
    """
    from .run import evolve_for, open_predictor, problem_of, with_latency
    from .store import Store

    with Store.read(folder) as store:
        problem = problem_of(store.settings)
        predictor = open_predictor(store, problem)
        if latency is not None:
            classes = store.settings["num_classes"]
            problem = with_latency(problem, _latency_table(latency), num_classes=classes)
        names = _cost_names(problem)
        limits = [parse_limit(text, names) for text in limit or [""]]
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


@app.command()
def report(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File; default report.html there.", autocompletion=completion.endings(".html")
        ),
    ] = None,
) -> None:
    """Write one HTML page about a search; it may be running.

    Writes FOLDER/report.html, or --out: one file with its pictures, which needs no network.

    Examples:
        fbnetv3-search report runs/t
        fbnetv3-search report runs/t --out report.html
    """
    from .report import write_report
    from .store import Store

    path = out or folder / "report.html"
    with Store.read(folder) as store:
        write_report(store, path)
    typer.echo(str(path))


@app.command()
def bench(
    table: Annotated[
        Path,
        typer.Option(help="Labels, see `fbnetv3.search.objective`.", autocompletion=_TABLES),
    ],
    space: Annotated[
        Path,
        typer.Option(help="The table's space as JSON.", autocompletion=completion.files(".json")),
    ],
    seeds: Annotated[int, typer.Option(help="Searches, each with a seed of its own.")] = 20,
    limit: Limits = None,
    batch: Annotated[int, typer.Option(help="Trials of a round.")] = 48,
    rounds: Annotated[int, typer.Option(help="Rounds after the random first one.")] = 4,
    predictor: Predictor = "auto",
    bins: Bins = "",
    as_json: AsJson = False,
) -> None:
    r"""Measure the search on a table of labels.

    It searches the table once for each seed and prints the regret, the distance to the best label
    within the limit, after each round and at the end. Writes nothing.

    Examples:
        fbnetv3-search bench --table labels.csv --space space.json
        fbnetv3-search bench --table labels.csv --space space.json --seeds 1 \
            --batch 8 --rounds 1 --predictor gp --limit "macs<=110" --json
    """
    from .bench import bench_table
    from .objective import load_table
    from .optimize import Plan

    made = load_table(space, table)
    plan = Plan(
        batch=batch,
        rounds=rounds,
        predictor=predictor,
        bins=bins,
        limits=tuple(parse_limit(text) for text in limit or [""]),
        epochs=made.epochs,
        target=made.target,
    )
    progress = None if as_json else lambda n: typer.echo(f"{n} of {seeds}", err=True)
    found = bench_table(made, plan, seeds=seeds, progress=progress)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found["limits"]:
        typer.echo(f"limit {one['limit'] or 'none'}, best true label {one['best']:.3f}:")
        for row in one["regret"]:
            typer.echo(
                f"  {row['trials']:>5} trials: regret {row['median']:.3f} "
                f"[{row['q25']:.3f} {row['q75']:.3f}], mean {row['mean']:.3f}  {row['stage']}"
            )


@app.command()
def export(
    folder: Folder,
    optuna: Annotated[
        str | None, typer.Option(help="Storage for an Optuna study, such as sqlite:///study.db.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="All labels as CSV, which `--labels` reads again.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for each limit's architecture, recipe, weights.")
    ] = None,
) -> None:
    """Write answers or trials for other programs.

    --out writes a folder for each limit with architecture.json, recipe.json and, of a search that
    trained, network/; --csv writes all labels; --optuna (an optional part) writes a study.

    Examples:
        fbnetv3-search export runs/t --out answers
        fbnetv3-search export runs/t --csv trials.csv
        fbnetv3-search export runs/t --optuna sqlite:///study.db
    """
    from .export import copy_answers, to_optuna, write_csv
    from .spec import space_of
    from .store import Store

    with Store.read(folder) as store:
        space = space_of(store.settings)
        if optuna is None and csv is None and out is None:
            raise ValueError("nothing to export; give --out, --csv or --optuna")
        if optuna is not None:
            typer.echo(f"{to_optuna(store, space, optuna)} trials in {optuna}")
        if csv is not None:
            typer.echo(f"{write_csv(store, space, csv)} labels in {csv}")
        if out is not None:
            for path in copy_answers(store, space, out):
                typer.echo(str(path))


@app.command()
def space(
    name: Annotated[
        str,
        typer.Argument(help="Name of a shipped space, or space.json.", autocompletion=_A_SPACE),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a space: its genes, and how many candidates it has.

    Each gene comes with its range and, where the source of that is not sure, how sure it is.
    Writes nothing; --json prints the form that space.json has.

    Examples:
        fbnetv3-search space cifar_joint
        fbnetv3-search space paper_joint --json
        fbnetv3-search space space.json
    """
    from .gene import span
    from .spec import open_space

    made = open_space(name)
    if as_json:
        typer.echo(made.to_json(), nl=False)
        return
    for gene in made.genes:
        note = f"  # {gene.confidence}" if gene.confidence else ""
        typer.echo(f"{gene.group:<7} {gene.name:<22} {span(gene.values)}{note}")
    typer.echo(
        f"{made.name}: {float(made.cardinality()):.3g} distinct candidates, "
        f"{float(made.raw_cardinality()):.3g} settings of {len(made.genes)} genes"
    )


@app.command("latency-table")
def latency_table(
    out: Annotated[
        Path,
        typer.Argument(
            help="File; goes on where an earlier run ended.",
            autocompletion=completion.endings(".json"),
        ),
    ],
    space: Annotated[
        str,
        typer.Option(help="Name of a shipped space, or space.json.", autocompletion=_A_SPACE),
    ],
    device: Annotated[
        str,
        typer.Option(help="cpu or cuda.", autocompletion=completion.choices("cpu", "cuda")),
    ] = "cpu",
    images: Annotated[int, typer.Option("--batch", help="Images at once.")] = 1,
    networks: Annotated[
        int, typer.Option(help="Networks to correct and to judge the sum by.")
    ] = 40,
    seconds: Annotated[float, typer.Option(help="For each operator.")] = 0.2,
    num_classes: Annotated[int, typer.Option(help="Of the classifier.")] = 1000,
    seed: Annotated[int, typer.Option(help="Draws the networks.")] = 0,
) -> None:
    """Time every distinct operator of a space once.

    Writes the table OUT, which `run` and `evolve` take with --latency. Sums of operators are
    corrected on half of --networks and judged on the other half. It takes minutes, goes on where it
    was stopped, and is worth something on an idle machine only.

    Examples:
        fbnetv3-search latency-table phone.json --space cifar_joint
        fbnetv3-search latency-table gpu.json --space paper_joint --device cuda
    """
    import numpy as np

    from .latency_table import calibrate, measure_operators, operators_of_space
    from .plan import known_device
    from .spec import open_space

    known_device(device)
    numbers = (("batch", images, 1), ("networks", networks, 4), ("num-classes", num_classes, 1))
    for option, value, least in numbers:
        if value < least:
            raise ValueError(f"--{option} is {value}; expected {least} or more")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} to; make it first")
    made = open_space(space)
    rows = made.unique(made.sample(networks, np.random.default_rng(seed)))
    archs = [made.decode(row)[0] for row in rows]
    table = measure_operators(
        operators_of_space(made, num_classes=num_classes),
        path=out,
        device=device,
        batch=images,
        seconds_each=seconds,
        notify=lambda done, number: typer.echo(f"{done} of {number} operators", err=True),
    )
    table = calibrate(table, archs, path=out, num_classes=num_classes)
    typer.echo(
        f"{out}: {len(table.timings)} operators; error on {table.num_networks[1]} networks "
        f"held out: {table.error_pct:.1f} %"
    )


@app.command()
def rebuild(folder: Folder) -> None:
    """Make the database again from the search's other files.

    For a lost or damaged search.sqlite; writes FOLDER/search.sqlite. Nothing is trained again.

    Examples:
        fbnetv3-search rebuild runs/t
    """
    from .store import Store

    with Store.rebuild(folder) as store:
        counts = store.counts()
        for message in store.messages:
            typer.echo(message, err=True)
    typer.echo(f"{sum(counts.values())} trials, {counts['done']} of them with a label")


def _latency_table(path: Path) -> Any:
    from .latency_table import LatencyTable

    if not path.is_file():
        raise FileNotFoundError(f"no latency table at {path}; see fbnetv3-search latency-table")
    return LatencyTable.from_json(path.read_bytes())


def _bare_settings(space: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"space": space.to_dict(), "objective": dict(spec), "num_classes": 1000}


def _table_space(path: str) -> Any:
    from fbnetv3.json_record import read_json

    from .space import Space

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
    fields = dict(_setting(text) for text in settings or ())
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


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r} is not understood; expected field=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _policy(straggler: float | None, attempts: int, timeout: float | None) -> Any:
    from .coordinator import Policy

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
    if name not in ("local", "ray"):
        raise ValueError(f"engine is {name!r}; expected local or ray")
    if workers < 1:
        raise ValueError(f"--workers is {workers}; expected 1 or more")
    if name == "ray":
        need("ray")
    if name == "local" and (address is not None or max_running is not None):
        raise ValueError("--address and --max-running are for --engine ray")

    def make(store: Any) -> Any:
        spec = store.settings["objective"]
        if name == "ray":
            from .ray_engine import RayEngine

            return RayEngine(spec, store.folder, address=address, max_running=max_running,
                             cpus=cpus, gpus=gpus_each)  # fmt: skip
        from .engine import LocalEngine

        devices = [device for device in gpus.split(",") if device]
        return LocalEngine(spec, store.folder, gpus=devices, workers=len(devices) or workers)

    return make


def _carry_out(store: Any, make: Callable[[Any], Any], policy: Any, as_json: bool) -> None:
    from .export import describe
    from .live import Live, round_line
    from .report import write_report
    from .run import run as carry_out
    from .spec import space_of

    try:
        with contextlib.closing(make(store)) as engine, Live(store, quiet=as_json) as live:
            answers = carry_out(store, engine, policy=policy, notify=live.note)
    except KeyboardInterrupt:
        note(f"stopped; go on with: fbnetv3-search resume {store.folder}")
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


def main() -> None:
    """Runs the command line."""
    app()
