"""The `FBNetV3` module, which follows timm's model interface, and `build`.

State-dict layout: `stem`, `stages.<row>.<block>.{expand,depthwise,se,project}`, `head.expand`,
`head.project`, `classifier`; one stage per row of the architecture. `checkpoints.convert` maps it
to the official layout and timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fbnetv3._internal.arguments import names_of, refuse_unknown
from fbnetv3.arch.arch import Arch, Block

from .blocks import ActFactory, ConvBnAct, Head, InvertedResidual, NormFactory, pointwise
from .features import FeatureInfo, Geometry, take_indices

ACTS: dict[str, ActFactory] = {
    "hard_swish": partial(nn.Hardswish, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
    "gelu": nn.GELU,
}


def _timm_pool(kind: str) -> nn.Module:
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    made: nn.Module = SelectAdaptivePool2d(pool_type=kind)
    return made


# timm's "catavgmax" doubles the channels, for which the head has no weights.
POOLS: dict[str, Callable[[], nn.Module]] = {
    "avg": partial(nn.AdaptiveAvgPool2d, 1),
    "max": partial(nn.AdaptiveMaxPool2d, 1),
    "": nn.Identity,
    "avgmax": partial(_timm_pool, "fastavgmax"),  # timm's "avgmax" cannot be scripted
    **{kind: partial(_timm_pool, kind) for kind in ("fast", "fastavg", "fastmax", "fastavgmax")},
}
OUTPUT_STRIDES = (8, 16, 32)

_Method = TypeVar("_Method", bound=Callable[..., Any])
is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]  # public, but not exported


def _not_scripted(method: _Method) -> _Method:
    """Excludes a method from TorchScript; a typed `torch.jit.ignore`."""
    marked: _Method = torch.jit.ignore(method)  # type: ignore[no-untyped-call]
    return marked


class FBNetV3(nn.Module):
    """An FBNetV3 model: images (N, in_chans, H, W) to logits (N, num_classes).

    The module follows timm's model interface: `forward_features` gives the unpooled last map
    (N, num_features, H', W'), `forward_head` pools and classifies it. Features for dense
    prediction (`feature_info`, `forward_intermediates`) are the narrow bottleneck outputs.

    Args:
        arch: the architecture to build.
        num_classes: number of classes; 0 removes the classifier.
        in_chans: number of input channels.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate. The rate of block n of N is n / N of it, counted from
            0, as in timm. Only residual blocks can be dropped.
        global_pool: "avg", "max", another of timm's that keeps the channels, such as "avgmax", or
            "" for none, which needs `num_classes=0`.
        output_stride: 8, 16 or 32; strides beyond it are replaced by dilation. Dilated rows use the
            padding of kernel // 2, also where the published padding differs.
        norm_layer: called with the number of channels; default `nn.BatchNorm2d`.
        act_layer: replaces all activations of the architecture; a factory, or a name in `ACTS` or
            of timm's, such as "mish".
        bn_eps: epsilon of the default batch-norm.
        bn_momentum: momentum of the default batch-norm.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        output_stride: int = 32,
        norm_layer: NormFactory | None = None,
        act_layer: ActFactory | str | None = None,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        _check_sizes(num_classes=num_classes, in_chans=in_chans)
        _check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(
                f"output_stride is {output_stride!r}; expected one of {OUTPUT_STRIDES}"
            )
        if norm_layer is not None and not callable(norm_layer):
            raise ValueError(
                f"norm_layer is {norm_layer!r}; expected what makes a layer of a number of "
                "channels, such as torch.nn.BatchNorm2d"
            )
        self.arch = arch
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        # Typed by the call, because TorchScript reads annotations and does not support Any.
        self.pretrained_cfg = dict[str, Any]()
        self.default_cfg = self.pretrained_cfg
        self.pretrained_model_args = dict[str, Any]()

        norm = norm_layer or partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum)
        replaced = None if act_layer is None else _activation(act_layer)
        head_act = replaced or ACTS["hard_swish"]
        self.stem = ConvBnAct(
            in_chans,
            arch.stem_channels,
            kernel=3,
            stride=2,
            padding=1,
            dilation=1,
            groups=1,
            bias=True,
            norm=norm,
            act=replaced or ACTS[arch.stem_act],
        )
        geometry = Geometry.of(arch, output_stride)
        rows: dict[int, list[nn.Module]] = {number: [] for number in range(len(arch.rows))}
        num_blocks = sum(row.repeats for row in arch.rows)
        for number, (block, conv) in enumerate(zip(arch.blocks(), geometry.convs, strict=True)):
            rows[block.row].append(
                _make_block(
                    block,
                    stride=conv.stride,
                    padding=conv.padding,
                    dilation=conv.dilation,
                    drop_path=drop_path_rate * number / num_blocks,
                    norm=norm,
                    act=replaced or ACTS[block.act],
                )
            )
        self.stages = nn.Sequential(*(nn.Sequential(*row) for row in rows.values()))
        self.feature_info = FeatureInfo(geometry, range(len(geometry.taps)))

        self.num_features = arch.head_mid_channels
        self.head_hidden_size = arch.head_channels
        self.head = Head(
            arch.rows[-1].channels,
            arch.head_mid_channels,
            arch.head_channels,
            norm=norm,
            act=head_act,
        )
        self._set_classifier(num_classes, global_pool)
        self.init_weights()

    def _set_classifier(self, num_classes: int, global_pool: str) -> None:
        if global_pool not in POOLS:
            raise ValueError(f"global_pool is {global_pool!r}; expected one of {list(POOLS)}")
        if not global_pool and num_classes:
            raise ValueError(
                f"global_pool is '' with {num_classes} classes; give num_classes=0 too, or "
                "global_pool='avg'"
            )
        self.num_classes = num_classes
        self.pool_type = global_pool
        # timm reads it from here when it saves a model.
        self.head.pool_type = global_pool
        self.global_pool = POOLS[global_pool]()
        self.flatten = nn.Flatten(1) if global_pool else nn.Identity()
        self.classifier = (
            nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        )

    @_not_scripted
    def init_weights(self) -> None:
        """Initialises the weights as in the official implementation.

        Convolutions before a norm or activation use Kaiming normal over fan-out
        (out_channels * k * k, also where grouped). The last convolution of squeeze-and-excite and
        the classifier use torch's default. The last norm of residual blocks has weight 0, so that
        they start as the identity.
        """
        # Nothing to initialise; normal_ on a meta tensor would make torch import 900 modules.
        if self.stem.conv.weight.is_meta:
            return
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.endswith("se.expand"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, InvertedResidual) and module.has_residual:
                scale = getattr(module.project.bn, "weight", None)
                if scale is not None:
                    nn.init.zeros_(scale)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the unpooled map (N, num_features, H', W') of images (N, in_chans, H, W)."""
        x = self.stem(x)
        if self.grad_checkpointing and not is_scripting():
            for stage in self.stages:
                x = checkpoint(stage, x, use_reentrant=False)
        else:
            x = self.stages(x)
        x = self.head.expand(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits (N, num_classes), or before the classifier (N, head_hidden_size)."""
        x = self.flatten(self.head(self.global_pool(x)))
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        if not pre_logits:
            x = self.classifier(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (N, num_classes) of normalised images (N, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    @_not_scripted
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> Any:
        """Returns (last map, features), or only the features with `intermediates_only`.

        Args:
            x: images (N, in_chans, H, W).
            indices: which features: the last n, a list of indices (returned in that order), or
                None for all.
            norm: has no effect, features are already normalised.
            stop_early: stop after the last selected feature; needs `intermediates_only`.
            output_fmt: only "NCHW" is supported.
            intermediates_only: do not compute the last map.
            extra_blocks: let indices count the stem and all rows instead of `feature_info`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; expected 'NCHW'")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early needs intermediates_only=True, as it skips the last map")
        taps = self._taps(extra_blocks)
        wanted = [taps[n] for n in take_indices(len(taps), indices)]
        found = {}
        x = self.stem(x)
        for depth in range(len(self.stages) + 1):
            if depth:
                stage = self.stages[depth - 1]
                x = (
                    checkpoint(stage, x, use_reentrant=False)
                    if self.grad_checkpointing
                    else stage(x)
                )
            if depth in wanted:
                found[depth] = x
            if stop_early and depth == max(wanted):
                break
        features = [found[depth] for depth in wanted]
        return features if intermediates_only else (self.head.expand(x), features)

    def _taps(self, extra_blocks: bool) -> list[int]:
        """Returns the number of rows before each feature; 0 is the output of the stem."""
        return list(range(len(self.stages) + 1)) if extra_blocks else self.feature_info.depths()

    @_not_scripted
    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
        extra_blocks: bool = False,
    ) -> list[int]:
        """Removes the head and the rows that the features do not need; returns the kept indices.

        Args:
            indices: as in `forward_intermediates`.
            prune_norm: has no effect, there is no norm after the rows.
            prune_head: remove the head even if all rows are kept.
            extra_blocks: as in `forward_intermediates`.
        """
        taps = self._taps(extra_blocks)
        kept = take_indices(len(taps), indices)
        depth = max(taps[n] for n in kept)
        shorter = depth < len(self.stages)
        self.stages = self.stages[:depth]
        self.feature_info = self.feature_info.up_to(depth)
        if shorter or prune_head:
            rows = self.arch.rows[:depth]
            self.num_features = rows[-1].channels if rows else self.arch.stem_channels
            self.head_hidden_size = self.num_features
            self.head = _NoHead()  # type: ignore[assignment]  # replaces the head
            self._set_classifier(0, "")
        return kept

    @_not_scripted
    def get_classifier(self) -> nn.Module:
        """Returns the classifier, an identity if there is none."""
        return self.classifier

    @_not_scripted
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one of the same device, dtype and mode.

        The pooling is kept unless `global_pool` is given.
        """
        _check_sizes(num_classes=num_classes)
        like = next(self.parameters())
        self._set_classifier(num_classes, self.pool_type if global_pool is None else global_pool)
        for module in (self.classifier, self.global_pool, self.flatten):
            module.to(device=like.device, dtype=like.dtype).train(self.training)

    @_not_scripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades compute for memory: recomputes the rows in the backward pass.

        Gradients stay the same. Batch-norm sees each batch twice, so that its running statistics
        change a little faster, as in timm.
        """
        self.grad_checkpointing = enable

    @_not_scripted
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Returns the patterns that group parameters by layer, for timm's layer decay."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)",
        }

    @_not_scripted
    def as_sequential(self) -> nn.Sequential:
        """Returns the layers as one `nn.Sequential` that shares their weights."""
        return nn.Sequential(
            self.stem,
            *self.stages,
            self.head.expand,
            self.global_pool,
            self.head,
            self.flatten,
            nn.Dropout(self.drop_rate),
            self.classifier,
        )


# Types, not their names: torch.fx copies what stands here, and TorchScript reads the copy.
FBNetV3.forward.__annotations__ = {"x": Tensor, "return": Tensor}


class _NoHead(nn.Module):
    """Replaces the head of a pruned model."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Identity()
        self.pool_type = ""

    def forward(self, x: Tensor) -> Tensor:
        """Returns x."""
        return x


def build(
    arch: Arch,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> FBNetV3:
    """Returns the model of an architecture with randomly initialised weights.

    Args:
        arch: the architecture.
        device: device of the parameters; "meta" allocates none, for weights that are loaded later.
        dtype: floating-point type of the parameters.
        **kwargs: arguments of `FBNetV3`.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is unknown.
    """
    if not isinstance(arch, Arch):
        raise ValueError(f"arch is a {type(arch).__name__}; expected fbnetv3.Arch")
    refuse_unknown(kwargs, names_of(FBNetV3, build) - {"arch"}, "fbnetv3.create and FBNetV3")
    with torch.device(device if device is not None else torch.get_default_device()):
        model = FBNetV3(arch, **kwargs)
    return model.to(dtype=dtype) if dtype is not None else model


def unwrapped(model: object) -> FBNetV3:
    """Returns the FBNetV3 in what `torch.compile`, DataParallel or an average of weights made.

    Raises:
        ValueError: there is none.
    """
    inner = model
    while not isinstance(inner, FBNetV3):
        inner = getattr(inner, "_orig_mod", getattr(inner, "module", None))
        if not isinstance(inner, nn.Module):
            raise ValueError(
                f"model is a {type(model).__name__}; expected an FBNetV3, see fbnetv3.create()"
            )
    return inner


def _make_block(
    block: Block,
    *,
    stride: int,
    padding: int,
    dilation: int,
    drop_path: float,
    norm: NormFactory,
    act: ActFactory,
) -> nn.Module:
    if block.kernel == 1:
        return pointwise(block.in_channels, block.out_channels, norm=norm, act=act)
    return InvertedResidual(
        block.in_channels,
        block.mid_channels,
        block.out_channels,
        has_expand=block.has_expand,
        kernel=block.kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=block.groups,
        se_channels=block.se_channels,
        has_residual=block.has_residual,
        drop_path=drop_path,
        norm=norm,
        act=act,
    )


def _activation(act_layer: ActFactory | str) -> ActFactory:
    if not isinstance(act_layer, str):
        return act_layer
    if act_layer in ACTS:
        return ACTS[act_layer]
    from timm.layers.create_act import get_act_layer

    try:
        found: ActFactory | None = get_act_layer(act_layer)
    except KeyError:
        found = None
    if found is None:
        raise ValueError(
            f"act_layer is {act_layer!r}; expected a factory, one of {list(ACTS)}, or a name that "
            "timm knows"
        )
    return found


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        low = 0 if name == "num_classes" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name} is {value!r}; expected a whole number from {low}")


def _check_rates(**rates: float) -> None:
    for name, value in rates.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} is {value!r}; expected a number of at least 0 and below 1")
