"""Checkpoint files under attack: zip archives, streams of pickles, safetensors.

What is accepted must be names and contiguous CPU tensors that share no memory and are no larger
than four times the file. A hostile file that runs anything would touch `canary`.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import pickle
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from fbnetv3.checkpoints.checkpoint import read_metadata, read_tensors

from .mutate import mutate_bytes, mutate_json

_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
_MAX_COPIES = 4
_NUMBERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    4,
    8,
    64,
    65,
    255,
    1 << 16,
    1 << 31,
    1 << 40,
    1 << 62,
    1 << 63,
    1 << 70,
)
_NUMBERS += (-1, -4, -(1 << 40))
_ZIP_TOKENS: tuple[bytes, ...] = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
)
_ZIP_TOKENS += (b"data.pkl", b"archive/", b"../", b"/", b"\x00" * 8, b"\xff" * 4, b"byteorder")


class CheckpointTarget:
    """Files near real checkpoints, and ones that were written to do harm."""

    documented = re.compile(
        r"cannot read checkpoint .* bytes\): .+ Expected a safetensors file or a torch checkpoint"
    )

    def __init__(self, folder: Path) -> None:
        codecs.lookup("raw-unicode-escape")  # a module; the interpreter's act, not the file's
        self.canary = folder / "canary"
        self._path = folder / "case.bin"
        self._files = _real_files()
        self._archives = [_members(content) for content in self._files if content[:2] == b"PK"]
        self._pickles = [archive["m/data.pkl"] for archive in self._archives]
        self._ops = [_instructions(content) for content in self._pickles]
        self._hostile = _hostile_pieces(self.canary)

    def make(self, draw: Random) -> tuple[str, bytes]:
        """Returns the kind of a case and a file's content."""
        kinds = (
            *(self.damaged, self.spliced, self.grammar),
            *(self.tensor, self.archive, self.safetensors),
        )
        kind = draw.choices(kinds, (25, 20, 15, 15, 12, 13))[0]
        return kind.__name__, kind(draw)

    def read(self, kind: str, content: bytes) -> None:
        """Reads a case and checks what was accepted."""
        self._path.write_bytes(content)
        if kind == "safetensors":
            self._read_metadata()
        try:
            tensors = read_tensors(self._path)
        finally:
            assert not self.canary.exists(), "code in the file was run"
        memory = set()
        for name, tensor in tensors.items():
            assert isinstance(name, str)
            assert isinstance(tensor, Tensor)
            assert tensor.device.type == "cpu"
            assert tensor.is_contiguous()
            if tensor.numel():
                memory.add(tensor.data_ptr())
                tensor.view(-1)[-1].item()
        assert len(memory) == sum(tensor.numel() > 0 for tensor in tensors.values())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        assert size <= _MAX_COPIES * len(content)

    def _read_metadata(self) -> None:
        try:
            metadata = read_metadata(self._path)
        except ValueError as error:
            if not re.match("cannot read the metadata of .* Expected a safetensors", str(error)):
                raise AssertionError("metadata: another form of error") from error
        else:
            assert all(isinstance(text, str) for pair in metadata.items() for text in pair)

    # Kinds of cases

    def damaged(self, draw: Random) -> bytes:
        """Returns a real file with a few bytes changed."""
        return mutate_bytes(draw, draw.choice(self._files), (*self._hostile, *_ZIP_TOKENS))

    def spliced(self, draw: Random) -> bytes:
        """Returns a real file's instructions with some dropped, doubled, swapped or spliced in."""
        number = draw.randrange(len(self._ops))
        ops = list(self._ops[number])
        for _ in range(draw.choice((1, 1, 2, 4, 12))):
            place = draw.randrange(len(ops))
            match draw.randrange(5):
                case 0:
                    del ops[place]
                case 1:
                    ops[place:place] = [ops[place]] * draw.choice((1, 1, 2, 300))
                case 2:
                    other = draw.randrange(len(ops))
                    ops[place], ops[other] = ops[other], ops[place]
                case 3:
                    ops[place : place + draw.randrange(2)] = [draw.choice(self._hostile)]
                case _:
                    there = draw.choice(self._ops)
                    start = draw.randrange(len(there))
                    ops[place:place] = there[start : start + draw.randrange(1, 20)]
            if not ops:
                break
        members = {**self._archives[number], "m/data.pkl": b"".join(ops)}
        return _zipped(list(members.items()))

    def grammar(self, draw: Random) -> bytes:
        """Returns instructions at random, deep nests and values that hold themselves."""
        start = draw.choice((b"\x80\x02", b"\x80\x04", b""))
        if draw.random() < 0.1:
            depth = draw.choice((10, 1000, 20_000))
            piece = draw.choice(
                (b"\x85", b"]a", b"]\x94", b"(", b"}\x94", b"h\x00\x86", b"0N", b"2")
            )
            return _wrapped(
                draw, start + b"]q\x00" + piece * depth + draw.choice((b".", b"s.", b""))
            )
        length = draw.choice((3, 10, 40, 200))
        return _wrapped(
            draw, start + b"".join(self._instruction(draw) for _ in range(length)) + b"."
        )

    def _instruction(self, draw: Random) -> bytes:
        if draw.random() < 0.2:
            return draw.choice(self._hostile)
        opcode = draw.choice(pickletools.opcodes)
        code = opcode.code.encode("latin-1")
        if opcode.arg is None:
            return code
        if opcode.arg.n >= 0:
            return code + draw.choice((b"\x00", b"\xff", draw.randbytes(1))) * opcode.arg.n
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            lines = (
                b"0",
                b"01",
                b"-7",
                b"1e9",
                b"'a'",
                b"nan",
                b"os\nsystem",
                b"9" * 5000,
                b"\xff",
            )
            return code + draw.choice(lines) + b"\n" + (b"x\n" if opcode.name == "GLOBAL" else b"")
        width = {-2: 1, -3: 4, -4: 4, -5: 8}[opcode.arg.n]
        claimed = draw.choice((0, 1, 3, 3, 3, 200, (1 << 8 * width) - 1)) % (1 << 8 * width)
        return code + claimed.to_bytes(width, "little") + draw.choice((b"abc", b"", b"\xf0" * 9))

    def tensor(self, draw: Random) -> bytes:
        """Returns a tensor's record by hand, with numbers that lie."""
        real = draw.random() < 0.3
        count = draw.choice((4, 16, draw.choice(_NUMBERS)))
        rank = draw.choice((0, 1, 2, 2, 3, 64, 65))

        def number() -> int:
            return draw.choice((1, 2, 4)) if real else draw.choice(_NUMBERS)

        size = tuple(number() for _ in range(rank))
        stride = tuple(number() for _ in range(draw.choice((rank, rank, rank, rank + 1))))
        offset = draw.choice((0, 0, 1, number()))
        kind = draw.choice(("FloatStorage", "HalfStorage", "BoolStorage", "QInt8Storage", "Odd"))
        names = draw.sample(("w", "module.w", "v", "", "\x1b[2J", "state_dict", "x" * 400), 2)
        records = b"".join(
            _pickled(name) + _tensor_record(draw, kind, count, offset, size, stride)
            for name in names[: draw.choice((1, 1, 2))]
        )
        pickled = b"\x80\x02}(" + records + b"u."
        held = draw.choice((16, 64, 4 * max(0, min(count, 4096))))
        if draw.random() < 0.3:
            keys = pickle.dumps(draw.choice((["0"], ["0", "0"], ["1"], "0", [])), 2)
            claimed = struct.pack("<q", draw.choice((count % (1 << 62), 4, -1, 1 << 62)))
            return _MAGIC + pickle.dumps({}, 2) + pickled + keys + claimed + b"\x01" * held
        return _zipped([("m/data.pkl", pickled), ("m/data/0", b"\x01" * held)])

    def archive(self, draw: Random) -> bytes:
        """Returns an archive that is no honest one."""
        archive = dict(draw.choice(self._archives))
        pickled = archive.pop("m/data.pkl")
        members = [("m/data.pkl", pickled), ("m/byteorder", archive.pop("m/byteorder"))]
        members += archive.items()
        kind = draw.randrange(8)
        if kind == 0:  # doubled names
            members += [draw.choice(members)] * draw.choice((1, 2, 500))
        elif kind == 1:  # odd names
            name, content = members.pop(draw.randrange(3))
            odd = ("../" + name, "/" + name, name.upper(), name + "\x00x", "\u00e9/data.pkl", "")
            members.append((draw.choice(odd), content))
        elif kind == 2:  # a bomb
            body = _zipped(members, zipfile.ZIP_DEFLATED, extra=b"\x00" * (1 << 20))
            return body if draw.random() < 0.5 else mutate_bytes(draw, body, _ZIP_TOKENS)
        elif kind == 3:  # byte orders
            order = draw.choice((b"big", b"", b"little\n", b"\xff\xfe", b"x" * 70_000))
            members[1] = ("m/byteorder", order)
        elif kind == 4:  # many roots, or none
            roots = draw.choice((0, 2, 300))
            members = [(f"r{n}/data.pkl", pickled) for n in range(roots)] + members[1:]
        elif kind == 5:  # another method than a plain one
            return _zipped(members, draw.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
        body = _zipped(members)
        if kind == 6:  # an archive behind or within something
            body = draw.choice((body + body, body[4:], body + b"x" * 70_000, b"PK\x03\x04" + body))
        if kind == 7 or draw.random() < 0.3:  # the directory at the end
            cut = body.rfind(b"PK\x01\x02") if draw.random() < 0.7 else body.rfind(b"PK\x05\x06")
            return body[:cut] + mutate_bytes(draw, body[cut:], _ZIP_TOKENS)
        return body

    def safetensors(self, draw: Random) -> bytes:
        """Returns a file whose head says something else than the rest."""
        content = self._files[-1]
        length = int.from_bytes(content[:8], "little")
        head, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
        text = mutate_json(draw, head).encode("utf-8", "surrogatepass")
        text = text.lstrip() if draw.random() < 0.9 else b" " + text
        claimed = draw.choice((len(text),) * 8 + (0, 1, len(text) - 1, len(text) + 8, 1 << 63))
        if draw.random() < 0.2:
            rest = draw.choice((rest[:-1], rest + b"\x00", b""))
        return struct.pack("<Q", claimed % (1 << 64)) + text + rest


def _real_files() -> list[bytes]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)).state_dict()
    base = torch.arange(24.0)
    states: list[dict[str, Any]] = [
        dict(network),
        {"state_dict": dict(network), "epoch": 3, "args": {"lr": [0.1, None]}, "model_ema": None},
        {
            "model": {
                "module.a": base.view(4, 6).t(),
                "module.b": base[3:7],
                "half": base.half(),
                "brain": base.bfloat16(),
                "flag": base > 3,
                "whole": base.long(),
                "empty": base[:0],
                "scalar": base[1],
                "parameter": nn.Parameter(base),
            }
        },
    ]
    files = []
    for new_layout in (True, False):
        for state in states:
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=new_layout)
            files.append(buffer.getvalue())
    return [*files, _safetensors(states[2]["model"])]


