"""Decodes the pickles that torch writes into plain data and tensor records, without executing them.

A pickle is a program. Its instructions are decoded by the standard library's `pickletools.genops`,
which executes nothing, and only those that build plain data are followed. Classes and functions
that the file names are never imported or called; an inert placeholder stands for them.

Why not `torch.load`: without `weights_only` it executes the program. With `weights_only` it
refuses a checkpoint with an object of any other class beside its tensors, such as an
`argparse.Namespace`; it crashes on a deeply nested tuple as a key, whose hash overflows the stack
(a file of 1 MB); and it returns tensors of any claimed size (4 TB from 1.5 kB). Measured with
torch 2.15.

Why not an Unpickler with `find_class` overridden: the one in C also hashes such a tuple, allocates
memory for a memo index of 4 bytes (16 GiB from a file of 9 bytes, measured on Python 3.11), and
resolves registered extension codes without calling `find_class`.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

# Limits on the cost of one instruction, so that a small file cannot use much time or memory.
_MAX_DIMENSIONS = 64
_MAX_NAME_LENGTH = 1000
_NUM_KEYS_SHOWN = 8

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


@dataclass(frozen=True)
class Global:
    """A class or function that the file names; never imported or called."""

    name: str


@dataclass(frozen=True, eq=False)
class Inert:
    """Placeholder for an object of an unknown class; changes to it are ignored."""

    class_name: str


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file, identified by its key."""

    key: str
    dtype: torch.dtype
    num_elements: int


