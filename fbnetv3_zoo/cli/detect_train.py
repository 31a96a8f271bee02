"""The command `detect train`: parsing and printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3._internal.files import check_output_folder
from fbnetv3._internal.messages import counted, escaped
from fbnetv3._internal.optional import need

from . import completion
from .group import note
from .options import (
    TABLES,
    CheckpointSteps,
    LoadingProcesses,
    Policy,
    RunFolder,
    Seed,
    ValidateEpochs,
)

if TYPE_CHECKING:
    from fbnetv3.search.training.parallel import World

# Of `fbnetv3.detection.detectors`, which is imported where it is used.
KINDS = ("ssdlite", "faster_rcnn_320", "faster_rcnn_320_lite", "faster_rcnn", "retinanet")
DataOption = Annotated[
    Path,
    typer.Option(
        help="Images with boxes: COCO (a folder or its JSON), YOLO (data.yaml), VOC or LabelMe."
    ),
]


def train(
    context: typer.Context,
    data: DataOption,
    model: Annotated[
        str,
        typer.Option(
            help="Backbone: model, model.tag, arch.json, local-dir:DIR, torchvision:NAME, ...",
            autocompletion=TABLES,
        ),
    ] = "fbnetv3_a",
    out: RunFolder = Path("run"),
    detector: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.",
            autocompletion=completion.choices(*KINDS),
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
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from a trained detector, in place of --model and --detector: output "
            "folder of `detect train`."
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Leave the backbone, or its first N of 5 strides, as they are; default: as "
            "torchvision, 2 of trained weights but with ssdlite."
        ),
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
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients down to this norm; default: 10.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override another recipe field, as layer_decay=0.8, weight_decay, ema_decay or "
            "warmup_steps; repeatable.",
        ),
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
    seed: Seed = 0,
    checkpoint_steps: CheckpointSteps = 0,
    validate_epochs: ValidateEpochs = 1,
    workers: LoadingProcesses = "auto",
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
    with the highest AP. After a stop or a crash the same command goes on where it was. For several
    GPUs start it by torchrun, as `torchrun --nproc-per-node 4 -m fbnetv3 detect train ...`.

    Examples:
        fbnetv3 detect train --data shapes --model fbnetv3_nano --epochs 2 \
            --size 96 --out detector
        fbnetv3 detect train --data coco --model fbnetv3_b.ra2_in1k \
            --detector retinanet
    """
    need("pycocotools")
    check_output_folder(out)
    import torch

    from fbnetv3.detection.continued import continued_detector
    from fbnetv3.detection.data import open_train_val
    from fbnetv3.detection.run import DetectionRun
    from fbnetv3.search.cli.words import workers_of
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.parallel import joined
    from fbnetv3.search.training.workers import usable_workers

    hardware = Hardware.of(device, precision=precision)
    if hardware.fp16:
        raise ValueError("--precision is fp16; expected fp32 or bf16")
    with joined(hardware.device) as world:
        images, val_images = open_train_val(data, val_share=val_share, seed=seed)
        if world.rank == 0:
            for text in dict.fromkeys([*images.notes, *val_images.notes]):
                note(text)
        fields = {"lr": lr, "augment": augment, "seed": seed, "clip_norm": clip_norm}
        given = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, **fields}
        layers, names = _layers(freeze), images.class_names
        if weights is None:
            # What is wrong here is told before weights are fetched.
            recipe = _recipe(detector, len(images), given, set_)
            torch.manual_seed(seed)
            built = _built(model, detector, size, layers, pretrained, names, license)
        else:
            _check_alone(context, ("model", "detector", "pretrained"))
            torch.manual_seed(seed)
            built = continued_detector(
                weights, names, size=size, trainable_layers=layers, license=license
            )
            recipe = _recipe(built.config.detector, len(images), given, set_)
        pixels = max(image["width"] * image["height"] for image in images.coco.imgs.values())
        asked = workers_of(workers, hardware, recipe.batch_size, round(pixels**0.5))
        run = DetectionRun(
            recipe=recipe,
            folder=out,
            checkpoint_steps=checkpoint_steps,
            validate_epochs=validate_epochs,
            # Whole images, float32.
            workers=usable_workers(asked, 12 * pixels * recipe.batch_size),
            hardware=hardware,
        )
        _train(built, images, val_images, run, model if weights is None else weights, world)


