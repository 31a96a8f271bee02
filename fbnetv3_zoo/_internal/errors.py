"""The errors that a caller may want to catch, one tree; each is a standard error as well.

    FBNetV3Error
        FetchError      FileNotFoundError   weights or another file cannot be brought here
        StoreError      RuntimeError        a search's folder is locked, full or damaged
        TrialError      RuntimeError        the trials of a search fail one after another
        Diverged        ArithmeticError     a training's loss is no longer a number

The work failed though what was asked for was right: commands end with exit code 1. A wrong value,
path or file is a plain ValueError or FileNotFoundError, an optional library that is not installed
an ImportError.
"""

from __future__ import annotations


class FBNetV3Error(Exception):
    """The work failed though what was asked for was right."""


class FetchError(FBNetV3Error, FileNotFoundError):
    """A file could not be brought here: no network, no such file, no room. Nothing was changed."""


class StoreError(FBNetV3Error, RuntimeError):
    """The search's folder cannot be used: locked, full or damaged. The message says what to do."""


class TrialError(FBNetV3Error, RuntimeError):
    """Trials fail one after another, so that going on makes no sense."""


class Diverged(FBNetV3Error, ArithmeticError):  # noqa: N818  # a verdict on the recipe
    """The loss is no longer a number: a result about network and recipe.

    Attributes:
        epoch: in which it happened, from 1.
        curve: the log of the epochs before.
    """

    def __init__(self, message: str, *, epoch: int, curve: tuple[object, ...]) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.curve = curve
