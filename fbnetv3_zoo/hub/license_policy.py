"""Licence checks: a policy refuses restricted weights; without one, their first use warns.

Every door through which trained weights come checks here: names, folders, repositories, checkpoints
and exported files.
"""

from __future__ import annotations

import os
import warnings

from .licenses import is_commercial, is_non_commercial, terms
from .weights import Weights

VARIABLE = "FBNETV3_LICENSE"
_warned: set[str] = set()


def check_license(weights: Weights, policy: str | None = None) -> None:
    """Refuses weights that a policy forbids; without a policy warns once that they are restricted.

    Args:
        weights: the weights to check.
        policy: "commercial" accepts only licences that are known to allow commercial use; None
            reads the environment variable FBNETV3_LICENSE, which may be "commercial" or empty.

    Raises:
        ValueError: the policy refuses the licence, or is unknown.
    """
    check_terms(weights.name, weights.license, policy)


def check_terms(name: str, license: str, policy: str | None = None) -> None:
    """As `check_license`, for a name and an SPDX licence name in any case, "" if there is none.

    Raises:
        ValueError: as in `check_license`.
    """
    policy = effective_policy(policy)
    if is_commercial(license):
        return
    if policy == "commercial":
        if not license:
            raise ValueError(
                f"{name} states no licence, and the policy 'commercial' requires one that allows "
                "commercial use. If the weights are yours, state it: "
                "fbnetv3.save_pretrained(model, folder, license='apache-2.0')"
            )
        why = "no" if is_non_commercial(license) else "not known to allow"
        raise ValueError(
            f"{name} is licensed {license}: {why} commercial use, which the policy 'commercial' "
            "requires. Choose other weights, see fbnetv3.list_weights(license='commercial')"
        )
    if license and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} is licensed {terms(license).replace(', ', ': ')}. Set license='commercial' to "
            "refuse such weights",
            stacklevel=4,
        )


def effective_policy(policy: str | None) -> str | None:
    """Returns the policy in force; None reads FBNETV3_LICENSE.

    Raises:
        ValueError: the policy is unknown.
    """
    policy = policy if policy is not None else os.environ.get(VARIABLE) or None
    if policy not in (None, "commercial"):
        raise ValueError(
            f"license policy is {policy!r}; expected 'commercial' or None (license= or the "
            f"environment variable {VARIABLE})"
        )
    return policy
