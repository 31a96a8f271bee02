"""How many processors a container lets a process keep busy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fbnetv3._internal.processors import available_cpus, heed_quota

ALL = available_cpus(Path("/nowhere"))


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, ALL),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, min(ALL, 2)),
        ({"cpu.max": "junk"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, ALL),
    ],
)
def test_a_quota_of_either_kind_counts(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert available_cpus(tmp_path) == cpus


def test_threads_are_set_only_below_the_processors_and_where_nobody_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("fbnetv3._internal.processors._allowed", lambda: 8)
    heed_quota(tmp_path)
    assert "OMP_NUM_THREADS" not in os.environ
    (tmp_path / "cpu.max").write_text("250000 100000")
    heed_quota(tmp_path)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    (tmp_path / "cpu.max").write_text("100000 100000")
    heed_quota(tmp_path)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_torch_starts_the_threads_of_the_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000")
    script = (
        "import sys; from pathlib import Path; from fbnetv3._internal import processors as p; "
        "p._allowed = lambda: 8; p.heed_quota(Path(sys.argv[1])); "
        "assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
