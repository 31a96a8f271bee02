"""Networks to train, teach or evaluate, by name: this package's, timm's, torchvision's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fbnetv3.checkpoints.checkpoint import load_strict, read_own_tensors
from fbnetv3.hub.confidence import Confidence
from fbnetv3.hub.pretrained_cfg import class_names_of, confidence_of, thresholds_of
from fbnetv3.hub.registry import FOLDERS, get_arch
from fbnetv3.images.classes import known_names
from fbnetv3.images.labels import class_ids, class_names
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build
from fbnetv3.search.data.datasets import cifar_arch
from fbnetv3.search.data.image_set import ImageSet

from .batches import default_preprocess
from .foreign import LOCAL_DIR, RECORD, is_foreign, open_foreign, open_run, run_thresholds

if TYPE_CHECKING:
    from fbnetv3.deploy.backend import ExportedBackend

# Input sides in pixels that are suggested where a network has none of its own.
_USUAL_SIDES = (64, 96, 128, 224)


class Network(NamedTuple):
    """A model with what is known about it, None where it is not.

    Attributes:
        model: the module.
        preprocess: what images go through before it.
        labels: for each output the names that its class goes by.
        confidence: temperature and threshold of its answers.
        thresholds: score from which an image has each class, of a multi-label network.
    """

    model: nn.Module
    preprocess: Preprocess | None = None
    labels: tuple[tuple[str, ...], ...] | None = None
    confidence: Confidence | None = None
    thresholds: tuple[float, ...] | None = None


def open_network(
    name: str,
    *,
    num_classes: int | None = None,
    pretrained: bool | None = None,
    small_images: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    checkpoint: Path | None = None,
) -> Network:
    """Returns the network of a name.

    Args:
        name: a model of this package, with a tag for trained weights ("fbnetv3_a.meta_in1k"), the
            path of an architecture's JSON, "local-dir:PATH" (also of a run of another library's
            network), "hf-hub:REPO", "timm:NAME" or "torchvision:NAME".
        num_classes: of the logits; trained weights get a fresh classifier where theirs differs.
            None keeps what the network has.
        pretrained: load trained weights; None does so where the name says which.
        small_images: build a model of this package without weights as `data.cifar_arch` does.
        dropout: before the classifier; 0 leaves timm's and torchvision's networks their own.
        drop_path: stochastic depth; 0 as above.
        checkpoint: file of weights to load instead, as in `fbnetv3.create`.

    Raises:
        ValueError: the name is unknown, the network lacks an option that is asked for, or the
            checkpoint does not fit it.
        FileNotFoundError: a path does not exist, or weights cannot be fetched.
    """
    rates: dict[str, Any] = {"drop_rate": dropout, "drop_path_rate": drop_path}
    if checkpoint is not None:
        return _with_checkpoint(name, checkpoint, num_classes, rates)
    if is_foreign(name):
        return Network(
            *open_foreign(name, num_classes, bool(pretrained), dropout=dropout, drop_path=drop_path)
        )
    folder = Path(name.removeprefix(LOCAL_DIR))
    if name.startswith(LOCAL_DIR) and (folder / RECORD).is_file():
        opened = open_run(folder, num_classes, dropout=dropout, drop_path=drop_path)
        return Network(*opened, thresholds=run_thresholds(folder, num_classes))
    if pretrained or (pretrained is None and has_weights(name)):
        return _with_weights(name, num_classes, rates)
    arch = get_arch(name)
    arch = cifar_arch(arch) if small_images else arch
    sized = {} if num_classes is None else {"num_classes": num_classes}
    return Network(build(arch, **rates | sized))


class ExportedModel(nn.Module):
    """An exported file as a module: images (N, 3, H, W) to logits (N, classes), on the CPU.

    Args:
        backend: the open file.
    """

    def __init__(self, backend: ExportedBackend) -> None:
        super().__init__()
        self._backend = backend
        self.num_classes = len(backend.class_names)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits."""
        return torch.from_numpy(self._backend.run_batch(x.contiguous().numpy()))


def open_exported(path: str | Path) -> Network:
    """Returns the network of an exported file, to be evaluated.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: see `fbnetv3.deploy.runtimes.load`, or the file gives features.
        ImportError: the file's runtime is not installed.
    """
    from fbnetv3.deploy.runtimes import load

    backend = load(path)
    backend.artefact.need_classes(str(path))
    names = backend.artefact.class_names
    labels = tuple(known_names(names)) if names else None
    artefact = backend.artefact
    thresholds = artefact.thresholds if artefact.multi_label else None
    model = ExportedModel(backend)
    return Network(model, backend.preprocess, labels, artefact.confidence, thresholds)


def has_weights(name: str) -> bool:
    """Returns whether a name says which trained weights: by a tag, or as a published folder."""
    return name.startswith(FOLDERS) or (
        "." in name and ":" not in name and not name.endswith(".json")
    )


def weights_for(name: str, *, small_images: bool) -> str | None:
    """Returns the trained weights of a model that a training on photos starts from, or None.

    Those for images of the size; of several, ones that allow commercial use before others, and the
    most accurate. FBNETV3_LICENSE applies.

    Args:
        name: a model without a tag; anything else has none.
        small_images: whether the images are like CIFAR-10's rather than ImageNet's.
    """
    from fbnetv3.hub.license_policy import VARIABLE
    from fbnetv3.hub.registry import list_weights
    from fbnetv3.hub.weights import WEIGHTS

    labels = "cifar10" if small_images else "imagenet1k"
    known = [WEIGHTS[full] for full in list_weights(license=os.environ.get(VARIABLE) or None)]
    fitting = [weights for weights in known if (weights.model, weights.labels) == (name, labels)]
    best = max(fitting, key=lambda weights: (weights.commercial, weights.top1_pct), default=None)
    return None if best is None else best.name


