"""Who may use which weights: a policy refuses, its absence warns once."""

from __future__ import annotations

import os
import warnings

from .weights import Weights, is_commercial

VARIABLE = "FBNETV3_LICENSE"
_warned: set[str] = set()


def check_license(weights: Weights, policy: str | None = None) -> None:
    """Refuses weights that a policy forbids; without a policy says once that they are restricted.

    Args:
        weights: what is about to be used.
        policy: "commercial" allows only licences for commercial use; None asks the environment
            variable FBNETV3_LICENSE, which may be "commercial" or empty.

    Raises:
        ValueError: the licence forbids commercial use, or there is no such policy.
    """
    check_terms(weights.name, weights.license, policy)


def check_terms(name: str, license: str, policy: str | None = None) -> None:
    """Does the same for anything with a name and an SPDX licence name, in any case of letters.

    Raises:
        ValueError: as `check_license`.
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
            f"{name} is licensed {license}: no commercial use, which the policy 'commercial' asks "
            "for. Take other weights, see fbnetv3.list_weights(license='commercial')"
        )
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} is licensed {license}: non-commercial use only. Set license='commercial' to "
            "be refused such weights",
            stacklevel=4,
        )
