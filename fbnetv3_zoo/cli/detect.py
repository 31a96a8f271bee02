"""The commands `detect train`, `eval`, `predict` and `export`: parsing and printing."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fbnetv3._internal.messages import escaped
from fbnetv3._internal.optional import need

from . import completion
from .group import FAILED, Program, note, print_json, print_table
from .options import TABLES, Device, Json, Policy
from .photos import photos_in

if TYPE_CHECKING:
    from fbnetv3.detection.detections import Detections, Detector
    from fbnetv3.integrations.coco_scores import Scores

# Of exported detectors, see `fbnetv3.detection.exported`, which is imported where it is used.
SUFFIXES = (".onnx", ".xml")
_KINDS = ("ssdlite", "faster_rcnn_320", "faster_rcnn", "retinanet")
_LINE_SECONDS = 10.0
# A set with more gets no table of its classes unless asked for as JSON.
_MAX_CLASSES = 100
_RUN = completion.files(*SUFFIXES)
_Data = Annotated[
    Path,
    typer.Option(
        help="Images with boxes: COCO (a folder or its JSON), YOLO (data.yaml) or Pascal VOC."
    ),
]
_Model = Annotated[
    str,
    typer.Argument(
        help="Output folder of `detect train`, or an exported file.", autocompletion=_RUN
    ),
]

app = Program(
    "Train, score, run and export object detectors.",
    {"Commands": ("train", "eval", "predict", "export")},
)


@app.command()
def train(
    data: _Data,
    model: Annotated[
        str,
        typer.Option(
            help="Backbone: model, model.tag, arch.json, local-dir:DIR, ...", autocompletion=TABLES
        ),
    ] = "fbnetv3_a",
    out: Annotated[Path, typer.Option(help="Output folder; a run in it is resumed.")] = Path("run"),
    detector: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}.",
            autocompletion=completion.choices(*_KINDS),
        ),
    ] = "ssdlite",
    size: Annotated[
        int | None,
        typer.Option(help="Side of SSDlite's squares, or shorter side, in pixels."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--from-scratch",
            help="Start from the backbone's trained weights, or from fresh ones; default: trained "
            "if the model has any.",
        ),
    ] = None,
    trainable_layers: Annotated[
        int | None,
        typer.Option(help="Layers of the backbone that train, 0 to 5; default: as torchvision."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 8,
    optimizer: Annotated[
        str,
        typer.Option(help="adamw or sgd.", autocompletion=completion.choices("adamw", "sgd")),
    ] = "adamw",
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; default: fits optimizer and batch.")
    ] = None,
    augment: Annotated[
        str,
        typer.Option(
            help="none, flip, or crop (which also zooms out and changes colors).",
            autocompletion=completion.choices("none", "flip", "crop"),
        ),
    ] = "flip",
    val_share: Annotated[
        float, typer.Option(help="Share of the images held out if there is no val split.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    checkpoint_steps: Annotated[
        int, typer.Option(help="Also save a checkpoint every N steps; 0: after epochs only.")
    ] = 0,
    validate_epochs: Annotated[int, typer.Option(help="Validate every N epochs.")] = 1,
    workers: Annotated[int, typer.Option(help="Number of image loading processes.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda; default: cuda if available.",
            autocompletion=completion.choices("cpu", "cuda"),
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, or bf16 on a GPU.", autocompletion=completion.choices("fp32", "bf16")
        ),
    ] = "fp32",
    license: Policy = None,
) -> None:
    r"""Train a detector on a folder of images with boxes.

    All annotations and images are checked first. Writes the folder --out: averaged weights
    (model.safetensors), detector.json, a log, checkpoints, and in best/ the weights of the epoch
    with the highest AP. After a stop or a crash the same command goes on where it was.

    Examples:
        fbnetv3 detect train --data shapes --model fbnetv3_nano --epochs 2 \
            --size 96 --out detector
        fbnetv3 detect train --data coco --model fbnetv3_b.ra2_in1k \
            --detector retinanet
    """
    need("pycocotools")
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
    import torch

    from fbnetv3.detection.data import open_train_val
    from fbnetv3.detection.detectors import new_detector
    from fbnetv3.detection.recipe import DetectionRecipe
    from fbnetv3.detection.training import DetectionRun
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.workers import usable_workers

    hardware = Hardware.of(device, precision=precision)
    images, val_images = open_train_val(data, val_share=val_share, seed=seed)
    for text in dict.fromkeys([*images.notes, *val_images.notes]):
        note(text)
    recipe = DetectionRecipe.fitting(
        len(images),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        augment=augment,
        seed=seed,
    )
    torch.manual_seed(seed)
    built = new_detector(
        detector,
        model,
        images.class_names,
        pretrained=_has_weights(model) if pretrained is None else pretrained,
        size=size,
        trainable_layers=trainable_layers,
        license=license,
    )
    config = built.config
    started = f"the weights {config.weights}" if config.weights else "fresh weights"
    lines = [
        f"model   {config.detector} on {model}, {config.size} pixels, from {started}",
        f"data    {len(images)} images to train, {len(val_images)} to validate, "
        f"{len(images.class_names)} classes",
        f"recipe  {recipe.epochs} epochs of {len(images) // recipe.batch_size} steps, batch "
        f"{recipe.batch_size}, {recipe.optimizer}, lr {recipe.lr:.4g}",
    ]
    pixels = max(image["width"] * image["height"] for image in images.coco.imgs.values())
    run = DetectionRun(
        recipe=recipe,
        folder=out,
        checkpoint_steps=checkpoint_steps,
        validate_epochs=validate_epochs,
        # Whole images, float32.
        workers=usable_workers(workers, 12 * pixels * recipe.batch_size),
        hardware=hardware,
    )
    _train(built, images, val_images, run, lines)


def _train(built: Any, images: Any, val_images: Any, run: Any, lines: Sequence[str]) -> None:
    """Trains; a signal ends the program once its step is saved."""
    from fbnetv3.detection.training import train as train_detector
    from fbnetv3.search.cli.progress import Progress, stoppable

    shown = Progress(run.recipe.epochs, silent=False)
    shown.plan(map(escaped, lines))
    with stoppable(shown) as stop:
        _, curve = train_detector(
            built,
            images,
            val_images,
            run,
            on_epoch=shown.epoch,
            on_step=shown.step,
            stop=stop,
        )
    best = max((log for log in curve if log.ap is not None), key=lambda log: log.ap or 0.0)
    last = curve[-1]
    print(f"AP {100 * (last.ap or 0):.1f} %, weights in {run.folder / 'model.safetensors'}")
    if best is not last:
        print(f"AP {100 * (best.ap or 0):.1f} % after epoch {best.epoch}: {run.folder / 'best'}")


def _has_weights(model: str) -> bool:
    from fbnetv3.hub.registry import FOLDERS, get_weights

    if model.startswith(FOLDERS):
        return True
    try:
        return get_weights(model) is not None
    except ValueError:
        return False  # a path, or a name without weights


@app.command("eval")
def evaluate(
    model: _Model,
    data: _Data,
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
    from fbnetv3.detection.data import open_scored
    from fbnetv3.detection.scoring import evaluate as scored

    detector = _opened(model, device, threads, license)
    images = open_scored(data, split)
    for text in images.notes:
        note(text)
    shown, pictures = _Lines("scored", len(images)), None if plots is None else _Pictures(plots)

    def on_image(index: int, found: Detections) -> None:
        shown.step(index + 1)
        if pictures is not None and index < num_pictures:
            pictures.write(images.image_path(index), found.above(threshold))

    scores = scored(detector, images, on_image=on_image)
    if plots is not None:
        from fbnetv3.detection.pictures import plot_precision_recall

        plots.mkdir(parents=True, exist_ok=True)
        plot_precision_recall(plots / "precision_recall.png", scores)
    if json:
        print_json({"model": model, "data": data, **scores.to_dict()})
        return
    _print_scores(scores)


def _print_scores(scores: Scores) -> None:
    if len(scores.classes) <= _MAX_CLASSES:
        print_table(
            ("class", "boxes", "AP (%)", "AP50 (%)", "recall (%)"),
            [
                (one.name, one.num_boxes, *map(_percent, (one.ap, one.ap50, one.recall)))
                for one in scores.classes
            ],
        )
    for name, value in scores.values.items():
        text = f"{100 * value:.1f} %" if value >= 0 else "no such boxes"
        if name in scores.intervals:
            low, high = scores.intervals[name]
            text += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        print(f"{name:>9}  {text}")
    print(f"{scores.num_boxes} boxes in {scores.num_images} images")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


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

    Prints class, score and box (x1, y1, x2, y2 in pixels of the upright image) of each. An image
    that cannot be read is reported and skipped; the exit code is then 1. Writes nothing but the
    folder --out.

    Examples:
        fbnetv3 detect predict photo.jpg --model detector --out found
        fbnetv3 detect predict photos/ --model detector.onnx --threshold 0.3 --json
    """
    missing = [str(path) for path in images if not path.exists()]
    if len(missing) == len(images):
        raise ValueError(f"no such file or folder: {', '.join(missing)}")
    paths = list(photos_in(images))
    if not paths:
        raise ValueError(f"no images in {', '.join(map(str, images))}; expected .jpg, .png, ...")
    detector = _opened(model, device, threads, license)
    records, failed, pictures = [], 0, None if out is None else _Pictures(out)
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
            objects = [
                f"{one['class']} {100 * one['score']:.0f} % {one['box']}"
                for one in record["objects"]
            ]
            nothing = f"no box with a score of at least {100 * threshold:.0f} % (--threshold)"
            print(escaped(f"{path}: {'; '.join(objects) or nothing}"))
    if out is not None:
        _write_records(out, model, records)
    if json:
        print_json({"model": model, "predictions": records})
    if failed:
        note(f"{failed} of the images could not be read")
        raise typer.Exit(FAILED)


