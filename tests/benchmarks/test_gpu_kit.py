"""The GPU kit's dry run goes through its parts on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_writes_results_and_resumes(tmp_path: Path) -> None:
    """`tests` and `latency` have dry runs of their own in other files."""

    def run(*parts: str) -> str:
        command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--dry-run"]
        done = subprocess.run(
            [*command, "--only", *parts], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lines(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    said = run("training", "search")
    assert "training: done" in said
    assert "search: done" in said
    assert {row["part"] for row in lines("training.jsonl")} == {"throughput", "accuracy"}
    finals = lines("finals_0.jsonl")
    assert len(finals) == 3
    assert all(0 <= float(str(row["test_top1_pct"])) <= 100 for row in finals)
    run("training")
    assert len(lines("training.jsonl")) == 2
