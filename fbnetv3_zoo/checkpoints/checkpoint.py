"""Reading and writing tensors: safetensors, and torch checkpoints without executing their pickles.

`torch_pickle` decodes the pickles, and explains why `torch.load` is not used. Both torch formats
are read: the zip archive, and the stream of pickles that torch wrote until 2020. The older tar
format is refused, as by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fbnetv3._internal.files import write_atomically
from fbnetv3._internal.messages import one_line

from .other_files import what_archive, what_else, what_part
from .torch_pickle import Machine, Storage, Stored, describe, unpickle
from .training_checkpoint import Taken, find_weights, plain_names

# The first value of every file in the stream-of-pickles format.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_NUM_LISTED = 8
_COUNTER = "num_batches_tracked"
# Tied weights are stored once under several names; more copies than this are an attack.
_MAX_COPIES = 4

# Everything that decoding a damaged or malicious file can raise. OSError is left out, so that
# disk errors are reported as such.
_DECODE_ERRORS = (
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,  # if the caller turns warnings into errors
    struct.error,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of `read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Taken]:
    """Returns name -> contiguous CPU tensor, and what was taken; no two tensors share memory.

    The format is detected from the content: safetensors, torch zip or torch stream of pickles. From
    a training checkpoint the EMA (exponential moving average) weights are read, else the raw ones,
    and what wrappers put before the names is removed; `training_checkpoint` lists the dialects.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or not a checkpoint; the message says what it contains.
    """
    _check_file(path)
    content = path.read_bytes()
    try:
        if "-of-" in path.name and (part := what_part(path.name)):
            raise ValueError(part)
        return _read_content(content)
    except _DECODE_ERRORS as error:
        reason = one_line(str(error) or type(error).__name__)
        raise ValueError(
            f"cannot read checkpoint {path} ({len(content)} bytes): {reason}. Expected a "
            "safetensors file or a torch checkpoint that maps names to tensors; a model that was "
            "pickled whole is not executed: save its state_dict(). If the file is damaged, "
            "download it again"
        ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise FileNotFoundError(
            f"{path} is a folder; expected a checkpoint file in it. A folder that "
            f"save_pretrained wrote is the model local-dir:{path}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint file at {path}; check the path or download it again"
        )


def read_own_tensors(path: Path) -> dict[str, Tensor]:
    """Returns what `write_tensors` wrote, under the names that it was given.

    `read_tensors` looks for a model in the file and changes names; this does not.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or not safetensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no safetensors file at {path}; check the path")
    try:
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))
    except _DECODE_ERRORS as error:
        raise ValueError(
            f"cannot read {path}: {one_line(str(error))}. Expected a safetensors file"
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata in the header of a safetensors file, {} if there is none.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or not safetensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no safetensors file at {path}; check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except _DECODE_ERRORS as error:
        raise ValueError(
            f"cannot read the metadata of {path}: {one_line(str(error))}. Expected a safetensors "
            "file; write one with fbnetv3.checkpoints.checkpoint.write_tensors()"
        ) from error


def stated_license(path: Path) -> str:
    """Returns the licence in the header of a safetensors file, "" if it or the file has none.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    _check_file(path)
    try:
        return read_metadata(path).get("license", "")
    except ValueError:  # another format
        return ""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file atomically.

    Args:
        path: the file to write.
        tensors: name -> tensor, on any device; tied tensors are written separately.
        metadata: entries of the file's header.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    # Cloned, because safetensors refuses tensors that share memory, such as tied weights.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomically(path, _with_sorted_metadata(safetensors.torch.save(copies, dict(metadata))))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Returns a safetensors file with the metadata in order, which the library draws by chance."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # as the library aligns the tensors
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def load_strict(
    model: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool = False, source: str
) -> None:
    """Loads every tensor into `model`, or none of them.

    Args:
        model: the model to load into; with `assign` it may be on the meta device.
        tensors: exactly one per parameter and persistent buffer; counters of batches, which old
            checkpoints lack and nothing here depends on, are 0 if they are missing.
        assign: use the tensors themselves as parameters instead of copying their values.
        source: where the tensors come from, for error messages.

    Raises:
        ValueError: names or shapes differ, or numbers are not finite; the message lists them.
    """
    own = model.state_dict()
    means = {
        name: tensors.get(name.removesuffix(_COUNTER) + "running_mean")
        for name in own
        if name.endswith(_COUNTER) and name not in tensors
    }
    tensors = {
        **tensors,
        **{
            name: torch.zeros((), dtype=torch.int64, device=mean.device)
            for name, mean in means.items()
            if mean is not None
        },
    }
    findings = [
        _listing("missing", [name for name in own if name not in tensors]),
        _listing("unexpected", [name for name in tensors if name not in own]),
        _listing(
            "of a different shape",
            [
                f"{name} {tuple(tensors[name].shape)} (model: {tuple(own[name].shape)})"
                for name in own
                if name in tensors and tensors[name].shape != own[name].shape
            ],
        ),
        _listing(
            "of another kind of numbers",
            [
                f"{name} {tensors[name].dtype} (model: {own[name].dtype})"
                for name in own
                if name in tensors and not _converts(tensors[name].dtype, own[name].dtype)
            ],
        ),
    ]
    if any(findings):
        raise ValueError(
            f"weights from {source} do not fit {type(model).__name__}: "
            + "; ".join(finding for finding in findings if finding)
            + f". Expected exactly the model's {len(own)} entries; check that the architecture, "
            "the number of classes and the checkpoint layout belong together"
        )
    _check_finite(tensors, source)
    model.load_state_dict(tensors, strict=True, assign=assign)


def _converts(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Returns whether numbers of one type mean the same as another's, as those of an int8 don't."""
    return given.is_floating_point or (not wanted.is_floating_point and not given.is_complex)


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuses NaN and infinity, with which a model's answers mean nothing."""
    wrong = {
        name: int((~torch.isfinite(tensor)).sum())
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all()
    }
    if wrong:
        items = [f"{name} ({num} of {tensors[name].numel()})" for name, num in wrong.items()]
        raise ValueError(
            f"weights from {source} have numbers that are NaN or infinite, in "
            f"{_listing('tensors', items)}; a training that diverged writes such a file. Take an "
            "earlier checkpoint, or train with a lower learning rate"
        )


def _listing(heading: str, items: list[str]) -> str:
    if not items:
        return ""
    rest = f", ... ({len(items) - _NUM_LISTED} more)" if len(items) > _NUM_LISTED else ""
    return f"{len(items)} {heading}: {', '.join(items[:_NUM_LISTED])}{rest}"


def _read_content(content: bytes) -> tuple[dict[str, Tensor], Taken]:
    # Checked first: its header starts with a length, which may look like any other format.
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8:
        # Sorted, because the order that the library returns changes from call to call.
        tensors = dict(sorted(safetensors.torch.load(content).items()))
        return plain_names(tensors)
    if content.startswith(b"PK\x03\x04"):
        return _read_zip(content)
    if content.startswith(b"\x80"):
        return _read_legacy(content)
    raise ValueError(what_else(content))


def _read_zip(content: bytes) -> tuple[dict[str, Tensor], Taken]:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is a zip archive that is cut off or damaged")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        roots = [
            name.removesuffix("/data.pkl")
            for name in names
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if not roots:
            raise ValueError(what_archive(names))
        if len(roots) > 1:
            raise ValueError(f"this zip archive has {len(roots)} data.pkl files; expected 1")
        root = roots[0]
        if f"{root}/constants.pkl" in names:
            raise ValueError(
                "it is a TorchScript program; save the state_dict() of the model that it was made "
                "from"
            )
        if f"{root}/byteorder" in names:
            _check_byte_order(_read_stored(archive, f"{root}/byteorder").decode("ascii"))
        found = unpickle(io.BytesIO(_read_stored(archive, f"{root}/data.pkl")))

        @functools.cache
        def storage_content(storage: Storage) -> bytes:
            return _read_stored(archive, f"{root}/data/{storage.key}")

        return _materialised(found, storage_content, len(content))


def _read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch never compresses; a compressed member could decompress to any size.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} in this zip archive is compressed; torch writes it uncompressed")
    return archive.read(name)