def _write_records(out: Path, model: str, records: list[dict[str, Any]]) -> None:
    import json

    from fbnetv3._internal.files import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    content = {"model": model, "predictions": records}
    write_atomically(out / "predictions.json", json.dumps(content, indent=1) + "\n")


class _Pictures:
    """Writes images with boxes to a folder, each under its own name or one with a number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def write(self, path: Path, found: Detections) -> Path:
        """Writes a picture; returns its path."""
        from fbnetv3.detection.pictures import with_boxes
        from fbnetv3.images.reader import open_image

        self._folder.mkdir(parents=True, exist_ok=True)
        name, number = path.stem, 1
        while name in self._names:
            number += 1
            name = f"{path.stem}_{number}"
        self._names.add(name)
        target = self._folder / f"{name}.jpg"
        with_boxes(open_image(path), found).save(target, quality=92)
        return target


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
            help="Output file: .onnx, or .xml for OpenVINO.",
            autocompletion=completion.endings(*SUFFIXES),
        ),
    ],
    license: Policy = None,
    json: Json = False,
) -> None:
    """Write a whole detector to ONNX or OpenVINO, and compare both.

    Writes OUTPUT (and the .bin beside an .xml) once its boxes have been compared with PyTorch's on
    photos of several sizes; what differs is not written. The file takes pixels of any size and
    gives boxes: resizing and non-maximum suppression are inside.

    Examples:
        fbnetv3 detect export detector -o detector.onnx
        fbnetv3 detect export detector -o detector.xml
    """
    if output.suffix == ".xml":
        need("openvino")
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


def _opened(model: str, device: str, threads: int | None, license: str | None) -> Detector:
    """Returns the detector of a folder or an exported file."""
    if Path(model).suffix in SUFFIXES:
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


class _Lines:
    """Prints how far it is, a line every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._last = what, total, time.monotonic()

    def step(self, done: int) -> None:
        """Prints a line if it is time."""
        now = time.monotonic()
        if done < self._total and now - self._last >= _LINE_SECONDS:
            self._last = now
            typer.echo(f"{self._what} {done:,} of {self._total:,} images", err=True)
