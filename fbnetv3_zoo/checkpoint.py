"""Tensors from files and back: torch pickles that are read without being run, and safetensors.

A pickle is a program. Here its instructions are decoded and only those that build plain data are
followed: a class or function that the file names is never imported and never called, it becomes
an inert stand-in. `torch.load` is not used, because beside the pickle it also unpacks tar files,
compares class sources and hands TorchScript archives to a compiler. Both torch layouts are read:
the zip archive, and the stream of pickles that torch wrote until 2020.

The edge of this file: it knows files, names and tensors, and no model.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import pickletools
import struct
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

# The first value of every file in the stream-of-pickles layout.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# In this order: averaged weights are the ones that were evaluated.
_WRAPPERS = ("model_ema", "state_dict", "model")
_NUM_LISTED = 8

_STORAGE_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}

# Everything that decoding a damaged or hostile file can raise. OSError is not among them: a disk
# that fails is reported as such.
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
    struct.error,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
)

_Value = TypeVar("_Value")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns name -> contiguous CPU tensor; no two tensors share memory.

    The layout is told from the content: safetensors, torch zip or torch stream of pickles. Of a
    training checkpoint the averaged weights (`model_ema`) are taken, else `state_dict`, else
    `model`. One leading `module.` is dropped from each name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is no checkpoint; names what was found in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}; check the path or fetch it again")
    content = path.read_bytes()
    try:
        return _read_content(content)
    except _DECODE_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"cannot read checkpoint {path} ({len(content)} bytes): {reason}. Expected a "
            "safetensors file or a torch checkpoint that maps names to tensors; delete the file "
            "and fetch it again, or give another one"
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the text entries in the head of a safetensors file, {} if it has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not safetensors, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no safetensors file at {path}; check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except _DECODE_ERRORS as error:
        raise ValueError(
            f"cannot read metadata of {path}: {error}. Expected a safetensors file; "
            "write one with fbnetv3.checkpoint.write_tensors()"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file; `path` holds either what it held before or all of it.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_atomically(path, safetensors.torch.save(copies, dict(metadata)))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file by way of a neighbour that is renamed onto it, or removed on failure.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_strict(
    model: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool = False, source: str
) -> None:
    """Loads every tensor into `model`, or none of them.

    Args:
        model: what is loaded into; with `assign` it may live on the meta device.
        tensors: one for each parameter and persistent buffer, and no others.
        assign: put the tensors themselves into the model in place of copying their values.
        source: where the tensors come from, for the error.

    Raises:
        ValueError: names differ or shapes differ; lists both sides.
    """
    own = model.state_dict()
    findings = [
        _listing("missing from it", [name for name in own if name not in tensors]),
        _listing("left over in it", [name for name in tensors if name not in own]),
        _listing(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} (model: {tuple(own[name].shape)})"
                for name in own
                if name in tensors and tensors[name].shape != own[name].shape
            ],
        ),
    ]
    if any(findings):
        raise ValueError(
            f"weights from {source} do not fit {type(model).__name__}: "
            + "; ".join(finding for finding in findings if finding)
            + f". Expected exactly the model's {len(own)} entries; check that the architecture, "
            "the number of classes and the checkpoint dialect belong together"
        )
    model.load_state_dict(dict(tensors), strict=True, assign=assign)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 lower-case hex digits, without reading it at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(heading: str, items: list[str]) -> str:
    if not items:
        return ""
    rest = f", ... ({len(items) - _NUM_LISTED} more)" if len(items) > _NUM_LISTED else ""
    return f"{len(items)} {heading}: {', '.join(items[:_NUM_LISTED])}{rest}"


def _read_content(content: bytes) -> dict[str, Tensor]:
    if content.startswith(b"PK\x03\x04"):
        return _read_zip(content)
    if content.startswith(b"\x80"):
        return _read_legacy(content)
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8:
        return _strip_module(safetensors.torch.load(content))
    if not content:
        raise ValueError("the file is empty")
    start = content[:256].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError("it is a web page, perhaps a host's error page")
    raise ValueError(f"it starts with {content[:16]!r}, which no checkpoint does")


def _read_zip(content: bytes) -> dict[str, Tensor]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        roots = [
            name.removesuffix("/data.pkl")
            for name in archive.namelist()
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise ValueError(f"this zip archive has {len(roots)} data.pkl; expected 1")
        root = roots[0]
        if f"{root}/byteorder" in archive.namelist():
            _check_byte_order(_read_stored(archive, f"{root}/byteorder").decode("ascii"))
        found = _Machine().run(io.BytesIO(_read_stored(archive, f"{root}/data.pkl")))

        @functools.cache
        def storage_content(storage: _Storage) -> bytes:
            return _read_stored(archive, f"{root}/data/{storage.key}")

        return _materialise_all(_unwrap(found), storage_content)


def _read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    # torch never compresses; a compressed member could unpack to any size.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} in this zip archive is compressed; torch writes it plain")
    return archive.read(name)


def _read_legacy(content: bytes) -> dict[str, Tensor]:
    stream = io.BytesIO(content)
    head = [_Machine().run(stream)]
    if head == [_LEGACY_MAGIC]:
        head.append(_Machine().run(stream))
    if head != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise ValueError(f"it is a pickle of {_describe(head[0])}, not written by torch.save()")
    system = _Machine().run(stream)
    little = not isinstance(system, dict) or system.get("little_endian", True)
    _check_byte_order("little" if little else "big")
    machine = _Machine()
    found = machine.run(stream)
    keys = _Machine().run(stream)
    if not isinstance(keys, list):
        raise ValueError(f"its list of storages is {_describe(keys)}; expected a list")

    spans: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys:
        (num_elements,) = struct.unpack_from("<q", content, position)
        start = position + 8
        position = start + num_elements * machine.storages[key].dtype.itemsize
        if not start <= position <= len(content):
            raise ValueError(f"it ends inside storage {key!r}; it is cut off or damaged")
        spans[key] = (start, position)

    def storage_content(storage: _Storage) -> memoryview:
        start, stop = spans[storage.key]
        return memoryview(content)[start:stop]

    return _materialise_all(_unwrap(found), storage_content)


def _check_byte_order(order: str) -> None:
    if order != "little":
        raise ValueError(f"its numbers are {order}-endian; only little-endian files are read")


@dataclass(frozen=True)
class _Global:
    """A class or function that the file names; never imported, never called."""

    name: str


@dataclass(frozen=True, eq=False)
class _Inert:
    """Stands for an object of an unknown class; whatever is done to it is dropped."""

    class_name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    num_elements: int


@dataclass(frozen=True)
class _Stored:
    """A tensor whose numbers are still in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Machine:
    """Follows the instructions of one pickle, as far as they build plain data."""

    def __init__(self) -> None:
        self.storages: dict[object, _Storage] = {}
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[object, object] = {}

    def run(self, stream: io.BytesIO) -> object:
        """Returns the pickled value; leaves `stream` behind it."""
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"pickle instruction {opcode.name} has no place in a checkpoint")
        return self._stack.pop()

    def mark(self, _: object) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def pop_to_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._outer_stacks.pop()
        return items

    def discard_to_mark(self, _: object) -> None:
        self.pop_to_mark()

    def pop(self, _: object) -> None:
        self._stack.pop()

    def duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def put(self, index: object) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: object) -> None:
        self._stack.append(self._memo[index])

    def none(self, _: object) -> None:
        self._stack.append(None)

    def true(self, _: object) -> None:
        self._stack.append(True)

    def false(self, _: object) -> None:
        self._stack.append(False)

    def empty_list(self, _: object) -> None:
        self._stack.append([])

    def empty_dict(self, _: object) -> None:
        self._stack.append({})

    def empty_tuple(self, _: object) -> None:
        self._stack.append(())

    def empty_set(self, _: object) -> None:
        self._stack.append(_Inert("builtins.set"))

    def tuple_1(self, _: object) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def tuple_2(self, _: object) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple_3(self, _: object) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def marked_tuple(self, _: object) -> None:
        items = self.pop_to_mark()
        self._stack.append(tuple(items))

    def marked_list(self, _: object) -> None:
        items = self.pop_to_mark()
        self._stack.append(items)

    def marked_dict(self, _: object) -> None:
        items = self.pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def marked_frozenset(self, _: object) -> None:
        self.pop_to_mark()
        self._stack.append(_Inert("builtins.frozenset"))

    def append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: object) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, _Inert):
            raise ValueError(f"the pickle appends to {_describe(target)}")

    def set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def set_items(self, _: object) -> None:
        self._set_items(self.pop_to_mark())

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_entries(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, _Inert):
            raise ValueError(f"the pickle sets items of {_describe(target)}")

    def name_global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(_Global(f"{module}.{name}"))

    def name_stacked_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("the pickle names a class by something other than text")
        self._stack.append(_Global(f"{module}.{name}"))

    def construct(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        self._stack.append(_construct(called, arguments))

    def construct_with_keywords(self, _: object) -> None:
        self._stack.pop()
        self.construct(None)

    def build(self, _: object) -> None:
        # The state of an object: nothing that tensors need is kept in one.
        self._stack.pop()

    def load_persistent(self, _: object) -> None:
        match self._stack.pop():
            case ("storage", _Global(name), str(key), str(), int(num_elements), *views):
                storage = _Storage(key, _storage_dtype(name), num_elements)
                if any(view is not None for view in views):
                    raise ValueError(f"storage {key!r} is a view, as torch wrote before 2017 only")
                self.storages[key] = storage
                self._stack.append(storage)
            case ("module", _Global(name), *_):
                self._stack.append(_Global(name))
            case other:
                raise ValueError(f"a storage is given by {_describe(other)}; expected its record")


_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)

_INSTRUCTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.discard_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "NONE": _Machine.none,
    "NEWTRUE": _Machine.true,
    "NEWFALSE": _Machine.false,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_TUPLE": _Machine.empty_tuple,
    "EMPTY_SET": _Machine.empty_set,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "TUPLE": _Machine.marked_tuple,
    "LIST": _Machine.marked_list,
    "DICT": _Machine.marked_dict,
    "FROZENSET": _Machine.marked_frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name_global,
    "STACK_GLOBAL": _Machine.name_stacked_global,
    "REDUCE": _Machine.construct,
    "NEWOBJ": _Machine.construct,
    "NEWOBJ_EX": _Machine.construct_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}


def _construct(called: object, arguments: object) -> object:
    name = called.name if isinstance(called, _Global) else _describe(called)
    if name in _CONSTRUCTORS and isinstance(arguments, tuple):
        return _CONSTRUCTORS[name](*arguments)
    return _Inert(name)


def _entries(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    # Hashing a tuple recurses in C, and a hostile file can nest it deep enough to crash: keys
    # other than plain scalars are replaced, since no tensor has such a name.
    return {
        key if isinstance(key, str | int | float | None) else _Inert(type(key).__name__): value
        for key, value in pairs
    }


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"an OrderedDict is made of {_describe(pairs)}; expected pairs")
    return _entries((key, value) for key, value in pairs)


