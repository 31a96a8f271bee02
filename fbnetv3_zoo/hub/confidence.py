"""How far a network's answers can be trusted: numbers that are fitted once and kept with weights.

The temperature divides the logits before the softmax, so that of all answers given with 80 % about
80 % are right (Guo et al. 2017, On Calibration of Modern Neural Networks). An image whose energy,
log sum exp of the logits, is below the threshold is probably of none of the classes (Liu et al.
2020, Energy-based Out-of-distribution Detection). `fbnetv3.deploy.confidence` fits both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fbnetv3._internal.messages import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """A temperature and a threshold, with the figures of their fit.

    Attributes:
        temperature: of the softmax; above 0.
        threshold: the lowest energy of an image of one of the classes; None takes every image for
            one.
        true_accept_pct: share of the fit's images of the classes that reach the threshold.
        false_accept_pct: share of the fit's images of no class that reach it; None if there were
            none.
        num_images: images of the classes that were fitted on.

    Raises:
        ValueError: a number is not finite or out of range.
    """

    temperature: float
    threshold: float | None = None
    true_accept_pct: float | None = None
    false_accept_pct: float | None = None
    num_images: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            optional = field.name not in ("temperature", "num_images")
            if not (number and math.isfinite(value)) and not (optional and value is None):
                raise ValueError(f"{field.name} is {shown(value)}; expected a number")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; expected a number above 0")

    @property
    def accepts(self) -> str:
        """What the threshold lets through, in words; "" if that was not measured."""
        shares = (
            (self.true_accept_pct, "images of its classes"),
            (self.false_accept_pct, "others"),
        )
        known = [f"{pct:.0f} % of {what}" for pct, what in shares if pct is not None]
        return " and ".join(known) if self.threshold is not None else ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Confidence:
        """Returns the record that `to_dict` wrote; unknown keys are ignored.

        Raises:
            ValueError: the temperature is missing, or a value is wrong.
        """
        if not isinstance(record, Mapping) or "temperature" not in record:
            raise ValueError(f"confidence is {shown(record)}; expected an object with temperature")
        names = {field.name for field in dataclasses.fields(Confidence)}
        return Confidence(**{key: value for key, value in record.items() if key in names})
