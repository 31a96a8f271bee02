"""How a detector's backbone is built, and torchvision's words for it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fbnetv3._internal.arguments import names_of, refuse_unknown
from fbnetv3._internal.checks import whole_number
from fbnetv3.arch.arch import Arch
from fbnetv3.checkpoints.checkpoint import read_own_tensors, stated_license
from fbnetv3.hub.license_policy import check_terms
from fbnetv3.hub.pretrained import WEIGHTS_FILE
from fbnetv3.models.blocks import NormFactory
from fbnetv3.models.model import FBNetV3

from .trunk import Padding, Trunk, load_network

NORMS: dict[str, NormFactory | None] = {
    "BN": None,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
}
Model = str | Arch | Path
M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")
_COUNTER = ".num_batches_tracked"
# torchvision counts the layers that train, of five; `freeze_at` those that do not.
_LAYERS = 5
# What torchvision's detectors on ResNet do with pretrained weights.
_PRETRAINED: dict[str, Any] = {"freeze_at": 2, "norm": "FrozenBN"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the backbone is built.

    Attributes:
        checkpoint: file of a classification model's weights, instead of `pretrained`.
        license: "commercial" refuses weights that forbid commercial use.
        padding: "same" or "faithful", see `trunk.load_network`.
        norm: "BN", "SyncBN" or "FrozenBN"; None is "BN", and "FrozenBN" where the detector and
            trained weights call for it, as in torchvision.
        freeze_at: 0 to 5, see `trunk.Trunk`; None is 0, and 2 in the same case.
        drop_path_rate: stochastic depth rate.
        grad_checkpointing: recompute rows in the backward pass, to save memory.

    Raises:
        ValueError: `norm` is unknown.
    """

    checkpoint: str | Path | None = None
    license: str | None = None
    padding: Padding = "same"
    norm: str | None = None
    freeze_at: int | None = None
    drop_path_rate: float = 0.0
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; expected one of {', '.join(NORMS)}")

    def network(self, model: Model, pretrained: bool, output_stride: int = 32) -> FBNetV3:
        """Returns the classification model without its classifier."""
        return load_network(
            model,
            pretrained=pretrained,
            checkpoint=self.checkpoint,
            license=self.license,
            padding=self.padding,
            norm_layer=NORMS[self.norm or "BN"],
            drop_path_rate=self.drop_path_rate,
            output_stride=output_stride,
        )

    def trunk(self, network: FBNetV3, features: Sequence[str], output_stride: int = 32) -> Trunk:
        """Returns the backbone: the rows of a model that the features need."""
        return Trunk(
            network,
            features,
            output_stride=output_stride,
            freeze_at=self.freeze_at or 0,
            freeze_norms=_freeze_norms,
            grad_checkpointing=self.grad_checkpointing,
        )


DEFAULT = Options()


@dataclass(frozen=True)
class Arguments:
    """What a caller of a builder asked for.

    Attributes:
        num_classes: number of classes, including background.
        pretrained: whether the backbone's trained weights are loaded.
        options: how the backbone is built.
        rest: arguments of torchvision's class.
        weights: folder of a trained detector; None for fresh heads.
    """

    num_classes: int
    pretrained: bool
    options: Options
    rest: dict[str, Any]
    weights: Path | None = None

    def loaded(self, model: M) -> M:
        """Returns a model with the weights that were asked for, if any.

        Raises:
            ValueError: they are of another model, or their license is refused.
        """
        if self.weights is None:
            return model
        path = self.weights / WEIGHTS_FILE
        if stated := stated_license(path):
            check_terms(str(self.weights), stated, self.options.license)
        found, own = read_own_tensors(path), model.state_dict()
        # Frozen batch-norms do not have it.
        counters = {name for name in found.keys() ^ own.keys() if name.endswith(_COUNTER)}
        for name in sorted((found.keys() | own.keys()) - counters):
            shapes = [tuple(part[name].shape) if name in part else None for part in (found, own)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"weights is {str(self.weights)!r}, a detector with {name} "
                    f"{shapes[0] or 'missing'}, here {shapes[1] or 'missing'}; expected one of the "
                    "same model, features and num_classes"
                )
        model.load_state_dict({k: v for k, v in found.items() if k in own}, strict=False)
        return model


