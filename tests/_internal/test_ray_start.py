"""Ray under `uv run`: workers on this machine use the environment that is there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fbnetv3._internal.ray_start import need_ray

HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"


@pytest.mark.parametrize(
    ("address", "variable", "before", "after"),
    [
        (None, "", None, "0"),
        ("local", "", None, "0"),
        (None, "", "1", "1"),
        (None, "10.0.0.1:6379", None, None),
        ("10.0.0.1:6379", "", None, None),
    ],
)
def test_only_a_cluster_here_does_without_the_hook_of_uv(
    address: str | None,
    variable: str,
    before: str | None,
    after: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    for name in (HOOK, "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    if before is not None:
        monkeypatch.setenv(HOOK, before)
    with contextlib.suppress(ImportError):  # without Ray, too
        need_ray(address)
    assert os.environ.get(HOOK) == after


@pytest.mark.needs("ray")
@pytest.mark.parametrize(
    "start",
    [
        "from fbnetv3._internal.ray_start import need_ray; need_ray(None)",
        "from fbnetv3.search.cli.carrying_out import engine_maker;"
        "engine_maker('ray', 1, '', None, None, 1, 0)",
    ],
)
def test_workers_are_not_started_by_the_line_of_uv_run(start: str, tmp_path: Path) -> None:
    program = (
        f"{start}; from ray._private.worker import _maybe_modify_runtime_env as started;"
        "print(started({}, False))"
    )
    # A shell under the name of uv, whose child is the driver.
    line = 'exec -a .uv/bin/uv bash run "$@"'
    (tmp_path / "run").write_text('"$@"\n')
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        ["bash", "-c", line, "uv", sys.executable, "-c", program],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "{}\n", done.stderr
