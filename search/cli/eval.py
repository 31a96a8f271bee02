"""The command `eval`: parsing and printing around `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fbnetv3._internal.messages import counted, escaped
from fbnetv3.cli import completion
from fbnetv3.cli.group import FAILED, note, print_json
from fbnetv3.deploy.runtimes import is_exported, suffixes

from .words import DEVICES, CheckpointOption, TaskOption, workers_of

if TYPE_CHECKING:
    from fbnetv3.search.data.image_set import ImageSet
    from fbnetv3.search.training.answers import AnswerCollector, Answers
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.evaluate import Evaluation
    from fbnetv3.search.training.evaluate_multi_label import MultiLabelEvaluation
    from fbnetv3.search.training.networks import Network

_LOCAL_DIR = "local-dir:"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Model.tag, local-dir:DIR, an exported file, timm:NAME, or torchvision:NAME.",
            autocompletion=completion.any_of(completion.weights, completion.files(*suffixes())),
        ),
    ],
    data: Annotated[Path, typer.Option(help="Images, in any form that `train` reads.")],
    split: Annotated[
        Literal["train", "val"] | None, typer.Option(help="Split to evaluate, if there are both.")
    ] = None,
    checkpoint: CheckpointOption = None,
    task: TaskOption = "auto",
    raw: Annotated[
        bool, typer.Option(help="Use the raw weights of a run instead of its EMA weights.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for tables and pictures.")
    ] = None,
    others: Annotated[
        Path | None, typer.Option(help="Folder of photos of none of the classes.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(help="Fit temperature and threshold, and store them in local-dir:DIR."),
    ] = False,
    true_accept: Annotated[
        float | None,
        typer.Option(help="Percentage of --data that the threshold lets through; default: 95."),
    ] = None,
    false_accept: Annotated[
        float | None, typer.Option(help="Percentage of --others that it lets through instead.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Input height and width in pixels; default: the model's."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Batch size; default: what fits in little memory.")
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Number of image loading processes, or auto.")
    ] = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda; default: cuda if available. Exported files run on the CPU.",
            autocompletion=DEVICES,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a network's accuracy on a folder of images.

    Folders are classes, matched with the network's by name or number; figures come with their 95 %
    interval. A multi-label network is measured on a list with several labels per image: mAP, and
    F1 at its thresholds. Images that cannot be read are listed and not counted; the exit code is
    then 1.
    --output writes the confusion matrix, tables per class and per photo, the calibration and a
    contact sheet of the surest wrong answers; nothing else is written, but by --calibrate.

    Examples:
        fbnetv3 eval local-dir:run --data photos -o evaluation
        fbnetv3 eval nano.onnx --data photos
        fbnetv3 eval local-dir:run --data imagenet --calibrate
        fbnetv3 eval timm:resnet18.a1_in1k --data imagenet --split val
    """
    import json

    _check_options(model, image_size, output, calibrate, others, true_accept, false_accept)

    from fbnetv3.images.listing import is_list
    from fbnetv3.search.data.datasets import check_folder, check_outside, open_images
    from fbnetv3.search.training.answers import AnswerCollector
    from fbnetv3.search.training.evaluate import evaluate as measure
    from fbnetv3.search.training.networks import load_raw
    from fbnetv3.search.training.scoring import default_batch_size

    if not is_list(data):
        check_folder(data)  # before weights are fetched
    if output is not None:
        check_outside(data, output, "--output")
    network, hardware = _judged(model, device, checkpoint)
    if raw:
        load_raw(network, model)
    several = network.thresholds is not None
    wanted = "multi-label" if several and task == "auto" else task
    images = open_images(data, split, task=wanted, any_damaged=True)
    for text in images.notes:
        note(text)
    network = _at(network, images, image_size)
    side = 224 if network.preprocess is None else network.preprocess.crop
    fitting = batch_size or default_batch_size(hardware.device, side)
    if several:
        _check_single(model, {"--output": output, "--others": others, "--calibrate": calibrate})
        loading = workers_of(workers, hardware, fitting, side)
        options = {"hardware": hardware, "batch_size": fitting, "workers": loading}
        _evaluate_multi_label(model, network, images, options, json=json_)
        return
    images.need_single_label("a network that gives each image one class")
    collector = AnswerCollector(network, images, keep_logits=calibrate)
    found = measure(
        network,
        images,
        hardware=hardware,
        batch_size=batch_size,
        workers=workers_of(workers, hardware, fitting, side),
        on_logits=collector.add,
    )
    answers = collector.answers()
    named = model if checkpoint is None else f"{model} from {checkpoint}"
    record: dict[str, Any] = {"model": named, **found.to_dict(), "damaged": images.damaged}
    record |= _trust(network, answers)
    if others is not None or calibrate:
        shares = (true_accept, false_accept)
        record |= _with_others(model, network, collector, others, hardware, shares, calibrate)
    if output is not None:
        from fbnetv3.search.training.eval_files import write_eval_files

        write_eval_files(output, images, answers, record)
    if json_:
        typer.echo(json.dumps(record, indent=1))
    else:
        _print_evaluation(found, images.damaged)
        _print_trust(record)
        if output is not None:
            typer.echo(f"tables and pictures in {output}")
    if found.num_damaged or images.damaged:
        raise typer.Exit(FAILED)


