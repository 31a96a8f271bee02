"""The building blocks: plain modules with explicit arguments. Shapes are NCHW.

Batch-norm and activation are separate modules everywhere, so that freezing, folding, quantizing or
converting batch-norm to SyncBatchNorm cannot lose an activation.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]
ActFactory = Callable[[], nn.Module]


class ConvBnAct(nn.Module):
    """Convolution, normalisation, activation: (N, C, H, W) to (N, C', H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int,
        padding: int,
        dilation: int,
        groups: int,
        bias: bool,
        norm: NormFactory,
        act: ActFactory,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, bias
        )
        self.bn = norm(out_channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, out_channels, H', W')."""
        x = self.act(self.bn(self.conv(x)))
        return x


def pointwise(
    in_channels: int, out_channels: int, *, norm: NormFactory, act: ActFactory
) -> ConvBnAct:
    """Returns a 1x1 ConvBnAct."""
    return ConvBnAct(
        in_channels,
        out_channels,
        kernel=1,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=False,
        norm=norm,
        act=act,
    )


class SqueezeExcite(nn.Module):
    """Channel gate: global average, 1x1, activation, 1x1, hard sigmoid, multiply."""

    def __init__(self, channels: int, squeezed: int, *, act: ActFactory) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Returns x times its gate, (N, C, H, W)."""
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class DropPath(nn.Module):
    """Stochastic depth: during training, drops the branch of a sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, with each sample kept with probability 1 - rate and scaled by the inverse."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty([x.shape[0], 1, 1, 1])
        return x * keep.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def extra_repr(self) -> str:
        """Returns the rate, for `repr`."""
        return f"rate={self.rate:.3f}"


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, squeeze-and-excite, project 1x1, add the input.

    `expand` is an identity where the width does not change, `se` where the row has no
    squeeze-and-excite. The input is added only where shapes are equal. The projection has no
    activation.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        has_expand: bool,
        kernel: int,
        stride: int,
        padding: int,
        dilation: int,
        groups: int,
        se_channels: int,
        has_residual: bool,
        drop_path: float,
        norm: NormFactory,
        act: ActFactory,
    ) -> None:
        super().__init__()
        self.has_residual = has_residual
        self.expand = (
            pointwise(in_channels, mid_channels, norm=norm, act=act)
            if has_expand
            else nn.Identity()
        )
        self.depthwise = ConvBnAct(
            mid_channels,
            mid_channels,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
            norm=norm,
            act=act,
        )
        self.se = (
            SqueezeExcite(mid_channels, se_channels, act=act) if se_channels else nn.Identity()
        )
        self.project = pointwise(mid_channels, out_channels, norm=norm, act=nn.Identity)
        self.drop_path = DropPath(drop_path) if has_residual and drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, out_channels, H', W')."""
        y: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return x + self.drop_path(y) if self.has_residual else y


class Head(nn.Module):
    """The layers from the last feature map to the features: expand 1x1, project 1x1, activation.

    `expand` runs before the pooling, which is the model's, and `forward` after it. The projection
    has neither bias nor normalisation, as in the released networks.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        norm: NormFactory,
        act: ActFactory,
    ) -> None:
        super().__init__()
        self.pool_type = "avg"
        self.expand = pointwise(in_channels, mid_channels, norm=norm, act=act)
        self.project = nn.Conv2d(mid_channels, out_channels, 1, bias=False)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, out_channels, H, W) of the pooled (N, mid_channels, H, W)."""
        x = self.act(self.project(x))
        return x
