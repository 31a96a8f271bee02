"""How far `create(name, pretrained=True)` walks through our files, so that it stays readable."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest
import torch

import fbnetv3
import fbnetv3.hub.create
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub.weights import WEIGHTS, Url
from fbnetv3.models.model import build

PACKAGE = Path(fbnetv3.__file__).parent
# Frozen records, and what reads and checks them: whoever asks them for a value goes nowhere.
RECORDS = (
    *("arch/", "hub/weights.py", "images/preprocess.py"),
    *("_internal/json_record.py", "_internal/checks.py"),
)

pytestmark = pytest.mark.filterwarnings("ignore:.*non-commercial use only")


@dataclasses.dataclass(frozen=True)
class Walk:
    """What one call went through.

    Attributes:
        calls: different calls from one file of ours to another: "file function -> file function".
        climbs: those of them into a file that still waits for the answer.
    """

    calls: set[str]
    climbs: set[str]


def walk(journey: Callable[[], object]) -> Walk:
    """Returns the walk of a journey, without records and what the building of a network does."""
    calls, climbs = set(), set()

    def ours(frame: FrameType | None) -> list[CodeType]:
        """Returns the functions of ours in a stack, the innermost first."""
        found = []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(str(PACKAGE)) and code.co_name != "<module>":
                found.append(code)
            frame = frame.f_back
        return found

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        stack = ours(frame)
        names = [str(Path(code.co_filename).relative_to(PACKAGE)) for code in stack]
        building = any("models/" in name for name in names[1:])
        if building or len(names) < 2 or names[0] == names[1] or names[0].startswith(RECORDS):
            return
        call = f"{names[1]} {stack[1].co_name} -> {names[0]} {stack[0].co_name}"
        calls.add(call)
        if names[0] in names[1:]:
            climbs.add(call)

    sys.setprofile(watch)
    try:
        journey()
    finally:
        sys.setprofile(None)
    return Walk(calls, climbs)


@pytest.fixture(name="official")
def _official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of weights that lie as a pickle in the official layout at an address."""
    arch = ARCHS["fbnetv3_nano"]
    state = from_fbnetv3(build(arch, num_classes=10).state_dict(), arch, "official")
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    weights = dataclasses.replace(
        WEIGHTS["fbnetv3_a.meta_in1k"],
        model="fbnetv3_nano",
        tag="walk",
        num_classes=10,
        source=Url(url=(tmp_path / "model.pth").as_uri()),
    )
    monkeypatch.setitem(WEIGHTS, weights.name, weights)
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "cache"))
    return weights.name


def create(name: str) -> Walk:
    return walk(lambda: fbnetv3.hub.create.create(name, pretrained=True))


def test_the_walk_is_seen(official: str) -> None:
    assert "hub/cached_weights.py _fetch -> hub/download.py download" in create(official).calls


def test_weights_are_fetched_converted_and_loaded_by_few_calls(official: str) -> None:
    first = create(official)
    assert len(first.calls) <= 26, "\n".join(sorted(first.calls))
    assert first.climbs == set()


def test_weights_on_this_machine_are_loaded_by_fewer_calls(official: str) -> None:
    create(official)
    for name in (official, "fbnetv3_nano.cifar10"):
        again = create(name)
        assert len(again.calls) <= 13, "\n".join(sorted(again.calls))
        assert again.climbs == set()
