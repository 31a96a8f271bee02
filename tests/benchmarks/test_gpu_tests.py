"""The runner of the tests for a GPU, on tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modules import benchmark
from tests.paths import ROOT

KIT = benchmark("gpu.tests")
SETTINGS = """
[tool.pytest.ini_options]
markers = ["gpu: needs a CUDA device"]
"""
TESTS = """
import time

import pytest


@pytest.mark.gpu
def test_right():
    pass


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["one", "an other"])
def test_wrong(what):
    assert what == "two"


@pytest.mark.gpu
def test_left_out():
    pytest.skip("no CUDA device")


def test_of_a_cpu():
    raise SystemExit
"""
ENDLESS = """

@pytest.mark.gpu
def test_endless():
    time.sleep(600)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(TESTS)
    return tmp_path


def test_only_files_with_marked_tests_are_collected() -> None:
    found = KIT.marked_files()
    assert "tests/search/training/test_gpu.py" in found
    assert "tests/search/training/test_recipe.py" not in found
    assert all((ROOT / path).is_file() for path in found)


def test_every_outcome_is_recorded_by_name(checkout: Path) -> None:
    found = KIT.run(checkout, 100, root=checkout)
    assert found["exit_code"] == 1
    assert not found["limit_hit"]
    assert found["passed"] == ["tests.test_one::test_right"]
    messages = {failure["test"]: failure["message"] for failure in found["failed"]}
    # In whichever order they ran.
    assert sorted(messages) == [
        f"tests.test_one::test_wrong[{name}]" for name in ("an other", "one")
    ]
    assert "assert 'one' == 'two'" in messages["tests.test_one::test_wrong[one]"]
    assert found["skipped"] == [
        {"test": "tests.test_one::test_left_out", "reason": "no CUDA device"}
    ]

    # Where pytest was killed there is its log alone.
    log = (checkout / "tests.log").read_text()
    by_log = KIT.outcomes(log, checkout / "nowhere.xml")
    assert by_log["passed"] == ["tests/test_one.py::test_right"]
    assert {failure["test"].partition("::")[2] for failure in by_log["failed"]} == {
        "test_wrong[one]",
        "test_wrong[an other]",
    }
    assert [skip["test"] for skip in by_log["skipped"]] == ["tests/test_one.py::test_left_out"]


def test_a_file_that_cannot_be_imported_is_a_failure_among_others(checkout: Path) -> None:
    (checkout / "tests" / "test_broken.py").write_text("import no_such_module  # mark.gpu")
    found = KIT.run(checkout, 100, root=checkout)
    assert "no_such_module" in found["failed"][0]["message"]
    assert found["passed"] == ["tests.test_one::test_right"]


@pytest.mark.slow
def test_the_limit_leaves_what_was_done_and_names_what_ran(checkout: Path) -> None:
    path = checkout / "tests" / "test_one.py"
    path.write_text(path.read_text() + ENDLESS)
    found = KIT.run(checkout, 15, root=checkout)
    assert found["limit_hit"]
    assert found["exit_code"] is None
    # By pytest's report, or by its log where it had no time to write one.
    assert found["passed"] in (["tests.test_one::test_right"], ["tests/test_one.py::test_right"])
    assert found["running"] == ["tests/test_one.py::test_endless"]
