"""The inside of `train`: one run's state, its steps, its checkpoints.

Every random number of a step follows from the seed, the epoch and the step, so there is no
generator to save. That, and reductions in a fixed order on a CPU, make resuming exact to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3._internal.devices import sum_dtype
from fbnetv3._internal.errors import Diverged
from fbnetv3.hub.pretrained_cfg import license_of
from fbnetv3.search.data.image_set import ImageSet

from . import checkpointing
from .average import AveragedWeights, averaging_weight
from .balance import balancing_weights, positive_weights
from .batches import Batch, Sample, TrainBatches
from .config import TrainConfig
from .depthwise import QuickDepthwise, helps
from .freezing import frozen_parts
from .graphed import GraphedStep
from .identity import check_license_of_run, check_same_run
from .logbook import EpochLog, best_of, write_classes, write_curve, write_network, write_setting
from .mixup import mixed, mixup_share
from .multi_label import MultiLabelScore, multi_label_loss, score_multi_label_each
from .optimizers import load_optimizer, make_optimizer, optimizer_tensors, set_lr
from .parallel import World, current_world, data_parallel, summed
from .recipe import Recipe
from .scoring import BATCH_SIZE, Score, default_batch_size, score_each
from .seeds import derive_seed, seed_all
from .stopping import Stopped, StopRequest

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
        stop: StopRequest | None = None,
    ) -> None:
        self.config, self.teacher, self.world = config, teacher, current_world()
        # Other processes are needed for the first one's steps: they go on until it is gone.
        self.stop = stop if stop is not None and self.world.rank == 0 else StopRequest()
        self.images, self.val_images = images, val_images
        _check_labels(images, val_images)
        device, recipe = config.hardware.device, config.recipe
        layout = torch.channels_last if config.hardware.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        _share_weights(self.model, self.world)
        self.ema = AveragedWeights(model) if recipe.ema else None
        if teacher is not None:
            teacher.check(recipe, images)
        self.frozen = frozen_parts(model, recipe.freeze)
        for module in self.frozen:
            module.requires_grad_(False)
        self.optimizer = make_optimizer(model, recipe)
        weights_of = positive_weights if images.multi_label else balancing_weights
        self.class_weights = weights_of(images).to(device) if recipe.balance == "loss" else None
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
            else QuickDepthwise(own_gradient=helps(device) and config.hardware.half is None)
        )
        self.curve: list[EpochLog] = []
        self.last_score: Score | MultiLabelScore | None = None
        # Of a multi-label set, chosen in the last validation.
        self.thresholds: tuple[float, ...] = ()
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.loss_sum = torch.zeros((), dtype=sum_dtype(device), device=device)
        # Does nothing but in float16.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.hardware.fp16)
        # Teachers, other processes' gradients and the scaler may wait for the device, which a graph
        # cannot.
        waits = teacher is not None or self.world.size > 1 or config.hardware.fp16
        graphed = device.type == "cuda" and not waits
        self.run_step = GraphedStep(self.make_step, device) if graphed else self.make_step

    def _forward_module(self) -> Callable[[Tensor], Tensor]:
        module: Any = torch.compile(self.model) if self.config.hardware.compile else self.model
        if self.world.size > 1:
            module = data_parallel(module, self.config.hardware.device)
        return module  # type: ignore[no-any-return]  # a module is called with a tensor

    def epochs(self, on_step: OnStep) -> Iterator[EpochLog]:
        """Trains what is left; gives every epoch, those before a resume too."""
        return (log for log in self.running(on_step) if log is not None)

    def running(self, on_step: OnStep) -> Iterator[EpochLog | None]:
        """Does what `epochs` does and yields None after each step, for loops that run in turns."""
        folder = self.config.folder
        self._resume()
        if folder is not None and self.world.rank == 0:
            write_setting(folder, self.model, self.config.recipe)
        yield from self.curve
        while not self.is_over:
            self.model.train()
            for module in self.frozen:
                module.eval()  # the statistics of its batch-norm stay too
            try:
                for _ in self._steps(on_step):
                    yield None
                closed = self._closed_epoch()
            except Stopped:
                self._check_finite(must=True)
                if folder is not None:
                    self._save(folder)
                raise
            self.curve.append(closed)
            self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
            self.loss_sum.zero_()
            if folder is not None:
                self._keep_best(folder)
                if self.is_over or self.epoch % self.config.checkpoint_epochs == 0:
                    self._save(folder)
                if self.world.rank == 0:
                    write_curve(folder, self.curve)
                    if self.last_score is not None:
                        write_classes(folder, self.images.classes, self.last_score)
            yield self.curve[-1]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or patience has run out."""
        if self.epoch >= self.config.epochs:
            return True
        best, patience = best_of(self.curve), self.config.patience
        if best is None or not patience or self.curve[-1].accuracy_pct is None:
            return False
        first = next(log for log in self.curve if log.accuracy_pct == best.accuracy_pct)
        return self.curve[-1].epoch - first.epoch >= patience

    def _keep_best(self, folder: Path) -> None:
        if self.config.keep_best and self.world.rank == 0 and best_of(self.curve) is self.curve[-1]:
            write_network(
                folder / "best",
                self.model if self.ema is None else self.ema.module,
                preprocess=self.config.preprocess,
                classes=self.images.classes,
                thresholds=self.thresholds,
                license=self.config.license,
            )

    def _steps(self, on_step: OnStep) -> Iterator[None]:
        """Makes the steps that are left of an epoch; yields after each."""
        steps, recipe = self.batches.steps, self.config.recipe
        started = time.perf_counter()
        for sample in self.batches.samples(self.epoch, self.step):
            lr = self._lr_at(self.step)
            seed_all(derive_seed(self.config.seed, "step", self.epoch, self.step, self.world.rank))
            made = self.epoch * steps + self.step + 1
            weight = averaging_weight(made, recipe.ema_decay, recipe.ema_start)
            self.run_step(sample, (lr, weight, mixup_share(recipe.mixup)))
            self.step += 1
            on_step(self.epoch + 1, self.step, steps)
            every = self.config.checkpoint_steps
            due = bool(every) and self.step % every == 0 and self.step < steps
            self._check_finite(due or self.step == steps)
            now = time.perf_counter()
            self.seconds, started = self.seconds + now - started, now
            if due and self.config.folder is not None:
                self._save(self.config.folder)
            self.stop.check()
            yield

    def _lr_at(self, step: int) -> float:
        """Returns the optimiser's learning rate at a step of this epoch."""
        # Half a step in: above zero at the start of warm-up as at the end of the schedule.
        done = self.epoch + (step + 0.5) / self.batches.steps
        return self.config.recipe.lr_at(done, nodes=self.world.nodes)

    def make_step(self, sample: Sample, numbers: Sequence[float | Tensor]) -> None:
        """Makes one step of the optimiser.

        Nothing here waits for a GPU or depends on what its tensors hold, so that a graph can repeat
        it.

        Args:
            sample: as `TrainBatches.samples` yields it.
            numbers: learning rate, weight of these weights in the average, and mixup's share; as
                numbers, or as 0-dimensional tensors that a graph reads again at each step.
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
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            self.loss_sum += loss.detach()
        set_lr(self.optimizer, lr)
        if self.config.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
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
            torch.autocast(hardware.device.type, hardware.half, enabled=hardware.half is not None),
            self.depthwise,
        ):
            logits = self.forward(images)
        if logits.shape[1:] != (num_classes,):
            raise ValueError(
                f"the model gives {tuple(logits.shape[1:])} logits per image, and "
                f"{self.images.name} has {num_classes} classes; build the model with "
                "that num_classes"
            )
        loss = self._loss_of(logits.float(), target)
        if self.teacher is not None:
            taught = self.teacher.logits(batch).float()
            if self.images.multi_label:
                learned = F.binary_cross_entropy_with_logits(logits.float(), taught.sigmoid())
            else:
                learned = F.cross_entropy(logits.float(), taught.softmax(1))
            loss = self.teacher.weight * learned + (1 - self.teacher.weight) * loss
        return loss

    def _loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        smoothing = self.config.recipe.label_smoothing
        if self.images.multi_label:
            return multi_label_loss(
                logits, target, label_smoothing=smoothing, positive_weights=self.class_weights
            )
        # Mixed targets are smoothed already.
        smoothing = 0.0 if self.config.recipe.mixup else smoothing
        return F.cross_entropy(logits, target, self.class_weights, label_smoothing=smoothing)

    def _check_finite(self, must: bool) -> None:
        on_cpu = self.config.hardware.device.type == "cpu"
        if not (must or on_cpu or self.step % _DEVICE_CHECK_STEPS == 0):
            return
        # Over all processes, so that all of them stop: one that went on would wait for the others.
        if not math.isfinite(summed(self.loss_sum.clone()).item()):
            raise Diverged(
                f"training diverged: the loss is not finite at step {self.step} of epoch "
                f"{self.epoch + 1} with lr {self.config.recipe.lr:.4g}. Lower lr, or warm up for "
                "longer",
                epoch=self.epoch + 1,
                curve=tuple(self.curve),
            )

    def _closed_epoch(self) -> EpochLog:
        steps = self.batches.steps
        loss = float(summed(self.loss_sum.clone())) / self.world.size / steps
        log = EpochLog(
            epoch=self.epoch + 1,
            steps=(self.epoch + 1) * steps,
            lr=self._lr_at(steps - 1) / self.config.recipe.lr_factor / self.world.nodes,
            loss=loss,
            seconds=self.seconds,
            images_per_s=steps * self.batches.total / max(self.seconds, 1e-9),
            damaged=len(self.batches.damaged),
        )
        done = self.epoch + 1
        if done % self.config.validate_epochs and done != self.config.epochs:
            return log
        with self.stop.at_once():
            return self._validated(log)

    def _validated(self, log: EpochLog) -> EpochLog:
        """Returns an epoch's log with the accuracies. Changes nothing that training depends on."""
        if self.images.multi_label:
            return self._validated_multi_label(log)
        raw, *averaged = score_each(self._judged(), self.val_images, **self._scoring())
        log = dataclasses.replace(
            log, val_loss=raw.loss, top1_pct=raw.top1_pct, top5_pct=raw.top5_pct
        )
        chosen = raw
        for chosen in averaged:
            log = dataclasses.replace(
                log, ema_top1_pct=chosen.top1_pct, ema_top5_pct=chosen.top5_pct
            )
        self.last_score = chosen
        return dataclasses.replace(log, macro_recall_pct=chosen.macro_recall_pct)

    def _validated_multi_label(self, log: EpochLog) -> EpochLog:
        raw, *averaged = score_multi_label_each(self._judged(), self.val_images, **self._scoring())
        chosen, log = raw, dataclasses.replace(log, val_loss=raw.loss, map_pct=raw.map_pct)
        for chosen in averaged:
            log = dataclasses.replace(log, ema_map_pct=chosen.map_pct)
        self.last_score, self.thresholds = chosen, chosen.thresholds
        return dataclasses.replace(log, macro_f1_pct=chosen.macro_f1_pct(chosen.thresholds))

    def _judged(self) -> list[nn.Module]:
        """Returns the model and, if there is one, its average: photos are decoded once for both."""
        return [self.model] if self.ema is None else [self.model, self.ema.module]

    def _scoring(self) -> dict[str, Any]:
        device, side = self.config.hardware.device, self.config.preprocess.crop
        on_gpu = device.type == "cuda"
        return {
            "preprocess": self.config.preprocess,
            "device": device,
            "half": self.config.hardware.half,
            "batch_size": BATCH_SIZE * 4 if on_gpu else default_batch_size(device, side),
            "workers": self.config.workers,
        }

    def _identity(self) -> dict[str, Any]:
        """Returns what must be equal for a checkpoint to be of this run."""
        shapes = [(name, tuple(t.shape)) for name, t in self.model.state_dict().items()]
        classes = repr(self.images.classes) + ("multi-label" if self.images.multi_label else "")
        return {
            "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
            "recipe": self.config.recipe.to_dict(),
            "preprocess": self.config.preprocess.to_dict(),
            "seed": self.config.seed,
            "accumulate": self.config.accumulate,
            "num_images": len(self.images),
            "classes": hashlib.sha256(classes.encode()).hexdigest()[:16],
            "processes": [self.world.size, self.world.nodes],
            "teacher": self.teacher is not None and self.teacher.identity,
        }

    def _license(self) -> str:
        return self.config.license or license_of(self.model)

    def _save(self, folder: Path) -> None:
        state = {f"optimizer.{name}": t for name, t in optimizer_tensors(self.optimizer).items()}
        self._write(folder, state, checkpointing.NUM_KEPT)

    def keep_what_a_longer_run_needs(self) -> None:
        """Replaces the checkpoints of a run that is complete by one without the optimiser's state.

        If the run is given more epochs, that state forms again within some tens of steps.
        """
        cut_short = self.epoch == self.config.stop_epoch != self.config.recipe.epochs
        if self.config.folder is not None and not cut_short:
            self._write(self.config.folder, {}, 1)

    def _write(self, folder: Path, state: dict[str, Tensor], kept: int) -> None:
        if self.world.rank:
            return
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()} | state
        if self.ema is not None:
            tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        record = {
            "run": self._identity(),
            "epoch": self.epoch,
            "step_in_epoch": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum.item(),
            "scaler": self.scaler.state_dict(),
            "curve": [dataclasses.asdict(log) for log in self.curve],
            "damaged": sorted(self.batches.damaged),
            "thresholds": self.thresholds,
            "license": self._license(),
        }
        step = self.epoch * self.batches.steps + self.step
        checkpointing.save(folder / "checkpoints", step, tensors, record, kept=kept)

    def _resume(self) -> None:
        found = self._found_checkpoint()
        if found is None:
            return
        folder, tensors, record = found
        check_same_run(folder, record["run"], self._identity())
        check_license_of_run(folder, record.get("license", ""), self._license())
        mine = self.config.folder
        if mine not in (None, folder) and self.config.keep_best and (folder / "best").is_dir():
            shutil.copytree(folder / "best", mine / "best", dirs_exist_ok=True)
        self.model.load_state_dict(_under(tensors, "model."))
        if self.ema is not None:
            self.ema.module.load_state_dict(_under(tensors, "ema."))
        load_optimizer(self.optimizer, _under(tensors, "optimizer."))
        if record.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(record["scaler"])
        self.epoch, self.step = record["epoch"], record["step_in_epoch"]
        self.seconds = record["seconds"]
        self.loss_sum.fill_(record["loss_sum"])
        self.curve = [EpochLog(**log) for log in record["curve"]]
        self.batches.damaged = set(record["damaged"])
        self.thresholds = tuple(record.get("thresholds", ()))

    def _found_checkpoint(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        for folder in (self.config.folder, self.config.resume_from):
            found = None if folder is None else checkpointing.load_newest(folder / "checkpoints")
            if found is not None:
                assert folder is not None
                return folder, *found
        if self.config.resume_from is not None:
            raise FileNotFoundError(
                f"{self.config.resume_from} has no checkpoint to resume from; expected the output "
                "folder of a training"
            )
        return None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _check_labels(images: ImageSet, val_images: ImageSet) -> None:
    """Refuses sets for different tasks, and a validation set that nothing can be measured on."""
    if images.multi_label != val_images.multi_label:
        several, one = sorted((images, val_images), key=lambda part: not part.multi_label)
        raise ValueError(
            f"{several.name} has several labels per image and {one.name} has one; expected the "
            "same of both"
        )
    if not any(val_images.counts):
        raise ValueError(f"no image of {val_images.name} has a label; expected some to validate on")


def _share_weights(model: nn.Module, world: World) -> None:
    """Gives every process the first one's weights."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
