"""The package as it is installed: its data, its metadata, and that its parts agree."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import fbnetv3
from fbnetv3.hub.weights import WEIGHTS, Embedded
from tests.paths import ROOT

PACKAGE = Path(fbnetv3.__file__).parent
# Weights inside the package, together.
MAX_DATA_BYTES = 20 << 20
# Of the wheel and of the source archive, 14 MB each when this was written.
MAX_ARCHIVE_BYTES = 16_000_000
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["project"]
    return found


def requirements() -> list[Requirement]:
    listed = project()["dependencies"]
    assert isinstance(listed, list)
    return [Requirement(line) for line in listed]


class Archives(NamedTuple):
    """The built files, and the names in them without their first folder."""

    wheel: Path
    sdist: Path
    in_wheel: set[str]
    in_sdist: set[str]


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds a `wheel` or `sdist` as pip does, by the hooks of the backend in pyproject.toml."""
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """The source archive of this checkout, and the wheel that is built from what is in it."""
    if not (ROOT / "fbnetv3_zoo").is_dir():
        pytest.skip("the sources are not beside the tests; they run on a wheel")
    place = tmp_path_factory.mktemp("build")
    source = place / "source"
    for folder in ("fbnetv3_zoo", "search", "tests", "benchmarks"):
        large = shutil.ignore_patterns("results", "*.npz")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=large)
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, source)
    for decoy in ("site/index.html", "benchmarks/results/x.json", "tests/__pycache__/x.pyc"):
        (source / decoy).parent.mkdir(parents=True, exist_ok=True)
        (source / decoy).touch()
    sdist = build("sdist", source, place / "sdist")
    with tarfile.open(sdist) as tar:
        tar.extractall(place / "unpacked", filter="data")
        in_sdist = {one.name.partition("/")[2] for one in tar.getmembers() if not one.isdir()}
    (unpacked,) = (place / "unpacked").iterdir()
    wheel = build("wheel", unpacked, place / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    return Archives(wheel, sdist, in_wheel, in_sdist)


def test_the_wheel_holds_the_package_and_nothing_else(archives: Archives) -> None:
    folders = {"fbnetv3": ROOT / "fbnetv3_zoo", "fbnetv3/search": ROOT / "search"}
    expected = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in folders.items()
        for path in folder.rglob("*.py")  # does not follow the link to the search
    }
    data = ROOT / "fbnetv3_zoo" / "data"
    expected |= {f"fbnetv3/data/{p.relative_to(data)}" for p in data.rglob("*.*") if p.is_file()}
    expected |= {
        f"fbnetv3/search/report/html/{path.name}"
        for path in (ROOT / "search/report/html").iterdir()
    }
    metadata = {name for name in archives.in_wheel if ".dist-info/" in name}
    assert archives.in_wheel - metadata == expected | {"fbnetv3/py.typed"}
    assert {Path(name).name for name in metadata} == (
        {"METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt", "top_level.txt"}
    )


def test_the_source_archive_holds_what_the_wheel_is_built_from(archives: Archives) -> None:
    sources = {
        name.replace("fbnetv3/search/", "search/").replace("fbnetv3/", "fbnetv3_zoo/")
        for name in archives.in_wheel
        if ".dist-info/" not in name
    }
    around = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "PKG-INFO", "setup.cfg"}
    found = {name for name in archives.in_sdist if ".egg-info/" not in name}
    assert found == sources | around


def test_the_archives_are_small(archives: Archives) -> None:
    assert archives.wheel.stat().st_size <= MAX_ARCHIVE_BYTES
    assert archives.sdist.stat().st_size <= MAX_ARCHIVE_BYTES


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
