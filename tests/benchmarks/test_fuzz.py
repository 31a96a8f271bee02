"""The fuzzers of `benchmarks/fuzz/run.py`: a few hundred cases each, and that they find faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from tests.modules import benchmark

CASES = {"arch": 500, "checkpoint": 500, "image": 400, "onnx": 300}
SEED = 2026


@pytest.fixture(scope="module", autouse=True)
def fuzz() -> ModuleType:
    return benchmark("fuzz.run")


@pytest.mark.parametrize("name", CASES)
def test_every_hostile_case_ends_in_a_value_or_the_documented_error(
    fuzz: ModuleType, name: str, tmp_path: Path
) -> None:
    found = fuzz.run_range(name, SEED, range(CASES[name]), tmp_path)
    assert found.findings == []
    assert found.cases == CASES[name] == found.accepted + sum(found.refused.values())
    # A mutation so wild that all is refused tests the first check only.
    assert found.accepted > CASES[name] // 25
    assert len(found.refused) > 20


@pytest.mark.parametrize("name", CASES)
def test_a_case_depends_on_its_seed_and_index_alone(
    fuzz: ModuleType, name: str, tmp_path: Path
) -> None:
    def texts(seed: int) -> list[Any]:
        target = fuzz.make_target(name, tmp_path)
        made = [target.make(fuzz.draw_of(name, seed, index)) for index in range(20)]
        # An image in memory has no text of its own.
        return [(kind, getattr(case, "size", None) or str(case)) for kind, case in made]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (KeyError("w"), "KeyError"),
        (ValueError("no"), "not the documented form"),
        (ValueError("cannot read image x: \x1b[2J"), "not printable"),
        (ValueError("cannot read image x: " + "y" * 5000), "5021 characters"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_a_reader_does_wrong_is_a_finding(
    fuzz: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Exception,
    fault: str,
) -> None:
    def fail(*_: Any) -> None:
        raise broken

    target = fuzz.make_target("image", tmp_path)
    monkeypatch.setattr(target, "read", fail)
    found = fuzz.Found()
    fuzz.run_case(target, "image", 0, 0, found)
    assert [fault in finding["fault"] for finding in found.findings] == [True]


def test_a_reader_that_runs_pickles_is_a_finding(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fuzz.make_target("checkpoint", tmp_path)

    def touch(_: Path) -> dict[str, Any]:
        target.canary.touch()
        return {}

    monkeypatch.setattr(benchmark("fuzz.checkpoint"), "read_tensors", touch)
    found = fuzz.Found()
    fuzz.run_case(target, "checkpoint", 0, 0, found)
    assert "was run" in found.findings[0]["fault"]


def test_a_run_goes_on_where_it_ended(fuzz: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    first = fuzz.run_range("arch", SEED, range(30), tmp_path)
    fuzz._save(out, "arch", SEED, first)
    again = fuzz._load(out, "arch", SEED)
    again.add(fuzz.run_range("arch", SEED, range(30, 60), tmp_path))
    whole = fuzz.run_range("arch", SEED, range(60), tmp_path)
    assert (again.accepted, again.refused, again.kinds) == (
        whole.accepted,
        whole.refused,
        whole.kinds,
    )
    assert fuzz._load(out, "arch", SEED + 1).cases == 0
    assert json.loads(out.read_text())["arch"]["cases"] == 30


def test_a_crash_costs_one_case_and_is_told(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fuzz.run_case

    def run_or_die(target: Any, name: str, seed: int, index: int, found: Any) -> None:
        if (seed, index) == (SEED, 2):
            os._exit(3)
        run(target, name, seed, index, found)

    monkeypatch.setattr(fuzz, "START_METHOD", "fork")  # a child with the patch in it
    monkeypatch.setattr(fuzz, "run_case", run_or_die)
    whole = fuzz.Found()
    first = fuzz.run_block("arch", SEED, 0, 5)
    assert first.cases == 3, "the rest is the next block's"
    assert first.findings == [
        {"index": 2, "kind": "process", "fault": "the process died with exit code 3"}
    ]
    whole.add(first)
    whole.add(fuzz.run_block("arch", SEED, 3, 5))
    assert whole.cases == 5
    assert len(whole.findings) == 1


def test_mutations_of_json_reach_what_json_cannot_say() -> None:
    mutate = benchmark("fuzz.mutate")
    texts = [mutate.mutate_json(Random(n), {"a": [1, 2, {"b": None}]}) for n in range(2000)]
    for piece in ("NaN", "1e999", "[" * 700, "9" * 5000, "\\ud800"):
        assert any(piece in text for text in texts), piece
