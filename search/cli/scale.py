"""The command `scale` of `fbnetv3-search`: parsing and printing around `cost.scale`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnetv3.cli import completion

from .words import AsJson

_BY_FACTORS = ("width", "depth", "resolution", "raw_width", "set")


def scale(
    arch: Annotated[
        str,
        typer.Argument(
            help="Model or architecture.json to scale.",
            autocompletion=completion.any_of(completion.networks, completion.files(".json")),
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Output file, an architecture as JSON.",
            autocompletion=completion.endings(".json"),
        ),
    ],
    width: Annotated[
        float | None, typer.Option(help="Factor of the channels of the stem and all rows.")
    ] = None,
    depth: Annotated[
        float | None, typer.Option(help="Factor of the number of blocks per row.")
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Image size in pixels.")] = None,
    raw_width: Annotated[
        list[str] | None,
        typer.Option(help="Channels before rounding, as MB4=76 or stem=20; repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Cell to set by hand, as MB7.repeats=2; repeatable."),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(help="Scale to at most this many MACs instead of by given factors."),
    ] = None,
    shares: Annotated[
        str, typer.Option(help="With --macs: shares of width, depth and resolution.")
    ] = "1,1,1",
    num_classes: Annotated[int, typer.Option(help="Number of classes, for the counts.")] = 1000,
    as_json: AsJson = False,
) -> None:
    r"""Scale a network in width, depth and resolution.

    Writes the architecture --output, which `fbnetv3 train --model` takes, and prints its MACs
    (multiply-adds) and parameters. The examples are the paper's A from B, F from E and G from E.

    Examples:
        fbnetv3-search scale fbnetv3_b --resolution 224 -o a.json
        fbnetv3-search scale fbnetv3_e --width 1.15 --depth 1.09 --resolution 272 \
            --raw-width stem=20 --raw-width MB4=76 --raw-width MB7=236 -o f.json
        fbnetv3-search scale fbnetv3_e --width 1.22 --depth 1.09 --resolution 320 \
            --raw-width stem=20 --raw-width MB4=76 --raw-width MB7=236 \
            --set stem.channels=32 --set MB2.channels=40 --set MB4.channels=104 \
            --set MB7.repeats=2 -o g.json
        fbnetv3-search scale fbnetv3_a --macs 6e8 --shares 2,1,1 -o larger.json
    """
    from fbnetv3._internal.files import write_atomically
    from fbnetv3.arch.counts import count
    from fbnetv3.hub.registry import get_arch
    from fbnetv3.search.cost.scale import Scaling, scale_to
    from fbnetv3.search.cost.scale import scale as scaled

    given = [
        name
        for name, value in zip(
            _BY_FACTORS, (width, depth, resolution, raw_width, set_), strict=True
        )
        if value is not None
    ]
    if (macs is None) == (not given):
        expected = "either --macs or factors such as --width 1.15 --depth 1.09 --resolution 272"
        got = "no scaling given" if macs is None else f"--macs and --{given[0].replace('_', '-')}"
        raise ValueError(f"{got}; expected {expected}")
    base = get_arch(arch)
    if macs is not None:
        made, scaling, counts = scale_to(
            base, macs, shares=_shares(shares), num_classes=num_classes
        )
    else:
        scaling = Scaling(
            width=1.0 if width is None else width,
            depth=1.0 if depth is None else depth,
            resolution=resolution,
            raw_widths=dict(map(_raw_width, raw_width or ())),
            overrides=_overrides(set_ or ()),
        )
        made = scaled(base, scaling)
        counts = count(made, num_classes=num_classes)
    write_atomically(out, made.to_json())
    if as_json:
        found = {
            "path": str(out),
            "width": scaling.width,
            "depth": scaling.depth,
            "resolution": made.resolution,
            "macs_paper": counts.macs_paper,
            "macs_fvcore": counts.macs_fvcore,
            "params": counts.params,
        }
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(
        f"{out}: width x {scaling.width:.3g}, depth x {scaling.depth:.3g}, {made.resolution} "
        f"pixels; {counts.macs_paper / 1e6:.1f} M MACs, {counts.params / 1e6:.2f} M parameters"
    )


def _shares(text: str) -> tuple[float, float, float]:
    """Returns shares that add up to 1 from "2,1,1"."""
    try:
        width, depth, resolution = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--shares is {text!r}; expected three numbers such as 2,1,1") from None
    total = width + depth + resolution
    if min(width, depth, resolution) < 0 or not total > 0:
        raise ValueError(f"--shares is {text!r}; expected numbers of 0 or more, not all 0")
    return width / total, depth / total, resolution / total


def _raw_width(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--raw-width {text!r} is not understood; expected MB4=76") from None


def _overrides(texts: Any) -> dict[str, dict[str, Any]]:
    """Returns row -> cell -> value of texts such as "MB7.repeats=2"."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        row, dot, cell = name.partition(".")
        try:
            found.setdefault(row, {})[cell] = json.loads(value)
        except ValueError:
            equals = ""
        if not (equals and dot and cell):
            raise ValueError(f"--set {text!r} is not understood; expected MB7.repeats=2")
    return found
