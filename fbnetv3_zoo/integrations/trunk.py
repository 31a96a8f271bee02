"""Parts of a model for detectors: the backbone, and rows of the model as heads.

Nothing here depends on a detection library; `detectron2_backbone` and `torchvision_backbone` adapt
these parts to theirs. Feature maps are named by their stride without dilation: `res2` to `res5` at
4, 8, 16, 32 as in Detectron2, or d2go's `trunk1` to `trunk4`; `res1` and `trunk0` are at 2. Each is
the narrow bottleneck before the next stride.

Parts keep the tensor names of the full model (`stem.*`, `stages.<row>.*`), so that one file of
weights fits backbone and heads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch does not list it
from torch.utils.checkpoint import checkpoint

from fbnetv3.arch.arch import Arch
from fbnetv3.hub.create import build_source, resolve, with_checkpoint
from fbnetv3.hub.registry import FOLDERS
from fbnetv3.models.features import Geometry
from fbnetv3.models.model import FBNetV3

Padding = Literal["same", "faithful"]
# Returns a module with every batch-norm frozen; each detection library has its own frozen layer.
FreezeNorms = Callable[[nn.Module], nn.Module]

NETWORK_ID = "network_id"


@dataclass(frozen=True)
class Feature:
    """A feature map: the output after `depth` rows, with `channels` channels, at 1 / `stride`."""

    name: str
    channels: int
    stride: int
    depth: int


def features_of(arch: Arch, output_stride: int = 32) -> dict[str, Feature]:
    """Returns name -> feature of every map that a detector can use, under both names.

    Args:
        arch: the architecture.
        output_stride: strides beyond it are replaced by dilation; names do not change.
    """
    found = {}
    for tap in Geometry.of(arch, 32).taps:
        level = tap.reduction.bit_length() - 1
        for name in (f"res{level}", f"trunk{level - 1}"):
            stride = min(tap.reduction, output_stride)
            found[name] = Feature(name, tap.channels, stride, tap.depth)
    return found


def pick_features(arch: Arch, names: Sequence[str], output_stride: int = 32) -> tuple[Feature, ...]:
    """Returns the named features, fine to coarse.

    Raises:
        ValueError: a name is unknown or repeated, or `names` is empty.
    """
    known = features_of(arch, output_stride)
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"out_features is {names!r}; expected different names out of {', '.join(known)}"
            + (f", there is no {unknown[0]!r}" if unknown else "")
        )
    return tuple(sorted((known[name] for name in names), key=lambda feature: feature.depth))


def load_network(
    model: str | Arch | Path,
    *,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    license: str | None = None,
    padding: Padding = "same",
    **kwargs: Any,
) -> FBNetV3:
    """Returns a full model without classifier, to take parts from.

    Args:
        model: as in `fbnetv3.create`: a name (`fbnetv3_a`, `fbnetv3_a.meta_in1k`), an `Arch`,
            the path of an architecture's JSON, or "local-dir:PATH".
        pretrained: load the pretrained weights of the name.
        checkpoint: file of a full model's weights in the official layout, timm's or ours.
        license: "commercial" refuses weights that forbid commercial use.
        padding: "same" makes maps halve exactly, as detectors expect; where the published padding
            differs (A, B, C, E, F) the model computes a different function than the weights were
            trained for, which fine-tuning corrects. "faithful" keeps the published paddings.
        **kwargs: arguments of `FBNetV3`: `norm_layer`, `in_chans`, `drop_path_rate`,
            `output_stride`.

    Raises:
        ValueError: an argument is out of range, or weights do not fit the model.
        FileNotFoundError: a file is missing, or weights cannot be fetched.
    """
    if padding not in ("same", "faithful"):
        raise ValueError(f"padding is {padding!r}; expected 'same' or 'faithful'")
    if pretrained and checkpoint is not None:
        raise ValueError("pretrained=True and checkpoint= exclude each other; give one of them")
    found = resolve(model, pretrained, license=license, cache_dir=None, offline=None)
    if checkpoint is not None:
        found = with_checkpoint(found, Path(checkpoint), license=license)
    elif not pretrained and isinstance(model, str) and model.startswith(FOLDERS):
        warnings.warn(
            f"{model} is built with random weights; give pretrained=True for those it holds",
            stacklevel=2,
        )
    if padding == "same":
        found = dataclasses.replace(found, arch=found.arch.same_padding())
    return build_source(found, **{**kwargs, "num_classes": 0})


def network_id(arch: Arch) -> Tensor:
    """Returns 32 bytes that identify the architecture, ignoring padding, resolution and strides.

    Those change no tensor: A and B have the same id, and so have their variants for small images.
    """
    rows = tuple(dataclasses.replace(row, stride=1) for row in arch.same_padding().rows)
    return _digest(dataclasses.replace(arch, rows=rows, resolution=1024))


def _former_id(arch: Arch) -> Tensor:
    """Returns the id that versions before 0.2 saved, which told strides apart."""
    return _digest(dataclasses.replace(arch.same_padding(), resolution=1024))


def _digest(arch: Arch) -> Tensor:
    return torch.tensor(list(hashlib.sha256(arch.sha256.encode()).digest()), dtype=torch.uint8)


class _Part(nn.Module):
    """Rows of a model, which refuse to load tensors of another architecture.

    Detection libraries load the tensors that fit and only log the others; a checkpoint of another
    variant would leave part of the model randomly initialised. The id of the architecture, a
    buffer of 32 bytes, is saved with the tensors and compared on loading. Tensors without an id
    are loaded without this check.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.arch = arch
        self.register_buffer(NETWORK_ID, network_id(arch))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        name = prefix + NETWORK_ID
        own = network_id(self.arch)
        known = (own, _former_id(self.arch))
        saved = torch.as_tensor(state_dict[name]).cpu() if name in state_dict else own
        if not any(torch.equal(saved, one) for one in known):
            raise ValueError(
                f"the checkpoint's {prefix.rstrip('.') or 'model'} belongs to another architecture "
                f"(id {bytes(saved.tolist()).hex()[:12]}, expected "
                f"{bytes(own.tolist()).hex()[:12]}); build the model it was saved from"
            )
        super()._load_from_state_dict({**state_dict, name: own}, prefix, *args)


