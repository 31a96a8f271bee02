"""Files that people take for checkpoints: what one is, and what to do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from fbnetv3._internal.messages import one_line

_NUM_SHOWN = 80
_ONE_FILE = 'in transformers with save_pretrained(..., max_shard_size="50GB")'
_TAR, _TAR_AT = b"ustar", 257
# Beginning of the file -> what it is, and the next step.
_BEGINNINGS = {
    b"version https://git-lfs": "it is a pointer of git-lfs, not the file itself: `git lfs pull` "
    "in its repository fetches that",
    b"\x1f\x8b": "it is packed with gzip: unpack it first",
    b"BZh": "it is packed with bzip2: unpack it first",
    b"\xfd7zXZ\x00": "it is packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "it is a 7z archive: unpack it first",
    b"\x89HDF\r\n\x1a\n": "it is an HDF5 file, as Keras writes: another library's weights",
    b"\x93NUMPY": "it is an array of numpy: save a mapping of names to tensors",
}


def what_else(content: bytes) -> str:
    """Returns what a file is that has no checkpoint's beginning, and the next step if known."""
    if not content:
        return "the file is empty"
    known = [what for beginning, what in _BEGINNINGS.items() if content.startswith(beginning)]
    if content[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        known = ["it is a tar archive: unpack it first"]
    if content[8:10] == b'{"':
        known = ["it is a safetensors file that is cut off in its header"]
    if known:
        return known[0]
    text = content[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!", b"<html", b"<head", b"<?xml")):
        return "it is a web page, perhaps an error page of the server"
    if text.startswith((b"{", b"[")):
        return _json(content)
    # Version of the format, then the name of the program that wrote it.
    if content[:1] == b"\x08" and content[2:3] == b"\x12":
        return (
            "it seems to be an ONNX file, which is an exported model: `fbnetv3 classify --model` "
            "and `fbnetv3 eval` take it as it is"
        )
    return f"it starts with {content[:16]!r}, so it is not a checkpoint"


def what_part(name: str) -> str:
    """Returns what a file is by a name such as model-00001-of-00002.safetensors, "" if no part."""
    found = re.search(r"-(\d{5})-of-(\d{5})\.", name)
    if not found or int(found[2]) < 2:
        return ""
    return (
        f"it is part {int(found[1])} of {int(found[2])} of a network's weights; save them in one "
        f"file, {_ONE_FILE}"
    )


def _json(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    files = found.get("weight_map") if isinstance(found, dict) else None
    if isinstance(files, dict):
        return (
            f"it is the index of weights in {len(set(map(str, files.values())))} files; save them "
            f"in one, {_ONE_FILE}"
        )
    shown = one_line(content[:_NUM_SHOWN].decode(errors="replace"))
    return f"it is JSON, perhaps an error of the server: {shown}"


def what_archive(names: Collection[str]) -> str:
    """Returns what a zip archive without a torch pickle is, by the names in it."""
    if names and all(name.endswith(".npy") for name in names):
        return (
            "it is a numpy archive (.npz): make tensors of its arrays with torch.from_numpy, and "
            "save the mapping of names to them with torch.save"
        )
    if any(
        name.endswith(("/archive_format", "/serialized_exported_program.json")) for name in names
    ):
        return (
            "it is a program of torch.export (.pt2): save the state_dict() of the model that it "
            "was exported from"
        )
    inside = [name for name in names if not name.endswith("/")]
    shown = ", ".join(one_line(name, _NUM_SHOWN) for name in inside[:3])
    return (
        "it is a zip archive that torch.save did not write"
        + (f"; it has {shown}{', ...' if len(inside) > 3 else ''}" if inside else "")
        + ": unpack it first if these are checkpoints"
    )
