"""Checkpoints of a run: tensors in safetensors, the rest in JSON, the newest two kept.

The JSON file is written last and holds the digest of the tensors' file: with it the checkpoint
exists. A process killed at any moment leaves the checkpoint before it whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fbnetv3._internal.files import sha256_of, write_atomically
from fbnetv3.checkpoints.checkpoint import read_own_tensors, write_tensors

NUM_KEPT = 2
_STEM = "step-"


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    *,
    kept: int = NUM_KEPT,
) -> None:
    """Writes the checkpoint of a step, then removes all but the newest `kept`.

    The license in the record is stated in the head of the tensors too.

    Raises:
        OSError: the disk is full or not writable; the checkpoints before are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{_STEM}{step:010d}"
    data, head = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    try:
        license = record.get("license")
        write_tensors(data, tensors, {"license": license} if license else {})
        content = {**record, "step": step, "sha256": sha256_of(data)}
        write_atomically(head, json.dumps(content, indent=1).encode())
    except OSError as error:
        data.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"cannot write the checkpoint of step {step} ({error.strerror}); the one before it is "
            "whole: make room and start the same command again",
            str(data),
        ) from error
    for old in _heads(folder)[:-kept]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Returns (tensors, record) of the newest whole checkpoint, None where there is none.

    Leftovers of a killed process are removed.

    Raises:
        ValueError: there are checkpoints and none of them is whole.
    """
    for leftover in folder.glob("*.tmp"):
        leftover.unlink(missing_ok=True)
    heads = _heads(folder)
    for orphan in set(folder.glob(f"{_STEM}*.safetensors")):
        if orphan.with_suffix(".json") not in heads:
            orphan.unlink(missing_ok=True)
    for head in reversed(heads):
        data = head.with_suffix(".safetensors")
        try:
            record = json.loads(head.read_bytes())
            if data.is_file() and record["sha256"] == sha256_of(data):
                return read_own_tensors(data), record
        except (ValueError, KeyError, TypeError):
            continue
    if heads:
        raise ValueError(f"no checkpoint in {folder} is whole; remove the folder to start again")
    return None


def _heads(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_STEM}*.json"))
