"""The list of skipped tests that ends `.ci/run`: what no run carried out is known, or it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PASSED = '<testcase classname="tests.a" name="test_ray"/>'
NEEDS_RAY = (
    '<testcase classname="tests.a" name="test_ray"><skipped message="needs ray"/></testcase>'
)
NO_GPU = (
    '<testcase classname="tests.b" name="test_gpu"><skipped message="no CUDA device"/></testcase>'
)

WHOLE_FILE = (
    '<testcase classname="" name="tests.c"><skipped message="collection skipped">'
    "('tests/c.py', 3, 'Skipped: {}')</skipped></testcase>"
)


@pytest.mark.parametrize(
    ("first", "second", "code", "said"),
    [
        (NEEDS_RAY, PASSED, 0, "0 were skipped"),
        (NEEDS_RAY + NO_GPU, PASSED + NO_GPU, 0, "allowed: tests.b::test_gpu: no CUDA device"),
        (NEEDS_RAY, NEEDS_RAY, 1, "UNKNOWN: tests.a::test_ray: needs ray"),
        (NEEDS_RAY, NO_GPU, 1, "UNKNOWN: tests.a::test_ray: needs ray"),
        (
            WHOLE_FILE.format("detectron2 has no release"),
            PASSED,
            0,
            "allowed: ::tests.c: detectron2",
        ),
        (WHOLE_FILE.format("not today"), PASSED, 1, "UNKNOWN: ::tests.c: not today"),
        (NEEDS_RAY, "", 1, "second.xml holds no test"),
    ],
)
def test_a_skip_is_carried_out_elsewhere_or_allowed(
    first: str, second: str, code: int, said: str, tmp_path: Path
) -> None:
    for name, cases in (("first", first), ("second", second)):
        (tmp_path / f"{name}.xml").write_text(f"<testsuites>{cases}</testsuites>")
    script = ROOT / ".ci" / "skips.py"
    done = subprocess.run(
        [sys.executable, str(script), "first.xml", "second.xml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
