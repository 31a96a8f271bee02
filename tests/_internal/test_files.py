"""Files are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fbnetv3._internal.files import replacing, replacing_folder, write_atomically


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.bin"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_atomically(tmp_path / "t", "one\r\ntwo \u00e9\n")
    assert (tmp_path / "t").read_bytes() == b"one\r\ntwo \xc3\xa9\n"
    write_atomically(tmp_path / "t", os.fsdecode(b"\xff.png"))
    assert (tmp_path / "t").read_bytes() == b"\xff.png"


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"a")
        with replacing(tmp_path / "b") as part:
            part.write_bytes(b"b")
    finally:
        os.umask(old)
    for name in ("a", "b"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_only_a_folder_that_cannot_be_flushed_at_all_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flushed = []

    def sync(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if flushed[-1]:
            raise OSError(number, "cannot flush")

    monkeypatch.setattr(os, "fsync", sync)
    if number == errno.EINVAL:
        write_atomically(tmp_path / "a", b"a")
    else:
        with pytest.raises(OSError, match="cannot flush"):
            write_atomically(tmp_path / "a", b"a")
    assert flushed == [False, True]
    assert (tmp_path / "a").read_bytes() == b"a"


def test_a_file_of_a_library_and_those_beside_it_come_together(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_bytes(b"old")
    with replacing(tmp_path / "x.xml") as part:
        assert part.name == "x.xml"
        part.write_bytes(b"xml")
        part.with_suffix(".bin").write_bytes(b"bin")
        assert (tmp_path / "x.xml").read_bytes() == b"old"
    assert (tmp_path / "x.xml").read_bytes() == b"xml"
    assert (tmp_path / "x.bin").read_bytes() == b"bin"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_half_written_file_vanishes(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def interrupted() -> None:
        with replacing(tmp_path / "x") as part:
            part.write_bytes(b"half")
            raise StopError

    with pytest.raises(StopError):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_by_the_file_that_the_caller_knows(tmp_path: Path) -> None:
    def write(within: Callable[[Path], AbstractContextManager[Path]], error: OSError) -> None:
        with within(tmp_path / "x"):
            raise error

    for within in (replacing, replacing_folder):
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/x'"):
            write(within, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match=r"no such host$"):
            write(within, OSError(errno.ECONNREFUSED, "no such host"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x"):
        pass
    assert (tmp_path / "x").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    def work(path: Path) -> None:
        with replacing(path):
            raise AssertionError("the work was begun")

    with pytest.raises(ValueError, match="it is a folder; give a file name in it"):
        work(tmp_path)
    with pytest.raises(ValueError, match=r"cannot write .*: No such file or directory"):
        work(tmp_path / "missing" / "x")


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for text in ("old", "new"):
        with replacing_folder(folder) as part:
            assert part.name == "x"
            (part / text).mkdir()
            (part / text / "file").write_text(text)
        assert [p.name for p in folder.rglob("*")] == [text, "file"]

    def fail() -> None:
        with replacing_folder(folder) as part:
            (part / "half").touch()
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "new" / "file").read_text() == "new"
    with (
        pytest.raises(ValueError, match=r"cannot write .*: No such file"),
        replacing_folder(tmp_path / "away" / "x"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="it is a file"),
        replacing_folder(folder / "new" / "file"),
    ):
        pass


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a disk that has no more room
    try:
        with pytest.raises(OSError, match=r"x\.bin") as one:
            write_atomically(path, bytes(2000))
        with pytest.raises(OSError, match=r"x\.bin") as other, replacing(path) as part:
            part.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one.value.filename == other.value.filename == str(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("within", [replacing, replacing_folder])
def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_needs(
    tmp_path: Path, within: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    path = tmp_path / "x[1].onnx"
    code = (
        "import sys, pathlib; from fbnetv3._internal import files\n"
        f"with files.{within.__name__}(pathlib.Path(sys.argv[1])) as part:\n"
        "    print(part, flush=True); sys.stdin.read()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, name],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in (path, path, tmp_path / "x1.onnx")
    ]
    try:
        folders = [Path(process.stdout.readline()).parent for process in started if process.stdout]
        for process in started[1:]:
            process.kill()
            process.wait()
        for folder in folders:
            assert folder.parent == tmp_path
            os.utime(folder, (0, 0))
        with within(path) as part:
            (part / "file" if within is replacing_folder else part).touch()
        left = {found for found in tmp_path.iterdir() if found.name.startswith(".")}
        # The last one is of another file.
        assert left == {folders[0], folders[2]}
    finally:
        for process in started:
            process.kill()
            process.communicate()