def _recipe(
    detector: str, num_images: int, given: Mapping[str, Any], settings: list[str] | None
) -> Any:
    """Returns the recipe that the options ask for."""
    import dataclasses

    from fbnetv3.detection.recipe import DetectionRecipe
    from fbnetv3.search.cli.words import parse_setting

    named = {key: value for key, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(DetectionRecipe)}
    for name, value in map(parse_setting, settings or ()):
        if name in given or name not in known:
            raise ValueError(
                f"--set {name} is no other recipe field; expected one of "
                f"{', '.join(sorted(known - set(given)))}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"--set {name}={value} is not understood; expected a number")
        named[name] = value
    return DetectionRecipe.fitting(num_images, detector=detector, **named)


def _layers(freeze: str | None) -> int | None:
    """Returns how many of the backbone's 5 strides train."""
    if freeze is None:
        return None
    if freeze != "backbone" and freeze not in map(str, range(6)):
        raise ValueError(f"--freeze {freeze!r} is not understood; expected backbone, or 0 to 5")
    return 0 if freeze == "backbone" else 5 - int(freeze)


def _check_alone(context: typer.Context, names: Sequence[str]) -> None:
    """Refuses options that a trained detector has decided."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ValueError(f"--{name} and --weights exclude each other; leave out --{name}")


def _built(
    model: str,
    detector: str,
    size: int | None,
    layers: int | None,
    pretrained: bool | None,
    class_names: Sequence[str],
    license: str | None,
) -> Any:
    """Returns the detector that the options ask for."""
    from fbnetv3.detection.detectors import CONFIG, new_detector

    folder = Path(model.removeprefix("local-dir:"))
    if (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is a detector; give --weights {folder} in place of --model")
    return new_detector(
        detector,
        model,
        class_names,
        pretrained=_has_weights(model) if pretrained is None else pretrained,
        size=size,
        trainable_layers=layers,
        license=license,
    )


def _plan_lines(built: Any, images: Any, val_images: Any, run: Any, start: str | Path) -> list[str]:
    config, recipe = built.config, run.recipe
    started = f"the weights {config.weights}" if config.weights else "fresh weights"
    if isinstance(start, Path):
        start, started = "its backbone", f"the detector {start}"
    frozen = f", {config.freeze_at} of its 5 strides frozen" if config.freeze_at else ""
    return [
        f"model   {config.detector} on {start}, {config.size} pixels, from {started}{frozen}",
        f"data    {len(images)} images to train, {len(val_images)} to validate, "
        f"{counted(len(images.class_names), 'class', 'classes')}",
        f"recipe  {counted(recipe.epochs, 'epoch')} of "
        f"{counted(len(images) // recipe.batch_size, 'step')}, batch "
        f"{recipe.batch_size}, {recipe.optimizer}, lr {recipe.lr:.4g} on a cosine, averaged "
        f"weights (decay {recipe.ema_decay:.4g})",
    ]


def _train(
    built: Any, images: Any, val_images: Any, run: Any, start: str | Path, world: World
) -> None:
    """Trains; a signal ends the program once its step is saved."""
    from fbnetv3.detection.training import train as train_detector
    from fbnetv3.search.cli.progress import Progress, stoppable

    shown = Progress(run.recipe.epochs, silent=world.rank > 0)
    if world.rank == 0:
        shown.plan(map(escaped, _plan_lines(built, images, val_images, run, start)))
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
    if world.rank:
        return
    validated = [log for log in reversed(curve) if log.ap is not None]
    best = max(validated, key=lambda log: log.ap or 0.0)  # of equal epochs the last, as in best/
    last = curve[-1]
    print(f"AP {100 * (last.ap or 0):.1f} %, weights in {run.folder / 'model.safetensors'}")
    if best is not last:
        print(f"AP {100 * (best.ap or 0):.1f} % after epoch {best.epoch}: {run.folder / 'best'}")


def _has_weights(model: str) -> bool:
    from fbnetv3.hub.registry import FOLDERS, get_weights

    if model.startswith((*FOLDERS, "torchvision:")):
        return True
    try:
        return get_weights(model) is not None
    except ValueError:
        return False  # a path, or a name without weights
