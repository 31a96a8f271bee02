"""Embedded weights need no home, no cache and no record."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fbnetv3.hub import cache
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.weights import WEIGHTS, Embedded
from fbnetv3.images.labels import example_photos

# Runs a command as a user for whom the password database has no entry.
NOBODY = """
import os, pwd, sys
def unknown(_):
    raise KeyError
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
sys.argv[0] = "fbnetv3"
from fbnetv3.cli.app import main
main()
"""


@pytest.fixture(autouse=True)
def _fresh_choice() -> Iterator[None]:
    cache._temporary.cache_clear()
    yield
    cache._temporary.cache_clear()


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of photos, for training and validation."""
    root = tmp_path_factory.mktemp("photos")
    for part in ("train", "val"):
        for name, paths in (("cat", example_photos()[:1]), ("thing", example_photos()[1:])):
            folder = root / part / name
            folder.mkdir(parents=True)
            for path in paths:
                shutil.copy(path, folder)
    return root


def run(words: list[str], tmp_path: Path, home: Path | None) -> subprocess.CompletedProcess[str]:
    """Runs a command with a home that this process cannot look into, or without one."""
    kept = ("PATH", "OMP_NUM_THREADS", "VIRTUAL_ENV", "PYTHONPATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    (tmp_path / "temp").mkdir(exist_ok=True)
    env |= {"TMPDIR": str(tmp_path / "temp"), "FBNETV3_OFFLINE": "1"}
    command = [sys.executable, "-c", NOBODY]
    if home is not None:
        env["HOME"] = str(home)
        command = [sys.executable, "-m", "fbnetv3"]
        if os.geteuid() == 0:
            # The administrator may look anywhere, unless that right is given up.
            if shutil.which("setpriv") is None:
                pytest.skip("needs setpriv")
            rights = "-dac_override,-dac_read_search"
            command = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", *command]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )


@pytest.fixture(name="closed")
def _closed(tmp_path: Path) -> Iterator[Path]:
    """A home directory that belongs to someone else, or that may not be looked into."""
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)
        home.chmod(0o700)
    else:
        home.chmod(0)
    yield home
    home.chmod(0o700)


PHOTO = str(example_photos()[0])
COMMANDS = {
    "classify": (["classify", PHOTO, "--embedded"], 0, "cat"),
    "export": (["export", "fbnetv3_nano.cifar10", "-o", "nano.onnx"], 0, "nano.onnx"),
    "doctor": (["doctor"], 0, "ok   cache"),
    "train": (
        ["train", "--model", "fbnetv3_nano.cifar10", "--data", "{photos}", "--epochs", "1"],
        0,
        "",
    ),
    # The web runtime would have to be downloaded, which is said; nothing is denied.
    "demo": (["demo", "--no-serve"], 1, "onnxruntime-web"),
}


@pytest.mark.slow
@pytest.mark.parametrize("has_home", [True, False], ids=["closed home", "no home"])
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_with_embedded_weights_need_no_home(
    name: str, has_home: bool, closed: Path, photos: Path, tmp_path: Path
) -> None:
    words, code, expected = COMMANDS[name]
    given = [word.format(photos=photos) for word in words]
    done = run(given, tmp_path, closed if has_home else None)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert expected in output
    assert "denied" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", [n for n, w in WEIGHTS.items() if isinstance(w.source, Embedded)])
def test_embedded_weights_ask_for_no_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda *_: pytest.fail("the cache is asked for"))
    assert CachedWeights(WEIGHTS[name]).tensors()


def test_without_a_home_the_cache_is_an_own_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    def unknown(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "FBNETV3_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(UserWarning, match=r"no home directory.*FBNETV3_HOME"):
        folder = cache.cache_dir()
    assert folder == tmp_path / f"fbnetv3-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.cache_dir() == folder


def test_a_temporary_folder_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / f"fbnetv3-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(UserWarning, match="cached in"):
        found = cache._temporary("there is no home directory")
    assert found != planted
    assert found.stat().st_mode & 0o077 == 0


def test_a_folder_that_the_user_chose_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "not" / "there"))
    assert cache.cache_dir() == tmp_path / "not" / "there"
