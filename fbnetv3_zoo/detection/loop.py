"""The loop of a detector's training: state, steps, checkpoints.

As in the classifier's loop, every random number of a step follows from the seed, the epoch and the
step, so that checkpoints hold no generator.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fbnetv3._internal.errors import Diverged
from fbnetv3._internal.files import write_atomically
from fbnetv3.integrations.coco_folder import CocoFolder, Target
from fbnetv3.search.training import checkpointing
from fbnetv3.search.training.average import AveragedWeights, averaging_weight
from fbnetv3.search.training.loading import loaded, outlive_signals
from fbnetv3.search.training.optimizers import load_optimizer, optimizer_tensors, set_lr
from fbnetv3.search.training.parallel import current_world, data_parallel, summed
from fbnetv3.search.training.seeds import derive_seed, seed_all
from fbnetv3.search.training.stopping import Stopped, StopRequest

from .data import Augmented
from .detectors import BuiltDetector, TorchDetector, save_detector
from .identity import check_same_run
from .optimizer import make_optimizer
from .run import DetectionLog, DetectionRun
from .scoring import evaluate

# Up to this side of SSDlite's squares its coarsest map has one pixel: 32 of the backbone times 16.
_ONE_PIXEL = 512


class Loop:
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
        self.world = current_world()
        self.model = built.module
        self.average = AveragedWeights(self.model)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.batch = self.recipe.batch_size * self.world.nodes
        if self.batch % self.world.size:
            raise ValueError(
                f"batch_size is {self.recipe.batch_size}, for {self.world.size // self.world.nodes}"
                " processes of a node; expected a multiple of their number"
            )
        if (
            self.batch == 1
            and built.config.detector == "ssdlite"
            and built.config.size <= _ONE_PIXEL
        ):
            raise ValueError(
                "batch_size is 1; expected at least 2, as ssdlite's last map has one pixel, which "
                "batch-norm cannot normalise alone"
            )
        self.steps = len(images) // self.batch
        if not self.steps:
            raise ValueError(
                f"{len(images)} images are less than a batch of {self.batch} on "
                f"{self.world.nodes} nodes; lower batch_size"
            )
        self.forward: Any = self.model
        if self.world.size > 1:
            self.forward = data_parallel(self.model, run.hardware.device)
        self.annotations = images.digest()
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
            if self.world.rank == 0:
                rows = [dataclasses.asdict(one) for one in self.curve]
                write_atomically(self.run.folder / "log.json", json.dumps(rows, indent=1))
            yield log

    def _train_epoch(self, on_step: Callable[[int, int, int], None]) -> None:
        self.model.train()
        started = time.perf_counter()
        for items in loaded(self._batches()):
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
        """Returns this process's part of the batches that are left of this epoch."""
        seed, size, world = self.recipe.seed, self.batch, self.world
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", self.epoch))
        order = torch.randperm(len(self.images), generator=generator).tolist()
        whole = [order[n * size : (n + 1) * size] for n in range(self.step, self.steps)]
        chosen = [batch[world.rank :: world.size] for batch in whole]
        data = Augmented(self.images, self.recipe.augment, seed=seed, epoch=self.epoch)
        return DataLoader(
            data,
            batch_sampler=chosen,
            num_workers=self.run.workers,
            collate_fn=list,
            worker_init_fn=outlive_signals,
        )

    def _make_step(self, items: list[tuple[Tensor, Target]]) -> None:
        recipe, hardware = self.recipe, self.run.hardware
        seed_all(derive_seed(recipe.seed, "step", self.epoch, self.step, self.world.rank))
        images = [image.to(hardware.device) for image, _ in items]
        targets = [{k: v.to(hardware.device) for k, v in target.items()} for _, target in items]
        with torch.autocast(hardware.device.type, torch.bfloat16, enabled=hardware.bf16):
            losses = self.forward(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        # Over all processes, so that all of them stop.
        mean = float(summed(total.detach().clone())) / self.world.size
        if not math.isfinite(mean):
            raise Diverged(
                f"training diverged: the loss is {mean} at step {self.step + 1} of epoch "
                f"{self.epoch + 1} with lr {recipe.lr:.4g}. Lower --lr",
                epoch=self.epoch + 1,
                curve=tuple(self.curve),
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        made = self.epoch * self.steps + self.step
        set_lr(self.optimizer, self._lr_at(made))
        self.optimizer.step()
        self.average.update(averaging_weight(made + 1, recipe.ema_decay))
        self.loss_sum += mean

    def _lr_at(self, step: int) -> float:
        return self.recipe.lr_at(step, self.recipe.epochs * self.steps) * self.world.nodes

    def _closed_epoch(self) -> DetectionLog:
        made = (self.epoch + 1) * self.steps - 1
        log = DetectionLog(
            epoch=self.epoch + 1,
            loss=self.loss_sum / self.steps,
            lr=self._lr_at(made),
            seconds=self.seconds,
            images_per_s=self.steps * self.batch / max(self.seconds, 1e-9),
        )
        done = self.epoch + 1
        if done % self.run.validate_epochs and done != self.recipe.epochs:
            return log
        detector = TorchDetector(
            BuiltDetector(self.average.module, self.config), self.run.hardware.device
        )
        with self.stop.at_once():  # changes nothing that a checkpoint holds
            scores = evaluate(detector, self.val_images, world=self.world)
        return dataclasses.replace(log, ap=scores.values["AP"], ap50=scores.values["AP50"])

    def _keep_best(self) -> None:
        validated = [log.ap for log in self.curve if log.ap is not None]
        if (
            self.world.rank == 0
            and validated
            and self.curve[-1].ap is not None
            and validated[-1] == max(validated)  # of equal epochs the last
        ):
            save_detector(self.run.folder / "best", BuiltDetector(self.average.module, self.config))

    def _identity(self) -> dict[str, Any]:
        """Returns what must be equal for a checkpoint to be of this run."""
        return {
            "detector": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "num_images": len(self.images),
            "annotations": self.annotations,
            "processes": [self.world.size, self.world.nodes],
        }

    def _save(self) -> None:
        if self.world.rank:
            return
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
        check_same_run(self.run.folder, record["run"], self._identity())

        def under(part: str) -> dict[str, Tensor]:
            prefix = f"{part}."
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(under("model"))
        self.average.module.load_state_dict(under("average"))
        load_optimizer(self.optimizer, under("optimizer"))
        self.epoch, self.step = record["epoch"], record["step_in_epoch"]
        self.loss_sum, self.seconds = record["loss_sum"], record["seconds"]
        self.curve = [DetectionLog(**log) for log in record["curve"]]
