"""What is packed: the wheel and the source archive of this checkout, and what they require."""

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

from tests.paths import ROOT

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


def test_required_packages_are_within_their_ranges() -> None:
    for requirement in requirements():
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name))


def test_constraints_name_versions_within_the_ranges_and_no_hosts() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))
    for requirement in requirements():
        assert requirement.specifier.contains(pins[requirement.name]), requirement.name