def _safetensors(state: dict[str, Tensor]) -> bytes:
    """Returns a file by hand: the library puts entries in an order that changes from run to run."""
    kinds = {torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}
    head: dict[str, Any] = {"__metadata__": {"license": "Apache-2.0", "fbnetv3": "{}"}}
    body = b""
    for name, tensor in state.items():
        raw = bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        head[name] = {
            "dtype": kinds.get(tensor.dtype, "F32"),
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def _members(content: bytes) -> dict[str, bytes]:
    """Returns "m/name" -> content of an archive as torch writes it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {"m/" + n.partition("/")[2]: archive.read(n) for n in archive.namelist()}


def _instructions(pickled: bytes) -> list[bytes]:
    places = [place or 0 for _, _, place in pickletools.genops(pickled)] + [len(pickled)]
    return [pickled[a:b] for a, b in itertools.pairwise(places)]


def _hostile_pieces(canary: Path) -> tuple[bytes, ...]:
    command, evil = _pickled(f"touch {canary}"), _pickled(f"open({str(canary)!r}, 'w')")
    return (
        b"cos\nsystem\n" + command + b"\x85R",
        b"cbuiltins\neval\n" + evil + b"\x85R",
        b"cbuiltins\nexec\n" + evil + b"\x85\x81",
        b"cbuiltins\nopen\n" + _pickled(str(canary)) + _pickled("w") + b"\x86R",
        b"csubprocess\nPopen\n" + command + b"\x85}\x92",
        b"(" + command + b"ios\nsystem\n",
        b"(cos\nsystem\n" + command + b"o",
        b"cnumpy\nload\n" + _pickled(str(canary)) + b"\x85R",
        b"ctorch\nload\n" + _pickled(str(canary)) + b"\x85R",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ccollections\nOrderedDict\n)R",
        b"ccollections\nOrderedDict\n]\x85R",
        *(b"cos\nenviron\n", b"csys\npath\n", b"\x82\x01", b"Pos.system\n"),
        *(b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"\x94"),
        *(b"]\x94h\x00a", b"}\x94h\x00h\x00s", b"R", b"b", b"\x81", b"Q", b"(", b"t", b"0", b"2"),
        *(b"\x85", b"\x86", b"\x87", b"e", b"u", b"s", b"a", b"d", b"l", b"\x91", b"\x93", b"1"),
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + struct.pack("<Q", 1 << 40),
        b"\x96" + struct.pack("<Q", 1 << 40),
        b"\x95" + struct.pack("<Q", 1 << 40),
        b"\x8b\xff\xff\xff\x7f",
        b"I" + b"9" * 5000 + b"\n",
        _pickled("n" * 3000) * 2 + b"\x93",
    )


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_pickled, values)) + b"t"


def _tensor_record(
    draw: Random, kind: str, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    name = draw.choice(("0", "0", "0", "1", "../x"))
    storage = b"(" + _pickled("storage") + b"ctorch\n" + kind.encode() + b"\n" + _pickled(name)
    storage += _pickled("cpu") + _pickled(count) + draw.choice((b"", b"", b"N", b"]")) + b"tQ"
    call = b"ctorch._utils\n" + draw.choice((b"_rebuild_tensor_v2", b"_rebuild_tensor")) + b"\n"
    tail = b"\x89ccollections\nOrderedDict\n)R" if b"v2" in call else b""
    return (
        call + b"(" + storage + _pickled(offset) + _numbers(size) + _numbers(stride) + tail + b"tR"
    )


def _wrapped(draw: Random, pickled: bytes) -> bytes:
    if draw.random() < 0.3:
        return _MAGIC + pickle.dumps({}, 2) + pickled + pickle.dumps(["0"], 2) + b"\x00" * 64
    numbers = [(f"m/data/{n}", b"\x00" * draw.choice((96, 96, 48, 0))) for n in range(10)]
    return _zipped([("m/data.pkl", pickled), *numbers])


def _zipped(
    members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, extra: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            # A fixed date: equal draws, equal bytes.
            record = zipfile.ZipInfo(name)
            record.compress_type = method
            archive.writestr(record, content + extra)
    return buffer.getvalue()