@dataclass(frozen=True)
class Stored:
    """A tensor whose numbers have not been read from the file yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """Interprets the instructions of a pickle that build plain data, and refuses all others."""

    def __init__(self) -> None:
        self.storages: dict[object, Storage] = {}
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[object, object] = {}

    def run(self, stream: io.BytesIO) -> object:
        """Returns the pickled value; `stream` is left after its end."""
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"pickle instruction {opcode.name} is not allowed in a checkpoint")
        return self._stack.pop()

    def _mark(self, _: object) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[object]:
        items = self._stack
        self._stack = self._outer_stacks.pop()
        return items

    def _discard_to_mark(self, _: object) -> None:
        self._pop_to_mark()

    def _pop(self, _: object) -> None:
        self._stack.pop()

    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: object) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: object) -> None:
        self._stack.append(self._memo[index])

    def _none(self, _: object) -> None:
        self._stack.append(None)

    def _true(self, _: object) -> None:
        self._stack.append(True)

    def _false(self, _: object) -> None:
        self._stack.append(False)

    def _empty_list(self, _: object) -> None:
        self._stack.append([])

    def _empty_dict(self, _: object) -> None:
        self._stack.append({})

    def _empty_tuple(self, _: object) -> None:
        self._stack.append(())

    def _empty_set(self, _: object) -> None:
        self._stack.append(Inert("builtins.set"))

    def _tuple_1(self, _: object) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple_2(self, _: object) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple_3(self, _: object) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _marked_tuple(self, _: object) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _marked_list(self, _: object) -> None:
        items = self._pop_to_mark()
        self._stack.append(items)

    def _marked_dict(self, _: object) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def _marked_frozenset(self, _: object) -> None:
        self._pop_to_mark()
        self._stack.append(Inert("builtins.frozenset"))

    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError(f"the pickle appends to {describe(target)}")

    def _set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _set_marked_items(self, _: object) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(_entries(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(target, Inert):
            raise ValueError(f"the pickle sets items of {describe(target)}")

    def _name_global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(Global(f"{module}.{name}"))

    def _name_stacked_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("the pickle names a class by a value that is not text")
        if len(module) + len(name) > _MAX_NAME_LENGTH:
            raise ValueError(f"the name of a class is {len(module) + len(name)} characters long")
        self._stack.append(Global(f"{module}.{name}"))

    def _construct(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        self._stack.append(_construct(called, arguments))

    def _construct_with_keywords(self, _: object) -> None:
        self._stack.pop()
        self._construct(None)

    def _build(self, _: object) -> None:
        # The state of an object, which tensors do not need.
        self._stack.pop()

    def _load_persistent(self, _: object) -> None:
        match self._stack.pop():
            case ("storage", Global(name), str(key), str(), int(num_elements), *views):
                storage = Storage(key, _storage_dtype(name), num_elements)
                if any(view is not None for view in views):
                    raise ValueError(
                        f"storage {key!r} is a view, a format that torch used before 2017"
                    )
                self.storages[key] = storage
                self._stack.append(storage)
            case ("module", Global(name), *_):
                self._stack.append(Global(name))
            case other:
                raise ValueError(
                    f"a storage is given by {describe(other)}; expected a storage record"
                )


_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)

_INSTRUCTIONS: dict[str, Callable[[Machine, object], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._discard_to_mark,
    "DUP": Machine._duplicate,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "NONE": Machine._none,
    "NEWTRUE": Machine._true,
    "NEWFALSE": Machine._false,
    "EMPTY_LIST": Machine._empty_list,
    "EMPTY_DICT": Machine._empty_dict,
    "EMPTY_TUPLE": Machine._empty_tuple,
    "EMPTY_SET": Machine._empty_set,
    "TUPLE1": Machine._tuple_1,
    "TUPLE2": Machine._tuple_2,
    "TUPLE3": Machine._tuple_3,
    "TUPLE": Machine._marked_tuple,
    "LIST": Machine._marked_list,
    "DICT": Machine._marked_dict,
    "FROZENSET": Machine._marked_frozenset,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_marked_items,
    "GLOBAL": Machine._name_global,
    "STACK_GLOBAL": Machine._name_stacked_global,
    "REDUCE": Machine._construct,
    "NEWOBJ": Machine._construct,
    "NEWOBJ_EX": Machine._construct_with_keywords,
    "BUILD": Machine._build,
    "BINPERSID": Machine._load_persistent,
}


def unpickle(stream: io.BytesIO) -> object:
    """Returns the next pickled value of a stream, which is left after its end."""
    return Machine().run(stream)


def _construct(called: object, arguments: object) -> object:
    name = called.name if isinstance(called, Global) else type(called).__name__
    if name in _CONSTRUCTORS and isinstance(arguments, tuple):
        return _CONSTRUCTORS[name](*arguments)
    return Inert(name)


def _entries(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    # Hashing a tuple recurses in C, so a malicious file can crash it by nesting; numbers can be
    # chosen to collide. Names of tensors are text, so all other keys are replaced.
    return {
        key if isinstance(key, str) else Inert(type(key).__name__): value for key, value in pairs
    }


def _tensor(storage: object, offset: object, size: object, stride: object) -> Stored:
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor is made of {describe(storage)}; expected a storage")
    (start,) = _whole_numbers((offset,))
    stored = Stored(storage, start, _whole_numbers(size), _whole_numbers(stride))
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
) -> Stored:
    if metadata:
        raise ValueError("a tensor is stored as conjugated or negated, which is not supported")
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
    # Its items follow as SETITEMS.
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
}


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MAX_DIMENSIONS:
        raise ValueError(
            f"a tensor's shape is {describe(values)}; expected up to {_MAX_DIMENSIONS} numbers"
        )
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError("a tensor's shape has an entry that is not a whole number")
    return values


def _storage_dtype(name: str) -> torch.dtype:
    package, _, storage_class = name.rpartition(".")
    if package not in ("torch", "torch.cuda") or storage_class not in _STORAGE_DTYPES:
        expected = ", ".join(f"torch.{known}" for known in _STORAGE_DTYPES)
        raise ValueError(f"storage type {name!r} is unknown; expected one of {expected}")
    return _STORAGE_DTYPES[storage_class]


def describe(value: object) -> str:
    """Returns a description of a value for error messages."""
    if isinstance(value, Inert):
        return f"an object of class {value.class_name}"
    if isinstance(value, Global):
        return f"the name {value.name}"
    if isinstance(value, dict):
        keys = [str(key)[:40] for key in list(value)[:_NUM_KEYS_SHOWN]]
        return f"a mapping with {len(value)} keys ({', '.join(keys)})"
    return "a tensor" if isinstance(value, Stored) else f"a value of type {type(value).__name__}"
