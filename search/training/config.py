"""What a run is told: its recipe, its seed, its folder, and how a device computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from fbnetv3._internal.devices import known_device
from fbnetv3.images.preprocess import Preprocess

from .recipe import Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """How a device computes. `Hardware.of` has what is fastest where it was measured.

    Attributes:
        device: where the model lives.
        bf16: forward and loss under bfloat16 autocast; weights stay float32.
        fp16: the same in float16, with the loss scaled so that small gradients stay above zero.
        channels_last: memory layout.
        compile: `torch.compile`; pays back after some thousand steps on a GPU only.

    Raises:
        ValueError: both precisions are given.
    """

    device: torch.device
    bf16: bool = False
    fp16: bool = False
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both on; expected one of them at most")

    @property
    def half(self) -> torch.dtype | None:
        """The data type of autocast; None computes in float32."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None

    @staticmethod
    def of(
        device: torch.device | str | None = None,
        *,
        precision: str = "auto",
        compile: bool = False,
    ) -> Hardware:
        """Returns the settings for a device, the GPU where there is one unless given.

        On a CPU float32 with channels last wins: bfloat16 autocast is 2 to 4 times slower there
        (measured on AVX512 with bf16), and compiling costs more than a short run.

        Args:
            device: its name; None is the GPU, or the CPU where there is none.
            precision: one of `PRECISIONS`. "auto" is bf16 on GPUs that compute in it, fp16 on
                older ones, and fp32 elsewhere.
            compile: see the class.

        Raises:
            ValueError: there is no such device or precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected {' or '.join(PRECISIONS)}")
        chosen = known_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if precision == "auto":
            precision = _fastest_precision(chosen)
        return Hardware(
            device=chosen, bf16=precision == "bf16", fp16=precision == "fp16", compile=compile
        )


def _fastest_precision(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything about a run but its network and its data.

    Attributes:
        recipe: what to follow.
        preprocess: of validation; its crop, mean and std also of training.
        seed: of order, augmentation, dropout and mixup. First weights are the caller's.
        folder: where checkpoints, logs and weights go; None keeps nothing.
        resume_from: folder of a run to resume from where `folder` has no checkpoint; only read.
        stop_epoch: end after this many epochs of the recipe's schedule; None is all of them.
        checkpoint_epochs: a checkpoint after every so many epochs, and after the last.
        checkpoint_steps: a checkpoint every so many steps beside those after epochs; 0: none.
        validate_epochs: validate every so many epochs, and after the last.
        keep_best: keep the weights of the epoch of the highest validation accuracy in the folder's
            `best/`. Being the highest of many, that accuracy is a little too high.
        patience: end the run after this many epochs without a higher accuracy; None: never.
        accumulate: forward and backward passes that make a step, each with its part of the batch.
        workers: processes that decode images which are not in memory.
        hardware: how to compute.
        license: SPDX name of the weights' licence, stored with them; None keeps that of the weights
            that the run starts from.
    """

    recipe: Recipe
    preprocess: Preprocess
    seed: int = 0
    folder: Path | None = None
    resume_from: Path | None = None
    stop_epoch: int | None = None
    checkpoint_epochs: int = 1
    checkpoint_steps: int = 0
    validate_epochs: int = 1
    keep_best: bool = False
    patience: int | None = None
    accumulate: int = 1
    workers: int = 0
    hardware: Hardware = field(default_factory=Hardware.of)
    license: str | None = None

    def __post_init__(self) -> None:
        at_least = {
            "checkpoint_epochs": 1,
            "checkpoint_steps": 0,
            "validate_epochs": 1,
            "accumulate": 1,
        }
        for name, low in at_least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected at least {low}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; expected at least 1, or None")
        if self.stop_epoch is not None and not 1 <= self.stop_epoch <= self.recipe.epochs:
            raise ValueError(
                f"stop_epoch is {self.stop_epoch}; expected 1 to {self.recipe.epochs}, the epochs "
                "of the recipe"
            )

    @property
    def epochs(self) -> int:
        """How many epochs are trained."""
        return self.stop_epoch or self.recipe.epochs
