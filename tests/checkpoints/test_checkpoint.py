"""Reading checkpoints: real torch files in both layouts, hostile, foreign and damaged ones."""

import argparse
import gzip
import io
import math
import os
import pickle
import random
import struct
import sys
import time
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from fbnetv3._internal.files import sha256_of
from fbnetv3.checkpoints.checkpoint import (
    load_strict,
    read_metadata,
    read_own_tensors,
    read_tensors,
    write_tensors,
)

LAYOUTS = pytest.mark.parametrize("new_layout", [True, False], ids=["zip", "stream"])


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))


def _save(value: object, path: Path, new_layout: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new_layout)
    return path


def _zip_around(pickled: bytes, path: Path) -> Path:
    """A torch zip archive whose pickle is given, with one storage of four float32."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@LAYOUTS
def test_a_state_dict_is_read_as_torch_reads_it(tmp_path: Path, new_layout: bool) -> None:
    path = _save(_network().state_dict(), tmp_path / "m.pth", new_layout)
    _assert_equal(read_tensors(path), torch.load(path, weights_only=True))


@LAYOUTS
def test_every_kind_of_number_and_shape_is_read(tmp_path: Path, new_layout: bool) -> None:
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "transposed": base.reshape(4, 6).t(),
        "tail": base[5:],
        "strided": base[::3],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "long": base.long(),
        "bool": base > 3,
        "scalar": torch.tensor(5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base),
    }
    found = read_tensors(_save(state, tmp_path / "m.pth", new_layout))
    _assert_equal(found, {name: tensor.detach() for name, tensor in state.items()})
    assert all(tensor.is_contiguous() for tensor in found.values())
    assert len({tensor.data_ptr() for tensor in found.values() if tensor.numel()}) == 10


@LAYOUTS
@pytest.mark.parametrize(
    ("wrapped", "taken"),
    [
        ({"model_ema": 1, "state_dict": 2, "model": 3}, 1),
        ({"model_ema": None, "state_dict": 2, "model": 3}, 2),
        ({"state_dict": 2, "epoch": 7}, 2),
        ({"model": 3, "epoch": 7}, 3),
    ],
)
def test_averaged_weights_come_first(
    tmp_path: Path, new_layout: bool, wrapped: dict[str, Any], taken: int
) -> None:
    filled = {
        key: {"w": torch.full((2,), value)} if value in (1, 2, 3) else value
        for key, value in wrapped.items()
    }
    found = read_tensors(_save(filled, tmp_path / "m.pth", new_layout))
    assert found["w"].tolist() == [taken, taken]


@LAYOUTS
def test_one_leading_module_is_dropped(tmp_path: Path, new_layout: bool) -> None:
    state = OrderedDict({"module.a": torch.ones(1), "module.module.b": torch.ones(2)})
    found = read_tensors(_save(state, tmp_path / "m.pth", new_layout))
    assert list(found) == ["a", "module.b"]


class Unknown:
    """A class that the reader must never import."""

    def __init__(self) -> None:
        self.tensor = torch.ones(3)
        self.words = {"a", "b"}


class UnknownModule(nn.Linear):
    """A network of a class that the reader must never import."""


@LAYOUTS
def test_unknown_classes_beside_the_tensors_are_ignored(
    tmp_path: Path, new_layout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished = types.ModuleType("vanished")
    monkeypatch.setitem(sys.modules, "vanished", vanished)
    for kind in (Unknown, UnknownModule):
        monkeypatch.setattr(kind, "__module__", "vanished")
        setattr(vanished, kind.__name__, kind)
    checkpoint = {
        "network": UnknownModule(1, 1),
        "args": argparse.Namespace(lr=0.1, words=frozenset({"x"})),
        "object": Unknown(),
        "optimizer": {"state": {0: {"step": 1, "momentum": torch.ones(2)}}, "lr": [0.1]},
        "model_ema": None,
        "state_dict": {"w": torch.arange(3.0)},
        "path": Path("/tmp"),
        "class": UnknownModule,
    }
    path = _save(checkpoint, tmp_path / "m.pth", new_layout)
    del sys.modules["vanished"]
    _assert_equal(read_tensors(path), {"w": torch.arange(3.0)})
    assert "vanished" not in sys.modules


class Reduced:
    """Pickles to a call."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def _hostile_pickles(witness: Path) -> dict[str, bytes]:
    command = f"touch {witness}"
    shell = repr(command).encode()
    evil = f"open({str(witness)!r}, 'w')"
    return {
        "system": pickle.dumps(Reduced(os.system, command), 2),
        "eval": pickle.dumps(Reduced(eval, evil), 2),
        "exec by stack_global": pickle.dumps(Reduced(exec, evil), 4),
        "open": pickle.dumps(Reduced(open, str(witness), "w"), 2),
        "getattr": b"\x80\x02c__builtin__\ngetattr\ncos\nsystem\nX\x08\x00\x00\x00__call__\x86R.",
        "inst": b"(S" + shell + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS" + shell + b"\no.",
        "newobj": b"\x80\x02csubprocess\nPopen\nS" + shell + b"\n\x85\x81.",
        "newobj_ex": b"\x80\x04csubprocess\nPopen\nS" + shell + b"\n\x85}\x92.",
        "build": b"\x80\x02cos\n_Environ\n)\x81}S'x'\nS'y'\nsb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02cos\nsystem\nQ.",
        "persistent by line": b"Pos.system\n.",
        "setitem on a class": b"\x80\x02cos\nenviron\nS'PATH'\nS''\ns.",
        "append to a class": b"\x80\x02csys\npath\nS'/evil'\na.",
    }


