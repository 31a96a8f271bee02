"""The command `find`: which network to take within a budget, FBNetV3 or not."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3._internal.files import check_output

from . import completion
from .group import note, print_json, print_table
from .options import Json, Policy, counted_in_millions

if TYPE_CHECKING:
    from fbnetv3.hub.published import Published
    from fbnetv3.measure.contenders import Choice, Latencies

_HERE = "here"
# Networks of the front that are shown where limits alone are given.
_SHOWN = 10


def find(
    against: Annotated[
        str | None,
        typer.Option(
            help="Network whose cost is the budget: timm's name, or name@RESOLUTION.",
            autocompletion=completion.published,
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Budget by latency, not MACs: 'here' measures the few that may win, on this "
            "machine; or a file that --output wrote.",
            autocompletion=completion.choices(_HERE),
        ),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(help="Maximum MACs, in millions (600) or with a unit (600M, 0.6G, 6e8)."),
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(help="Maximum number of parameters, in millions (8.5) or as 8.5M, 8.5e6."),
    ] = None,
    license: Policy = None,
    backend: Annotated[
        str, typer.Option(help="What runs the networks with --latency: onnxruntime, torch, ...")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option(help="Number of inference threads.")] = 1,
    most: Annotated[int, typer.Option(help="Number of networks to measure with 'here'.")] = 8,
    min_runs: Annotated[int, typer.Option(help="Minimum number of timed runs per network.")] = 50,
    seconds: Annotated[
        float, typer.Option(help="Time limit for all networks together, in seconds.")
    ] = 60.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Append measured latencies to this JSON Lines file."),
    ] = None,
    json: Json = False,
) -> None:
    r"""Find the most accurate network within a budget.

    Compares published ImageNet accuracies of FBNetV3, EfficientNet, MobileNetV3 and V4, RepViT,
    ResNet, ... by MACs, or with --latency by milliseconds per image. Names one, and lists its
    neighbors on the Pareto front: no other network is more accurate at no more cost. With --against
    these are from half to twice its cost. Needs no weights and no network access. Writes only
    --output.

    Examples:
        fbnetv3 find --against efficientnet_b0
        fbnetv3 find --against efficientnet_b0 --license commercial --json
        fbnetv3 find --max-macs 600 --license commercial
        fbnetv3 find --against mobilenetv3_small_050 --latency here \
            --most 2 --seconds 5 --output rows.jsonl
    """
    from fbnetv3.hub.license_policy import effective_policy
    from fbnetv3.hub.published import named, published
    from fbnetv3.measure.contenders import choose

    if against is None and max_macs is None and max_params is None:
        raise ValueError("give a budget: --against NETWORK, --max-macs or --max-params")
    if latency is None and output is not None:
        raise ValueError("--output is for measured latencies; add --latency here")
    if latency == _HERE and against is None:
        raise ValueError("--latency here needs --against, the network to compare with")
    other = None if against is None else named(against)
    macs = None if max_macs is None else counted_in_millions(max_macs)
    params = None if max_params is None else counted_in_millions(max_params)
    policy = effective_policy(license)
    rows = [
        row
        for row in published()
        if (macs is None or row.macs <= macs)
        and (params is None or row.params <= params)
        and (policy is None or row.commercial)
    ]
    timed = None
    if latency is not None:
        ways: dict[str, Any] = {"backend": backend, "threads": threads}
        timed = _latencies(
            latency, rows, other, output, most, min_runs=min_runs, seconds=seconds, **ways
        )
    choice = choose(rows, other, timed)
    if json:
        print_json(_record(choice))
        return
    print(_sentence(choice))
    print_table(
        ("network", "pixels", "top-1 (%)", "MACs (M)", "params (M)", "ms", "by", "license"),
        [
            (
                row.name,
                row.resolution,
                row.top1_pct,
                row.macs / 1e6,
                row.params / 1e6,
                None if timed is None else choice.cost(row),
                row.source,
                row.license,
            )
            for row in _near(choice)
        ],
    )


def _near(choice: Choice) -> list[Published]:
    """Returns what is shown of the front: around the budget, or the end of it."""
    if choice.against is None:
        return list(choice.front[-_SHOWN:])
    budget = choice.cost(choice.against)
    near = [row for row in choice.front if budget / 2 <= choice.cost(row) <= 2 * budget]
    return near or [choice.winner]


def _latencies(
    source: str,
    rows: list[Published],
    against: Published | None,
    output: Path | None,
    most: int,
    *,
    backend: str,
    threads: int,
    min_runs: int,
    seconds: float,
) -> Latencies:
    from fbnetv3.measure.contenders import measure_networks, read_latencies, worth_measuring

    if source != _HERE:
        if output is not None:
            raise ValueError("--output is for what is measured; --latency is a file already")
        return read_latencies(Path(source), backend, threads)
    if output is not None:
        check_output(output)
    if most < 2:
        raise ValueError(f"--most is {most}; expected at least 2 networks to compare")
    if threads < 1:
        raise ValueError(f"--threads is {threads}; expected a number from 1")
    assert against is not None
    found = measure_networks(
        worth_measuring(rows, against, most),
        backend=backend,
        threads=threads,
        min_runs=min_runs,
        max_seconds=seconds,
        progress=note,
    )
    if any(record["latency"]["verdict"] != "ok" for record in found):
        note("this machine was too busy for exact latencies; measure again on an idle one")
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.writelines(json_text.dumps(record) + "\n" for record in found)
    return {(r["network"], r["side"]): r["latency"]["median_ms"] for r in found}


def _sentence(choice: Choice) -> str:
    """Returns in words what to take, and what it costs beside the network in question."""
    from fbnetv3.hub.license_policy import terms

    won, other = choice.winner, choice.against
    cost = _cost(choice, won)
    text = f"{_name(won)}: top-1 {won.top1_pct:.2f} % (published by {won.source}), {cost}"
    if other is None:
        text = f"Take {text}."
    elif won == other:
        text = f"Keep {text}. No listed network is more accurate at no more cost."
    else:
        text = (
            f"Take {text}. For comparison, {_name(other)}: {other.top1_pct:.2f} % "
            f"({other.source}), {_cost(choice, other)}."
        )
    if not won.commercial:
        text += (
            f" The license of {won.name}: {terms(won.license)}; --license commercial leaves "
            "such weights out."
        )
    return text


def _name(row: Published) -> str:
    return f"{row.name} at {row.resolution} pixels"


def _cost(choice: Choice, row: Published) -> str:
    macs = f"{row.macs / 1e6:,.0f} M MACs"
    return macs if choice.latency_ms is None else f"{choice.cost(row):.1f} ms, {macs}"


def _record(choice: Choice) -> dict[str, Any]:
    def entry(row: Published) -> dict[str, Any]:
        timed = None if choice.latency_ms is None else choice.cost(row)
        return {**row._asdict(), "latency_ms": timed}

    return {
        "winner": entry(choice.winner),
        "against": None if choice.against is None else entry(choice.against),
        "cost": "macs" if choice.latency_ms is None else "latency_ms",
        "front": [entry(row) for row in choice.front],
    }
