"""The inside of `train`: one run's state, its steps, its checkpoints.

Every random number of a step follows from the seed, the epoch and the step, so there is no
generator to save. That, and reductions in a fixed order on a CPU, make resuming exact to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3._internal.errors import Diverged
from fbnetv3.search.data.image_set import ImageSet

from . import checkpointing
from .average import AveragedWeights, averaging_weight
from .batches import Batch, Sample, TrainBatches, derive_seed, seed_all
from .config import TrainConfig
from .depthwise import QuickDepthwise, helps
from .graphed import GraphedStep
from .logbook import EpochLog, write_curve, write_setting
from .mixup import mixed, mixup_share
from .optimizers import load_optimizer, make_optimizer, optimizer_tensors, set_lr
from .parallel import World, current_world, summed
from .recipe import Recipe
from .scoring import BATCH_SIZE, Score, score

# Where reading the loss would wait for the device, it is looked at every so many steps.
_DEVICE_CHECK_STEPS = 50


OnStep = Callable[[int, int, int], None]


class Teacher(Protocol):
    """Gives logits to learn from; see `distill`."""

    weight: float
    identity: str

    def check(self, recipe: Recipe, images: ImageSet) -> None:
        """Refuses what this teacher cannot teach."""

    def logits(self, batch: Batch) -> Tensor:
        """Returns (n, classes) for a batch as the student sees it."""


class Loop:
    """State of a run: model, average, optimiser, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        val_images: ImageSet,
        config: TrainConfig,
        teacher: Teacher | None,
    ) -> None:
        self.config, self.teacher, self.world = config, teacher, current_world()
        self.images, self.val_images = images, val_images
        device, recipe = config.hardware.device, config.recipe
        layout = torch.channels_last if config.hardware.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        _share_weights(self.model, self.world)
        self.ema = AveragedWeights(model) if recipe.ema else None
        if teacher is not None:
            teacher.check(recipe, images)
        self.optimizer = make_optimizer(model, recipe)
        self.batches = TrainBatches(
            images,
            recipe,
            config.preprocess,
            seed=config.seed,
            world=self.world,
            device=device,
            workers=config.workers,
        )
        part = self.batches.total // self.world.size / config.accumulate
        if part != int(part) or (recipe.mixup and part % 2):
            raise ValueError(
                f"a process's batch of {self.batches.total // self.world.size} in "
                f"{config.accumulate} passes gives {part:g} images each; expected a whole number"
                + (", and an even one for mixup" if recipe.mixup else "")
            )
        self.forward = self._forward_module()
        self.depthwise = (
            contextlib.nullcontext()
            if config.hardware.compile
            else QuickDepthwise(own_gradient=helps(device) and not config.hardware.bf16)
        )
        self.curve: list[EpochLog] = []
        self.epoch, self.step, self.seconds, self.lr = 0, 0, 0.0, 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        # Teachers and other processes' gradients may wait for the device, which a graph cannot.
        graphed = device.type == "cuda" and self.world.size == 1 and teacher is None
        self.run_step = GraphedStep(self.make_step, device) if graphed else self.make_step

    def _forward_module(self) -> Callable[[Tensor], Tensor]:
        module: Any = torch.compile(self.model) if self.config.hardware.compile else self.model
        if self.world.size > 1:
            device = self.config.hardware.device
            ids = [device] if device.type == "cuda" else None
            module = nn.parallel.DistributedDataParallel(
                module, device_ids=ids, broadcast_buffers=False
            )
        return module  # type: ignore[no-any-return]  # a module is called with a tensor

    def epochs(self, on_step: OnStep) -> Iterator[EpochLog]:
        """Trains what is left; gives every epoch, those before a resume too."""
        return (log for log in self.running(on_step) if log is not None)

    def running(self, on_step: OnStep) -> Iterator[EpochLog | None]:
        """Does what `epochs` does and yields None after each step, for loops that run in turns."""
        folder = self.config.folder
        if folder is not None:
            self._resume(folder)
            if self.world.rank == 0:
                write_setting(folder, self.model, self.config.recipe)
        yield from self.curve
        while self.epoch < self.config.epochs:
            self.model.train()
            for _ in self._steps(on_step):
                yield None
            self.curve.append(self._closed_epoch())
            self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
            self.loss_sum.zero_()
            if folder is not None:
                last = self.epoch == self.config.epochs
                if last or self.epoch % self.config.checkpoint_epochs == 0:
                    self._save(folder)
                if self.world.rank == 0:
                    write_curve(folder, self.curve)
            yield self.curve[-1]

    def _steps(self, on_step: OnStep) -> Iterator[None]:
        """Makes the steps that are left of an epoch; yields after each."""
        steps, recipe = self.batches.steps, self.config.recipe
        started = time.perf_counter()
        for sample in self.batches.samples(self.epoch, self.step):
            # Half a step in: above zero at the start of warm-up as at the end of the schedule.
            done = self.epoch + (self.step + 0.5) / steps
            self.lr = recipe.lr_at(done, nodes=self.world.nodes)
            seed_all(derive_seed(self.config.seed, "step", self.epoch, self.step, self.world.rank))
            made = self.epoch * steps + self.step + 1
            weight = averaging_weight(made, recipe.ema_decay)
            self.run_step(sample, (self.lr, weight, mixup_share(recipe.mixup)))
            self.step += 1
            on_step(self.epoch + 1, self.step, steps)
            every = self.config.checkpoint_steps
            due = bool(every) and self.step % every == 0 and self.step < steps
            self._check_finite(due or self.step == steps)
            if due and self.config.folder is not None:
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                self._save(self.config.folder)
            yield
        self.seconds += time.perf_counter() - started

    def make_step(self, sample: Sample, numbers: Sequence[float | Tensor]) -> None:
        """Makes one step of the optimiser.

        Nothing here waits for a GPU or depends on what its tensors hold, so that a graph can repeat
        it.

        Args:
            sample: as `TrainBatches.samples` yields it.
            numbers: learning rate, weight of these weights in the average, and mixup's share; as
                numbers, or as 0-dimensional tensors that a graph reads anew at each step.
        """
        lr, weight, share = numbers
        parts = self.config.accumulate
        batch = self.batches.made(sample)
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(parts):
            part = Batch(*(tensor.chunk(parts)[number] for tensor in batch)) if parts > 1 else batch
            waits = self.world.size > 1 and number + 1 < parts
            module: Any = self.forward
            with module.no_sync() if waits else contextlib.nullcontext():
                loss = self._loss(part, share) / parts
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            self.loss_sum += loss.detach()
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(weight)

    def _loss(self, batch: Batch, share: float | Tensor) -> Tensor:
        recipe, hardware = self.config.recipe, self.config.hardware
        num_classes = len(self.images.classes)
        target = batch.labels
        if recipe.mixup:
            images, target = mixed(batch, share, recipe.label_smoothing, num_classes)
            batch = batch._replace(images=images)
        images = batch.images if hardware.channels_last else batch.images.contiguous()
        with (
            torch.autocast(hardware.device.type, torch.bfloat16, enabled=hardware.bf16),
            self.depthwise,
        ):
            logits = self.forward(images)
        if logits.shape[1:] != (num_classes,):
            raise ValueError(
                f"the model gives {tuple(logits.shape[1:])} numbers an image, and "
                f"{self.images.name} has {num_classes} classes; build the model with "
                "that num_classes"
            )
        # Mixed targets are smoothed already.
        smoothing = 0.0 if recipe.mixup else recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        if self.teacher is not None:
            soft = self.teacher.logits(batch).float().softmax(1)
            learned = F.cross_entropy(logits.float(), soft)
            loss = self.teacher.weight * learned + (1 - self.teacher.weight) * loss
        return loss

    def _check_finite(self, must: bool) -> None:
        on_cpu = self.config.hardware.device.type == "cpu"
        if not (must or on_cpu or self.step % _DEVICE_CHECK_STEPS == 0):
            return
        # Over all processes, so that all of them stop: one that went on would wait for the others.
        if not math.isfinite(summed(self.loss_sum.clone()).item()):
            raise Diverged(
                f"training diverged: the loss is not finite at step {self.step} of epoch "
                f"{self.epoch + 1}, learning rate {self.lr:.4g}. Lower lr, or warm up for longer",
                epoch=self.epoch + 1,
                curve=tuple(self.curve),
            )

    def _closed_epoch(self) -> EpochLog:
        steps = self.batches.steps
        loss = float(summed(self.loss_sum.clone())) / self.world.size / steps
        log = EpochLog(
            epoch=self.epoch + 1,
            steps=(self.epoch + 1) * steps,
            lr=self.lr,
            loss=loss,
            seconds=self.seconds,
            images_per_s=steps * self.batches.total / max(self.seconds, 1e-9),
            damaged=len(self.batches.damaged),
        )
        done = self.epoch + 1
        if done % self.config.validate_epochs and done != self.config.epochs:
            return log
        raw = self._score(self.model)
        log = dataclasses.replace(
            log, val_loss=raw.loss, top1_pct=raw.top1_pct, top5_pct=raw.top5_pct
        )
        if self.ema is None:
            return log
        averaged = self._score(self.ema.module)
        return dataclasses.replace(
            log, ema_top1_pct=averaged.top1_pct, ema_top5_pct=averaged.top5_pct
        )

    def _score(self, model: nn.Module) -> Score:
        return score(
            model,
            self.val_images,
            self.config.preprocess,
            device=self.config.hardware.device,
            bf16=self.config.hardware.bf16,
            batch_size=BATCH_SIZE * (4 if self.config.hardware.device.type == "cuda" else 1),
            workers=self.config.workers,
        )

    def _identity(self) -> dict[str, Any]:
        """Returns what must be equal for a checkpoint to be of this run."""
        shapes = [(name, tuple(t.shape)) for name, t in self.model.state_dict().items()]
        return {
            "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
            "recipe": self.config.recipe.to_dict(),
            "preprocess": self.config.preprocess.to_dict(),
            "seed": self.config.seed,
            "accumulate": self.config.accumulate,
            "num_images": len(self.images),
            "classes": hashlib.sha256(repr(self.images.classes).encode()).hexdigest()[:16],
            "processes": [self.world.size, self.world.nodes],
            "teacher": self.teacher is not None and self.teacher.identity,
        }

    def _save(self, folder: Path) -> None:
        if self.world.rank:
            return
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in optimizer_tensors(self.optimizer).items()}
        record = {
            "run": self._identity(),
            "epoch": self.epoch,
            "step_in_epoch": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum.item(),
            "curve": [dataclasses.asdict(log) for log in self.curve],
            "damaged": sorted(self.batches.damaged),
        }
        step = self.epoch * self.batches.steps + self.step
        checkpointing.save(folder / "checkpoints", step, tensors, record)

    def _resume(self, folder: Path) -> None:
        found = checkpointing.load_newest(folder / "checkpoints")
        if found is None:
            return
        tensors, record = found
        for name, mine in self._identity().items():
            if record["run"].get(name) != mine:
                raise ValueError(
                    f"the checkpoint in {folder} is of another run: its {name} is "
                    f"{record['run'].get(name)!r}, here it is {mine!r}; give another folder, or "
                    "start with the settings that the run began with"
                )
        self.model.load_state_dict(_under(tensors, "model."))
        if self.ema is not None:
            self.ema.module.load_state_dict(_under(tensors, "ema."))
        load_optimizer(self.optimizer, _under(tensors, "optimizer."))
        self.epoch, self.step = record["epoch"], record["step_in_epoch"]
        self.seconds = record["seconds"]
        self.loss_sum.fill_(record["loss_sum"])
        self.curve = [EpochLog(**log) for log in record["curve"]]
        self.batches.damaged = set(record["damaged"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _share_weights(model: nn.Module, world: World) -> None:
    """Gives every process the first one's weights."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
