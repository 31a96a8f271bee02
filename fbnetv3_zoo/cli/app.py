"""The command line `fbnetv3`: parse, call the library, print.

Exit codes are in `cli_group`. Each command imports what it needs when it runs, so that `list`
does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3._internal.messages import escaped
from fbnetv3.deploy.runtimes import is_exported, suffixes

from . import completion
from .group import FAILED, Program, note, print_json, print_table
from .options import (
    EMBEDDED,
    TABLES,
    CacheDir,
    Device,
    Json,
    License,
    Offline,
    Policy,
    counted_in_millions,
)
from .photos import photos_in

if TYPE_CHECKING:
    from fbnetv3.arch.arch import Arch
    from fbnetv3.deploy.classify import Prediction

# ImageNet weights that anyone may use.
DEFAULT = "fbnetv3_b.ra2_in1k"
# A line says how far a long run is after so many seconds.
_LINE_SECONDS = 30.0

app = Program(
    "FBNetV3-A..G exactly as published: classify, export, quantize, measure, train. Everything "
    "works offline with the small weights inside the package, fbnetv3_nano.cifar10.",
    {
        "Models and weights": ("list", "find", "info", "fetch", "convert", "verify"),
        "Classify": ("classify", "explain", "demo"),
        "Train": ("train", "eval"),
        "Detect": ("detect",),
        "Deploy": ("export", "quantize"),
        "Measure": ("latency", "flops"),
        "Installation": ("doctor",),
    },
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
    """Show a model's architecture, cost, weights and their licenses.

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
def classify(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model, model.tag, local-dir:DIR, or an exported file.",
            autocompletion=completion.any_of(completion.networks, completion.files(*suffixes())),
        ),
    ] = None,
    embedded: Annotated[
        bool, typer.Option(help=f"Use {EMBEDDED}, which ships with the package.")
    ] = False,
    top_k: Annotated[int, typer.Option(help="Number of classes to show per image.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which a multi-label model's class is shown; 0: all."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 16,
    threads: Annotated[int, typer.Option(help="Number of inference threads.")] = 1,
    device: Device = "cpu",
    license: Policy = None,
    offline: Offline = None,
    cache_dir: CacheDir = None,
    require: Annotated[
        bool, typer.Option(help="Fail rather than answer with other weights than the default.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV or .jsonl file for the predictions.")
    ] = None,
    json: Json = False,
) -> None:
    """Classify images.

    A multi-label model shows the classes whose scores reach their thresholds, which may be none.
    An image that cannot be read is reported and skipped; the exit code is then 1. Weights with a
    fitted threshold mark images that are probably of none of their classes. Without
    --model and --embedded, ImageNet weights from the hub answer, or the embedded ones, which know
    ten classes, where the hub cannot be reached; the first line and the JSON say which. Scripts
    give --model, or --require, which ends with exit code 1 instead. Writes --output, which the same
    command goes on with after a stop, and otherwise only fetched weights, to the cache.

    Examples:
        fbnetv3 classify photo.jpg --embedded
        fbnetv3 classify photos/ --model fbnetv3_b.ra2_in1k --top-k 1 --json
        fbnetv3 classify photos/ --model nano.onnx -o answers.csv
        fbnetv3 classify photos/ --embedded --device cuda
    """
    for one, other, both in (
        ("--embedded", f"--model {model}", embedded and model is not None),
        ("--output", "--json", output is not None and json),
    ):
        if both:
            raise ValueError(f"{one} and {other} exclude each other; give one of them")
    asked = EMBEDDED if embedded else model
    _check_device(device, asked)
    photos = _photos(images)
    options: dict[str, Any] = {"top_k": top_k, "batch_size": batch_size, "num_threads": threads}
    if asked is not None and is_exported(asked):
        from fbnetv3.deploy.classify import Classifier

        answering, instead = asked, None
        classifier = Classifier(asked, license=license, **options)
    else:
        options["device"] = device
        source = {"license": license, "offline": offline, "cache_dir": cache_dir}
        answering, instead, classifier = _torch_classifier(asked, require, source, options)
    if threshold is not None:
        classifier.set_threshold(threshold)
    failed, records = 0, []
    num_classes = len(classifier.class_names)
    if not json:
        missed = f", instead of {instead}; it knows only {num_classes} classes" if instead else ""
        print(escaped(f"model: {answering}{missed}"))
    if output is not None:
        failed = _write_answers(output, classifier, photos, answering)
        photos = []
    for prediction in classifier.stream(photos):
        failed += prediction.error is not None
        if json:
            records.append(prediction)
        else:
            print(escaped(f"{prediction.source}: {_answer(prediction)}"))
    if json:
        print_json(
            {
                "model": answering,
                "instead_of": instead,
                "num_classes": num_classes,
                "multi_label": classifier.multi_label,
                "predictions": records,
            }
        )
    if failed:
        note(f"{failed} of the images could not be classified")
        raise typer.Exit(FAILED)


def _write_answers(output: Path, classifier: Any, photos: list[Path], asked: str) -> int:
    """Writes the predictions to a file, and returns how many photos could not be classified."""
    import time

    from fbnetv3.deploy.answer_file import AnswerFile

    exported = classifier.artefact
    saved = Path(asked.removeprefix("local-dir:")) / "model.safetensors"
    stamp = saved.stat().st_mtime_ns if saved.is_file() else ""
    metadata = exported.to_metadata() if exported else ""
    identity = f"{asked} {classifier.top_k} {stamp} {metadata} {classifier.confidence}"
    file = AnswerFile(output, identity)
    missing = [photo for photo in photos if str(photo) not in file.done]
    if len(missing) < len(photos):
        note(f"{len(photos) - len(missing)} photos were classified by an earlier run")
    shown = time.monotonic()
    try:
        for prediction in classifier.stream(missing):
            file.add(prediction)
            if time.monotonic() - shown >= _LINE_SECONDS:
                shown = time.monotonic()
                note(f"{len(file.done):,} of {len(photos):,} photos classified")
    finally:
        file.close()
    file.finish(map(str, photos))
    print(escaped(f"{len(set(photos)):,} photos classified, predictions in {output}"))
    return file.num_failed


def _answer(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"error: {prediction.error}"
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in pairs)
    if prediction.none_of_these:
        return f"none of these (nearest: {shares})"
    return shares or "none of the classes"


def _check_device(device: str, asked: str | None) -> None:
    if device == "cpu":
        return
    from fbnetv3._internal.devices import known_device

    if asked is not None and is_exported(asked):
        raise ValueError(
            f"{asked} is an exported file, which runs on the CPU; --device {device} is for "
            "PyTorch models: give a model's name"
        )
    known_device(device)


def _torch_classifier(
    asked: str | None, require: bool, source: dict[str, Any], options: dict[str, Any]
) -> tuple[str, str | None, Any]:
    """Returns the weights that answer, those they answer instead of, and their classifier."""
    from fbnetv3._internal.errors import FetchError
    from fbnetv3.deploy.classify import Classifier
    from fbnetv3.hub.create import create
    from fbnetv3.hub.registry import get_weights

    name, instead = asked or DEFAULT, None
    try:
        made = create(name, pretrained=True, **source)
    except FetchError as error:
        if asked is not None or require:
            raise
        note(f"{DEFAULT} cannot be had here ({str(error).partition(';')[0]})")
        name, instead = EMBEDDED, DEFAULT
        made = create(name, pretrained=True, **source)
        note(f"{name}, which is inside the package, answers: it knows only the CIFAR-10 classes")
    if ":" not in name:
        name = get_weights(name, license=source["license"]).name
    return name, instead, Classifier(made, **options)


def _photos(images: list[Path]) -> list[Path]:
    """Returns the images, and those of the folders.

    Raises:
        ValueError: nothing exists, or no image is in it.
    """
    missing = [str(path) for path in images if not path.exists()]
    if len(missing) == len(images):
        raise ValueError(f"no such file or folder: {', '.join(missing)}")
    photos = list(photos_in(images))
    if not photos:
        raise ValueError(f"no images in {', '.join(map(str, images))}; expected .jpg, .png, ...")
    return photos


@app.command()
def flops(
    name: Annotated[
        str,
        typer.Argument(
            help="Model, model.tag, local-dir:DIR, or architecture JSON.", autocompletion=TABLES
        ),
    ],
    resolution: Annotated[
        int | None, typer.Option("--resolution", "-r", help="Input resolution, in pixels.")
    ] = None,
    layers: Annotated[bool, typer.Option(help="Show every layer.")] = False,
    json: Json = False,
) -> None:
    """Count multiply-adds, as the paper does and as fvcore does.

    Both come from fvcore's trace of the network; the paper leaves batch-norm out. Writes nothing.

    Examples:
        fbnetv3 flops fbnetv3_a
        fbnetv3 flops fbnetv3_a --resolution 256 --layers
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

    from . import demo as cli_demo
    from . import deploy as cli_deploy
    from . import detect as cli_detect
    from . import explain as cli_explain
    from . import find as cli_find
    from . import latency as cli_latency
    from . import weights as cli_weights

    app.command("find")(cli_find.find)
    app.command("fetch")(cli_weights.fetch)
    app.command("convert")(cli_weights.convert)
    app.command("verify")(cli_weights.verify)
    app.command("export")(cli_deploy.export)
    app.command("quantize")(cli_deploy.quantize)
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
