"""The command `finish` of `fbnetv3-search`: parsing and printing around `search.finish`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3.cli import completion
from fbnetv3.cli.group import FAILED, note
from fbnetv3.cli.options import Seed

from .words import DEVICES, AsJson, Folder, parse_setting

if TYPE_CHECKING:
    from fbnetv3.search.finish.deliver import Delivery
    from fbnetv3.search.finish.plan import Final
    from fbnetv3.search.training.logbook import EpochLog

# Values of --teacher that are no network.
_LARGEST, _NONE = "largest", "none"


def finish(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: FOLDER/finals.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images to train and evaluate on; default: those of the search."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of each training; default: those of the search."),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            help="largest (train it first), none, local-dir:DIR, timm:NAME, ...",
            autocompletion=completion.any_of(
                completion.choices(_LARGEST, _NONE), completion.weights
            ),
        ),
    ] = _LARGEST,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a recipe field, as field=value; repeatable."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Maximum drop of int8's top-1 accuracy, in points.")
    ] = 1.0,
    seed: Seed = 0,
    val_share: Annotated[
        float, typer.Option(help="Share of each class held out if there is no val folder.")
    ] = 0.1,
    workers: Annotated[int, typer.Option(help="Number of image loading processes.")] = 2,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda; default: cuda if available.", autocompletion=DEVICES),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and export the results of a search.

    Trains the largest result with labels, then every result distilled from it. Writes a folder per
    model with weights, ONNX, int8 within --max-drop, recipe and model card. After a stop the same
    command resumes; a model that fails does not stop the others, and the exit code is then 1.

    Examples:
        fbnetv3-search finish runs/s --epochs 200
        fbnetv3-search finish runs/s --out models --teacher timm:resnet50.a1_in1k
        torchrun --nproc-per-node 8 -m fbnetv3.search finish runs/s --data imagenet
    """
    from fbnetv3.search.data.datasets import open_train_val
    from fbnetv3.search.finish.deliver import Delivery, is_delivered
    from fbnetv3.search.finish.plan import (
        check_settings,
        finals_of,
        largest,
        need_networks,
        searched_images,
    )
    from fbnetv3.search.finish.retrain import Setup, train_finals, train_teacher
    from fbnetv3.search.storage.store import Store
    from fbnetv3.search.training.config import Hardware
    from fbnetv3.search.training.parallel import joined
    from fbnetv3.search.training.stopping import Stopped, StopRequest

    hardware, out = Hardware.of(device), out or folder / "finals"
    fields = dict(map(parse_setting, set_ or ()))
    with Store.read(folder) as store, joined(hardware.device) as world:
        need_networks(store)
        objective = store.settings.get("objective", {})
        known = objective.get("data")
        if data is None and known is None:
            raise ValueError("the search trained on no images of its own; give --data")
        source = data or Path(str(known))
        images, val_images = open_train_val(source, val_share=val_share, seed=seed)
        images.need_single_label("finish, which compares top-1,")
        searched = searched_images(objective, images, val_images)
        finals = finals_of(
            store,
            epochs=epochs,
            data_times=1.0 if searched is None else len(images) / searched,
            fields=fields,
        )
        if world.rank == 0:
            same: dict[str, Any] = {
                "epochs": epochs,
                "teacher": teacher,
                "seed": seed,
                "set": fields,
            }
            same |= {"max_drop": max_drop, "val_share": val_share, "data": source.name}
            check_settings(out, same)
            for text in dict.fromkeys(images.notes + val_images.notes):
                note(text)
        silent = as_json or world.rank > 0
        stop = StopRequest()
        setup = Setup(
            out=out,
            images=images,
            val_images=val_images,
            seed=seed,
            workers=workers,
            hardware=hardware,
            on_epoch=_silent if silent else _print_epoch,
            stop=stop,
        )
        waiting = [final for final in finals if not is_delivered(out / final.name)]
        taught_by = None if teacher == _NONE else teacher
        try:
            with stop.listening():
                if waiting and teacher == _LARGEST:
                    taught_by = train_teacher(setup, largest(finals))
                failed = train_finals(setup, waiting, taught_by) if waiting else {}
        except Stopped as stopped:
            note(f"{stopped}; a checkpoint was saved, the same command resumes")
            raise typer.Exit(128 + stopped.signal) from None
    if world.rank:
        return
    how = Delivery(
        images=images,
        val_images=val_images,
        max_drop_pct=max_drop,
        teacher=f"result {largest(finals).name}, trained with labels"
        if teacher == _LARGEST
        else taught_by,
        seed=seed,
        workers=workers,
        hardware=hardware,
    )
    results = _deliver(out, finals, how, failed, silent=as_json)
    if as_json:
        typer.echo(json.dumps({"models": results, "failed": failed}, indent=2))
    for name, reason in failed.items():
        typer.echo(f"result {name} failed: {reason}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def _deliver(
    out: Path, finals: list[Final], how: Delivery, failed: dict[str, str], *, silent: bool
) -> list[dict[str, Any]]:
    """Returns the figures of the models that did not fail; adds to `failed` those that do now."""
    from fbnetv3.search.finish.deliver import deliver, is_delivered, read_result

    results = []
    for final in finals:
        path = out / final.name
        if final.name in failed:
            continue
        try:
            one = read_result(path) if is_delivered(path) else deliver(path, final, how)
        except (ValueError, RuntimeError) as error:
            failed[final.name] = str(error)
            continue
        results.append({**one, "folder": str(path)})
        if not silent:
            typer.echo(_line(one, path))
    return results


def _silent(_name: str, _log: EpochLog) -> None:
    """Prints nothing."""


def _print_epoch(name: str, log: EpochLog) -> None:
    typer.echo(f"{name}, {log.line()}")


def _line(one: Mapping[str, Any], path: Path) -> str:
    parts = []
    figures = {**one["accuracy"], **({"int8": one["int8"]} if one.get("int8") else {})}
    for kind, found in figures.items():
        if "top1_pct" in found:
            low, high = found["top1_interval"]
            parts.append(f"{kind} {found['top1_pct']:.2f} % ({low:.2f} to {high:.2f})")
        else:
            parts.append(f"no int8: {found['reason']}")
    use = f'fbnetv3.create("local-dir:{path}", pretrained=True)'
    if "macs" not in one:
        use = f"fbnetv3 eval local-dir:{path} --data IMAGES"
    return f"result {one['name']} ({'; '.join(one['limits'])}): top1 {', '.join(parts)}\n  {use}"
