"""The commands `detect eval`, `predict`, `export` and `quantize`, with `train` beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from fbnetv3._internal.messages import escaped
from fbnetv3._internal.optional import need
from fbnetv3.deploy.words import CalibrationMethod

from . import completion
from .detect_shown import Lines, Pictures, objects_in_words, print_scores, write_records
from .detect_train import DataOption, train
from .group import FAILED, Program, note, print_json
from .options import Device, Json, Policy
from .photos import photos_in

if TYPE_CHECKING:
    from fbnetv3.detection.detections import Detections, Detector

# Of exported detectors, see `fbnetv3.detection.exported`, which is imported where it is used.
SUFFIXES = (".onnx", ".xml", ".pte", ".tflite")
_INT8 = (".onnx", ".xml")
_RUN = completion.files(*SUFFIXES)
_Model = Annotated[
    str,
    typer.Argument(
        help="Output folder of `detect train`, or an exported file.", autocompletion=_RUN
    ),
]

app = Program(
    "Train, score, run and export object detectors.",
    {"Commands": ("train", "eval", "predict", "export", "quantize")},
)
app.command()(train)


@app.command("eval")
def evaluate(
    model: _Model,
    data: DataOption,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Split to score; default: val, test or the only one."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Folder for precision-recall curves and pictures with boxes."),
    ] = None,
    num_pictures: Annotated[int, typer.Option(help="Number of pictures in --plots.")] = 8,
    threshold: Annotated[float, typer.Option(help="Lowest score of a box in the pictures.")] = 0.5,
    threads: Annotated[
        int | None, typer.Option(help="Number of inference threads of an exported file.")
    ] = None,
    device: Device = "cpu",
    license: Policy = None,
    json: Json = False,
) -> None:
    """Score a detector by COCO's average precision and recall.

    AP and AP50 come with a 95 % interval, a bootstrap over the images; a table has the classes.
    Writes nothing but the folder --plots.

    Examples:
        fbnetv3 detect eval detector --data shapes
        fbnetv3 detect eval detector.onnx --data shapes --plots plots --json
    """
    need("pycocotools")
    _check_threshold(threshold)
    from fbnetv3.detection.data import open_scored
    from fbnetv3.detection.scoring import evaluate as scored

    detector = _opened(model, device, threads, license)
    images = open_scored(data, split)
    for text in images.notes:
        note(text)
    shown, pictures = Lines("scored", len(images)), None if plots is None else Pictures(plots)

    def on_image(index: int, found: Detections) -> None:
        shown.step(index + 1)
        if pictures is not None and index < num_pictures:
            pictures.write(images.image_path(index), found.above(threshold))

    scores = scored(detector, images, on_image=on_image)
    if plots is not None:
        from fbnetv3.detection.pictures import plot_precision_recall

        plot_precision_recall(plots / "precision_recall.png", scores)
    if json:
        print_json({"model": model, "data": data, **scores.to_dict()})
        return
    print_scores(scores)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    model: Annotated[
        str,
        typer.Option(
            help="Output folder of `detect train`, or an exported file.", autocompletion=_RUN
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures with boxes and predictions.json."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score of a box.")] = 0.5,
    threads: Annotated[
        int | None, typer.Option(help="Number of inference threads of an exported file.")
    ] = None,
    device: Device = "cpu",
    license: Policy = None,
    json: Json = False,
) -> None:
    """Find objects in images.

    Prints class, score and box (x1, y1, x2, y2 in pixels of the upright image) of the ten with
    the highest scores of an image; --json and --out have all. An image
    that cannot be read is reported and skipped; the exit code is then 1. Writes nothing but the
    folder --out.

    Examples:
        fbnetv3 detect predict photo.jpg --model detector --out found
        fbnetv3 detect predict photos/ --model detector.onnx --threshold 0.3 --json
    """
    _check_threshold(threshold)
    from fbnetv3.images.reader import is_url

    missing = [path for path in images if not path.exists()]
    if urls := list(filter(is_url, missing)):
        raise ValueError(f"{urls[0]} is an address; download the image, and give its path")
    if len(missing) == len(images):
        raise ValueError(f"no such file or folder: {', '.join(map(str, missing))}")
    paths = list(photos_in(images))
    if not paths:
        raise ValueError(f"no images in {', '.join(map(str, images))}; expected .jpg, .png, ...")
    detector = _opened(model, device, threads, license)
    records, failed, pictures = [], 0, None if out is None else Pictures(out)
    for path in paths:
        try:
            found = detector(path).above(threshold)
        except (OSError, ValueError) as error:
            failed += 1
            records.append({"source": str(path), "error": str(error), "objects": []})
            if not json:
                print(escaped(f"{path}: error: {error}"))
            continue
        record: dict[str, Any] = {"source": str(path), "error": None, "objects": found.to_list()}
        if pictures is not None:
            record["picture"] = str(pictures.write(path, found))
        records.append(record)
        if not json:
            print(escaped(f"{path}: {objects_in_words(record['objects'], threshold)}"))
    if out is not None:
        write_records(out, model, records)
    if json:
        print_json({"model": model, "predictions": records})
    if failed:
        note(f"{failed} of the images could not be read")
        raise typer.Exit(FAILED)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(help="Output folder of `detect train`.", autocompletion=_RUN),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Output file: .onnx, .xml for OpenVINO, .pte for ExecuTorch, or .tflite for "
            "LiteRT.",
            autocompletion=completion.endings(*SUFFIXES),
        ),
    ],
    license: Policy = None,
    json: Json = False,
) -> None:
    """Write a whole detector to a file for another runtime.

    Writes OUTPUT (and the .bin beside an .xml) once its boxes have been compared with PyTorch's on
    photos of several sizes; what differs is not written. An .onnx or .xml file takes pixels of any
    size and gives boxes: resizing and non-maximum suppression are inside. Of SSDlite, a .pte or
    .tflite file has the rest, and `detect predict` and `detect eval` do these two.

    Examples:
        fbnetv3 detect export detector -o detector.onnx
        fbnetv3 detect export detector -o detector.xml
    """
    from fbnetv3.deploy.runtimes import runtime_of

    if output.suffix in SUFFIXES:
        runtime_of(output).need_writer()
    from fbnetv3.detection.detectors import load_detector
    from fbnetv3.detection.export import export_detector

    found = export_detector(load_detector(model, license=license), output)
    if json:
        print_json(found)
        return
    same = found.agreement
    print(
        f"{output}: {found.num_bytes / 1e6:.1f} MB; {100 * same.share:.1f} % of {same.num_boxes} "
        f"boxes with scores from {found.threshold:.2g} are PyTorch's, which differ by at most "
        f"{same.max_box_error:.2g} pixels and {same.max_score_error:.0e} of score"
    )


@app.command()
def quantize(
    model: Annotated[
        str, typer.Argument(help="ONNX file of `detect export`.", autocompletion=_RUN)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Output file: .onnx, or .xml for OpenVINO.",
            autocompletion=completion.endings(*_INT8),
        ),
    ],
    data: DataOption,
    num_images: Annotated[
        int, typer.Option("--images", help="Number of training images for the ranges.")
    ] = 100,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Split to measure the loss on; default: val, test or the only one."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Maximum loss of AP, in points; nothing is written if int8 exceeds it."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(get_args(CalibrationMethod))}; default: percentile_99.99.",
            autocompletion=completion.choices(*get_args(CalibrationMethod)),
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Quantize an exported detector to int8, and measure its loss.

    Backbone and heads become int8, by the ranges of training images; boxes are computed in float.
    Writes OUTPUT (and the .bin beside an .xml).

    Examples:
        fbnetv3 detect quantize detector.onnx -o int8.onnx --data shapes
        fbnetv3 detect quantize detector.onnx -o int8.onnx --data shapes --max-drop 50
    """
    need("pycocotools")
    if output.suffix == ".xml":
        need("openvino")
    if num_images < 1:
        raise ValueError(f"--images is {num_images}; expected at least 1")
    from fbnetv3.detection.data import open_scored, open_train_val
    from fbnetv3.detection.quantize import METHOD, quantize_detector

    images, scored = open_train_val(data)[0], open_scored(data, split)
    paths = [images.image_path(index) for index in range(min(num_images, len(images)))]
    shown = Lines("calibrated and scored", len(paths) + 2 * len(scored))
    found = quantize_detector(
        model,
        output,
        paths,
        data=scored,
        max_drop_pct=max_drop,
        method=method or METHOD,
        on_image=shown.step,
    )
    if json:
        print_json(found)
        return
    if found.unreadable:
        listed = "; ".join(found.unreadable[:5])
        note(f"{len(found.unreadable)} images could not be read and were skipped: {listed}")
    before, after = found.scores_float, found.scores
    assert before is not None
    assert after is not None
    print(
        f"{output}: {found.num_bytes / 1e6:.1f} MB in place of {found.num_bytes_float / 1e6:.1f}; "
        f"{found.num_layers} layers by {found.method} of {found.num_calibration} images; AP "
        f"{100 * after.values['AP']:.1f} % in place of {100 * before.values['AP']:.1f} %, AP50 "
        f"{100 * after.values['AP50']:.1f} % in place of {100 * before.values['AP50']:.1f} %"
    )


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold is {threshold}; expected a score from 0 to 1")


def _opened(model: str, device: str, threads: int | None, license: str | None) -> Detector:
    """Returns the detector of a folder or an exported file."""
    if Path(model).suffix.lower() in SUFFIXES:
        if device != "cpu":
            raise ValueError(f"{model} is an exported file, which runs on the CPU")
        from fbnetv3.detection.exported import ExportedDetector

        return ExportedDetector(model, num_threads=threads, license=license)
    if threads is not None:
        raise ValueError("--threads is for exported files; set OMP_NUM_THREADS for PyTorch")
    from fbnetv3._internal.devices import known_device
    from fbnetv3.detection.detectors import TorchDetector, load_detector

    known = known_device(device)
    return TorchDetector(load_detector(model, license=license), known)