def _tensor(storage: object, offset: object, size: object, stride: object) -> _Stored:
    if not isinstance(storage, _Storage):
        raise ValueError(f"a tensor is made of {_describe(storage)}; expected a storage")
    (start,) = _whole_numbers((offset,))
    stored = _Stored(storage, start, _whole_numbers(size), _whole_numbers(stride))
    if len(stored.size) != len(stored.stride):
        raise ValueError(f"a tensor has size {stored.size} but stride {stored.stride}")
    return stored


def _tensor_v2(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    _requires_grad: object,
    _hooks: object,
    metadata: object = None,
) -> _Stored:
    if metadata:
        raise ValueError("a tensor is marked as conjugated or negated, which is not supported")
    return _tensor(storage, offset, size, stride)


def _parameter(
    data: object, _requires_grad: object, _hooks: object, _state: object = None
) -> object:
    return data


def _tensor_with_attributes(
    called: object, _class: object, arguments: object, _state: object
) -> object:
    return _construct(called, arguments)


_CONSTRUCTORS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": lambda size: _whole_numbers(size),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
}


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple):
        raise ValueError(f"a tensor's shape is {_describe(values)}; expected a tuple")
    numbers = tuple(value for value in values if isinstance(value, int) and value >= 0)
    if len(numbers) != len(values):
        raise ValueError("a tensor's shape has an entry that is no whole number")
    return numbers


def _storage_dtype(name: str) -> torch.dtype:
    package, _, storage_class = name.rpartition(".")
    if package not in ("torch", "torch.cuda") or storage_class not in _STORAGE_DTYPES:
        raise ValueError(f"storage type {name!r} is unknown; expected one of {_STORAGE_DTYPES}")
    return _STORAGE_DTYPES[storage_class]


def _unwrap(found: object) -> dict[str, _Stored]:
    where = "it"
    if isinstance(found, dict):
        for wrapper in _WRAPPERS:
            inner = found.get(wrapper)
            if inner is not None and not isinstance(inner, _Stored):
                where, found = f"its entry {wrapper!r}", inner
                break
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds {_describe(found)}; expected names and tensors")
    if not found:
        raise ValueError(f"{where} holds no tensor")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Stored):
            raise ValueError(
                f"{where} holds {_describe(found)}, where {name!r} is {_describe(value)}; "
                f"expected tensors only, or one of {_WRAPPERS} with tensors in it"
            )
    return _strip_module(found)


def _strip_module(named: Mapping[str, _Value]) -> dict[str, _Value]:
    stripped = {name.removeprefix("module."): value for name, value in named.items()}
    if len(stripped) != len(named):
        raise ValueError("it has the same name both with and without a leading 'module.'")
    return stripped


def _materialise_all(
    named: Mapping[str, _Stored], storage_content: Callable[[_Storage], bytes | memoryview]
) -> dict[str, Tensor]:
    return {name: _materialise(name, value, storage_content) for name, value in named.items()}


def _materialise(
    name: str, stored: _Stored, storage_content: Callable[[_Storage], bytes | memoryview]
) -> Tensor:
    storage, size = stored.storage, stored.size
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    stop = stored.offset + 1 + sum((n - 1) * s for n, s in zip(size, stored.stride, strict=True))
    # A stride of 0 lets a few bytes claim any size.
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


def _describe(value: object) -> str:
    if isinstance(value, _Inert):
        return f"an object of class {value.class_name}"
    if isinstance(value, _Global):
        return f"the name {value.name}"
    if isinstance(value, dict):
        keys = [str(key)[:40] for key in list(value)[:_NUM_LISTED]]
        return f"a mapping with {len(value)} keys ({', '.join(keys)})"
    return "a tensor" if isinstance(value, _Stored) else f"a value of type {type(value).__name__}"
