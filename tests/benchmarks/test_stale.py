"""Results that are older than what they measure are told."""

from __future__ import annotations

import re
import subprocess
from types import ModuleType

import pytest

from tests.modules import benchmark
from tests.paths import ROOT


@pytest.fixture(scope="module")
def stale() -> ModuleType:
    return benchmark("release.stale")


def test_every_result_says_what_it_depends_on(stale: ModuleType) -> None:
    results = stale.results()
    assert len(results) > 50
    for result in results:
        for path in stale.measured(result):
            assert (ROOT / path).exists(), f"{result}: {path}"
    with pytest.raises(KeyError, match=r"add a line for nothing\.json to MEASURED"):
        stale.measured("nothing.json")


def test_the_readme_has_a_line_for_every_result(stale: ModuleType) -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    block = text.partition("<!-- stale -->")[2].partition("<!-- /stale -->")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` ", block, re.M)) == stale.results()


def test_later_commits_to_what_a_result_measures_are_counted(stale: ModuleType) -> None:
    if stale.git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("needs the history")
    found = stale.age("confidence.json")
    held = (ROOT / "benchmarks" / "results" / "confidence.json").read_text()
    assert f'"commit": "{found.commit}' in held
    words = ["git", "log", "--no-merges", "--format=%h", f"{found.commit}..HEAD", "--"]
    paths = stale.measured("confidence.json")
    lines = subprocess.run([*words, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.later == len(lines.stdout.split())
    assert "confidence.json" in stale.table([found])
