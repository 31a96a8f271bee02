"""The licence of a file of weights: that in its header, else what the cache knows of the file."""

from __future__ import annotations

from pathlib import Path

from fbnetv3._internal.files import sha256_of
from fbnetv3._internal.json_record import read_json
from fbnetv3.checkpoints.checkpoint import stated_license

from .cache import cache_dir
from .weights import WEIGHTS

# Said of a file in the official layout, whose licence is not known.
PERHAPS_OFFICIAL = (
    "it has Meta's layout and states no licence; Meta's own weights are licensed CC-BY-NC-4.0: "
    "non-commercial use only"
)


def license_of_file(path: Path) -> str:
    """Returns the SPDX name of the licence of a file of weights, "" if it is not known.

    A published pickle states none. A copy of one that this machine has downloaded is known by the
    SHA-256 that was recorded then.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    stated = stated_license(path)
    if stated:
        return stated
    recorded = _recorded()
    return recorded.get(sha256_of(path), "") if recorded else ""


def _recorded() -> dict[str, str]:
    """Returns SHA-256 -> licence of the files in the cache."""
    found: dict[str, str] = {}
    folder = cache_dir()
    for weights in WEIGHTS.values():
        try:
            facts = read_json((folder / f"{weights.name}.json").read_text(), weights.name)
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict):
            hashes = (facts.get(key) for key in ("published_sha256", "second_sha256"))
            found |= {sha256: weights.license for sha256 in hashes if isinstance(sha256, str)}
    return found
