"""Distillation: learning from a teacher's logits, and the paper's two steps (section 4.2).

Step 1 trains the largest network with labels; step 2 trains every network, that one included,
from it: 0.8 of the loss is cross-entropy with the teacher's softmax, 0.2 that with labels. The
paper states no temperature; here it is 1.
The paper's other teacher is RegNetY-32GF: `open_teacher("timm:regnety_320...", ...)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnetv3.checkpoints.checkpoint import read_metadata, read_own_tensors, write_tensors
from fbnetv3.images.classes import match_classes
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.data.image_set import ImageSet

from .batches import Batch, eval_batches
from .config import Hardware, TrainConfig
from .logbook import EpochLog
from .networks import open_network
from .parallel import World
from .recipe import Recipe
from .train import Trained, train

DISTILLATION_WEIGHT = 0.8
_CACHE_BATCH = 250


class NetworkTeacher:
    """A network that sees each batch as the student does, augmented and mixed.

    Args:
        model: the teacher; any module that gives logits for the student's classes.
        preprocess: what the teacher expects: its crop, mean and std.
        student: what the student's batches went through.
        weight: share of the loss.
        hardware: how to compute.
        outputs: the teacher's output for each class of the student; None is the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocess: Preprocess,
        student: Preprocess,
        weight: float = DISTILLATION_WEIGHT,
        hardware: Hardware | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        _check_weight(weight)
        same = outputs is None or list(outputs) == list(range(len(outputs)))
        self._outputs = None if same else torch.tensor(outputs)
        self._hardware = hardware or Hardware.of()
        self._model = model.to(self._hardware.device).eval().requires_grad_(False)
        self._preprocess = preprocess
        self.weight = weight
        self.identity = _digest(model) + ("" if same else f" outputs {list(outputs or ())}")
        mean, std, new_mean, new_std = (
            torch.tensor(values, device=self._hardware.device).view(1, 3, 1, 1)
            for values in (student.mean, student.std, preprocess.mean, preprocess.std)
        )
        self._scale, self._shift = std / new_std, (mean - new_mean) / new_std

    def check(self, recipe: Recipe, images: ImageSet) -> None:
        """Does nothing: this teacher sees what the student sees, whatever the recipe."""

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Returns (n, classes)."""
        x, side = batch.images, self._preprocess.crop
        x = x * self._scale + self._shift
        if x.shape[2] != side or x.shape[3] != side:
            x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        device = self._hardware.device
        half = self._hardware.half
        with torch.autocast(device.type, half, enabled=half is not None):
            found: Tensor = self._model(x)
        return found if self._outputs is None else found[:, self._outputs.to(device)]


class CachedTeacher:
    """Logits computed once for each image; sound only where the student sees it always alike.

    Made by `cached_teacher`.
    """

    def __init__(self, logits: Tensor, *, weight: float, identity: str) -> None:
        _check_weight(weight)
        self._logits, self.weight, self.identity = logits, weight, identity

    def check(self, recipe: Recipe, images: ImageSet) -> None:
        """Refuses augmentation.

        Raises:
            ValueError: the recipe changes images, or there is not one row for each image.
        """
        if recipe.augment != "none" or recipe.mixup:
            raise ValueError(
                f"the recipe has augment={recipe.augment!r} and mixup={recipe.mixup:g}, and cached "
                "logits are those of unchanged images: the student would be taught about images "
                "that it does not see. Use augment='none' and mixup=0, or a NetworkTeacher"
            )
        if self._logits.shape != (len(images), len(images.classes)):
            raise ValueError(
                f"cached logits are {tuple(self._logits.shape)}; expected a row for each of "
                f"{len(images)} images and {len(images.classes)} classes"
            )

    def logits(self, batch: Batch) -> Tensor:
        """Returns (n, classes)."""
        # Once on the student's device: copied for each step it would wait for the device.
        self._logits = self._logits.to(batch.images.device)
        return self._logits[batch.indices]


def open_teacher(
    name: str,
    classes: Sequence[str],
    student: Preprocess,
    *,
    weight: float = DISTILLATION_WEIGHT,
    hardware: Hardware | None = None,
    multi_label: bool = False,
) -> NetworkTeacher:
    """Returns a trained network by name as a teacher: one of this package, or timm's.

    Where the names of its classes are known and the student's are among them, in any order, it
    teaches those; else both must have the same number of classes.

    Args:
        name: as in `networks.open_network`.
        classes: of the student.
        student: what the student's batches went through.
        weight: share of the loss.
        hardware: how to compute.
        multi_label: whether the student gives each class a score of its own.

    Raises:
        ValueError: the name is unknown, the network has other classes, or only one of teacher and
            student is multi-label.
    """
    network = open_network(name, pretrained=True)
    if (network.thresholds is not None) != multi_label:
        kinds = "several labels" if multi_label else "one label"
        raise ValueError(
            f"the student learns {kinds} per image and teacher {name} does not; expected a teacher "
            "that was trained on data of the same kind"
        )
    preprocess = network.preprocess or student
    outputs = match_classes(classes, network.labels) if network.labels else None
    teacher = NetworkTeacher(
        network.model,
        preprocess=preprocess,
        student=student,
        weight=weight,
        hardware=hardware,
        outputs=outputs,
    )
    side = preprocess.crop
    blank = torch.zeros(2, 3, side, side, device=(hardware or Hardware.of()).device)
    index = torch.zeros(2, dtype=torch.long)
    found = teacher.logits(Batch(blank, index, index)).shape[1]
    if found != len(classes):
        raise ValueError(
            f"teacher {name} has {found} classes and the student {len(classes)}; expected a "
            "teacher that was trained on the student's classes"
        )
    return teacher


def cached_teacher(
    teacher: NetworkTeacher,
    images: ImageSet,
    preprocess: Preprocess,
    path: Path,
    *,
    hardware: Hardware | None = None,
    workers: int = 0,
) -> CachedTeacher:
    """Returns a teacher that reads logits from a file, which is written first if it is not there.

    Args:
        teacher: whose logits.
        images: the training set.
        preprocess: of the student.
        path: a safetensors file, float32, a row for each image.
        hardware: how to compute.
        workers: processes that decode.

    Raises:
        ValueError: the file is of another teacher, data set or preprocessing.
    """
    head = {
        "teacher": teacher.identity,
        "labels": hashlib.sha256(images.labels.numpy().tobytes()).hexdigest(),
        "preprocess": json.dumps(preprocess.to_dict()),
    }
    if path.is_file():
        recorded = read_metadata(path)
        for name, mine in head.items():
            if recorded.get(name) != mine:
                raise ValueError(
                    f"{path} was made with another {name}: {recorded.get(name)!r}, here {mine!r}; "
                    "remove it or give another path"
                )
    else:
        device = (hardware or Hardware.of()).device
        logits = torch.zeros(len(images), 0)
        for batch in eval_batches(
            images,
            preprocess,
            batch_size=_CACHE_BATCH,
            world=World(),
            device=device,
            workers=workers,
        ):
            rows = teacher.logits(batch).float().cpu()
            if not logits.shape[1]:
                logits = torch.zeros(len(images), rows.shape[1])
            # An image that cannot be read keeps zeros: it is not trained on either.
            logits[batch.indices.cpu()] = rows
        write_tensors(path, {"logits": logits}, head)
    logits = read_own_tensors(path)["logits"]
    return CachedTeacher(logits, weight=teacher.weight, identity=f"cached {teacher.identity}")


def two_step(
    networks: Mapping[str, Callable[[], nn.Module]],
    largest: str,
    images: ImageSet,
    val_images: ImageSet,
    run: TrainConfig,
    *,
    weight: float = DISTILLATION_WEIGHT,
    on_epoch: Callable[[str, EpochLog], None] = lambda _name, _log: None,
) -> dict[str, Trained]:
    """Returns every network, distilled from the largest that was first trained with labels.

    Args:
        networks: name -> what makes it with fresh weights.
        largest: which one teaches.
        images: training set.
        val_images: validation set.
        run: of every training; in its folder each gets one of its own, the first step "teacher".
            Killed, the same call goes on; what is finished is not trained again.
        weight: share of distillation in the loss.
        on_epoch: called with the folder's name and each epoch.

    Raises:
        ValueError: `largest` is not among the networks; or as `train`.
    """
    if largest not in networks:
        raise ValueError(f"largest is {largest!r}; expected one of {', '.join(networks)}")
    if "teacher" in networks:
        raise ValueError("a network is called 'teacher', as the first step is; call it otherwise")

    def run_of(name: str) -> TrainConfig:
        return replace(run, folder=None if run.folder is None else run.folder / name)

    first = train(
        networks[largest](),
        images,
        val_images,
        run_of("teacher"),
        on_epoch=lambda log: on_epoch("teacher", log),
    )
    teacher = NetworkTeacher(
        first.best,
        preprocess=run.preprocess,
        student=run.preprocess,
        weight=weight,
        hardware=run.hardware,
    )
    distilled = {}
    for name, make in networks.items():

        def report(log: EpochLog, name: str = name) -> None:
            on_epoch(name, log)

        distilled[name] = train(
            make(), images, val_images, run_of(name), teacher=teacher, on_epoch=report
        )
    return distilled


def _check_weight(weight: float) -> None:
    if not 0 < weight <= 1:
        raise ValueError(f"weight is {weight!r}; expected above 0, up to 1")


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
