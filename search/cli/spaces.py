"""The commands of `fbnetv3-search` that need no search: space, bench, latency-table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fbnetv3.cli import completion
from fbnetv3.cli.group import note

from .words import (
    A_SPACE,
    TABLES,
    AsJson,
    Batch,
    Bins,
    Limits,
    Predictor,
    Rounds,
    Trainings,
)


def space(
    name: Annotated[
        str,
        typer.Argument(help="Built-in space, or space.json.", autocompletion=A_SPACE),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a space, its genes and number of candidates.

    Each gene comes with its range and, where the source of that is not sure, how sure it is.
    Writes nothing; --json prints the form that space.json has.

    Examples:
        fbnetv3-search space cifar_joint
        fbnetv3-search space paper_joint --json
        fbnetv3-search space space.json
    """
    from fbnetv3.search.space.gene import span
    from fbnetv3.search.space.spaces import open_space

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


def bench(
    table: Annotated[
        Path,
        typer.Option(
            help="Table of labels; see `fbnetv3.search.execution.objective`.", autocompletion=TABLES
        ),
    ],
    space: Annotated[
        Path,
        typer.Option(help="Space of the table, as JSON.", autocompletion=completion.files(".json")),
    ],
    seeds: Annotated[int, typer.Option(help="Number of searches, each with its own seed.")] = 20,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Rows to take, as column=value, such as steps=250; repeatable."),
    ] = None,
    limit: Limits = None,
    pool: Annotated[
        int | None, typer.Option(help="Size of the pool; default: every candidate of the table.")
    ] = None,
    trainings: Trainings = 0,
    batch: Batch = 48,
    rounds: Rounds = 5,
    predictor: Predictor = "auto",
    bins: Bins = None,
    as_json: AsJson = False,
) -> None:
    r"""Benchmark the search on a table of labels.

    It searches the table once for each seed and prints the regret, the distance to the best label
    within the limit, after each round and at the end. Writes nothing.

    Examples:
        fbnetv3-search bench --table labels.csv --space space.json
        fbnetv3-search bench --table labels.csv --space space.json --seeds 1 \
            --batch 8 --rounds 1 --predictor gp --limit "macs<=110" --json
        fbnetv3-search bench --table trainings.parquet --space space.json \
            --where space=cifar_joint --where steps=248 --trainings 48
    """
    from fbnetv3.search.execution.objective import load_table
    from fbnetv3.search.nars.config import SearchConfig
    from fbnetv3.search.nars.limit import cost_names, parse_limits
    from fbnetv3.search.nars.problem import Problem
    from fbnetv3.search.nars.regret import bench_table

    made = load_table(space, table, _where(where or []))
    note(str(made))
    names = cost_names(Problem(made.space, made.costs, made.allowed, made.rows))
    plan = SearchConfig(
        pool=len(made.rows) if pool is None else pool,
        trainings=trainings,
        batch=batch,
        rounds=rounds,
        predictor=predictor,
        bins=bins or "",
        limits=parse_limits(limit or (), names),
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


def _where(parts: list[str]) -> dict[str, str]:
    """Returns column -> value.

    Raises:
        ValueError: one has another form.
    """
    found = {}
    for part in parts:
        column, equals, value = part.partition("=")
        if not column or not equals:
            raise ValueError(f"--where is {part!r}; expected column=value, such as steps=250")
        if column.strip() in found:
            raise ValueError(f"--where has {column.strip()!r} twice; expected one value of it")
        found[column.strip()] = value.strip()
    return found


def latency_table(
    out: Annotated[
        Path,
        typer.Argument(
            help="Output file; an interrupted run is resumed.",
            autocompletion=completion.endings(".json"),
        ),
    ],
    space: Annotated[
        str,
        typer.Option(help="Built-in space, or space.json.", autocompletion=A_SPACE),
    ],
    device: Annotated[
        str,
        typer.Option(
            help="Device to measure, cpu or cuda.", autocompletion=completion.choices("cpu", "cuda")
        ),
    ] = "cpu",
    images: Annotated[int, typer.Option("--batch", help="Batch size.")] = 1,
    networks: Annotated[
        int, typer.Option(help="Number of models to fit and test the correction on.")
    ] = 40,
    seconds: Annotated[float, typer.Option(help="Seconds per operator.")] = 0.2,
    num_classes: Annotated[int, typer.Option(help="Number of classes.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Time every distinct operator of a space once.

    It times the machine that it runs on. Writes the table OUT, which `run` and `evolve` take with
    --latency. Sums of operators are corrected on half of --networks and judged on the other half.
    It takes minutes, goes on where it was stopped, and is worth something on an idle machine only.

    Examples:
        fbnetv3-search latency-table here.json --space cifar_joint --num-classes 10
        fbnetv3-search latency-table gpu.json --space paper_joint --device cuda
    """
    import numpy as np

    from fbnetv3._internal.devices import known_device
    from fbnetv3._internal.files import check_output
    from fbnetv3.search.cost.operator_timing import calibrate, measure_operators
    from fbnetv3.search.cost.operators import operators_of_space
    from fbnetv3.search.space.spaces import open_space

    known_device(device)
    numbers = (
        ("batch", images, 1),
        ("networks", networks, 4),
        ("num-classes", num_classes, 1),
        ("seed", seed, 0),
    )
    for option, value, least in numbers:
        if value < least:
            raise ValueError(f"--{option} is {value}; expected {least} or more")
    check_output(out)
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
