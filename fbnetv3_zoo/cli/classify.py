"""The command `classify`: parsing and printing around `deploy.classify`."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fbnetv3._internal.messages import counted, escaped
from fbnetv3.deploy.runtimes import is_exported, suffixes

from . import completion
from .group import FAILED, note, print_json
from .options import EMBEDDED, CacheDir, Device, Offline, Policy
from .options import Json as JsonOption
from .photos import photos_in

if TYPE_CHECKING:
    from fbnetv3.deploy.answer_table import AnswerTable
    from fbnetv3.deploy.classify import Classifier, Prediction

# ImageNet weights that anyone may use.
DEFAULT = "fbnetv3_b.ra2_in1k"
# A line says how far a long run is after so many seconds.
_LINE_SECONDS = 30.0


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
    image_size: Annotated[
        int | None,
        typer.Option(help="Input height and width in pixels; default: the model's."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Number of classes to show per image.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which a multi-label model's class is shown; 0: all."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 16,
    threads: Annotated[
        int, typer.Option(help="Number of inference threads; on Ray also cores per worker.")
    ] = 1,
    device: Device = "cpu",
    license: Policy = None,
    offline: Offline = None,
    cache_dir: CacheDir = None,
    require: Annotated[
        bool, typer.Option(help="Fail rather than answer with other weights than the default.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help=".csv, .jsonl or .parquet file for the predictions, or a folder."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Address of the Ray cluster.")] = None,
    json: JsonOption = False,
) -> None:
    r"""Classify images.

    A multi-label model shows the classes whose scores reach their thresholds, which may be none.
    An image that cannot be read is reported and skipped; the exit code is then 1. Weights with a
    fitted threshold mark images that are probably of none of their classes. Without
    --model and --embedded, ImageNet weights from the hub answer, or the embedded ones, which know
    ten classes, where the hub cannot be reached; the first line and the JSON say which. Scripts
    give --model, or --require, which ends with exit code 1 instead. Writes --output, which the same
    command goes on with after a stop, and otherwise only fetched weights, to the cache. A folder as
    --output gets Parquet files.

    Examples:
        fbnetv3 classify photo.jpg --embedded
        fbnetv3 classify photos/ --model fbnetv3_b.ra2_in1k --top-k 1 --json
        fbnetv3 classify photos/ --model nano.onnx -o answers.csv
        fbnetv3 classify photos/ --embedded --device cuda
        fbnetv3 classify /shared/photos --model nano.onnx --engine ray \
            -o answers.parquet
    """
    _check_words(embedded, model, output, json, engine, address, device)
    asked = EMBEDDED if embedded else model
    _check_device(device, asked)
    photos = _photos(images)
    options: dict[str, Any] = {"top_k": top_k, "batch_size": batch_size, "num_threads": threads}
    source = {"license": license, "offline": offline, "cache_dir": cache_dir}
    with contextlib.ExitStack() as stack:
        from fbnetv3.deploy.classify import Classifier

        made: Any
        if asked is not None and is_exported(asked):
            answering, instead, made = asked, None, asked
        else:
            answering, instead, made = _made(asked, require, source)
            if engine == "ray":
                made = stack.enter_context(_sent(made, image_size))
            else:
                options["device"] = device
        classifier = Classifier(made, license=license, **options)
        if image_size is not None:
            classifier.set_image_size(image_size)
        if threshold is not None:
            classifier.set_threshold(threshold)
        num_classes = len(classifier.class_names)
        if not json:
            missed = f", instead of {instead}; it knows only {num_classes} classes"
            print(escaped(f"model: {answering}{missed if instead else ''}"))
        if output is None:
            failed = _print(classifier, photos, answering, instead, json)
        else:
            cluster = (Path(made), address, threads) if engine == "ray" else None
            failed = _write(output, classifier, photos, answering, image_size, cluster)
    if failed:
        note(f"{failed} of the images could not be classified")
        raise typer.Exit(FAILED)


def _check_words(
    embedded: bool,
    model: str | None,
    output: Path | None,
    json: bool,
    engine: str,
    address: str | None,
    device: str,
) -> None:
    for one, other, both in (
        ("--embedded", f"--model {model}", embedded and model is not None),
        ("--output", "--json", output is not None and json),
        ("--engine ray", f"--device {device}", engine == "ray" and device != "cpu"),
    ):
        if both:
            raise ValueError(f"{one} and {other} exclude each other; give one of them")
    if engine != "ray":
        if address is not None:
            raise ValueError(f"--address is {address}, which is for --engine ray")
    elif output is None or output.suffix.lower() in (".csv", ".jsonl"):
        raise ValueError(
            f"--output is {output}; with --engine ray expected a name ending in .parquet, or a "
            "folder"
        )


def _print(
    classifier: Classifier, photos: list[Path], answering: str, instead: str | None, json: bool
) -> int:
    """Prints the predictions, and returns how many photos could not be classified."""
    failed, marked, records = 0, 0, []
    for prediction in classifier.stream(photos):
        failed += prediction.error is not None
        marked += bool(prediction.none_of_these)
        if json:
            records.append(prediction)
        else:
            print(escaped(f"{prediction.source}: {_answer(prediction)}"))
    if json:
        print_json(
            {
                "model": answering,
                "instead_of": instead,
                "num_classes": len(classifier.class_names),
                "multi_label": classifier.multi_label,
                "predictions": records,
            }
        )
    _tell_marked(classifier, marked)
    return failed


def _tell_marked(classifier: Classifier, marked: int) -> None:
    """Says how far to trust that photos are of none of the classes, if there are any."""
    known = classifier.confidence
    if marked and known is not None and known.accepts:
        note(
            f"{counted(marked, 'image')} marked as none of the classes, by a threshold that "
            f"{known.accepts} passed where it was fitted"
        )


def _write(
    output: Path,
    classifier: Classifier,
    photos: list[Path],
    asked: str,
    image_size: int | None,
    cluster: tuple[Path, str | None, int] | None,
) -> int:
    """Writes the predictions to a file or folder.

    Args:
        output: its name, whose extension is the format.
        classifier: the model.
        photos: paths of the photos.
        asked: name of the model.
        image_size: the input's, if it is not the model's own.
        cluster: the exported model, the address of the Ray cluster, and cores of each of its
            workers; None: this machine.

    Returns:
        How many photos could not be classified.
    """
    from fbnetv3.deploy.answer_table import SUFFIX, AnswerTable

    exported = classifier.artefact
    saved = Path(asked.removeprefix("local-dir:")) / "model.safetensors"
    stamp = saved.stat().st_mtime_ns if saved.is_file() else ""
    metadata = exported.to_metadata() if exported else ""
    identity = f"{asked} {classifier.top_k} {stamp} {metadata} {classifier.confidence}"
    if image_size is not None:
        identity += f" {image_size} pixels"
    names = [str(photo) for photo in photos]
    if output.suffix.lower() != SUFFIX and output.suffix and not output.is_dir():
        failed = _write_lines(output, classifier, names, identity)
    else:
        table = AnswerTable(output, f"{identity} {classifier.thresholds}", names)
        done = len(table.photos) - sum(map(len, table.missing().values()))
        progress = _Progress(done, len(table.photos))
        if cluster is None:
            _fill(table, classifier, progress)
        else:
            _fill_on_ray(table, classifier, progress, *cluster)
        failed = table.finish()
    print(escaped(f"{len(set(names)):,} photos classified, predictions in {output}"))
    return failed


def _write_lines(output: Path, classifier: Classifier, names: Sequence[str], identity: str) -> int:
    from fbnetv3.deploy.answer_file import AnswerFile

    file = AnswerFile(output, identity)
    missing = [name for name in names if name not in file.done]
    progress, marked = _Progress(len(names) - len(missing), len(names)), 0
    try:
        for prediction in classifier.stream(missing):
            file.add(prediction)
            marked += bool(prediction.none_of_these)
            progress.add(1)
    finally:
        file.close()
    file.finish(names)
    _tell_marked(classifier, marked)
    return file.num_failed


def _fill(table: AnswerTable, classifier: Classifier, progress: _Progress) -> None:
    for number, names in table.missing().items():
        table.add(number, [found.to_dict() for found in classifier.stream(names)])
        progress.add(len(names))


def _fill_on_ray(
    table: AnswerTable,
    classifier: Classifier,
    progress: _Progress,
    model: Path,
    address: str | None,
    threads: int,
) -> None:
    from fbnetv3.deploy.ray_classify import classify_on_ray, ray_cluster

    with ray_cluster(address):
        for number, records in classify_on_ray(
            table.missing(), model, like=classifier, threads=threads
        ):
            table.add(number, records)
            progress.add(len(records))


class _Progress:
    """Says every half minute how many photos are classified.

    Args:
        done: of them by an earlier run.
        total: all photos.
    """

    def __init__(self, done: int, total: int) -> None:
        self._done, self._total, self._shown = done, total, time.monotonic()
        if done:
            note(f"{done:,} photos were classified by an earlier run")

    def add(self, num: int) -> None:
        """Counts photos."""
        self._done += num
        if time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            note(f"{self._done:,} of {self._total:,} photos classified")


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


def _made(asked: str | None, require: bool, source: dict[str, Any]) -> tuple[str, str | None, Any]:
    """Returns the weights that answer, those they answer instead of, and their model."""
    from fbnetv3._internal.errors import FetchError
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
    return name, instead, made


@contextlib.contextmanager
def _sent(made: Any, image_size: int | None) -> Iterator[Path]:
    """Yields the model as a file that can be sent to other machines."""
    from fbnetv3.deploy.describe import preprocess_for
    from fbnetv3.deploy.export import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        note("the model is exported to ONNX, for the nodes of the cluster")
        preprocess = preprocess_for(made, image_size)
        yield to_onnx(made, Path(folder, "model.onnx"), preprocess=preprocess).path


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
