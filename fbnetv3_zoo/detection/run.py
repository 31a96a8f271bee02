"""What a detector's training is told, and the log of its epochs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.checks import whole_number
from fbnetv3.search.training.config import Hardware

from .recipe import DetectionRecipe


@dataclass(frozen=True)
class DetectionLog:
    """An epoch.

    Attributes:
        epoch: from 1.
        loss: mean over its steps.
        lr: of its last step.
        seconds: of its steps.
        images_per_s: trained images per second.
        ap: COCO's average precision of the averaged weights; None if not validated.
        ap50: the same at an overlap of 0.5.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float
    images_per_s: float
    ap: float | None = None
    ap50: float | None = None

    def line(self) -> str:
        """Returns the epoch as one line of text."""
        parts = [f"epoch {self.epoch}: loss {self.loss:.4f}"]
        if self.ap is not None and self.ap50 is not None:
            parts += [f"AP {100 * self.ap:.1f} %", f"AP50 {100 * self.ap50:.1f} %"]
        return ", ".join([*parts, f"lr {self.lr:.4g}", f"{self.images_per_s:.1f} images/s"])


@dataclass(frozen=True, kw_only=True)
class DetectionRun:
    """All about a run but its detector and its images.

    Attributes:
        recipe: what to follow.
        folder: where checkpoints, the log and weights go.
        checkpoint_steps: a checkpoint every so many steps beside those after epochs; 0: none.
        validate_epochs: validate every so many epochs, and after the last.
        workers: processes that decode images.
        hardware: how to compute.

    Raises:
        ValueError: a number is out of range.
    """

    recipe: DetectionRecipe
    folder: Path
    checkpoint_steps: int = 0
    validate_epochs: int = 1
    workers: int = 0
    hardware: Hardware = dataclasses.field(default_factory=Hardware.of)

    def __post_init__(self) -> None:
        for name, least in (("checkpoint_steps", 0), ("validate_epochs", 1), ("workers", 0)):
            whole_number(name, getattr(self, name), least)