@pytest.mark.parametrize("kind", _hostile_pickles(Path("x")))
def test_a_hostile_pickle_does_not_run(tmp_path: Path, kind: str) -> None:
    witness = tmp_path / "witness"
    hostile = _hostile_pickles(witness)[kind]
    before = (dict(os.environ), list(sys.path))
    stream = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    (tmp_path / "stream.pth").write_bytes(stream + hostile + pickle.dumps([], 2))
    (tmp_path / "bare.pth").write_bytes(hostile)
    _zip_around(hostile, tmp_path / "zip.pth")
    for name in ("stream.pth", "bare.pth", "zip.pth"):
        with pytest.raises(ValueError, match="cannot read checkpoint"):
            read_tensors(tmp_path / name)
    assert not witness.exists()
    assert (dict(os.environ), list(sys.path)) == before


def test_the_hostile_pickle_of_these_tests_would_run_elsewhere(tmp_path: Path) -> None:
    pickle.loads(_hostile_pickles(tmp_path / "witness")["system"])
    assert (tmp_path / "witness").exists()


@LAYOUTS
def test_hostile_objects_beside_the_tensors_do_not_run(tmp_path: Path, new_layout: bool) -> None:
    witness = tmp_path / "witness"
    checkpoint = {
        "hook": Reduced(os.system, f"touch {witness}"),
        "state_dict": {"w": torch.ones(2)},
        "code": Reduced(eval, f"open({str(witness)!r}, 'w')"),
    }
    path = _save(checkpoint, tmp_path / "m.pth", new_layout)
    _assert_equal(read_tensors(path), {"w": torch.ones(2)})
    assert not witness.exists()


def _tensor_pickle(num_elements: int, offset: int, size: tuple[int, ...], *strides: int) -> bytes:
    """Protocol 2 by hand: {'w': one tensor of a storage of `num_elements`}."""

    def number(value: int) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(value) for value in values) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(num_elements)
        + b"tQ"
    )
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + numbers(size)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def test_the_tensor_written_by_hand_is_read(tmp_path: Path) -> None:
    path = _zip_around(_tensor_pickle(4, 0, (2, 2), 2, 1), tmp_path / "m.pth")
    assert read_tensors(path)["w"].tolist() == [[1, 2], [3, 4]]


