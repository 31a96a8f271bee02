"""The command `train`: parsing and printing around `train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fbnetv3._internal.files import check_output_folder
from fbnetv3._internal.optional import need
from fbnetv3.cli import completion
from fbnetv3.cli.group import Command, note
from fbnetv3.cli.options import (
    CheckpointSteps,
    LoadingProcesses,
    RunFolder,
    Seed,
    ValidateEpochs,
)
from fbnetv3.search.training.fitting import fitted
from fbnetv3.search.training.presets import PRESETS
from fbnetv3.search.training.recipe import BALANCES, OPTIMIZERS

from .progress import Progress, stoppable
from .training_images import opened
from .training_plan import plan_lines
from .training_recipe import names_given, recipe_of
from .training_result import fit_confidence, print_result
from .words import DEVICES, CheckpointOption, TaskOption, workers_of

if TYPE_CHECKING:
    from torch import nn

    from fbnetv3.search.data.image_set import ImageSet
    from fbnetv3.search.training.config import TrainConfig
    from fbnetv3.search.training.logbook import EpochLog
    from fbnetv3.search.training.loop import Teacher
    from fbnetv3.search.training.train import Trained

_NETWORKS = completion.any_of(completion.networks, completion.files(".json"))


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Class folders, train/ and val/ of these, CIFAR, MNIST, parquet, Arrow, .npz, "
            "WebDataset shards, or a CSV file of file,label[,split] or file,labels[,split]."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Model, model.tag, arch.json, local-dir:DIR, timm:NAME, ...",
            autocompletion=_NETWORKS,
        ),
    ] = "fbnetv3_a",
    out: RunFolder = Path("run"),
    resume_from: Annotated[
        Path | None,
        typer.Option(help="Go on from the run in this folder, which is left as it is."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Preset or recipe.json; default: fine-tune with weights, short without.",
            autocompletion=completion.any_of(
                completion.choices(*PRESETS), completion.files(".json")
            ),
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size.")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate; SGD uses four times this value."),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="rmsprop, sgd or adamw.", autocompletion=completion.choices(*OPTIMIZERS)),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients down to this norm; 0: off.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=4096,
            help="Input height and width in pixels; default: the model's, for small images theirs.",
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="Leave the backbone, or the first N parts (stem, stages), as they are."),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            help="For unequal classes: sampler draws them equally often, loss weighs them.",
            autocompletion=completion.choices(*BALANCES),
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override another recipe field, as field=value; repeatable."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--from-scratch",
            help="Start from trained or from fresh weights; default: trained if the name has a "
            "tag, or if the model has some for such images and no --recipe is given.",
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Distill from this model.", autocompletion=completion.weights),
    ] = None,
    teacher_cache: Annotated[
        Path | None,
        typer.Option(help="Cache of the teacher's logits; needs augment=none."),
    ] = None,
    task: TaskOption = "auto",
    seed: Seed = 0,
    val_share: Annotated[
        float, typer.Option(help="Share of each class held out if there is no val folder.")
    ] = 0.1,
    checkpoint_every: Annotated[int, typer.Option(help="Save a checkpoint every N epochs.")] = 1,
    checkpoint_steps: CheckpointSteps = 0,
    validate_epochs: ValidateEpochs = 1,
    patience: Annotated[
        int | None, typer.Option(help="End after N epochs without a higher accuracy.")
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Gradient accumulation steps.")] = 1,
    workers: LoadingProcesses = "auto",
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda; default: cuda if available.", autocompletion=DEVICES),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, bf16 or fp16; auto is bf16 or fp16 on a GPU, fp32 on a CPU.",
            autocompletion=completion.choices("auto", "fp32", "bf16", "fp16"),
        ),
    ] = "auto",
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model; pays off in long trainings on a GPU."),
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(
            help="SPDX name of the license of the new weights, stored with them and in exports; "
            "default: that of the starting weights.",
            autocompletion=completion.licenses,
        ),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Also log to tensorboard, wandb or mlflow; repeatable.",
            autocompletion=completion.choices("tensorboard", "wandb", "mlflow"),
        ),
    ] = None,
    plot: Annotated[
        bool | None,
        typer.Option(help="Write the learning curves to curve.png; default: with matplotlib."),
    ] = None,
) -> None:
    """Train or fine-tune a network on a folder of images.

    Writes the folder --out: weights (model.safetensors, which local-dir:DIR loads), the recipe, a
    log, checkpoints, and in best/ the weights of the epoch of the highest accuracy. After a stop or
    a crash the same command goes on where it was.

    Examples:
        fbnetv3 train --data photos --model fbnetv3_nano.cifar10 --out run
        fbnetv3 train --data list.csv --model fbnetv3_b.ra2_in1k --freeze backbone
        fbnetv3 train --data cifar-10-batches-py --recipe cifar10 --set dropout=0.1
        torchrun --nproc-per-node 4 -m fbnetv3.search.cli_train --data imagenet
    """
    import torch

    from fbnetv3.search.data.datasets import check_outside
    from fbnetv3.search.training.config import Hardware, TrainConfig
    from fbnetv3.search.training.log_writers import written_to
    from fbnetv3.search.training.networks import (
        check_input,
        open_network,
        preprocess_for,
        ready_for,
    )
    from fbnetv3.search.training.parallel import current_world, joined

    _check_words(teacher, teacher_cache, log, plot)
    _check_start(checkpoint, pretrained)
    check_output_folder(out)
    check_outside(data, out, "--out")

    hardware = Hardware.of(device, precision=precision, compile=compile_)
    with joined(hardware.device) as world:
        images, val_images = opened(data, val_share, seed, task, silent=world.rank > 0)
        small = images.pixels is not None and images.pixels.shape[1] <= 48
        model, tuned = _start(
            model, checkpoint, pretrained, recipe, small_images=small, silent=world.rank > 0
        )
        fields = {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "optimizer": optimizer,
            "clip_norm": clip_norm,
            "resolution": image_size,
            "freeze": int(freeze) if freeze and freeze.isdecimal() else freeze,
            "balance": balance,
        }
        preset = recipe or ("fine-tune" if tuned else "short")
        if images.multi_label and recipe is None:
            # Scores that are to be compared with thresholds had better not be drawn to one half.
            set_ = ["label_smoothing=0.0", *(set_ or [])]
        plan = recipe_of(preset, fields, set_)
        torch.manual_seed(seed)
        network = open_network(
            model,
            num_classes=len(images.classes),
            pretrained=pretrained,
            small_images=small,
            dropout=plan.dropout,
            drop_path=plan.drop_path,
            checkpoint=checkpoint,
        )
        knows = tuned and ready_for(network, images.classes)
        if recipe is None or preset == "fine-tune":
            chosen = names_given(fields, set_)
            plan = fitted(preset, plan, len(images), knows_classes=knows, given=chosen)
        preprocess = preprocess_for(network, images, plan.resolution)
        check_input(network.model, preprocess.crop, model)
        if world.rank == 0:
            _record_foreign(model, out)
        shown = Progress(plan.epochs, silent=world.rank > 0)
        run = TrainConfig(
            recipe=plan,
            preprocess=preprocess,
            seed=seed,
            folder=out,
            resume_from=resume_from,
            checkpoint_epochs=checkpoint_every,
            checkpoint_steps=checkpoint_steps,
            validate_epochs=validate_epochs,
            keep_best=True,
            patience=patience,
            accumulate=accumulate,
            workers=workers_of(workers, hardware, plan.batch_size, preprocess.crop),
            hardware=hardware,
            license=_license(license, model, network.model, tuned=tuned),
        )
        taught = None if teacher is None else _taught(teacher, teacher_cache, images, run)
        named = model if checkpoint is None else f"{model} from {checkpoint}"
        if world.rank == 0:
            shown.plan(
                plan_lines(
                    named,
                    network.model,
                    trained=tuned,
                    images=images,
                    val_images=val_images,
                    config=run,
                    recipe_name=preset,
                )
            )
        settings = {**plan.to_dict(), "model": named, "data": str(data), "seed": seed}
        with written_to(log or () if world.rank == 0 else (), out, settings) as write:
            result = _trained(network.model, images, val_images, run, taught, shown, write)
        if world.rank == 0:
            print_result(result, out, plot=plot, metric="mAP" if images.multi_label else "top1")
    # Alone: the others are done, and would be waited for.
    if world.rank == 0 and current_world().size == 1 and not images.multi_label:
        fit_confidence(out, val_images, run, same=result.best_epoch is result.curve[-1])


def _start(
    model: str,
    checkpoint: Path | None,
    pretrained: bool | None,
    recipe: str | None,
    *,
    small_images: bool,
    silent: bool,
) -> tuple[str, bool]:
    """Returns the name of the network to train, and whether it starts from trained weights."""
    from fbnetv3.search.training.networks import has_weights, weights_for

    if checkpoint is not None:
        return model, True
    start = None
    if pretrained is None and recipe in (None, "fine-tune"):
        start = weights_for(model, small_images=small_images)
    if start is not None and not silent:
        note(f"starting from the trained weights {start}; --from-scratch starts from fresh ones")
    model = start or model
    return model, has_weights(model) if pretrained is None else pretrained


def _trained(
    model: nn.Module,
    images: ImageSet,
    val_images: ImageSet,
    run: TrainConfig,
    teacher: Teacher | None,
    shown: Progress,
    write: Callable[[EpochLog], None],
) -> Trained:
    """Returns the finished training; a signal ends the program once its step is saved."""
    from fbnetv3.search.training.train import train as train_model

    def on_epoch(log: EpochLog) -> None:
        shown.epoch(log)
        write(log)

    with stoppable(shown) as stop:
        return train_model(
            model,
            images,
            val_images,
            run,
            teacher=teacher,
            on_epoch=on_epoch,
            on_step=shown.step,
            stop=stop,
        )


def _license(given: str | None, name: str, model: nn.Module, *, tuned: bool) -> str | None:
    if given is None:
        return None
    from fbnetv3.hub.license_policy import own_license
    from fbnetv3.hub.pretrained_cfg import license_of

    return own_license(given, known=license_of(model) if tuned else "", source=name)


def _check_words(
    teacher: str | None, teacher_cache: Path | None, log: list[str] | None, plot: bool | None
) -> None:
    """Looks at what would else show only later."""
    if log:
        from fbnetv3.search.training.log_writers import check_writers

        check_writers(log)
    if plot:
        need("matplotlib")
    if teacher_cache is not None and teacher is None:
        raise ValueError("--teacher-cache is given without --teacher; expected both")


def _check_start(checkpoint: Path | None, pretrained: bool | None) -> None:
    """Refuses two ways to start."""
    if checkpoint is not None and pretrained is not None:
        raise ValueError(
            "--checkpoint and --pretrained or --from-scratch are both given; expected one of them"
        )


def _record_foreign(model: str, out: Path) -> None:
    """Notes whose weights the run's folders will hold, if they are another library's."""
    from fbnetv3.search.training.foreign import foreign_name, write_record

    foreign = foreign_name(model)
    if foreign:
        write_record(out, foreign)
        write_record(out / "best", foreign)


def _taught(name: str, cache: Path | None, images: ImageSet, run: TrainConfig) -> Teacher:
    """Returns the teacher of a run, from its cache of logits where there is to be one."""
    from fbnetv3.search.training.distill import cached_teacher, open_teacher

    teacher = open_teacher(
        name,
        images.classes,
        run.preprocess,
        hardware=run.hardware,
        multi_label=images.multi_label,
    )
    if cache is None:
        return teacher
    return cached_teacher(
        teacher, images, run.preprocess, cache, hardware=run.hardware, workers=run.workers
    )


def main() -> None:
    """Runs `train` alone, as torchrun starts it in each process."""
    program = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.command(cls=Command)(train)
    program()
