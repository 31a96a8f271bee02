"""The command line `fbnetv3`: parse, call the library, print.

Exit codes are in `cli_group`. Each command imports what it needs when it runs, so that `list`
does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import completion
from .group import FAILED, Program, note, print_json, print_table
from .options import TABLES, Json, License, counted_in_millions

if TYPE_CHECKING:
    from fbnetv3.arch.arch import Arch

app = Program(
    "FBNetV3-A to G as published: use, train, export and measure image models.",
    {
        "Classify": ("classify", "demo", "explain"),
        "Models": ("list", "find", "info", "fetch", "convert", "verify"),
        "Train": ("train", "eval"),
        "Detect": ("detect",),
        "Deploy": ("export", "quantize"),
        "Measure": ("latency", "flops"),
        "Install": ("doctor",),
    },
    "Everything works offline with the small weights inside the package, fbnetv3_nano.cifar10.",
)


@app.command("list")
def list_(
    filter: Annotated[
        str, typer.Argument(help="Pattern such as 'fbnetv3_*'.", autocompletion=completion.models)
    ] = "",
    pretrained: Annotated[
        bool, typer.Option(help="List pretrained weights instead of models.")
    ] = False,
    license: License = None,
    max_macs: Annotated[
        str | None,
        typer.Option(help="Maximum MACs, in millions (600) or with a unit (600M, 0.6G, 6e8)."),
    ] = None,
    max_params: Annotated[
        str | None,
        typer.Option(help="Maximum number of parameters, in millions (8.5) or as 8.5M, 8.5e6."),
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(help="Minimum top-1 accuracy, in percent.")
    ] = None,
    json: Json = False,
) -> None:
    """List models, or pretrained weights within limits.

    By default, lists models with their cost at the published resolution. With --pretrained,
    --license or a limit lists pretrained weights, the most accurate first. Writes nothing.

    Examples:
        fbnetv3 list
        fbnetv3 list --pretrained --license commercial
        fbnetv3 list "fbnetv3_?" --max-macs 600 --min-top1 80 --json
    """
    from fbnetv3.arch.counts import count
    from fbnetv3.hub.registry import find, get_arch, list_models, list_weights, unknown_model

    if filter and not list_models(filter) and not list_weights(filter):
        raise unknown_model(filter)
    limited = any(limit is not None for limit in (max_macs, max_params, min_top1))
    if pretrained or license or limited:
        names = set(list_weights(filter, license=license))
        found = [
            row
            for labels in ("imagenet1k", "cifar10")
            for row in find(
                max_macs=None if max_macs is None else counted_in_millions(max_macs),
                max_params=None if max_params is None else counted_in_millions(max_params),
                min_top1=min_top1,
                license=license,
                labels=labels,
            )
            if row.name in names
        ]
        if not found:
            note("no weights match")
        if json:
            print_json(found)
            return
        columns = ("weights", "MACs (M)", "params (M)", "top-1 (%)", "on", "license")
        print_table(
            columns,
            [
                (r.name, r.macs_paper / 1e6, r.params / 1e6, r.top1_pct, r.labels, r.license)
                for r in found
            ],
        )
        return
    counted = {name: count(get_arch(name)) for name in list_models(filter)}
    if json:
        print_json([{"name": name, **vars(c)} for name, c in counted.items()])
        return
    print_table(
        ("model", "resolution", "MACs (M)", "params (M)"),
        [(n, c.resolution, c.macs_paper / 1e6, c.params / 1e6) for n, c in counted.items()],
    )


@app.command()
def info(
    name: Annotated[
        str,
        typer.Argument(
            help="Model, model.tag, local-dir:DIR, or architecture JSON.", autocompletion=TABLES
        ),
    ],
    json: Json = False,
) -> None:
    """Show a model's architecture, cost, weights and licenses.

    The architecture is the published one, row by row; weights come with their
    accuracy, who measured it, the license and the source. Writes nothing.

    Examples:
        fbnetv3 info fbnetv3_e
        fbnetv3 info fbnetv3_b.ra2_in1k --json
    """
    from fbnetv3.arch.counts import count
    from fbnetv3.hub.license_policy import terms
    from fbnetv3.hub.weights import WEIGHTS

    arch, sides, license = _described(name)
    known = [w for w in WEIGHTS.values() if name in (w.name, w.model)]
    counts = count(arch, **sides)
    if json:
        found = {"name": name, "counts": counts, "weights": known, "arch": arch.to_dict()}
        print_json(found if license is None else {**found, "license": license})
        return
    print(
        f"{name}: {counts.macs_paper / 1e6:.1f} M MACs at {counts.resolution} pixels, "
        f"{sides['num_classes']} classes, "
        f"{counts.params / 1e6:.2f} M parameters, stem {arch.stem_channels}, "
        f"head {arch.head_mid_channels} -> {arch.head_channels}"
    )
    print_table(
        ("row", "kernel", "expansion", "channels", "blocks", "stride", "SE", "padding"),
        [
            (
                r.name,
                "/".join(map(str, r.kernel)),
                "/".join(map(str, r.expansion)),
                r.channels,
                r.repeats,
                r.stride,
                "yes" if r.se else "",
                "" if r.padding is None else str(r.padding),
            )
            for r in arch.rows
        ],
    )
    for w in known:
        print(
            f"{w.name}: top-1 {w.top1_pct:.2f} % on {w.labels} at {w.preprocess.crop} "
            f"(by {w.evaluated_by}); {terms(w.license)}; source: {w.origin}; "
            f"SHA-256 {w.hash_origin}"
        )
    if license is not None:
        print(f"{name}: licence {terms(license) or 'not stated'}")


def _described(name: str) -> tuple[Arch, dict[str, int], str | None]:
    """Returns the table, the numbers of classes and channels, and what a folder's licence is."""
    from fbnetv3.hub.registry import FOLDERS, get_arch
    from fbnetv3.hub.weights import WEIGHTS

    if not name.startswith(FOLDERS):
        num_classes = WEIGHTS[name].num_classes if name in WEIGHTS else 1000
        return get_arch(name), {"num_classes": num_classes}, None
    from fbnetv3.hub.pretrained import read_pretrained

    found = read_pretrained(name)
    sides = {key: int(found.model_args[key]) for key in ("num_classes", "in_chans")}
    return found.arch, sides, found.license


