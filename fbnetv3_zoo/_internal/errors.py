"""The exceptions that a caller may want to catch. Each is also a built-in exception.

    FBNetV3Error
        FetchError      FileNotFoundError   weights or another file cannot be downloaded
        StoreError      RuntimeError        the search directory is locked, full or damaged
        TrialError      RuntimeError        too many trials of a search failed in a row
        Diverged        ArithmeticError     the training loss became NaN or infinite
        OverBudget      ValueError          an int8 file loses more accuracy than allowed

They mean that a valid request failed; commands exit with code 1. A wrong value, path or file raises
a plain ValueError or FileNotFoundError, a missing optional library an ImportError.
"""

from __future__ import annotations


class FBNetV3Error(Exception):
    """A valid request failed."""


class FetchError(FBNetV3Error, FileNotFoundError):
    """A download failed: no network, no such file, or a full disk. Nothing was changed."""


class StoreError(FBNetV3Error, RuntimeError):
    """The search directory is locked, full or damaged. The message says what to do."""


class TrialError(FBNetV3Error, RuntimeError):
    """Too many trials failed in a row to continue the search."""


class OverBudget(FBNetV3Error, ValueError):  # noqa: N818  # a verdict on the model
    """An int8 file loses more accuracy than its budget allows; it was not written."""


class Diverged(FBNetV3Error, ArithmeticError):  # noqa: N818  # a verdict on the recipe
    """The loss became NaN or infinite, which is a result about the architecture and the recipe.

    Attributes:
        epoch: the epoch in which it happened, from 1.
        curve: the log of the epochs before it.
    """

    def __init__(self, message: str, *, epoch: int, curve: tuple[object, ...]) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.curve = curve
