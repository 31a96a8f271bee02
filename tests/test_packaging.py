"""The package as it is installed: its data, its metadata, and that its parts agree."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import fbnetv3
from fbnetv3.weights import WEIGHTS, Embedded

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fbnetv3.__file__).parent
# Weights inside the package, together.
MAX_DATA_BYTES = 20 << 20


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["project"]
    return found


def requirements() -> list[Requirement]:
    listed = project()["dependencies"]
    assert isinstance(listed, list)
    return [Requirement(line) for line in listed]


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
    assert found == {"fbnetv3": "fbnetv3.cli:main", "fbnetv3-search": "fbnetv3.search.cli:main"}


def test_required_packages_are_within_their_ranges() -> None:
    for requirement in requirements():
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_constraints_name_versions_within_the_ranges_and_no_hosts() -> None:
    path = ROOT / "constraints.txt"
    if not path.exists():
        pytest.skip("no constraints.txt beside the tests; they run on a wheel")
    text = path.read_text()
    assert "://" not in text
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    for requirement in requirements():
        assert requirement.specifier.contains(pins[requirement.name]), requirement.name


def test_the_licence_is_apache() -> None:
    assert importlib.metadata.metadata("fbnetv3-zoo")["License-Expression"] == "Apache-2.0"