@app.command()
def flops(
    name: Annotated[
        str,
        typer.Argument(
            help="Model, model.tag, local-dir:DIR, or architecture JSON.", autocompletion=TABLES
        ),
    ],
    resolution: Annotated[
        int | None,
        typer.Option(
            "--image-size", "--resolution", "-r", help="Input height and width in pixels."
        ),
    ] = None,
    layers: Annotated[bool, typer.Option(help="Show every layer.")] = False,
    json: Json = False,
) -> None:
    """Count multiply-adds, as the paper and as fvcore do.

    Both come from fvcore's trace of the network; the paper leaves batch-norm out. Writes nothing.

    Examples:
        fbnetv3 flops fbnetv3_a
        fbnetv3 flops fbnetv3_a --image-size 256 --layers
        fbnetv3 flops mine.json --json
    """
    from fbnetv3.measure.flop_count import flops as counted

    found = counted(name, resolution)
    if json:
        print_json({"name": name, **found.to_dict()})
        return
    if layers:
        print_table(
            ("layer", "kind", "MACs", "params", "output"),
            [
                (x.name, x.kind, x.macs, x.params, "x".join(map(str, x.output)))
                for x in found.layers
            ],
        )
    print(f"{name} at {found.resolution} pixels, one image, multiply-adds:")
    print(f"  paper  {found.macs_paper:>14,}  convolutions, classifier and pooling")
    print(f"  fvcore {found.macs_fvcore:>14,}  fvcore's total, with batch-norm")
    print(f"  parameters {found.params:,}, of them weights {found.weight_params:,}")


@app.command()
def doctor(
    network: Annotated[
        bool, typer.Option(help="Also check whether the sources of weights can be reached.")
    ] = False,
    json: Json = False,
) -> None:
    """Check the installation and suggest fixes.

    Versions, whether torch and torchvision fit each other, providers of onnxruntime, the cache,
    threads; with --network the sources of weights, a few seconds each. Writes nothing; exit code 1
    if something is wrong.

    Examples:
        fbnetv3 doctor
        fbnetv3 doctor --json
    """
    from .doctor import diagnose

    checks = diagnose(network=network)
    if json:
        print_json(checks)
    else:
        for check in checks:
            fix = f"  -> {check.fix}" if check.fix else ""
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.found}{fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)


def add_neighbours() -> None:
    """Adds the commands that live beside their areas."""
    from fbnetv3.search.cli import eval as cli_eval
    from fbnetv3.search.cli import train as cli_train

    from . import classify as cli_classify
    from . import demo as cli_demo
    from . import deploy as cli_deploy
    from . import detect as cli_detect
    from . import explain as cli_explain
    from . import find as cli_find
    from . import latency as cli_latency
    from . import quantize as cli_quantize
    from . import weights as cli_weights

    app.command("classify")(cli_classify.classify)
    app.command("find")(cli_find.find)
    app.command("fetch")(cli_weights.fetch)
    app.command("convert")(cli_weights.convert)
    app.command("verify")(cli_weights.verify)
    app.command("export")(cli_deploy.export)
    app.command("quantize")(cli_quantize.quantize)
    app.command("latency")(cli_latency.latency)
    app.command("demo")(cli_demo.demo)
    app.command("explain")(cli_explain.explain)
    app.command("train")(cli_train.train)
    app.command("eval")(cli_eval.evaluate)
    app.add_typer(cli_detect.app, name="detect")


def main() -> None:
    """Runs the command line."""
    add_neighbours()
    app()


if __name__ == "__main__":
    main()