def _deep(opcode: bytes, depth: int) -> bytes:
    return b"\x80\x02}" + b")" + opcode * depth + b"Ns."


BOMBS = {
    "stride 0": _tensor_pickle(4, 0, (1 << 20, 1 << 20), 0, 0),
    "stride 0, small": _tensor_pickle(4, 0, (2, 4), 0, 1),
    "behind the end": _tensor_pickle(4, 3, (2, 2), 2, 1),
    "more than stored": _tensor_pickle(1 << 50, 0, (1 << 50,), 1),
    "negative offset": _tensor_pickle(4, -2, (2,), 1),
    "negative size": _tensor_pickle(4, 0, (-2,), 1),
    "stride for another shape": _tensor_pickle(4, 0, (2, 2), 1),
    "too many dimensions": _tensor_pickle(4, 0, (1,) * 65, *(1,) * 65),
    "stride beyond 64 bits": _tensor_pickle(4, 0, (1,), 1 << 70),
    "sizes that overflow, empty": _tensor_pickle(4, 0, (0, 1 << 62, 1 << 62), 1, 1, 1),
    "memo index": b"\x80\x02Nr" + struct.pack("<I", 1 << 31) + b".",
    "deep tuple as key": _deep(b"\x85", 1_000_000),
    "deep list": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "text of 16 exabytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"x.",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "array of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "names that multiply": b"\x80\x04\x8c\x01mX"
    + struct.pack("<I", 1 << 20)
    + b"n" * (1 << 20)
    + b"\x93.",
    "marks only": b"\x80\x02" + b"(" * 1_000_000,
    "stack runs empty": b"\x80\x020000.",
    "no stop": b"\x80\x02}",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_one_error_in_bounded_time(tmp_path: Path, kind: str) -> None:
    path = _zip_around(BOMBS[kind], tmp_path / "m.pth")
    started = time.process_time()
    with pytest.raises(ValueError, match="cannot read checkpoint"):
        read_tensors(path)
    assert time.process_time() - started < 20  # the worst takes 1.7 s


def test_one_storage_under_many_names_cannot_fill_the_memory(tmp_path: Path) -> None:
    tensor = torch.zeros(250_000)
    path = tmp_path / "m.pth"
    torch.save({f"w{n}": tensor for n in range(1000)}, path)
    with pytest.raises(ValueError, match="can hold"):
        read_tensors(path)
    torch.save({"w": tensor, "tied": tensor}, path)
    assert len(read_tensors(path)) == 2


def test_nested_wrappers_of_tensors_do_not_overflow_the_stack(tmp_path: Path) -> None:
    # Each call's arguments hold the next call: (call, class, (call, class, (...), None), None).
    call = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00"
    nested = b"\x80\x02" + call + b"N" + b"(h\x00N" * 50_000 + b")" + b"Nt" * 50_000 + b"N"
    pickled = nested.replace(b"q\x00N", b"q\x00(h\x00N", 1) + b"tR."
    with pytest.raises(ValueError, match="cannot read checkpoint"):
        read_tensors(_zip_around(pickled, tmp_path / "m.pth"))


@LAYOUTS
def test_truncation_anywhere_is_one_error(tmp_path: Path, new_layout: bool) -> None:
    whole = _save(_network().state_dict(), tmp_path / "m.pth", new_layout).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in {*range(0, len(whole), max(1, len(whole) // 150)), len(whole) - 1}:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot read checkpoint"):
            read_tensors(cut)


@pytest.mark.parametrize("layout", ["zip", "stream", "safetensors"])
def test_flipped_bytes_are_an_error_or_tensors(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "m.bin"
    if layout == "safetensors":
        write_tensors(path, _network().state_dict(), {"a": "b"})
    else:
        _save({"state_dict": _network().state_dict()}, path, layout == "zip")
    whole = path.read_bytes()
    draw = random.Random(0)
    started, refused = time.process_time(), 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4, 32])):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            tensors = read_tensors(path)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    assert refused > 100
    assert time.process_time() - started < 60


def _zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n1234567890", "not a checkpoint"),
        (pickle.dumps({"a": 1}, 2), r"not written by torch\.save"),
        (pickle.dumps([1, 2], 4), r"not written by torch\.save"),
        (b"PK\x03\x04 rest", "a zip archive that is cut off or damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "`git lfs pull`"),
        (b"\xef\xbb\xbf\n<!-- --><html>Sign in</html>", "web page"),
        (
            b'{"error": "not\x1b found"}',
            r'JSON, perhaps an error of the server: {"error": "not\\x1b',
        ),
        (b'{"weight_map": {"a": "1.st", "b": "2.st", "c": "2.st"}}', "weights in 2 files; save"),
        (gzip.compress(b"weights", mtime=0), "packed with gzip: unpack it first"),
        ((9000).to_bytes(8, "little") + b'{"__metadata__":', "safetensors file that is cut off"),
        (bytes(257) + b"ustar\x0000", "a tar archive: unpack it first"),
        (b"\x08\n\x12\x07pytorch", "an ONNX file.*`fbnetv3 classify --model`"),
        (_zipped("stem.weight.npy", "stem.bias.npy"), r"a numpy archive.*torch\.from_numpy"),
        (_zipped("m/archive_format", "m/models/model.json"), r"a program of torch\.export"),
        (_zipped("run/best.pth"), r"torch\.save did not write; it has run/best\.pth: unpack it"),
        (_zipped("m/data.pkl", "m/constants.pkl"), r"a TorchScript program; save the state_dict"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_tensors(path)


def test_a_part_of_a_network_is_known_by_its_name(tmp_path: Path) -> None:
    state = {"stem.conv.weight": torch.ones(2)}
    for part in (1, 2):
        path = tmp_path / f"model-{part:05}-of-00002.safetensors"
        write_tensors(path, state, {})
        with pytest.raises(ValueError, match=rf"it is part {part} of 2 .*; save them in one file"):
            read_tensors(path)
    only = tmp_path / "model-00001-of-00001.safetensors"
    write_tensors(only, state, {})
    assert read_tensors(only).keys() == state.keys()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_tensors(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match=r"is a folder; .* the model local-dir:"):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_metadata(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("value", [7, [torch.ones(1)], {"state_dict": 3}, {"a": 1}, {}, Unknown()])
def test_a_checkpoint_without_tensors_says_what_it_holds(tmp_path: Path, value: object) -> None:
    path = _save(value, tmp_path / "m.pth", True)
    with pytest.raises(ValueError, match="holds"):
        read_tensors(path)


def test_control_characters_in_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = _save({"\x1b[2Jname": 1}, tmp_path / "m.pth", True)
    with pytest.raises(ValueError, match="holds") as caught:
        read_tensors(path)
    assert str(caught.value).isprintable()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Unknown(), 2))
        archive.writestr("m/code/__torch__.py", "raise SystemExit")
    with pytest.raises(ValueError, match="an object of class"):
        read_tensors(path)


def test_numbers_of_the_other_byte_order_are_refused(tmp_path: Path) -> None:
    path = _zip_around(_tensor_pickle(4, 0, (2, 2), 2, 1), tmp_path / "m.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(ValueError, match="big-endian; only little-endian"):
        read_tensors(path)


def test_a_file_of_the_old_layout_that_ends_in_its_numbers_is_cut_off(tmp_path: Path) -> None:
    path = _save({"w": torch.ones(100)}, tmp_path / "m.pth", new_layout=False)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"ends inside storage .*; it is truncated"):
        read_tensors(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}." + b"0" * 10_000_000)
    with pytest.raises(ValueError, match="compressed"):
        read_tensors(path)


def test_safetensors_go_out_and_back_with_their_metadata(tmp_path: Path) -> None:
    state = _network().state_dict()
    tied = state | {"tied": state["0.weight"], "transposed": torch.ones(2, 3).t()}
    write_tensors(tmp_path / "m.safetensors", tied, {"license": "Apache-2.0"})
    found = read_tensors(tmp_path / "m.safetensors")
    assert list(found) == sorted(tied)
    assert all(torch.equal(found[name], tied[name]) for name in tied)
    assert read_metadata(tmp_path / "m.safetensors") == {"license": "Apache-2.0"}
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert len(sha256_of(tmp_path / "m.safetensors")) == 64


def test_safetensors_are_known_whatever_the_length_of_their_head(tmp_path: Path) -> None:
    first_bytes = set()
    for padding in range(0, 256, 8):
        write_tensors(tmp_path / "m.safetensors", {"w": torch.ones(2)}, {"pad": "x" * padding})
        first_bytes.add((tmp_path / "m.safetensors").read_bytes()[0])
        assert read_tensors(tmp_path / "m.safetensors")["w"].tolist() == [1, 1]
    assert 0x80 in first_bytes, "a pickle starts with this byte"


def test_metadata_of_another_format_is_an_error(tmp_path: Path) -> None:
    path = _save({"w": torch.ones(1)}, tmp_path / "m.pth", True)
    with pytest.raises(ValueError, match="safetensors"):
        read_metadata(path)


def test_a_strict_load_lists_both_sides() -> None:
    model = _network()
    state = dict(model.state_dict())
    state["extra.weight"] = state.pop("0.bias")
    state["2.weight"] = torch.zeros(5, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="Expected exactly") as caught:
        load_strict(model, state, source="here")
    message = str(caught.value)
    assert "1 missing: 0.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "2.weight (5, 8) (model: (4, 8))" in message
    assert "from here" in message
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_tensor(number: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["0.weight"][0, :2] = number
    state["1.running_var"][3] = number
    before = model.state_dict()["0.weight"].clone()
    found = r"2 tensors: 0\.weight \(2 of 12\), 1\.running_var \(1 of 4\)"
    with pytest.raises(ValueError, match=f"weights from the test have .* NaN or .*{found}"):
        load_strict(model, state, source="the test")
    assert torch.equal(model.state_dict()["0.weight"], before)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_numbers_of_another_kind_are_refused(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1)
    state = {**model.state_dict(), "weight": torch.ones(1, 2, dtype=dtype)}
    with pytest.raises(ValueError, match=f"1 of another kind of numbers: weight {dtype} "):
        load_strict(model, state, source="x")
    norm = nn.BatchNorm1d(2)
    load_strict(norm, {n: t.double() for n, t in norm.state_dict().items()}, source="x")


def test_a_meta_model_takes_the_tensors_themselves() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 3)
    tensors = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    load_strict(model, tensors, assign=True, source="here")
    assert model(torch.ones(1, 2)).tolist() == [[2, 2, 2]]


def test_a_file_given_as_stream_of_the_old_protocol_keeps_offsets(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    buffer = io.BytesIO()
    torch.save({"a": base[2:5], "b": base[7:]}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "m.pth").write_bytes(buffer.getvalue())
    found = read_tensors(tmp_path / "m.pth")
    assert found["a"].tolist() == [2, 3, 4]
    assert found["b"].tolist() == [7, 8, 9]


def test_what_this_package_wrote_is_read_under_the_names_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    written = {f"{part}.stem.conv.weight": torch.ones(2) for part in ("model", "ema")}
    write_tensors(path, written, {})
    assert list(read_own_tensors(path)) == sorted(written)
    assert list(read_tensors(path)) != sorted(written)  # it looks for one model
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cannot read .*own\.safetensors"):
        read_own_tensors(path)
    with pytest.raises(FileNotFoundError, match="no safetensors file"):
        read_own_tensors(tmp_path / "none.safetensors")


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    metadata = {f"key {n}": f"\u00fc{n}" for n in range(20)}
    contents = []
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors, dict(reversed(metadata.items())) if number % 2 else metadata)
        contents.append(path.read_bytes())
    assert len(set(contents)) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
