"""Licence checks: a policy refuses restricted weights; without one, their first use warns."""

from __future__ import annotations

import os
import warnings

from .weights import Weights, is_commercial

VARIABLE = "FBNETV3_LICENSE"
_warned: set[str] = set()


def check_license(weights: Weights, policy: str | None = None) -> None:
    """Refuses weights that a policy forbids; without a policy warns once that they are restricted.

    Args:
        weights: the weights to check.
        policy: "commercial" accepts only licences that allow commercial use; None reads the
            environment variable FBNETV3_LICENSE, which may be "commercial" or empty.

    Raises:
        ValueError: the policy refuses the licence, or is unknown.
    """
    check_terms(weights.name, weights.license, policy)


def check_terms(name: str, license: str, policy: str | None = None) -> None:
    """As `check_license`, for a name and an SPDX licence name in upper or lower case.

    Raises:
        ValueError: as in `check_license`.
    """
    policy = policy if policy is not None else os.environ.get(VARIABLE) or None
    if policy not in (None, "commercial"):
        raise ValueError(
            f"license policy is {policy!r}; expected 'commercial' or None (license= or the "
            f"environment variable {VARIABLE})"
        )
    if is_commercial(license):
        return
    if policy == "commercial":
        raise ValueError(
            f"{name} is licensed {license}: no commercial use, which the policy 'commercial' "
            "requires. Choose other weights, see fbnetv3.list_weights(license='commercial')"
        )
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} is licensed {license}: non-commercial use only. Set license='commercial' to "
            "refuse such weights",
            stacklevel=4,
        )