def knows_classes(network: Network, classes: Sequence[str]) -> bool:
    """Returns whether a network's outputs stand for these classes, in this order, by name."""
    labels = network.labels or ()
    return len(labels) == len(classes) and all(
        name in names for name, names in zip(classes, labels, strict=True)
    )


def ready_for(network: Network, classes: Sequence[str]) -> bool:
    """Returns whether trained weights know these classes; others get a zero classifier."""
    known = knows_classes(network, classes)
    if not known:
        zero_classifier(network.model, len(classes))
    return known


@torch.no_grad()
def zero_classifier(model: nn.Module, num_classes: int) -> None:
    """Makes all classes equally likely at first: weights and biases of the last layer are zero.

    A random classifier on trained features answers with large wrong logits (those of timm's
    EfficientNets began at a loss of 15 for ten classes), whose gradients spoil what is below.

    Args:
        model: with a classifier, its last linear layer or convolution; another one is left alone.
        num_classes: of the logits.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if layers and layers[-1].weight.shape[0] == num_classes:
        for parameter in layers[-1].parameters():
            parameter.zero_()


@torch.no_grad()
def check_input(model: nn.Module, side: int, name: str) -> None:
    """Refuses an input size that a network cannot take; the network is left as it was.

    Raises:
        ValueError: a blank image of `side` by `side` pixels does not pass.
    """
    was_training = model.training
    model.eval()
    try:
        error = _refusal(model, side)
        if error is not None:
            own = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (0,))[-1]
            fits = (other for other in (own, *_USUAL_SIDES) if _refusal(model, other) is None)
            other = next(fits, None)
            raise ValueError(
                f"{name} cannot take images of {side} x {side} pixels ({error}); choose another "
                "resolution in the recipe" + (f", as in --set resolution={other}" if other else "")
            ) from error
    finally:
        model.train(was_training)


def _refusal(model: nn.Module, side: int) -> Exception | None:
    """Returns why a network does not take a blank image of `side` by `side` pixels."""
    if side < 1:
        return ValueError(f"side is {side}")
    try:
        model(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        return error
    return None


def load_raw(network: Network, name: str) -> None:
    """Puts the raw weights of a training run's folder into its network.

    Raises:
        ValueError: the name is no folder, or its weights do not fit.
        FileNotFoundError: the run kept no raw weights: its only ones are raw.
    """
    if not name.startswith(LOCAL_DIR):
        raise ValueError(
            f"{name!r} is not the folder of a training; expected local-dir:PATH for raw weights"
        )
    path = Path(name.removeprefix(LOCAL_DIR)) / "model_raw.safetensors"
    load_strict(network.model, read_own_tensors(path), source=str(path))


def preprocess_for(network: Network, images: ImageSet, resolution: int | None = None) -> Preprocess:
    """Returns what images go through to train a network on them.

    That is the network's own preprocessing where its side is right, else what fits the images, with
    the mean and the deviation of the network's own if it has one.

    Args:
        network: to be trained.
        images: to train on.
        resolution: side in pixels; None takes the network's, else that of small images, else 224.
    """
    known = network.preprocess
    side = resolution or (known.crop if known else _side(network.model, images))
    if known and known.crop == side:
        return known
    fitting = default_preprocess(images, side)
    return dataclasses.replace(fitting, mean=known.mean, std=known.std) if known else fitting


def _side(model: nn.Module, images: ImageSet) -> int:
    if isinstance(model, FBNetV3):
        return model.arch.resolution
    return 224 if images.pixels is None else int(images.pixels.shape[1])


def _with_checkpoint(
    name: str, checkpoint: Path, num_classes: int | None, rates: dict[str, Any]
) -> Network:
    import fbnetv3
    from fbnetv3.hub.weights import WEIGHTS

    if is_foreign(name):
        raise ValueError(
            f"--checkpoint is for models of this package, and {name} is another library's; "
            "expected a name of `fbnetv3 list`"
        )
    model = fbnetv3.create(name, checkpoint=checkpoint, num_classes=num_classes, **rates)
    names = class_names_of(model)
    if name in WEIGHTS and model.num_classes == WEIGHTS[name].num_classes:
        names = class_names(WEIGHTS[name].labels)
    known = len(names) == model.num_classes
    preprocess = Preprocess.from_timm_cfg(model.pretrained_cfg)
    return Network(model, preprocess, tuple(known_names(names)) if known else None)


def _with_weights(name: str, num_classes: int | None, rates: dict[str, Any]) -> Network:
    import fbnetv3
    from fbnetv3.hub.weights import WEIGHTS

    model = fbnetv3.create(name, pretrained=True, num_classes=num_classes, **rates)
    preprocess = Preprocess.from_timm_cfg(model.pretrained_cfg)
    confidence = confidence_of(model)
    # It would not fit the weights that a training makes of these.
    cfg = {key: value for key, value in model.pretrained_cfg.items() if key != "confidence"}
    model.pretrained_cfg = model.default_cfg = cfg
    if name.startswith(FOLDERS):
        names = tuple(known_names(class_names_of(model)))
        return Network(model, preprocess, names or None, confidence, thresholds_of(model))
    labels = WEIGHTS[name].labels if name in WEIGHTS else fbnetv3.get_weights(name).labels
    known = tuple(zip(class_names(labels), class_ids(labels), strict=True))
    return Network(model, preprocess, known, confidence)