def _check_options(
    model: str,
    image_size: int | None,
    output: Path | None,
    calibrate: bool,
    others: Path | None,
    true_accept: float | None,
    false_accept: float | None,
) -> None:
    """Looks at what would else show only after the evaluation."""
    _check_image_size(model, image_size, calibrate)
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; expected a folder, or a new name")
    if others is not None and not others.is_dir():
        raise FileNotFoundError(f"no folder {others}; expected photos of none of the classes")
    if not calibrate and (true_accept, false_accept) != (None, None):
        raise ValueError("--true-accept and --false-accept are for --calibrate; expected it too")
    if true_accept is not None and false_accept is not None:
        raise ValueError("--true-accept and --false-accept are both given; expected one of them")
    if false_accept is not None and others is None:
        raise ValueError("--false-accept is given without --others, photos of none of the classes")
    for name, share in (("--true-accept", true_accept), ("--false-accept", false_accept)):
        if share is not None and not 0 < share < 100:
            raise ValueError(f"{name} is {share:g}; expected a number between 0 and 100")
    if calibrate and not (
        model.startswith(_LOCAL_DIR)
        and (Path(model.removeprefix(_LOCAL_DIR)) / "config.json").is_file()
    ):
        raise ValueError(
            f"--calibrate stores what it fits in a model's folder, and {model} is none; expected "
            "local-dir:DIR of `fbnetv3 train` or save_pretrained. Export it afterwards"
        )


def _check_image_size(model: str, size: int | None, calibrate: bool) -> None:
    """Refuses another size where it has no meaning."""
    if size is None:
        return
    if is_exported(model):
        raise ValueError(
            f"--image-size is for models, and {model} is a file for its own size; export the model "
            "with --image-size"
        )
    if calibrate:
        raise ValueError("--calibrate is for the model's own size; leave --image-size")


def _judged(
    model: str, device: str | None, checkpoint: Path | None = None
) -> tuple[Network, Hardware]:
    """Returns the network to evaluate, and on what."""
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.networks import open_exported, open_network

    if not is_exported(model):
        found = open_network(model, pretrained=checkpoint is None, checkpoint=checkpoint)
        return found, Hardware.of(device)
    if checkpoint is not None:
        raise ValueError(f"{model} is an exported file, which has its weights; leave --checkpoint")
    if device not in (None, "cpu"):
        raise ValueError(
            f"{model} is an exported file, which runs on the CPU; --device {device} is for "
            "PyTorch models: give a model's name"
        )
    return open_exported(model), Hardware.of("cpu")


def _at(network: Network, images: ImageSet, size: int | None) -> Network:
    """Returns a network that takes its images at another size, if one is given."""
    from fbnetv3.models.model import FBNetV3
    from fbnetv3.search.training.batches import default_preprocess

    if size is None:
        return network
    usual = network.preprocess or default_preprocess(images, size)
    resized = usual.at(size)
    if isinstance(network.model, FBNetV3):
        network.model.arch.check_side(size, "--image-size")
    return network._replace(preprocess=resized)


def _trust(network: Network, answers: Answers) -> dict[str, Any]:
    """Returns how honest the probabilities are, and how many images the threshold accepts."""
    known, none = network.confidence, answers.none_of_these
    return {
        "calibration_error_pct": answers.calibration_error_pct,
        "confidence": None if known is None else known.to_dict(),
        "accepted_pct": None if none is None else 100 * float(1 - none.mean()),
    }


def _with_others(
    model: str,
    network: Network,
    collector: AnswerCollector,
    others: Path | None,
    hardware: Hardware,
    shares: tuple[float | None, float | None],
    calibrate: bool,
) -> dict[str, Any]:
    """Returns the figures on photos of none of the classes; stores a fit where asked."""
    from fbnetv3.deploy.confidence import energy
    from fbnetv3.hub.pretrained import write_confidence
    from fbnetv3.images.folders import list_images
    from fbnetv3.search.training.answers import fit, foreign_logits
    from fbnetv3.search.training.evaluate import wilson_pct

    foreign, known = None, network.confidence
    record: dict[str, Any] = {}
    if others is not None:
        photos = list_images(others)
        if not photos:
            raise ValueError(f"no images in {others}; expected photos of none of the classes")
        foreign, damaged = foreign_logits(network, photos, hardware=hardware)
        for text in damaged:
            note(f"left out: {text}")
        record["num_others"] = len(foreign)
    if calibrate:
        fitted = fit(
            *collector.logits_and_outputs(),
            others=foreign,
            true_accept_pct=shares[0],
            false_accept_pct=shares[1],
        )
        known = fitted.confidence
        write_confidence(model.removeprefix(_LOCAL_DIR), known)
        record["fitted"] = {
            **known.to_dict(),
            "calibration_error_before_pct": fitted.before_pct,
            "calibration_error_held_out_pct": fitted.after_pct,
        }
    if foreign is not None and known is not None and known.threshold is not None:
        accepted = int((energy(foreign) >= known.threshold).sum())
        record["others_accepted_pct"] = 100 * accepted / len(foreign)
        record["others_accepted_interval"] = wilson_pct(accepted, len(foreign))
    return record


