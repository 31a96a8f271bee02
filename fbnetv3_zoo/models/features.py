"""Feature extraction: which feature maps a model has, their actual sizes, and a feature pyramid.

timm and Detectron2 expect nominal reductions (2, 4, 8, ...). With the published paddings of A, B,
C, E and F the maps do not halve exactly; `FeatureInfo.size_at` gives their actual sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fbnetv3.arch.arch import Arch


def take_indices(num_features: int, indices: int | Sequence[int] | None) -> list[int]:
    """Returns non-negative indices of the last n features, of a list of indices, or of all.

    Raises:
        ValueError: an index is out of range, or the selection is empty.
    """
    if indices is None:
        return list(range(num_features))
    asked = range(-indices, 0) if isinstance(indices, int) else list(indices)
    if not len(asked) or any(
        not isinstance(n, int) or not -num_features <= n < num_features for n in asked
    ):
        raise ValueError(f"feature indices are {indices!r}; there are {num_features} features")
    return [n % num_features for n in asked]


@dataclass(frozen=True)
class Conv:
    """Geometry of the depthwise convolution of a block, or of the stem."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    def size(self, side: int) -> int:
        """Returns the output height or width for an input height or width."""
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class Tap:
    """One feature map: the output after `depth` rows (0: the stem), at 1 / `reduction` nominally.

    In a dilated model several features have the output stride as their reduction.
    """

    depth: int
    channels: int
    reduction: int

    @property
    def module(self) -> str:
        """Name of the module that outputs the feature map."""
        return f"stages.{self.depth - 1}" if self.depth else "stem"


