"""The command `quantize`: parsing and printing around the library."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3._internal.messages import counted, either
from fbnetv3._internal.optional import need
from fbnetv3.deploy.runtimes import ONNX, RUNTIMES, quantizing
from fbnetv3.deploy.words import CalibrationMethod

from . import completion
from .group import note, print_json, print_table

if TYPE_CHECKING:
    from fbnetv3.deploy.quantize import Quantized
    from fbnetv3.deploy.quantize_score import Labels
    from fbnetv3.search.training.logbook import EpochLog

_QUANTIZING = [runtime for runtime in RUNTIMES.values() if runtime.quantizer]


def quantize(
    file: Annotated[
        Path,
        typer.Argument(
            help="An fp32 file written by `fbnetv3 export`: .onnx, or .tflite for LiteRT.",
            autocompletion=completion.files(
                *dict.fromkeys(one.quantized_from.suffix for one in _QUANTIZING)
            ),
        ),
    ],
    calib: Annotated[
        Path,
        typer.Option(help="Calibration images, like those seen in use, as `train` reads them."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Output file; its extension selects the runtime: "
            + ", ".join(f"{one.suffix} ({one.name})" for one in _QUANTIZING)
            + ".",
            autocompletion=completion.endings(*(one.suffix for one in _QUANTIZING)),
        ),
    ],
    evaluate: Annotated[
        Path | None,
        typer.Option(
            help="Evaluation images, whose class folders give the labels, or as `train` reads them."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Target runtime; default: by the output's extension.",
            autocompletion=completion.choices(*(one.name for one in _QUANTIZING)),
        ),
    ] = None,
    method: Annotated[
        CalibrationMethod | None,
        typer.Option(help="Calibration method; default: the one that agrees best."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Maximum drop of top-1 accuracy, or of a multi-label mAP, in points."),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option(help="Measure the accuracy lost by each layer.")
    ] = True,
    qat: Annotated[
        bool,
        typer.Option(
            "--qat",
            help="Train the int8 network to answer as the fp32 one on the images of --calib "
            "(quantization-aware training); for .onnx. The same command resumes.",
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of --qat; default: as make 500 steps.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Batch size of --qat; default: 64.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of --qat.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device of --qat, cpu or cuda; default: cuda if available.",
            autocompletion=completion.choices("cpu", "cuda"),
        ),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Measure the speedup over fp32.")] = True,
    threads: Annotated[int, typer.Option(help="Number of threads of the speed measurement.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    r"""Quantize an exported model to int8, and measure its loss.

    Writes OUTPUT. It is calibrated on images, compared with fp32 on others, and its speed measured
    on this machine; with --max-drop the most sensitive layers stay in float if necessary. With
    --qat it is trained on the images, whose labels are not needed, and its checkpoints are kept in
    a folder beside OUTPUT.

    Examples:
        fbnetv3 quantize nano.onnx --calib photos -o nano_int8.onnx
        fbnetv3 quantize nano.onnx --calib photos -o i8.onnx --method minmax
        fbnetv3 quantize nano.onnx --calib photos --evaluate photos \
            -o int8.xml --max-drop 1
        fbnetv3 quantize nano.onnx --calib photos -o qat.onnx --qat --epochs 2
    """
    from fbnetv3.deploy.quantize import open_source, thinned
    from fbnetv3.deploy.quantize import quantize as quantized
    from fbnetv3.images.classes import labelled_images
    from fbnetv3.measure.int8_speed import compare_speed

    by_extension = {one.suffix: one.name for one in _QUANTIZING}
    suffix = output.suffix.lower()
    if runtime is None and suffix not in by_extension:
        raise ValueError(
            f"output is {output}; expected a name that ends in {either(list(by_extension))}"
        )
    chosen = quantizing(runtime or by_extension[suffix])
    _check_training(
        qat,
        chosen.name,
        {
            "--epochs": epochs,
            "--batch-size": batch_size,
            "--lr": lr,
            "--device": device,
        },
        method,
    )
    need(str(chosen.quantizer))
    opened = open_source(file, chosen, threads=1)
    names, several = opened.class_names, opened.artefact.multi_label
    with tempfile.TemporaryDirectory(prefix="fbnetv3-") as work:
        calib, evaluate = _unpacked(Path(work), calib, evaluate, qat=qat)
        images = labelled_images(calib, names, part="train", multi_label=several)
        held_out = labelled_images(evaluate, names, multi_label=several) if evaluate else None
        labels: Labels | None = None
        if held_out is not None:
            labels = held_out.label_sets if several else held_out.labels
        for text in dict.fromkeys(images.notes + (held_out.notes if held_out else ())):
            note(text)
        common: dict[str, Any] = {
            "evaluation": held_out.paths if held_out else None,
            "labels": labels,
            "max_drop_pct": max_drop,
            "sensitivity": sensitivity,
        }
        if qat:
            recipe = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
            side = opened.preprocess.crop
            found = _trained(
                file, output, images.paths, recipe=recipe, device=device, side=side, **common
            )
        else:
            found = quantized(
                file, output, thinned(images.paths), runtime=chosen.name, method=method, **common
            )
    if found.remark:
        note(found.remark)
    speed = compare_speed(file, output, threads=threads) if latency else None
    if json:
        print_json({"quantized": found, "speed": speed})
        return
    _print(found, "classes" if several else "top-1")
    if speed:
        print(speed.verdict)


def _unpacked(
    work: Path, calib: Path, evaluate: Path | None, *, qat: bool
) -> tuple[Path, Path | None]:
    """Returns where the images are as files, which those of packed sets are in `work`."""
    from fbnetv3.deploy.quantize import MAX_CALIBRATION
    from fbnetv3.search.data.datasets import is_packed
    from fbnetv3.search.data.unpacked import unpacked

    if qat and is_packed(calib):
        raise ValueError(f"--calib is {calib}; --qat expects a folder or a list of image files")
    for name in ("calib", "evaluate"):
        (work / name).mkdir()
    found = unpacked(calib, work / "calib", part="train", most=MAX_CALIBRATION)
    return found, evaluate and unpacked(evaluate, work / "evaluate", part="val")


def _check_training(
    qat: bool, runtime: str, options: Mapping[str, object], method: str | None
) -> None:
    """Refuses options that do not belong together, before a file is opened."""
    given = [name for name, value in options.items() if value is not None]
    if given and not qat:
        raise ValueError(f"{', '.join(given)}: only for quantization-aware training; add --qat")
    if qat and runtime != ONNX.name:
        raise ValueError(
            f"--qat trains for {ONNX.name}, and the output is for {runtime}; give an output that "
            f"ends in {ONNX.suffix}"
        )
    if qat and method is not None:
        raise ValueError(f"--method {method} and --qat, which trains the ranges; give one of them")


def _trained(
    file: Path,
    output: Path,
    paths: Sequence[Path],
    *,
    recipe: Mapping[str, Any],
    device: str | None,
    side: int,
    evaluation: Sequence[Path] | None,
    labels: Labels | None,
    **options: Any,
) -> Quantized:
    """Returns the trained file; a signal ends the training once its step is saved."""
    from fbnetv3.deploy.quantize import split
    from fbnetv3.search.cli.progress import Progress, stoppable
    from fbnetv3.search.cli.words import workers_of
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.quantized import quantize_aware, recipe_for

    training, held_out = split(paths, evaluation, labels)
    chosen = recipe_for(len(training), **recipe)
    hardware = Hardware.of(device, precision="fp32")
    folder = output.with_suffix(".qat")
    shown = Progress(chosen.epochs, silent=False)
    shown.plan(
        [
            f"data    {len(training)} images to train on, {len(held_out)} to evaluate on",
            f"recipe  {counted(chosen.epochs, 'epoch')} of "
            f"{counted(len(training) // chosen.batch_size, 'step')}, batch "
            f"{chosen.batch_size}, {chosen.optimizer}, lr {chosen.lr:.4g} on a cosine; "
            f"checkpoints in {folder}",
        ]
    )

    def on_epoch(log: EpochLog) -> None:
        if log.accuracy_pct is None:
            return
        shown.plan(
            [
                f"epoch {log.epoch}: loss {log.loss:.4f}, same answers as fp32 on "
                f"{log.accuracy_pct:.2f} % of held-out images"
            ]
        )

    with stoppable(shown) as stop:
        return quantize_aware(
            file,
            output,
            training,
            folder=folder,
            evaluation=held_out,
            labels=labels,
            recipe=chosen,
            hardware=hardware,
            workers=workers_of("auto", hardware, chosen.batch_size, side),
            on_epoch=on_epoch,
            on_step=shown.step,
            stop=stop,
            **options,
        )


def _print(found: Quantized, answer: str) -> None:
    print(
        f"{found.path}: {found.num_bytes / 1e6:.2f} MB of {found.num_bytes_float / 1e6:.2f}; "
        f"ranges by {found.method} over {found.num_calibration} images"
        + (", then trained" if found.trained else "")
    )
    if found.num_unreadable:
        listed = "; ".join(found.unreadable[:5])
        note(f"{found.num_unreadable} images could not be read and were skipped: {listed}")
    print(f"same {answer} as fp32 on {found.agreement_pct:.2f} % of {found.num_evaluation} images")
    if found.top1_pct is not None:
        print(f"top-1 {found.top1_pct:.2f} %, fp32 {found.top1_float_pct:.2f} %")
    if found.map_pct is not None:
        print(f"mAP {found.map_pct:.2f} %, fp32 {found.map_float_pct:.2f} %")
    if found.layers:
        rows = [
            (la.node, la.error_of_std, "float" if la.in_float else "int8") for la in found.layers
        ]
        print_table(("layer", "error alone", "kept in"), rows[:10], "the ten most sensitive layers")
