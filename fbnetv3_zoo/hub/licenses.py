"""Which licences allow commercial use. A licence that is not listed here is not assumed to."""

from __future__ import annotations

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