def _print_evaluation(found: Evaluation, damaged: Sequence[str]) -> None:
    for result in found.classes:
        top1 = "not measured" if result.top1 is None else f"{result.top1:6.2f} %"
        typer.echo(f"{result.name:>24}  {result.num_images:6d} images  {top1}")
    for name, value, (low, high) in (
        ("top1", found.top1, found.top1_interval),
        ("top5", found.top5, found.top5_interval),
    ):
        typer.echo(f"{name} {value:.2f} %  (95 % interval {low:.2f} to {high:.2f})")
    typer.echo(f"macro recall {found.macro_recall:.2f} %, the mean over the classes")
    typer.echo(f"{found.num_images} images of {found.data}, classes matched by {found.matched_by}")
    _print_damaged(found.num_damaged, damaged)
    if found.warning:
        typer.echo(f"warning: {found.warning}", err=True)


def _print_damaged(num_damaged: int, damaged: Sequence[str]) -> None:
    for text in damaged:
        typer.echo(escaped(f"not counted: {text}"))
    total = num_damaged + len(damaged)
    if total:
        typer.echo(f"{counted(total, 'image')} could not be read, not counted")


def _print_trust(record: dict[str, Any]) -> None:
    typer.echo(f"calibration error (ECE) {record['calibration_error_pct']:.2f} %")
    if record["accepted_pct"] is not None:
        typer.echo(f"{record['accepted_pct']:.2f} % accepted as images of one of the classes")
    fitted = record.get("fitted")
    if fitted:
        typer.echo(
            f"stored: temperature {fitted['temperature']:g}, calibration error "
            f"{fitted['calibration_error_before_pct']:.2f} % without, "
            f"{fitted['calibration_error_held_out_pct']:.2f} % with it on held-out halves"
        )
        typer.echo(
            f"stored: threshold {fitted['threshold']:g}, accepts {fitted['true_accept_pct']:.2f} % "
            "of these images"
        )
    if "others_accepted_pct" in record:
        low, high = record["others_accepted_interval"]
        typer.echo(
            f"{record['others_accepted_pct']:.2f} % of {record['num_others']} photos of none of "
            f"the classes accepted  (95 % interval {low:.2f} to {high:.2f})"
        )
    elif record.get("num_others"):
        typer.echo("no threshold is stored with these weights: --calibrate fits one")


def _check_single(model: str, given: Mapping[str, object]) -> None:
    """Refuses options that are for networks which give each image one class."""
    refused = [name for name, value in given.items() if value]
    if refused:
        raise ValueError(
            f"{refused[0]} is for networks that give each image one class, and {model} is "
            "multi-label; leave it out"
        )


def _evaluate_multi_label(
    model: str, network: Network, images: ImageSet, options: Mapping[str, Any], *, json: bool
) -> None:
    """Prints how well a multi-label network finds the classes of a set."""
    from fbnetv3.search.training.evaluate_multi_label import evaluate_multi_label

    found = evaluate_multi_label(network, images, **options)
    if json:
        print_json({"model": model, **found.to_dict(), "damaged": images.damaged})
    else:
        _print_multi_label(found, images.damaged)
    if found.num_damaged or images.damaged:
        raise typer.Exit(FAILED)


def _print_multi_label(found: MultiLabelEvaluation, damaged: Sequence[str]) -> None:
    for result in found.classes:
        measured = (
            f"AP {result.average_precision:6.2f} %  F1 {result.f1:6.2f} %"
            if result.average_precision is not None and result.f1 is not None
            else "not measured"
        )
        typer.echo(
            f"{result.name:>24}  {result.num_images:6d} images  {measured}  from a score of "
            f"{result.threshold:.3f}"
        )
    typer.echo(f"mAP {found.mean_average_precision:.2f} %, the mean over the classes")
    typer.echo(f"F1 {found.macro_f1:.2f} % (macro), {found.micro_f1:.2f} % (micro)")
    typer.echo(f"{found.num_images} images of {found.data}, classes matched by {found.matched_by}")
    _print_damaged(found.num_damaged, damaged)
