"""The command `latency`: parsing and printing around `bench`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from fbnetv3._internal.devices import known_device
from fbnetv3._internal.files import check_output
from fbnetv3._internal.optional import need
from fbnetv3.deploy.runtimes import ONNX, RUNTIMES, is_exported, read_artefact, suffixes
from fbnetv3.deploy.words import TorchBackend
from fbnetv3.images.folders import list_images

from . import completion
from .deploy import created
from .group import note, print_json, print_table
from .options import Device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fbnetv3.deploy.artefact import Artefact
    from fbnetv3.measure.bench import Row

# Measured on a GPU unless backends are named: those that need no compiling.
_ON_A_GPU = tuple(name for name in get_args(TorchBackend) if "compile" not in name)


def latency(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models, or exported files.",
            autocompletion=completion.any_of(completion.networks, completion.files(*suffixes())),
        ),
    ],
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="PyTorch backends to add: torch, torch-optimized, torch-compile, ...; repeatable.",
            autocompletion=completion.choices(*get_args(TorchBackend)),
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", "--batch-size", help="Batch size; repeatable."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Input height and width in pixels; default: the model's."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Number of threads; repeatable. Default: 1, and all cores."),
    ] = None,
    device: Device = "cpu",
    images: Annotated[
        Path | None,
        typer.Option(help="Images to measure agreement, and accuracy if in class folders."),
    ] = None,
    pretrained: Annotated[
        bool | None, typer.Option(help="Load pretrained weights; default: with --images.")
    ] = None,
    best: Annotated[
        bool, typer.Option(help="Print the fastest backend that keeps the accuracy.")
    ] = False,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory.")] = False,
    min_runs: Annotated[int, typer.Option(help="Minimum number of timed runs per backend.")] = 100,
    seconds: Annotated[
        float, typer.Option(help="Time limit per model and batch size, in seconds.")
    ] = 60.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Append results to this JSON Lines file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot to this .svg or .png file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    r"""Benchmark inference backends on this machine.

    Every backend that is installed takes its turn; rows have median, spread and agreement. On a GPU
    these are PyTorch's: exported files are measured on the CPU only. Writes nothing unless asked
    to: --output appends rows, --plot draws them.

    Examples:
        fbnetv3 latency fbnetv3_nano.cifar10 --threads 1 --seconds 5
        fbnetv3 latency nano.onnx --images photos --best --threads 1 --seconds 5
        fbnetv3 latency fbnetv3_a fbnetv3_b --device cuda --batch 64 -o rows.jsonl
        fbnetv3 latency fbnetv3_nano.cifar10 --images photos --plot rows.svg \
            --threads 1 --seconds 5
    """
    from fbnetv3.measure.bench import contenders, write_rows
    from fbnetv3.measure.plot import check_plot

    # Looked at first: measuring takes minutes.
    if images is not None and not list_images(images):
        raise ValueError(f"no images in {images}; see fbnetv3.images.folders.SUFFIXES")
    if device != "cpu":
        known_device(device)
    if output is not None:
        check_output(output)
    if plot is not None:
        check_plot(plot)
        if images is None:
            raise ValueError(
                "--plot shows accuracy; give --images, a folder with one for each class"
            )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(models):
            place = Path(folder) / str(number)
            place.mkdir()
            rows += _rows_of(
                name,
                place,
                backends=backend or (),
                batch_sizes=batch or (),
                image_size=image_size,
                threads=threads or (),
                device=device,
                folder=images,
                labelled=plot is not None,
                pretrained=pretrained,
                min_runs=min_runs,
                max_seconds=seconds,
                memory=memory,
            )
    if output:
        write_rows(rows, output)
    if plot:
        from fbnetv3.measure.plot import plot_rows

        plot_rows([row.to_dict() for row in rows], plot)
    if json:
        print_json(_best_record(contenders(rows)) if best else rows)
        return
    _print_rows(rows)
    if best:
        print(f"best: {_best_line(contenders(rows))}")


def _best_record(rows: Sequence[Row]) -> dict[str, Any]:
    first, *others = rows
    return {
        **first.to_dict(),
        "decision": _decision(rows),
        "tied_with": [_way(row) for row in others],
    }


def _best_line(rows: Sequence[Row]) -> str:
    if _decision(rows) == "best":
        return _way(rows[0])
    if _decision(rows) == "tie":
        return f"a tie of {' and '.join(_way(row) for row in rows)}"
    return (
        f"too noisy to say; the fastest median is that of {_way(rows[0])}. Measure on an idle "
        "machine, or longer with --min-runs and --seconds"
    )


def _decision(rows: Sequence[Row]) -> Literal["best", "tie", "too noisy"]:
    if any(row.latency.verdict != "ok" for row in rows):
        return "too noisy"
    return "best" if len(rows) == 1 else "tie"


def _way(row: Row) -> str:
    where = (
        f"with {row.threads} {'thread' if row.threads == 1 else 'threads'}"
        if row.device == "cpu"
        else f"on {row.device}"
    )
    return f"{row.model} by {row.backend} {where}, batch {row.batch}"


def _rows_of(
    name: str,
    place: Path,
    *,
    backends: Sequence[str],
    batch_sizes: Sequence[int],
    image_size: int | None,
    threads: Sequence[int],
    device: str,
    folder: Path | None,
    labelled: bool,
    pretrained: bool | None,
    **measuring: Any,
) -> list[Row]:
    from fbnetv3.measure.bench import entries, sweep

    path, module = Path(name), None
    files: list[Path] = []
    if is_exported(path):
        if backends:
            raise ValueError(f"{name} is a file; torch's backends need a model's name")
        if device != "cpu":
            raise ValueError(f"{name} is a file; --device {device} needs a model's name")
        if image_size is not None:
            raise ValueError(
                f"{name} is a file for its own size; export the model with --image-size"
            )
        files = [path]
        artefact = read_artefact(path)
    else:
        from fbnetv3.deploy.describe import describe, preprocess_for
        from fbnetv3.deploy.export import to_onnx
        from fbnetv3.hub.license_policy import check_terms

        # Speed does not depend on the weights; agreement and accuracy do.
        trained = folder is not None if pretrained is None else pretrained
        module = created(name, trained, None)
        preprocess = preprocess_for(module, image_size)
        artefact = describe(module, preprocess=preprocess)
        # Fresh weights are nobody's, and no policy is against them.
        own = None if trained or artefact.license else "Apache-2.0"
        # Not only when the file that is about to be exported is opened.
        check_terms(name, own or artefact.license)
        if device == "cpu":
            exported = to_onnx(module, place / "fp32.onnx", preprocess=preprocess, license=own)
            files, artefact = [exported.path], exported.artefact
    batch, labels, paths = _prepared(folder, artefact)
    if labelled and artefact.multi_label:
        raise ValueError(f"--plot shows top-1; {name} gives an image several classes: leave it out")
    if labelled and labels is None:
        raise ValueError(f"{folder} has no folders called after the classes of {name}, for --plot")
    if module is not None and files and paths:
        files += _int8(files[0], place, paths)
    rows = sweep(
        entries(files, backends or (() if files else _ON_A_GPU), threads, device),
        artefact,
        module=module,
        batch_sizes=batch_sizes or (artefact.batch_size or 1,),
        images=batch,
        labels=labels,
        **measuring,
    )
    return [dataclasses.replace(row, model=artefact.name) for row in rows]


def _prepared(
    folder: Path | None, artefact: Artefact
) -> tuple[NDArray[np.float32] | None, list[int] | None, list[Path]]:
    from fbnetv3.images.classes import labelled_images
    from fbnetv3.images.reader import open_image

    if folder is None:
        return None, None, []
    import numpy as np

    found = labelled_images(folder, artefact.class_names, multi_label=artefact.multi_label)
    notes, read, kept = list(found.notes), [], []
    if artefact.multi_label:
        notes.append("agreement is of all classes of an image; `fbnetv3 eval` measures accuracy")
    for number, path in enumerate(found.paths):
        try:
            read.append(artefact.preprocess(open_image(path)))
        except (OSError, ValueError) as error:
            notes.append(f"left out: {error}")
            continue
        kept.append(number)
    for text in notes:
        note(text)
    if not read:
        raise ValueError(f"no image in {folder} can be read")
    labels = None
    if found.labels is not None and not artefact.multi_label:
        labels = [found.labels[number] for number in kept]
    return np.stack(read), labels, [found.paths[number] for number in kept]


def _int8(float_path: Path, place: Path, images: Sequence[Path]) -> list[Path]:
    """Writes int8 files for every runtime there is; the images are judged on by `sweep`."""
    from fbnetv3.deploy.quantize import quantize as quantized
    from fbnetv3.deploy.quantize import thinned

    made = []
    for runtime in RUNTIMES.values():
        if not runtime.quantizer or runtime.quantized_from is not ONNX:
            continue  # of LiteRT the source is a .tflite file, which is measured by its name
        path = place / f"int8{runtime.suffix}"
        try:
            need(runtime.quantizer)
        except ImportError as error:
            note(str(error))
            continue
        quantized(float_path, path, thinned(images), runtime=runtime.name, sensitivity=False)
        made.append(path)
    return made


def _print_rows(rows: Sequence[Row]) -> None:
    columns = (
        "model",
        "backend",
        "threads",
        "device",
        "batch",
        "median ms",
        "95 %",
        "p90",
        "img/s",
        "first ms",
        "MB",
        "peak MiB",
        "agree %",
        "top-1 %",
        "keeps",
        "verdict",
    )
    print_table(
        columns,
        [
            (
                row.model,
                row.backend,
                row.threads,
                row.device,
                row.batch,
                row.latency.median_ms,
                f"{row.latency.low_ms:.2f}-{row.latency.high_ms:.2f}",
                row.latency.p90_ms,
                row.images_per_s,
                row.latency.first_ms,
                None if row.num_bytes is None else row.num_bytes / 1e6,
                row.peak_mib,
                row.agreement_pct,
                row.top1_pct,
                None if row.agreement_pct is None else "yes" if row.keeps_accuracy else "no",
                row.latency.verdict,
            )
            for row in rows
        ],
    )