class Trunk(_Part):
    """The backbone: images (N, C, H, W) to a dict of feature maps.

    Loading a checkpoint with none of its tensors is an error, also where the detection library
    would only log it, as Detectron2 does for the ResNet that many base configurations name.

    Args:
        network: a full model from `load_network`; its layers are used, not copied.
        out_features: names of the feature maps, see the module docstring.
        output_stride: strides beyond it are replaced by dilation.
        freeze_at: 0 trains everything; 1 freezes the stem and the rows up to stride 2, and each
            further step the rows of the next stride: 2 up to `res2`, 5 everything.
        freeze_norms: freezes the batch-norms of a module; required with `freeze_at`.
        grad_checkpointing: recompute rows in the backward pass, to save memory. Batch-norm then
            sees each batch twice.

    Raises:
        ValueError: a feature does not exist, or `freeze_at` is out of range.
    """

    def __init__(
        self,
        network: FBNetV3,
        out_features: Sequence[str],
        *,
        output_stride: int = 32,
        freeze_at: int = 0,
        freeze_norms: FreezeNorms | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__(network.arch)
        self.features = pick_features(network.arch, out_features, output_stride)
        self.output_stride = output_stride
        self.grad_checkpointing = grad_checkpointing
        self.stem: nn.Module = network.stem
        self.stages = network.stages[: self.features[-1].depth]
        # Name of the map after each row, from the stem; "" for none.
        names = {feature.depth: feature.name for feature in self.features}
        self._names = [names.get(depth, "") for depth in range(len(self.stages) + 1)]
        self._freeze(freeze_at, freeze_norms)

    def _freeze(self, freeze_at: int, freeze_norms: FreezeNorms | None) -> None:
        if isinstance(freeze_at, bool) or not isinstance(freeze_at, int) or not 0 <= freeze_at <= 5:
            raise ValueError(f"freeze_at is {freeze_at!r}; expected a whole number from 0 to 5")
        if freeze_at == 0:
            return
        if freeze_norms is None:
            raise ValueError(f"freeze_at={freeze_at} needs freeze_norms")
        taps = Geometry.of(self.arch, 32).taps
        depth = max([tap.depth for tap in taps if tap.reduction <= 2**freeze_at], default=0)
        self.stem = freeze_norms(self.stem).requires_grad_(False)
        for number in range(min(depth, len(self.stages))):
            self.stages[number] = freeze_norms(self.stages[number]).requires_grad_(False)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        own = [prefix + name for name in self.state_dict() if name != NETWORK_ID]
        # In a detector, `state_dict` has only the names with this prefix.
        if not any(name in state_dict for name in own):
            raise ValueError(
                f"the checkpoint has no tensor of the backbone; expected names such as {own[0]!r}. "
                "Give weights of the zoo, or a checkpoint of a detector with this backbone"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Returns the actual (height, width) of each map for an input size in pixels."""
        sizes = Geometry.of(self.arch, self.output_stride).sizes(height, width)
        return {feature.name: sizes[feature.depth] for feature in self.features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns name -> map (N, channels, H / stride, W / stride), fine to coarse."""
        # TorchScript compiles this.
        maps: dict[str, Tensor] = {}
        x = self.stem(x)
        if self._names[0]:
            maps[self._names[0]] = x
        for row, stage in enumerate(self.stages):
            if is_scripting():  # noqa: SIM108  # it compiles statements only
                x = stage(x)
            else:
                x = run(stage, x, self.grad_checkpointing)
            name = self._names[row + 1]
            if name:
                maps[name] = x
        return maps


class Tail(_Part):
    """The rows between two features, for a detector's head: (N, C, H, W) to (N, C', H', W').

    After `res4` these are the last stage of the model (MB6 and MB7), which halves the map once.

    Args:
        network: a full model from `load_network`.
        behind: the feature that is the input.
        until: the feature that is the output.
        grad_checkpointing: recompute rows in the backward pass, to save memory.
    """

    def __init__(
        self,
        network: FBNetV3,
        *,
        behind: str = "res4",
        until: str = "res5",
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__(network.arch)
        first, last = pick_features(network.arch, (behind, until))
        self.in_channels, self.out_channels = first.channels, last.channels
        self.grad_checkpointing = grad_checkpointing
        self.stages = _named_rows(network, range(first.depth, last.depth))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the last map."""
        for stage in self.stages:
            if is_scripting():  # noqa: SIM108  # it compiles statements only
                x = stage(x)
            else:
                x = run(stage, x, self.grad_checkpointing)
        return x


class Repeats(_Part):
    """All blocks but the first of the row that outputs a feature; they keep width and size.

    The paper's detectors use a copy of them as hidden layers of the region proposal network.

    Args:
        network: a full model from `load_network`.
        feature: the feature that the row outputs.
    """

    def __init__(self, network: FBNetV3, *, feature: str = "res4") -> None:
        super().__init__(network.arch)
        (tap,) = pick_features(network.arch, (feature,))
        row = tap.depth - 1
        if row < 0 or network.arch.rows[row].repeats < 2:
            raise ValueError(f"the row of {feature!r} has one block only, so it has no repeats")
        self.out_channels = tap.channels
        blocks = list(network.stages[row].children())[1:]
        # Names as in the full model, where the first block of the row is 0.
        self.stages = nn.Sequential(
            OrderedDict(
                {
                    str(row): nn.Sequential(
                        OrderedDict((str(n), block) for n, block in enumerate(blocks, start=1))
                    )
                }
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map of the same shape (N, C, H, W)."""
        x = self.stages(x)
        return x


class ProposalHead(nn.Module):
    """A region proposal head: the repeats of a row, then objectness and box deltas.

    As in the paper's C4 detectors; it takes the backbone's feature map without a pyramid.
    Detectron2 and torchvision call it in the same way.

    Args:
        network: a full model from `load_network`.
        in_channels: channels of the maps; must be those of `feature`.
        num_anchors: anchors per position.
        box_dim: numbers per box.
        feature: the feature that the row outputs.
    """

    def __init__(
        self,
        network: FBNetV3,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        feature: str = "res4",
    ) -> None:
        super().__init__()
        self.repeats = Repeats(network, feature=feature)
        channels = self.repeats.out_channels
        if in_channels != channels:
            raise ValueError(
                f"in_channels is {in_channels}; the row of {feature!r} is {channels} wide. This "
                "head takes the backbone's map directly; after a feature pyramid use the library's "
                "own head"
            )
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, 1)
        for layer in (self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.get_parameter("bias"), 0.0)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns (objectness, deltas) per map: (N, A, H, W) and (N, A * box_dim, H, W)."""
        hidden = [self.repeats(x) for x in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


class RegionHead(nn.Module):
    """The rows after a feature, average-pooled: regions (N, C, H, W) to (N, C').

    As in the paper's C4 detectors: MB6 and MB7 on the regions that RoIAlign extracts from `res4`.

    Args: those of `Tail`.
    """

    def __init__(self, network: FBNetV3, **kwargs: Any) -> None:
        super().__init__()
        self.tail = Tail(network, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns one vector per region."""
        pooled: Tensor = self.tail(x).mean(dim=(2, 3))
        return pooled


def run(module: nn.Module, x: Tensor, checkpointed: bool) -> Tensor:
    """Returns module(x), recomputed in the backward pass if `checkpointed`."""
    if checkpointed and torch.is_grad_enabled():
        y: Tensor = checkpoint(module, x, use_reentrant=False)
        return y
    y = module(x)
    return y


def _named_rows(network: FBNetV3, rows: range) -> nn.Sequential:
    return nn.Sequential(OrderedDict((str(n), network.stages[n]) for n in rows))


def part_state(network: FBNetV3) -> dict[str, Tensor]:
    """Returns the tensors of a full model for backbones and heads of detectors, with its id.

    The head and classifier of the classification model are left out.
    """
    state = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(("stem.", "stages."))
    }
    return state | {NETWORK_ID: network_id(network.arch)}
