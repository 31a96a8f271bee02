"""Trains a detector: a run that can be killed at any moment and goes on with the same bits.

As in the classifier's loop, every random number of a step follows from the seed, the epoch and the
step, so that checkpoints hold no generator.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fbnetv3._internal.errors import Diverged
from fbnetv3._internal.files import write_atomically
from fbnetv3.integrations.coco_folder import CocoFolder, Target
from fbnetv3.search.training import checkpointing
from fbnetv3.search.training.average import AveragedWeights, averaging_weight
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.optimizers import load_optimizer, optimizer_tensors, set_lr
from fbnetv3.search.training.seeds import derive_seed, seed_all
from fbnetv3.search.training.stopping import Stopped, StopRequest
from fbnetv3.search.training.train import locked, own_generators

from .data import Augmented
from .detectors import BuiltDetector, TorchDetector, save_detector
from .recipe import DetectionRecipe
from .scoring import evaluate

_MOMENTUM = 0.9


@dataclass(frozen=True)
class DetectionLog:
    """An epoch.

    Attributes:
        epoch: from 1.
        loss: mean over its steps.
        lr: of its last step.
        seconds: of its steps.
        images_per_s: trained images per second.
        ap: COCO's average precision of the averaged weights; None if not validated.
        ap50: the same at an overlap of 0.5.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float
    images_per_s: float
    ap: float | None = None
    ap50: float | None = None

    def line(self) -> str:
        """Returns the epoch as one line of text."""
        parts = [f"epoch {self.epoch}: loss {self.loss:.4f}"]
        if self.ap is not None and self.ap50 is not None:
            parts += [f"AP {100 * self.ap:.1f} %", f"AP50 {100 * self.ap50:.1f} %"]
        return ", ".join([*parts, f"lr {self.lr:.4g}", f"{self.images_per_s:.1f} images/s"])


@dataclass(frozen=True, kw_only=True)
class DetectionRun:
    """All about a run but its detector and its images.

    Attributes:
        recipe: what to follow.
        folder: where checkpoints, the log and weights go.
        checkpoint_steps: a checkpoint every so many steps beside those after epochs; 0: none.
        validate_epochs: validate every so many epochs, and after the last.
        workers: processes that decode images.
        hardware: how to compute.
    """

    recipe: DetectionRecipe
    folder: Path
    checkpoint_steps: int = 0
    validate_epochs: int = 1
    workers: int = 0
    hardware: Hardware = dataclasses.field(default_factory=Hardware.of)


def train(
    built: BuiltDetector,
    images: CocoFolder,
    val_images: CocoFolder,
    run: DetectionRun,
    *,
    on_epoch: Callable[[DetectionLog], None] = lambda _: None,
    on_step: Callable[[int, int, int], None] = lambda _epoch, _step, _steps: None,
    stop: StopRequest | None = None,
) -> tuple[BuiltDetector, tuple[DetectionLog, ...]]:
    """Returns the detector with averaged weights, and the epochs.

    Goes on where a run of the same folder stopped. The folder gets the averaged weights of the last
    epoch, and in `best/` those of the epoch with the highest AP.

    Args:
        built: trained in place.
        images: training set.
        val_images: validated on after epochs.
        run: the rest.
        on_epoch: called with each finished epoch, also those before a resume.
        on_step: called with epoch, steps done in it and steps of an epoch.
        stop: asked after each step whether to stop.

    Raises:
        Stopped: `stop` was asked to; the step is saved.
        Diverged: the loss is not finite.
        ValueError: the folder holds another run.
        OSError: the disk is full or not writable; the last checkpoint is whole.
    """
    with own_generators(run.hardware.device), locked(run.folder):
        loop = _Loop(built, images, val_images, run, stop or StopRequest())
        for log in loop.epochs(on_step):
            on_epoch(log)
        averaged = BuiltDetector(loop.average.module, built.config)
        save_detector(run.folder, averaged)
        return averaged, tuple(loop.curve)


