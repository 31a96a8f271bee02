"""The one training loop: candidates of a search, final networks, fine-tuning.

A run is a function of its record, the data and the network's first weights. Killed at any moment it
goes on from its last checkpoint and, on a CPU, ends with the same bits: every random number
follows from the seed, the epoch and the step, so there is no generator to save. The caller's
own generators are put back at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3.preprocess import Preprocess

from . import checkpointing
from .batches import Batch, TrainBatches, derive_seed, seed_all
from .images import ImageSet
from .logbook import EpochLog, write_curve, write_setting, write_weights
from .parallel import World, current_world, synchronised_batch_norm
from .recipe import Recipe
from .scoring import score

# RMSProp's own constants are not in the paper; these are the ones customary with its TensorFlow form.
RMS_ALPHA, RMS_EPS = 0.9, 1e-3
# Where reading the loss would wait for the device, it is looked at every so many steps.
_DEVICE_CHECK_STEPS = 50


class Teacher(Protocol):
    """Gives logits to learn from; see `distill`."""

    weight: float

    def logits(self, batch: Batch) -> Tensor:
        """Returns (n, classes) for a batch as the student sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """How a device computes. `Hardware.of` has what is fastest where it was measured.

    Attributes:
        device: where the model lives.
        bf16: forward and loss under bfloat16 autocast; weights stay float32.
        channels_last: memory layout.
        compile: `torch.compile`; pays back after some thousand steps on a GPU only.
    """

    device: torch.device
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False

    @staticmethod
    def of(device: torch.device | str | None = None) -> Hardware:
        """Returns the settings for a device, the GPU where there is one unless given.

        On a CPU float32 with channels last wins: bfloat16 autocast is 2 to 4 times slower there
        (measured on AVX512 with bf16), and compiling costs more than a short run.
        """
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return Hardware(device=chosen, bf16=chosen.type == "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything about a run but its network and its data.

    Attributes:
        recipe: what to follow.
        preprocess: of validation; its crop, mean and std also of training.
        seed: of order, augmentation, dropout and mixup. First weights are the caller's.
        folder: where checkpoints, logs and weights go; None keeps nothing.
        stop_epoch: end after this many epochs of the recipe's schedule; None is all of them.
        checkpoint_steps: a checkpoint every so many steps beside the one after each epoch; 0 is none.
        validate_epochs: validate every so many epochs, and after the last.
        accumulate: forward and backward passes that make a step, each with its part of the batch.
        workers: processes that decode images which are not in memory.
        hardware: how to compute.
    """

    recipe: Recipe
    preprocess: Preprocess
    seed: int = 0
    folder: Path | None = None
    stop_epoch: int | None = None
    checkpoint_steps: int = 0
    validate_epochs: int = 1
    accumulate: int = 1
    workers: int = 0
    hardware: Hardware = field(default_factory=Hardware.of)

    def __post_init__(self) -> None:
        for name, low in (("checkpoint_steps", 0), ("validate_epochs", 1), ("accumulate", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected at least {low}")
        if self.stop_epoch is not None and not 1 <= self.stop_epoch <= self.recipe.epochs:
            raise ValueError(
                f"stop_epoch is {self.stop_epoch}; expected 1 to {self.recipe.epochs}, the epochs "
                "of the recipe"
            )

    @property
    def epochs(self) -> int:
        """How many epochs are trained."""
        return self.stop_epoch or self.recipe.epochs


class Diverged(ArithmeticError):  # noqa: N818  # a verdict on the recipe, not a failure
    """The loss is no longer a number: a result about network and recipe, not a failure.

    Attributes:
        epoch: in which it happened, from 1.
        curve: the epochs before.
    """

    def __init__(self, epoch: int, step: int, curve: tuple[EpochLog, ...], lr: float) -> None:
        super().__init__(
            f"training diverged: the loss is not finite at step {step} of epoch {epoch}, learning "
            f"rate {lr:.4g}. Lower lr, or warm up for longer"
        )
        self.epoch = epoch
        self.curve = curve


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run.

    Attributes:
        model: with the raw weights, the object that was given.
        ema: with the averaged weights; None without.
        curve: the epochs.
    """

    model: nn.Module
    ema: nn.Module | None
    curve: tuple[EpochLog, ...]

    @property
    def best(self) -> nn.Module:
        """The network to use: averaged weights where the recipe has them."""
        return self.model if self.ema is None else self.ema

    @property
    def top1_pct(self) -> float:
        """Validation accuracy of `best` after the last epoch, in percent."""
        last = self.curve[-1]
        found = last.top1_pct if self.ema is None else last.ema_top1_pct
        assert found is not None
        return found


def train(
    model: nn.Module,
    images: ImageSet,
    val_images: ImageSet,
    run: Run,
    *,
    teacher: Teacher | None = None,
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    on_step: Callable[[int, int, int], None] = lambda _epoch, _step, _steps: None,
) -> Trained:
    """Returns the model trained; goes on where a run of the same folder stopped.

    Args:
        model: trained in place; logits (N, classes) of normalised images.
        images: training set.
        val_images: validated on after epochs; decides nothing.
        run: the rest.
        teacher: what to distil from.
        on_epoch: called with each finished epoch, also those before a resume.
        on_step: called with epoch, steps done in it and steps of an epoch.

    Raises:
        Diverged: the loss is not finite.
        ValueError: data, model, run, or a checkpoint in the folder do not fit together.
        OSError: the disk is full or not writable; the last checkpoint is whole.
    """
    with _own_generators(), _locked(run.folder), synchronised_batch_norm(model):
        loop = _Loop(model, images, val_images, run, teacher)
        return loop.run(on_epoch, on_step)


class _Loop:
    """State of a run: model, average, optimiser, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        val_images: ImageSet,
        run: Run,
        teacher: Teacher | None,
    ) -> None:
        from timm.data import Mixup
        from timm.utils import ModelEmaV3

        self.plan, self.teacher, self.world = run, teacher, current_world()
        self.images, self.val_images = images, val_images
        device, recipe = run.hardware.device, run.recipe
        layout = torch.channels_last if run.hardware.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        _share_weights(self.model, self.world)
        # The average of the first n steps while that is longer than ema_decay: with these two
        # numbers timm's warm-up is TensorFlow's (1 + n) / (10 + n).
        self.ema = (
            ModelEmaV3(
                model, decay=recipe.ema_decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0
            )
            if recipe.ema
            else None
        )
        self.optimizer = make_optimizer(model, recipe)
        self.batches = TrainBatches(
            images,
            recipe,
            run.preprocess,
            seed=run.seed,
            world=self.world,
            device=device,
            workers=run.workers,
        )
        part = self.batches.total // self.world.size / run.accumulate
        if part != int(part) or (recipe.mixup and part % 2):
            raise ValueError(
                f"a process's batch of {self.batches.total // self.world.size} in {run.accumulate} "
                f"passes gives {part:g} images each; expected a whole number"
                + (", and an even one for mixup" if recipe.mixup else "")
            )
        self.mixup = (
            Mixup(
                mixup_alpha=recipe.mixup,
                label_smoothing=recipe.label_smoothing,
                num_classes=len(images.classes),
            )
            if recipe.mixup
            else None
        )
        self.forward = self._forward_module()
        self.curve: list[EpochLog] = []
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)

    def _forward_module(self) -> Callable[[Tensor], Tensor]:
        module: Any = torch.compile(self.model) if self.plan.hardware.compile else self.model
        if self.world.size > 1:
            ids = [self.plan.hardware.device] if self.plan.hardware.device.type == "cuda" else None
            module = nn.parallel.DistributedDataParallel(
                module, device_ids=ids, broadcast_buffers=False
            )
        return module  # type: ignore[no-any-return]  # a module is called with a tensor

    def run(
        self, on_epoch: Callable[[EpochLog], None], on_step: Callable[[int, int, int], None]
    ) -> Trained:
        """Trains what is left."""
        folder = self.plan.folder
        if folder is not None:
            self._resume(folder)
            if self.world.rank == 0:
                write_setting(folder, self.model, self.plan.recipe)
        for log in self.curve:
            on_epoch(log)
        while self.epoch < self.plan.epochs:
            self._train_epoch(on_step)
            self.curve.append(self._closed_epoch())
            self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
            self.loss_sum.zero_()
            if folder is not None:
                self._save(folder)
                if self.world.rank == 0:
                    write_curve(folder, self.curve)
            on_epoch(self.curve[-1])
        if folder is not None and self.world.rank == 0:
            self._write_results(folder)
        self.model.eval()
        ema = None if self.ema is None else self.ema.module
        return Trained(self.model, ema, tuple(self.curve))

    def _train_epoch(self, on_step: Callable[[int, int, int], None]) -> None:
        self.model.train()
        steps, recipe = self.batches.steps, self.plan.recipe
        started = time.perf_counter()
        for batch in self.batches.epoch(self.epoch, self.step):
            # Half a step in: above zero at the start of warm-up as at the end of the schedule.
            lr = recipe.lr_at(self.epoch + (self.step + 0.5) / steps, nodes=self.world.nodes)
            self.lr = lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            seed_all(derive_seed(self.plan.seed, "step", self.epoch, self.step, self.world.rank))
            self._optimise(batch)
            self.step += 1
            on_step(self.epoch + 1, self.step, steps)
            every = self.plan.checkpoint_steps
            due = bool(every) and self.step % every == 0 and self.step < steps
            self._check_finite(due or self.step == steps)
            if due and self.plan.folder is not None:
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                self._save(self.plan.folder)
        self.seconds += time.perf_counter() - started

    def _optimise(self, batch: Batch) -> None:
        """Makes one step from one batch."""
        parts = self.plan.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(parts):
            part = Batch(*(tensor.chunk(parts)[number] for tensor in batch)) if parts > 1 else batch
            waits = self.world.size > 1 and number + 1 < parts
            module: Any = self.forward
            with module.no_sync() if waits else contextlib.nullcontext():
                loss = self._loss(part) / parts
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            self.loss_sum += loss.detach()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, step=self.epoch * self.batches.steps + self.step + 1)

    def _loss(self, batch: Batch) -> Tensor:
        recipe, hardware = self.plan.recipe, self.plan.hardware
        images, target = batch.images, batch.labels
        if self.mixup is not None:
            images, target = self.mixup(images, target)
            batch = batch._replace(images=images)
        if not hardware.channels_last:
            images = images.contiguous()
        with torch.autocast(hardware.device.type, torch.bfloat16, enabled=hardware.bf16):
            logits = self.forward(images)
        if logits.shape[1:] != (len(self.images.classes),):
            raise ValueError(
                f"the model gives {tuple(logits.shape[1:])} numbers an image, and {self.images.name} "
                f"has {len(self.images.classes)} classes; build the model with that num_classes"
            )
        # Mixed targets are smoothed already.
        smoothing = recipe.label_smoothing if self.mixup is None else 0.0
        loss = F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        if self.teacher is not None:
            soft = self.teacher.logits(batch).float().softmax(1)
            learned = F.cross_entropy(logits.float(), soft)
            loss = self.teacher.weight * learned + (1 - self.teacher.weight) * loss
        return loss

    def _check_finite(self, must: bool) -> None:
        on_cpu = self.plan.hardware.device.type == "cpu"
        if not (must or on_cpu or self.step % _DEVICE_CHECK_STEPS == 0):
            return
        if not math.isfinite(self.loss_sum.item()):
            raise Diverged(self.epoch + 1, self.step, tuple(self.curve), self.lr)

    def _closed_epoch(self) -> EpochLog:
        from .parallel import summed

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
        if done % self.plan.validate_epochs and done != self.plan.epochs:
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

    def _score(self, model: nn.Module) -> Any:
        return score(
            model,
            self.val_images,
            self.plan.preprocess,
            device=self.plan.hardware.device,
            bf16=self.plan.hardware.bf16,
            workers=self.plan.workers,
        )

    def _identity(self) -> dict[str, Any]:
        """Returns what must be equal for a checkpoint to be of this run."""
        shapes = [(name, tuple(t.shape)) for name, t in self.model.state_dict().items()]
        return {
            "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
            "recipe": self.plan.recipe.to_dict(),
            "preprocess": self.plan.preprocess.to_dict(),
            "seed": self.plan.seed,
            "accumulate": self.plan.accumulate,
            "num_images": len(self.images),
            "classes": hashlib.sha256(repr(self.images.classes).encode()).hexdigest()[:16],
            "processes": [self.world.size, self.world.nodes],
            "teacher": self.teacher is not None,
        }

    def _save(self, folder: Path) -> None:
        if self.world.rank:
            return
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t for name, t in state.items()}
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
        self._load_optimizer(_under(tensors, "optimizer."))
        self.epoch, self.step = record["epoch"], record["step_in_epoch"]
        self.seconds = record["seconds"]
        self.loss_sum.fill_(record["loss_sum"])
        self.curve = [EpochLog(**log) for log in record["curve"]]
        self.batches.damaged = set(record["damaged"])

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state = self.optimizer.state_dict()
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        state["state"] = {}
        for key, tensor in tensors.items():
            index, name = key.split(".", 1)
            like = params[int(index)]
            # In the parameter's memory layout, so that updates take the same path as before.
            value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
            state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state)

    def _write_results(self, folder: Path) -> None:
        named = {"model_raw.safetensors": self.model} if self.ema is not None else {}
        named["model.safetensors"] = self.model if self.ema is None else self.ema.module
        for name, model in named.items():
            write_weights(
                folder / name,
                model.state_dict(),
                arch=getattr(self.model, "arch", None),
                preprocess=self.plan.preprocess,
                classes=self.images.classes,
            )


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser; weight decay leaves batch-norm and biases alone."""
    from timm.optim import RMSpropTF, param_groups_weight_decay

    groups = param_groups_weight_decay(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr_at(0.0), momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )
    made: torch.optim.Optimizer = RMSpropTF(
        groups, lr=recipe.lr, alpha=RMS_ALPHA, eps=RMS_EPS, momentum=recipe.momentum
    )
    return made


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _share_weights(model: nn.Module, world: World) -> None:
    """Gives every process the first one's weights."""
    if world.size > 1:
        for tensor in model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


@contextlib.contextmanager
def _own_generators() -> Iterator[None]:
    """Puts the global generators back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Keeps a second run out of a folder; a killed process's hold ends with it."""
    if folder is None or current_world().rank:
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "train.lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"another process trains in {folder}; wait, or give another") from None