@dataclass(frozen=True)
class Geometry:
    """Strides, paddings and dilations of all blocks, and the feature maps they give."""

    arch: Arch
    convs: tuple[Conv, ...]
    taps: tuple[Tap, ...]

    @staticmethod
    def of(arch: Arch, output_stride: int) -> Geometry:
        """Returns the geometry with strides beyond `output_stride` replaced by dilation."""
        convs, taps = [], [Tap(0, arch.stem_channels, 2)]
        reduction, dilation = 2, 1
        for block in arch.blocks():
            stride, padding = block.stride, block.padding
            if stride == 1:
                # Only the last block before each stride, or former stride, is a feature.
                taps.pop()
            if stride == 2 and reduction >= output_stride:
                # The formerly strided convolution itself keeps the previous dilation.
                stride, padding = 1, dilation * (block.kernel // 2)
                convs.append(Conv(block.kernel, stride, padding, dilation))
                dilation *= 2
            else:
                reduction *= stride
                padding = padding if dilation == 1 else dilation * (block.kernel // 2)
                convs.append(Conv(block.kernel, stride, padding, dilation))
            taps.append(Tap(block.row + 1, block.out_channels, reduction))
        return Geometry(arch, tuple(convs), tuple(taps))

    def sizes(self, height: int, width: int) -> dict[int, tuple[int, int]]:
        """Returns depth -> (height, width) of the feature map after that many rows."""
        self.arch.check_side(min(height, width), "input size")
        stem = Conv(3, 2, 1, 1)
        size = stem.size(height), stem.size(width)
        found = {0: size}
        for block, conv in zip(self.arch.blocks(), self.convs, strict=True):
            size = conv.size(size[0]), conv.size(size[1])
            found[block.row + 1] = size
        return found


class FeatureInfo(list[dict[str, Any]]):
    """The features of a model: a list of dicts with timm's `FeatureInfo` methods.

    Each record has `num_chs`, `reduction` (nominal), `module`, `stage` and `index`.
    """

    def __init__(self, geometry: Geometry, out_indices: Iterable[int]) -> None:
        self.out_indices = list(out_indices)
        self._geometry = geometry
        super().__init__(
            {
                "num_chs": tap.channels,
                "reduction": tap.reduction,
                "module": tap.module,
                "stage": tap.depth,
                "index": index,
            }
            for index, tap in enumerate(geometry.taps)
        )

    def only(self, out_indices: Sequence[int]) -> FeatureInfo:
        """Returns the same features with a different selection."""
        return FeatureInfo(self._geometry, out_indices)

    def up_to(self, depth: int) -> FeatureInfo:
        """Returns the features of the first `depth` rows, all selected."""
        taps = tuple(tap for tap in self._geometry.taps if tap.depth <= depth)
        return FeatureInfo(replace(self._geometry, taps=taps), range(len(taps)))

    def depths(self) -> list[int]:
        """Returns the number of rows before each feature, selected or not."""
        return [tap.depth for tap in self._geometry.taps]

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the value of `key` for the selected features, or for those at `idx`."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[n][key] for n in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """Returns the dicts of the selected features, or of those at `idx`, reduced to `keys`."""
        if isinstance(idx, int):
            return {key: self[idx][key] for key in keys or self[idx]}
        return [self.get_dicts(keys, n) for n in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the number of channels of the selected features."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the nominal reductions of the selected features."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the module names of the selected features."""
        return self.get("module", idx)

    def size_at(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the actual (height, width) of each selected map for an input size in pixels.

        Raises:
            ValueError: the input is too small; the message gives the minimum.
        """
        sizes = self._geometry.sizes(height, width)
        return [sizes[self[n]["stage"]] for n in self.out_indices]


class FeaturePyramid(nn.Module):
    """A model without its head: images (N, C, H, W) to a list of feature maps, fine to coarse.

    Args:
        model: an `FBNetV3`; it is pruned in place to the rows that the features need.
        out_indices: which features: the last n, a list of indices, or None for all.
        as_dict: return a dict keyed by module name instead of a list.
    """

    def __init__(
        self,
        model: Any,
        out_indices: int | Sequence[int] | None = None,
        *,
        as_dict: bool = False,
    ) -> None:
        super().__init__()
        info: FeatureInfo = model.feature_info
        self.out_indices = sorted(take_indices(len(info), out_indices))
        model.prune_intermediate_layers(self.out_indices)
        self.model = model
        self.feature_info = info.only(self.out_indices)
        self.as_dict = as_dict
        self.in_chans = model.in_chans
        self.pretrained_cfg = model.pretrained_cfg
        self.default_cfg = model.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades compute for memory: recomputes the rows in the backward pass."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor] | dict[str, Tensor]:
        """Returns the selected feature maps of images (N, C, H, W)."""
        maps = self.model.forward_intermediates(
            x, indices=self.out_indices, intermediates_only=True, stop_early=True
        )
        if self.as_dict:
            return dict(zip(self.feature_info.module_name(), maps, strict=True))
        return maps  # type: ignore[no-any-return]  # the return type depends on flags

    def __prepare_scriptable__(self) -> nn.Module:
        """Returns what `torch.jit.script` compiles in its place: outputs of one type."""
        depths = self.feature_info.get("stage")
        maps = ScriptedMaps(self.model.stem, self.model.stages, depths, training=self.training)
        if not self.as_dict:
            return maps
        return _NamedMaps(maps, self.feature_info.module_name())


class ScriptedMaps(nn.Module):
    """The rows of a model as TorchScript can compile them: images to a list of feature maps.

    Args:
        stem: the stem.
        stages: the rows.
        depths: number of rows before each map, in the order of the output.
        training: whether the model is in training mode.
    """

    def __init__(
        self, stem: nn.Module, stages: nn.Sequential, depths: Sequence[int], *, training: bool
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, stages
        # How often the map after each row is selected, from the stem, and where it goes.
        self.counts = [list(depths).count(depth) for depth in range(len(stages) + 1)]
        order = sorted(range(len(depths)), key=lambda n: depths[n])
        self.order = [order.index(n) for n in range(len(depths))]
        self.training = training

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the selected maps."""
        x = self.stem(x)
        found = [x] * self.counts[0]
        for row, stage in enumerate(self.stages):
            x = stage(x)
            found.extend([x] * self.counts[row + 1])
        return [found[index] for index in self.order]


class _NamedMaps(nn.Module):
    """As `ScriptedMaps`, by the names of their modules."""

    def __init__(self, maps: ScriptedMaps, names: Iterable[str]) -> None:
        super().__init__()
        self.maps, self.names = maps, list(names)
        self.training = maps.training

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the selected maps by name."""
        found: dict[str, Tensor] = {}
        for number, level in enumerate(self.maps(x)):
            found[self.names[number]] = level
        return found
