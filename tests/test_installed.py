"""The package as it is installed: its data, its metadata, and that all of it can be imported."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import fbnetv3
from fbnetv3.hub.weights import WEIGHTS, Embedded

PACKAGE = Path(fbnetv3.__file__).parent
# Weights inside the package, together.
MAX_DATA_BYTES = 20 << 20
IMPORT_ALL = """
import importlib, pkgutil
import fbnetv3
from fbnetv3._internal.optional import INSTALLS

for module in pkgutil.walk_packages(fbnetv3.__path__, "fbnetv3."):
    print(module.name)
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if not str(error).endswith(tuple(INSTALLS.values())):
            raise
"""


def test_the_installed_version_is_the_packages() -> None:
    assert importlib.metadata.version("fbnetv3-zoo") == fbnetv3.__version__


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "data/LICENSES.txt",
        "data/cifar10.txt",
        "data/demo/demo.mjs",
        "data/demo/index.html",
        "data/golden.json",
        "data/imagenet1k.txt",
        "data/photos/LICENSES.txt",
        "data/photos/chelsea.jpg",
    ],
)
def test_data_is_installed(name: str) -> None:
    assert (PACKAGE / name).stat().st_size > 0 or name == "py.typed"


def test_embedded_weights_are_installed_and_small() -> None:
    embedded = [w for w in WEIGHTS.values() if isinstance(w.source, Embedded)]
    assert embedded
    sizes = [(PACKAGE / "data" / str(vars(w.source)["filename"])).stat().st_size for w in embedded]
    assert sum(sizes) <= MAX_DATA_BYTES


def test_every_photo_has_its_licence() -> None:
    listed = (PACKAGE / "data" / "photos" / "LICENSES.txt").read_text()
    photos = list((PACKAGE / "data" / "photos").glob("*.jpg"))
    assert photos
    assert all(photo.name in listed for photo in photos)


def test_both_programs_are_installed() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    found = {e.name: e.value for e in scripts if e.value.startswith("fbnetv3.")}
    assert found == {
        "fbnetv3": "fbnetv3.cli.app:main",
        "fbnetv3-search": "fbnetv3.search.cli.app:main",
    }


def test_the_licence_is_apache() -> None:
    assert importlib.metadata.metadata("fbnetv3-zoo")["License-Expression"] == "Apache-2.0"


def test_every_module_can_be_imported_or_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"fbnetv3.cli.app", "fbnetv3.search.nars.run"} <= set(done.stdout.split())
