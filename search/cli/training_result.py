"""What `fbnetv3 train` does with a finished training: figures, curves, calibration."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fbnetv3.cli.group import note

if TYPE_CHECKING:
    from fbnetv3.search.data.image_set import ImageSet
    from fbnetv3.search.training.config import TrainConfig
    from fbnetv3.search.training.train import Trained


def print_result(result: Trained, out: Path, *, plot: bool | None, metric: str) -> None:
    """Prints the accuracy, draws the curves; `plot` None draws them where matplotlib is."""
    if plot is not False:
        from fbnetv3.search.training.logbook import plot_curve

        # Its notice of a home that cannot be written is about its cache, not about the picture.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        with contextlib.suppress(*(() if plot else (ImportError,))):
            plot_curve(out / "curve.png", result.curve)
    weights = out / "model.safetensors"
    typer.echo(f"{metric} {result.accuracy_pct:.2f} %, weights in {weights}")
    best = result.best_epoch
    if best is not result.curve[-1]:
        typer.echo(f"{metric} {best.accuracy_pct:.2f} % after epoch {best.epoch}: {out / 'best'}")


def fit_confidence(out: Path, val_images: ImageSet, run: TrainConfig, *, same: bool) -> None:
    """Stores the temperature and the threshold of the last and of the best weights' answers."""
    from fbnetv3.deploy.confidence import MIN_IMAGES
    from fbnetv3.hub.pretrained import CONFIG, write_confidence
    from fbnetv3.search.training.answers import fit_on
    from fbnetv3.search.training.networks import open_network

    if not (out / CONFIG).is_file():
        return  # a network of another library, which has no such folder
    if len(val_images) < MIN_IMAGES:
        note(
            f"probabilities are not calibrated: {len(val_images)} validation images, at least "
            f"{MIN_IMAGES} are needed; see `fbnetv3 eval --calibrate`"
        )
        return
    found = None
    for folder in (out, out / "best"):
        if (folder / CONFIG).is_file():
            if found is None or not same:
                network = open_network(f"local-dir:{folder}", pretrained=True)
                found = fit_on(network, val_images, hardware=run.hardware, workers=run.workers)
            write_confidence(folder, found)
    assert found is not None
    typer.echo(
        f"probabilities calibrated on {found.num_images} validation images: temperature "
        f"{found.temperature:g}; {found.true_accept_pct:.1f} % of them pass the threshold for "
        "images of none of the classes"
    )
