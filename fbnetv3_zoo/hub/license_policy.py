"""Licence checks: a policy refuses restricted weights; without one, their first use warns.

A licence that is not listed here is not assumed to allow commercial use.

Every door through which trained weights come checks here: names, folders, repositories, checkpoints
and exported files.
"""

from __future__ import annotations

import os
import re
import warnings
from typing import Protocol

VARIABLE = "FBNETV3_LICENSE"
_warned: set[str] = set()
# SPDX names in lower case, as the Hugging Face hub and timm write them, of licences that allow
# commercial use of the licensed work and of works made from it. Some have conditions for
# distribution, such as naming the authors or keeping the licence. Source: the licences' texts.
_COMMERCIAL = frozenset(
    {
        "0bsd",
        "afl-3.0",
        "agpl-3.0",
        "agpl-3.0-only",
        "agpl-3.0-or-later",
        "apache-2.0",
        "artistic-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "cc-by-2.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "ecl-2.0",
        "epl-2.0",
        "eupl-1.2",
        "gpl-2.0",
        "gpl-2.0-only",
        "gpl-2.0-or-later",
        "gpl-3.0",
        "gpl-3.0-only",
        "gpl-3.0-or-later",
        "isc",
        "lgpl-2.1",
        "lgpl-2.1-only",
        "lgpl-2.1-or-later",
        "lgpl-3.0",
        "lgpl-3.0-only",
        "lgpl-3.0-or-later",
        "mit",
        "mit-0",
        "mpl-2.0",
        "ms-pl",
        "odc-by",
        "odc-by-1.0",
        "odbl",
        "odbl-1.0",
        "pddl",
        "pddl-1.0",
        "unlicense",
        "wtfpl",
        "zlib",
    }
)


class Licensed(Protocol):
    """Anything with a name and the name of a licence, as `weights.Weights`."""

    @property
    def name(self) -> str:
        """Of the weights."""

    @property
    def license(self) -> str:
        """SPDX name, in any case."""


def is_commercial(license: str) -> bool:
    """Returns whether a licence, an SPDX name in any case, is known to allow commercial use."""
    return license.strip().lower() in _COMMERCIAL


def is_non_commercial(license: str) -> bool:
    """Returns whether the name of a licence says that it forbids commercial use."""
    parts = license.lower().replace("_", "-").replace(" ", "-").split("-")
    return "nc" in parts or "noncommercial" in "".join(parts)


def terms(license: str) -> str:
    """Returns a licence with what it means for commercial use, "" if there is none."""
    if not license or is_commercial(license):
        return license
    if is_non_commercial(license):
        return f"{license}, non-commercial use only"
    return f"{license}, not known to allow commercial use"


def check_license(weights: Licensed, policy: str | None = None) -> None:
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


def own_license(license: str, *, known: str, source: str) -> str:
    """Returns the licence that a user states for their own weights.

    Args:
        license: SPDX name or expression, in any case.
        known: the licence of the weights that they were made from, "" if there is none.
        source: name of those weights.

    Raises:
        ValueError: it does not look like an SPDX name, or it allows what `known` forbids.
    """
    _refuse_policy(license)
    if not re.fullmatch(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*", license):
        raise ValueError(f"license is {license!r}; expected an SPDX name such as Apache-2.0")
    if is_non_commercial(known) and not is_non_commercial(license):
        raise ValueError(
            f"license is {license!r}, but {source} is licensed {known}: no commercial use, which "
            f"also holds for what is made from it; state {known}, or start from other weights"
        )
    return license


def _refuse_policy(license: str) -> None:
    """Raises a ValueError if a licence is the name of a policy on weights to load."""
    if license.lower() == "commercial":
        raise ValueError(
            f"license is {license!r}, a policy on weights to load; expected an SPDX name such as "
            "Apache-2.0, or LicenseRef-NAME for terms of your own"
        )


def stated_anew(license: str | None, *, known: str) -> str:
    """Returns the licence that a caller states for weights in the place of `known`; None keeps it.

    Raises:
        ValueError: it allows what `known` forbids.
    """
    if license is None:
        return known
    _refuse_policy(license)
    return own_license(license, known=known, source="it") if is_non_commercial(known) else license


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
