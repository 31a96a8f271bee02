"""The Parquet table of all joint trainings: as its records are, and the search reads it."""

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fbnetv3.arch.arch import Arch
from fbnetv3.search import Recipe, load_table
from tests.modules import benchmark

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    return benchmark("studies.trainings_table")


@pytest.fixture(scope="module")
def table(script: ModuleType) -> list[dict[str, Any]]:
    """The rows of the table in the repository."""
    from pyarrow import parquet

    return list(parquet.read_table(script.OUT).to_pylist())


def test_table_is_made_from_the_records(script: ModuleType, table: list[dict[str, Any]]) -> None:
    made = list(script.rows())
    assert len(made) == len(table)
    for new, old in zip(made[::97], table[::97], strict=True):
        assert {name: new.get(name) for name in old if name != "curve"} == {
            name: value for name, value in old.items() if name != "curve"
        }
        if new.get("curve"):
            np.testing.assert_allclose(new["curve"], old["curve"], rtol=1e-6)
    assert script.counted(made) in (script.DATA / "README.md").read_text()


def test_rows_hold_whole_candidates(script: ModuleType, table: list[dict[str, Any]]) -> None:
    for row in table[::41]:
        arch = Arch.from_dict(json.loads(row["arch"]))
        recipe = Recipe.from_dict({**json.loads(row["recipe"]), "epochs": 1})
        assert arch.resolution == 32
        assert row["space"] is None or recipe.lr == row["lr"]
        assert 0 <= row["label"] <= 100


def test_search_reads_a_length(script: ModuleType) -> None:
    space = script.DATA / "nars_cifar_space.json"
    short = load_table(space, script.OUT, {"space": "cifar_joint", "steps": "248"})
    lines = [json.loads(one) for one in script.LINES.read_text().splitlines()]
    lines = [one for one in lines if one["space"] == "cifar_joint"]
    assert len(short.rows) == len({one["digest"] for one in lines})
    full = load_table(space, script.OUT, {"space": "cifar_joint", "steps": "7810"})
    assert 0 < len(full.rows) < 10