def refusing_unknown(
    made: type[nn.Module], *, built: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator of a builder: unknown arguments are refused by name.

    torchvision's own classes drop them.

    Args:
        made: torchvision's class, whose arguments are accepted beside those of the builder, of
            `Options` and `weights_backbone` and `trainable_backbone_layers`.
        built: arguments of the class that the builder makes itself.
    """

    def decorated(builder: Callable[P, R]) -> Callable[P, R]:
        known = names_of(builder, made, Options) - {"backbone", *built}
        known |= {"weights", "weights_backbone", "trainable_backbone_layers"}
        name = builder.__name__

        @functools.wraps(builder)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for one in set(built) & set(kwargs):
                raise TypeError(f"{one} is given; {name} makes its own, leave it out")
            whose = f"{name}, of torchvision's {made.__name__} or of Options"
            refuse_unknown(kwargs, known, whose)
            return builder(*args, **kwargs)

        return checked

    return decorated


def arguments(
    num_classes: int,
    pretrained: bool,
    options: Options,
    given: Mapping[str, Any],
    *,
    freezes: bool = False,
    detects: bool = True,
) -> Arguments:
    """Returns the arguments of a builder, sorted.

    Fields of `Options` may be given by themselves. Of torchvision's builders `weights_backbone`
    ("DEFAULT" or None), `trainable_backbone_layers` (0 to 5) and `weights` (a trained detector's
    folder) are understood.

    Args:
        num_classes: number of classes, including background.
        pretrained: as given.
        options: as given.
        given: all other arguments.
        freezes: whether the detector freezes batch-norm and the first rows of trained weights
            unless told otherwise.
        detects: whether it finds boxes, of one class at least beside the background.

    Raises:
        ValueError: an argument is out of range or contradicts another.
    """
    least = 1 + detects
    classes = whole_number("num_classes", num_classes, least, ", which counts the background")
    if not isinstance(options, Options):
        raise ValueError(
            f"options is a {type(options).__name__}; expected Options(...), or its fields as "
            "arguments, such as freeze_at=2"
        )
    rest = dict(given)
    weights = _folder(rest.pop("weights", None))
    pretrained = _pretrained(pretrained, rest)
    fields = {field.name for field in dataclasses.fields(Options)}
    own = {name: rest.pop(name) for name in list(rest) if name in fields}
    layers = rest.pop("trainable_backbone_layers", None)
    if layers is not None:
        if "freeze_at" in own:
            raise ValueError("trainable_backbone_layers and freeze_at exclude each other")
        if isinstance(layers, bool) or layers not in range(_LAYERS + 1):
            raise ValueError(
                f"trainable_backbone_layers is {layers!r}; expected a whole number from 0 to 5"
            )
        own["freeze_at"] = _LAYERS - layers
    options = dataclasses.replace(options, **own)
    if weights is not None and (pretrained or options.checkpoint is not None):
        raise ValueError("weights has a backbone's too; leave out pretrained= and checkpoint=")
    if freezes and (pretrained or weights is not None or options.checkpoint is not None):
        unset = {name: v for name, v in _PRETRAINED.items() if getattr(options, name) is None}
        options = dataclasses.replace(options, **unset)
    return Arguments(classes, pretrained, options, rest, weights)


def _folder(weights: Any) -> Path | None:
    """Returns the folder of a trained detector."""
    if weights is None:
        return None
    folder = Path(weights) if isinstance(weights, str | Path) else None
    if folder is None or not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"weights is {weights!r}; there are no published detectors. Give the output folder of "
            "`fbnetv3 detect train`, or pretrained=True for the backbone alone"
        )
    return folder


def _pretrained(pretrained: bool, rest: dict[str, Any]) -> bool:
    """Returns whether trained weights are asked for; takes torchvision's word out of `rest`."""
    if not isinstance(pretrained, bool):
        raise ValueError(f"pretrained is {pretrained!r}; expected True or False")
    asked = rest.pop("weights_backbone", None)
    if asked not in (None, True, False, "DEFAULT"):
        raise ValueError(
            f"weights_backbone is {asked!r}; expected 'DEFAULT' or None. Give the weights' name as "
            "the model, such as 'fbnetv3_b.ra2_in1k', and pretrained=True"
        )
    return pretrained or bool(asked)


def _freeze_norms(module: nn.Module) -> nn.Module:
    from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]  # re-exported

    frozen: nn.Module = freeze_batch_norm_2d(module)  # type: ignore[no-untyped-call]  # timm
    return frozen
