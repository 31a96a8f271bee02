"""Averaged weights (an exponential moving average, EMA) of a model in training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def averaging_weight(step: int, decay: float, start: str = "warmup") -> float:
    """Returns how much a step's weights count: 1 - decay, or more at first, as `start` says.

    The average v of weights w moves by v += weight * (w - v) after each step, from v = w at step 0.

    Args:
        step: number of the optimiser's step, from 1.
        decay: of the average, per step.
        start: "copy" is the paper's equation (2): the weight is 1 - decay from the first step on,
            and the initial weights count decay ** step. "warmup" is TensorFlow's: the decay is at
            most (1 + n) / (10 + n) after n steps, so that early averages are of recent steps.
            "unbiased" is Adam's correction of an average that begins at zero, v / (1 - decay **
            step): the initial weights do not count at all.
    """
    if start == "copy":
        return 1 - decay
    if start == "unbiased":
        return (1 - decay) / (1 - decay**step)
    before = step - 1
    return 1 - min(decay, before / (9 + before))


class AveragedWeights:
    """A copy of a model whose parameters and batch-norm statistics are averages over the steps.

    What timm's ModelEmaV3 does with its warm-up, in tensor operations that a CUDA graph can hold.

    Attributes:
        module: the copy, in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).eval()
        mine, current = (m.state_dict(keep_vars=True).values() for m in (self.module, model))
        pairs = [(a.detach(), b.detach()) for a, b in zip(mine, current, strict=True)]
        self._floats = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Moves the averages towards the model; counters are copied.

        Args:
            weight: of the model's present values, a number or a 0-dimensional tensor on its device.
        """
        averages, values = self._floats
        if isinstance(weight, Tensor):
            steps = torch._foreach_sub(values, averages)
            torch._foreach_mul_(steps, weight)
            torch._foreach_add_(averages, steps)
        else:
            torch._foreach_lerp_(averages, values, weight)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [a for a, _ in pairs], [b for _, b in pairs]
