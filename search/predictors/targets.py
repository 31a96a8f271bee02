"""Training targets of predictors: standardised labels, or the logarithm of their error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fbnetv3.search.space.space import Floats

from .protocol import Prediction

# "log_error" suits labels that are accuracies in percent.
TARGETS = ("raw", "log_error")


_RAW = (
    "For any other value, higher is better, the target is 'raw': of search.run, of the objective, "
    'or in a table\'s space file as {"space": {...}, "target": "raw"}'
)
# Fewer labels between 0 and 1 may be bad trainings.
_FRACTIONS = 3
# The distance of this quantile to the median is the unit of warped targets; and the least one that
# is converted back.
_BEST, _LEAST = 0.9, -20.0


def check_percent(labels: Floats, target: str) -> None:
    """Checks that labels (n,) are in percent where this is expected.

    Raises:
        ValueError: the target is "log_error", and a label is below 0 or above 100, or all are
            between 0 and 1.
    """
    known = labels[np.isfinite(labels)]
    if target != "log_error" or not len(known):
        return
    outside = known[(known < 0) | (known > 100)]
    if len(outside):
        raise ValueError(
            f"a label is {outside[0]:g}; expected accuracies in percent, 0 to 100. {_RAW}"
        )
    if len(known) >= _FRACTIONS and 0 < known.max() <= 1:
        raise ValueError(
            f"all {len(known)} labels are between 0 and 1, the largest is {known.max():g}; "
            f"expected accuracies in percent: multiply them by 100. {_RAW}"
        )


class Scale:
    """Converts between labels and standardised targets.

    Args:
        target: "raw", or "log_error" of labels in percent.
        warped: whether differences among the worse half of the labels are compressed, to their
            logarithm. Bad trainings can be far worse than good ones are good, and would take all of
            a predictor's attention.
    """

    def __init__(self, target: str, *, warped: bool = False) -> None:
        if target not in TARGETS:
            raise ValueError(
                f"target is {target!r}; expected one of {', '.join(TARGETS)}, of which higher is "
                "better: to minimize, give raw and the negative value"
            )
        self.target, self.warped, self.mean, self.std = target, warped, 0.0, 1.0
        self.centre, self.unit = 0.0, 1.0

    def learn(self, labels: Floats) -> Floats:
        """Fits the scale to labels (n,) and returns their standardised targets.

        Raises:
            ValueError: fewer than two labels, one that is NaN or not in the target's range, or
                fractions in place of percent.
        """
        values = np.asarray(labels, np.float64)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"{values.size} labels; expected two or more to learn from")
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} labels are NaN or infinite")
        check_percent(values, self.target)
        values = self._transformed(values)
        if self.warped:
            self.centre = float(np.median(values))
            upper = float(np.quantile(values, _BEST) - self.centre)
            self.unit = max(upper or float(values.std()), 1e-9)
            values = self._compressed(values)
        self.mean, self.std = float(values.mean()), float(max(values.std(), 1e-9))
        return np.asarray((values - self.mean) / self.std)

    def apply(self, labels: Floats) -> Floats:
        """Returns standardised targets (n,) of labels, as those that were learned have them."""
        values = self._transformed(np.asarray(labels, np.float64))
        values = self._compressed(values) if self.warped else values
        return np.asarray((values - self.mean) / self.std)

    def _transformed(self, labels: Floats) -> Floats:
        return -np.log(100 - np.minimum(labels, 99.99)) if self.target == "log_error" else labels

    def _compressed(self, values: Floats) -> Floats:
        values = (values - self.centre) / self.unit
        return np.where(values < 0, -np.log1p(-np.minimum(values, 0)), values)

    def learn_rungs(self, labels: Floats, shares: Floats) -> tuple[Floats, Floats]:
        """Fits the scale to the labels (n,) of the longest trainings.

        Those of each length are standardised by themselves: a predictor need not learn how labels
        grow with the length, only how ranks change.

        Args:
            labels: (n,).
            shares: (n,) share of the final training's steps of each.

        Returns:
            (n,) standardised targets, and (n,) logarithms of the shares, from -1 for the shortest
            to 0 for the longest.

        Raises:
            ValueError: as `learn`.
        """
        targets = np.zeros(len(labels))
        for share in np.unique(shares):
            own = shares == share
            longest = share == shares.max()
            scale = self if longest else Scale(self.target, warped=self.warped)
            if scale is self or own.sum() > 1:
                targets[own] = scale.learn(labels[own])
        length = np.log(shares / shares.max())
        return targets, length / max(float(np.ptp(length)), 1e-12)

    def invert(self, mean: Floats, std: Floats) -> Prediction:
        """Returns a standardised mean and standard deviation in the labels' unit."""
        value, spread = mean * self.std + self.mean, std * self.std
        if self.warped:
            lower = np.clip(value, _LEAST, 0)
            value = self.centre + self.unit * np.where(value < 0, -np.expm1(-lower), value)
            spread = self.unit * np.exp(-lower) * spread
        if self.target == "raw":
            return Prediction(value, spread)
        error = np.exp(-value)
        return Prediction(100 - error, error * spread)

    def to_dict(self) -> dict[str, Any]:
        """Returns the scale as plain JSON types."""
        found: dict[str, Any] = {"target": self.target, "mean": self.mean, "std": self.std}
        return {**found, "warp": [self.centre, self.unit]} if self.warped else found

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Scale:
        """Returns the scale of a mapping that `to_dict` returned."""
        scale = Scale(fields["target"], warped="warp" in fields)
        scale.centre, scale.unit = fields.get("warp", (0.0, 1.0))
        scale.mean, scale.std = fields["mean"], fields["std"]
        return scale