def _read_legacy(content: bytes) -> tuple[dict[str, Tensor], Taken]:
    stream = io.BytesIO(content)
    head = [unpickle(stream)]
    if head == [_LEGACY_MAGIC]:
        head.append(unpickle(stream))
    if head != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise ValueError(f"it is a pickle of {describe(head[0])}, not written by torch.save()")
    system = unpickle(stream)
    little = not isinstance(system, dict) or system.get("little_endian", True)
    _check_byte_order("little" if little else "big")
    machine = Machine()
    found = machine.run(stream)
    keys = unpickle(stream)
    if not isinstance(keys, list):
        raise ValueError(f"its list of storages is {describe(keys)}; expected a list")

    spans: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys:
        (num_elements,) = struct.unpack_from("<q", content, position)
        start = position + 8
        position = start + num_elements * machine.storages[key].dtype.itemsize
        if not start <= position <= len(content):
            raise ValueError(f"it ends inside storage {key!r}; it is truncated or damaged")
        spans[key] = (start, position)

    def storage_content(storage: Storage) -> memoryview:
        start, stop = spans[storage.key]
        return memoryview(content)[start:stop]

    return _materialised(found, storage_content, len(content))


def _check_byte_order(order: str) -> None:
    if order != "little":
        raise ValueError(f"its numbers are {order}-endian; only little-endian files are read")


def _materialised(
    content: object,
    storage_content: Callable[[Storage], bytes | memoryview],
    num_bytes: int,
) -> tuple[dict[str, Tensor], Taken]:
    """Returns the tensors, after checking that they fit in a file of `num_bytes`."""
    named, taken = find_weights(content)
    storages = {stored.storage for stored in named.values()}
    stored_bytes = sum(storage.num_elements * storage.dtype.itemsize for storage in storages)
    tensor_bytes = sum(
        math.prod(stored.size) * stored.storage.dtype.itemsize for stored in named.values()
    )
    if stored_bytes > num_bytes or tensor_bytes > _MAX_COPIES * num_bytes:
        raise ValueError(
            f"it claims {stored_bytes} bytes of numbers for {tensor_bytes} bytes of tensors, more "
            f"than a file of {num_bytes} bytes can hold"
        )
    tensors = {name: _materialise(name, value, storage_content) for name, value in named.items()}
    return tensors, taken


def _materialise(
    name: str, stored: Stored, storage_content: Callable[[Storage], bytes | memoryview]
) -> Tensor:
    storage, size = stored.storage, stored.size
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    stop = stored.offset + 1 + sum((n - 1) * s for n, s in zip(size, stored.stride, strict=True))
    # With a stride of 0 a tensor of any size needs only a few bytes.
    if max(stop, math.prod(size)) > storage.num_elements:
        raise ValueError(f"{name!r} claims more numbers than the {storage.num_elements} stored")
    width = storage.dtype.itemsize
    content = storage_content(storage)
    if len(content) != storage.num_elements * width:
        raise ValueError(
            f"{name!r} is stored in {len(content)} bytes; expected {storage.num_elements * width}"
        )
    numbers = bytearray(memoryview(content)[stored.offset * width : stop * width])
    flat = torch.frombuffer(numbers, dtype=storage.dtype)
    return flat.as_strided(size, stored.stride).clone(memory_format=torch.contiguous_format)
