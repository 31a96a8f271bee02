"""Optional parts that are not there: exit code 3 and the command that installs each.

All of them are hidden here, whether they are installed or not.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import fbnetv3
from fbnetv3._internal.optional import INSTALLS
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.search.nars import run
from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from tests.paths import ROOT
from tests.shell import APPS

PHOTOS = Path(fbnetv3.__file__).parent / "data" / "photos"
# What only some functions need; onnxruntime is there unless somebody left it out.
HIDDEN = frozenset(INSTALLS) - {"onnxruntime"}


class Without:
    """A finder of modules to which the hidden ones do not exist."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, *arguments: Any) -> ModuleSpec | None:
        if name.partition(".")[0] in HIDDEN:
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, *arguments)
        return found


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in HIDDEN or name.startswith("fbnetv3.detectron2_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(finder) for finder in sys.meta_path])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name; what they look at before the parts is sound."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(PHOTOS, folder / "photos")
    for name in ("small.onnx", "small.xml", "labels.parquet", "flowers/train-0.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"PAR1")
    for name in ("cat", "dog"):
        (folder / "classes" / name).mkdir(parents=True)
        shutil.copy(PHOTOS / "chelsea.jpg", folder / "classes" / name)
    space = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(3)))
    (folder / "space.json").write_text(space.to_json())
    rows = ["g0,g1,g2,label", *(f"{n % 4},{n // 4},0,{60 + n}" for n in range(16))]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    table = {"space": str(folder / "space.json"), "table": str(folder / "labels.csv")}
    spec = {"kind": "table", **table}
    run.create_search(
        folder / "s", space=space, objective=spec, config=SearchConfig(pool=16, batch=4, rounds=2)
    ).close()
    return folder


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("openvino", "fbnetv3 export fbnetv3_nano.cifar10 -o nano.xml"),
        ("openvino", "fbnetv3 latency small.xml --threads 1 --seconds 0.1"),
        ("nncf", "fbnetv3 quantize small.onnx --calib photos -o int8.xml"),
        ("executorch", "fbnetv3 export fbnetv3_nano.cifar10 -o nano.pte"),
        ("coremltools", "fbnetv3 export fbnetv3_nano.cifar10 -o nano.mlpackage"),
        ("matplotlib", "fbnetv3 train --data classes --model fbnetv3_nano.cifar10 --plot"),
        ("matplotlib", "fbnetv3 latency small.onnx --images classes --plot rows.svg"),
        ("wandb", "fbnetv3 train --data classes --model fbnetv3_nano.cifar10 --log wandb"),
        ("mlflow", "fbnetv3 train --data classes --model fbnetv3_nano.cifar10 --log mlflow"),
        ("tensorboard", "fbnetv3 train --data classes --model fbnetv3_nano --log tensorboard"),
        ("pyarrow", "fbnetv3 train --data flowers --model fbnetv3_nano.cifar10"),
        ("pyarrow", "fbnetv3-search run new --space space.json --table labels.parquet"),
        ("ray", "fbnetv3-search run new --space space.json --table labels.csv --engine ray"),
        ("ray", "fbnetv3-search resume s --engine ray"),
        ("optuna", "fbnetv3-search export s --optuna sqlite:///study.db"),
    ],
)
def test_a_command_says_what_to_install(
    library: str, line: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    program, *words = line.split()
    done = CliRunner().invoke(APPS[program], words, prog_name=program)
    assert done.exit_code == 3, done.output
    (error,) = [text for text in done.stderr.splitlines() if not text.startswith("note: ")]
    assert error.startswith(f"error: this needs {library}, which cannot be imported")
    assert error.endswith(f": pip install {INSTALLS[library]}")
    assert sorted(place.iterdir()) == before, "nothing is left behind"


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize(
    "module", ["detectron2_backbone", "detectron2_config", "detectron2_hooks", "detectron2_weights"]
)
def test_detectron2s_modules_say_what_to_install(module: str) -> None:
    with pytest.raises(ImportError, match=re.escape(f"pip install {INSTALLS['detectron2']}")):
        importlib.import_module(f"fbnetv3.integrations.{module}")


@pytest.mark.usefixtures("_bare")
def test_a_folder_in_cocos_format_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=re.escape(f"pip install {INSTALLS['pycocotools']}")):
        CocoFolder("photos")


def test_the_named_extras_bring_the_library() -> None:
    path = ROOT / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    for library, what in INSTALLS.items():
        for extra in re.findall(r"fbnetv3-zoo\[(\w+)\]", what):
            names = {Requirement(line).name.removesuffix("-skinny") for line in extras[extra]}
            assert library.replace("_", "-") in names, library
    named = set(re.findall(r"fbnetv3-zoo\[(\w+)\]", " ".join(INSTALLS.values())))
    assert named == set(extras)