class _Loop:
    """State of a run."""

    def __init__(
        self,
        built: BuiltDetector,
        images: CocoFolder,
        val_images: CocoFolder,
        run: DetectionRun,
        stop: StopRequest,
    ) -> None:
        self.images, self.val_images, self.run, self.stop = images, val_images, run, stop
        self.config, self.recipe = built.config, run.recipe
        self.model = built.module.to(run.hardware.device)
        self.average = AveragedWeights(self.model)
        self.optimizer = _optimizer(self.model, self.recipe)
        self.steps = len(images) // self.recipe.batch_size
        self.curve: list[DetectionLog] = []
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0

    def epochs(self, on_step: Callable[[int, int, int], None]) -> Iterator[DetectionLog]:
        """Trains what is left; gives every epoch, those before a resume too."""
        self._resume()
        yield from self.curve
        while self.epoch < self.recipe.epochs:
            try:
                self._train_epoch(on_step)
                log = self._closed_epoch()
            except Stopped:
                self._save()
                raise
            self.curve.append(log)
            self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
            self._keep_best()
            self._save()
            rows = [dataclasses.asdict(one) for one in self.curve]
            write_atomically(self.run.folder / "log.json", json.dumps(rows, indent=1))
            yield log

    def _train_epoch(self, on_step: Callable[[int, int, int], None]) -> None:
        self.model.train()
        started = time.perf_counter()
        for items in self._batches():
            self._make_step(items)
            self.step += 1
            now = time.perf_counter()
            self.seconds, started = self.seconds + now - started, now
            on_step(self.epoch + 1, self.step, self.steps)
            every = self.run.checkpoint_steps
            if every and self.step % every == 0 and self.step < self.steps:
                self._save()
            self.stop.check()

    def _batches(self) -> DataLoader[Any]:
        """Returns the batches that are left of this epoch."""
        seed, size = self.recipe.seed, self.recipe.batch_size
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", self.epoch))
        order = torch.randperm(len(self.images), generator=generator).tolist()
        chosen = [order[n * size : (n + 1) * size] for n in range(self.step, self.steps)]
        data = Augmented(self.images, self.recipe.augment, seed=seed, epoch=self.epoch)
        return DataLoader(data, batch_sampler=chosen, num_workers=self.run.workers, collate_fn=list)

    def _make_step(self, items: list[tuple[Tensor, Target]]) -> None:
        recipe, hardware = self.recipe, self.run.hardware
        seed_all(derive_seed(recipe.seed, "step", self.epoch, self.step))
        images = [image.to(hardware.device) for image, _ in items]
        targets = [{k: v.to(hardware.device) for k, v in target.items()} for _, target in items]
        with torch.autocast(hardware.device.type, torch.bfloat16, enabled=hardware.bf16):
            losses = self.model(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not total.isfinite():
            raise Diverged(
                f"training diverged: the loss is {float(total)} at step {self.step + 1} of epoch "
                f"{self.epoch + 1} with lr {recipe.lr:.4g}. Lower --lr",
                epoch=self.epoch + 1,
                curve=tuple(self.curve),
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        made = self.epoch * self.steps + self.step
        set_lr(self.optimizer, recipe.lr_at(made, recipe.epochs * self.steps))
        self.optimizer.step()
        self.average.update(averaging_weight(made + 1, recipe.ema_decay))
        self.loss_sum += float(total.detach())

    def _closed_epoch(self) -> DetectionLog:
        made = (self.epoch + 1) * self.steps - 1
        log = DetectionLog(
            epoch=self.epoch + 1,
            loss=self.loss_sum / self.steps,
            lr=self.recipe.lr_at(made, self.recipe.epochs * self.steps),
            seconds=self.seconds,
            images_per_s=self.steps * self.recipe.batch_size / max(self.seconds, 1e-9),
        )
        done = self.epoch + 1
        if done % self.run.validate_epochs and done != self.recipe.epochs:
            return log
        detector = TorchDetector(
            BuiltDetector(self.average.module, self.config), self.run.hardware.device
        )
        with self.stop.at_once():  # changes nothing that a checkpoint holds
            scores = evaluate(detector, self.val_images)
        return dataclasses.replace(log, ap=scores.values["AP"], ap50=scores.values["AP50"])

    def _keep_best(self) -> None:
        validated = [log.ap for log in self.curve if log.ap is not None]
        if (
            validated
            and self.curve[-1].ap is not None
            and validated.index(max(validated)) == (len(validated) - 1)
        ):
            save_detector(self.run.folder / "best", BuiltDetector(self.average.module, self.config))

    def _identity(self) -> dict[str, Any]:
        """Returns what must be equal for a checkpoint to be of this run."""
        config = self.config.to_dict()
        return {
            "detector": config,
            "recipe": self.recipe.to_dict(),
            "num_images": len(self.images),
        }

    def _save(self) -> None:
        parts = {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        tensors = {
            f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()
        }
        record = {
            "run": self._identity(),
            "epoch": self.epoch,
            "step_in_epoch": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "curve": [dataclasses.asdict(log) for log in self.curve],
        }
        made = self.epoch * self.steps + self.step
        checkpointing.save(self.run.folder / "checkpoints", made, tensors, record)

    def _resume(self) -> None:
        found = checkpointing.load_newest(self.run.folder / "checkpoints")
        if found is None:
            return
        tensors, record = found
        asked = json.loads(json.dumps(self._identity()))
        for name, mine in asked.items():
            theirs = record["run"].get(name)
            if theirs != mine:
                raise ValueError(
                    f"{self.run.folder} holds another run: its {_difference(name, theirs, mine)}; "
                    "give another --out, or the settings that the run began with"
                )

        def under(part: str) -> dict[str, Tensor]:
            prefix = f"{part}."
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(under("model"))
        self.average.module.load_state_dict(under("average"))
        load_optimizer(self.optimizer, under("optimizer"))
        self.epoch, self.step = record["epoch"], record["step_in_epoch"]
        self.loss_sum, self.seconds = record["loss_sum"], record["seconds"]
        self.curve = [DetectionLog(**log) for log in record["curve"]]


def _difference(name: str, theirs: Any, mine: Any) -> str:
    if not isinstance(theirs, dict) or not isinstance(mine, dict):
        return f"{name} is {theirs!r}, here {mine!r}"
    keys = [key for key in mine if theirs.get(key) != mine[key]]
    shown = [
        f"{key} is different"
        if key == "arch"
        else f"{key} is {theirs.get(key)!r}, here {mine[key]!r}"
        for key in keys
    ]
    return ", its ".join(shown)


def _optimizer(model: nn.Module, recipe: DetectionRecipe) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=_MOMENTUM)
    return torch.optim.AdamW(groups, lr=recipe.lr)
