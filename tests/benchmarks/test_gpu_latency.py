"""The latency benchmark on a GPU, as far as a CPU can show: it resumes, checks and goes on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.modules import benchmark

SIDE = 64


@pytest.fixture(scope="module")
def latency() -> ModuleType:
    """The script."""
    return benchmark("gpu.latency")


@pytest.fixture(scope="module")
def contestants() -> ModuleType:
    """What it runs."""
    return benchmark("gpu.contestants")


@pytest.fixture(scope="module")
def card() -> ModuleType:
    """What it compares with."""
    return benchmark("gpu.card")


@pytest.fixture
def own_settings() -> Iterator[None]:
    """Puts back what the script sets for its whole process."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.fixture
def bench(latency: ModuleType, card: ModuleType, tmp_path: Path) -> Any:
    """A measurement of small images on the CPU."""
    settings = latency.DRY._replace(side=SIDE, min_runs=2)
    ceilings = card.Ceilings({"fp32": 1.0, "bf16": 2.0, "fp16": 2.0}, 100.0)
    return latency.Bench(tmp_path / "latency.jsonl", settings, ceilings, {"card": {}})


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_results_are_written_with_reasons_and_a_second_run_has_nothing_to_do(
    latency: ModuleType, bench: Any
) -> None:
    jobs = [latency.Job("fbnetv3_b", 2, "plain"), latency.Job("fbnetv3_b", 2, "compile")]
    assert bench.run(jobs, time.monotonic() + 1000) == 0
    found = rows(bench.path)
    by_name = {row["backend"]: row for row in found}
    assert len(by_name) == len(found) == 12
    timed = {name for name, row in by_name.items() if "latency" in row}
    assert timed == {"timm", "timm-bf16", "torch", "unfolded-bf16", "torch-bf16", "torch-fp16"}
    assert by_name["torch-cuda-graph"]["left_out"] == "CUDA graphs need a GPU"
    assert by_name["torch-compile-bf16"]["left_out"] == "a dry run compiles nothing"
    assert all(row["baseline"] == "timm" for row in found if "latency" in row)
    assert by_name["torch"]["rms_error"] < 1e-4 < by_name["torch-bf16"]["rms_error"]
    again = latency.Bench(bench.path, bench.settings, bench.ceilings, {})
    again.measure = None  # nothing is left to measure
    assert again.run(jobs, time.monotonic() + 1000) == 0
    lines = list(latency.table(found))
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["fbnetv3_b", "2"]


def test_a_stopped_run_measures_only_what_is_missing(latency: ModuleType, bench: Any) -> None:
    job = latency.Job("mobilenetv4_conv_medium", 1, "plain")
    bench.done = {(*job[:2], "timm-bf16"), (*job[:2], "timm-cuda-graph-bf16")}
    bench.run([job], time.monotonic() + 1000)
    assert [row["backend"] for row in rows(bench.path)] == ["timm"]


def test_what_does_not_fit_is_skipped_for_what_does(latency: ModuleType, bench: Any) -> None:
    expected = {**bench.settings.expected_s, "compile": 1e9}
    bench.settings = bench.settings._replace(expected_s=expected)
    jobs = [
        latency.Job("fbnetv3_b", 1, "compile"),
        latency.Job("mobilenetv4_conv_medium", 1, "plain"),
    ]
    assert bench.run(jobs, time.monotonic() + 1000) == 1
    assert {row["network"] for row in rows(bench.path)} == {"mobilenetv4_conv_medium"}


def test_a_backend_that_fails_is_recorded_and_the_others_go_on(
    latency: ModuleType, contestants: ModuleType, bench: Any
) -> None:
    job = latency.Job("mobilenetv4_conv_medium", 1, "plain")
    bench._network(job.network)

    def broken(*_: object) -> None:
        raise RuntimeError("no kernel\n  for this")

    good, bad = contestants.ways_of(job.network, "plain")[:2]
    bench.measure(job, [dataclasses.replace(bad, make=broken), good])
    found = {row["backend"]: row for row in rows(bench.path)}
    assert found["timm-bf16"]["error"] == "RuntimeError: no kernel for this"
    assert "latency" in found["timm"]
    unknown = latency.Job("no_such_model", 1, "plain")
    bench.measure(unknown, [good])
    assert rows(bench.path)[-1]["network"] == "no_such_model"
    assert "error" in rows(bench.path)[-1]


def test_a_backend_of_another_model_is_not_timed(contestants: ModuleType) -> None:
    network = contestants.prepare("mobilenetv4_conv_medium", "cpu", side=SIDE)
    batch = contestants.images_for(network, 2)
    expected = contestants.reference(network, "timm", batch)
    way = contestants.ways_of(network.name, "plain")[0]
    assert contestants.checked(network, way, 2, batch, expected).record["rms_error"] < 1e-4
    with pytest.raises(ValueError, match="its logits are not those of float32"):
        contestants.checked(network, way, 2, batch[::-1].copy(), expected)


def test_logits_are_compared_by_what_depends_on_the_image(contestants: ModuleType) -> None:
    rng = np.random.default_rng(0)
    common, own = 1000 * rng.standard_normal(50), rng.standard_normal((64, 50))
    expected = common + 100 * own
    same = contestants.agreement_of(expected, expected)
    assert (same["rms_error"], same["agreement_pct"], same["max_abs_diff"]) == (0, 100, 0)
    other = contestants.agreement_of(common + 100 * rng.standard_normal((64, 50)), expected)
    assert other["rms_error"] == pytest.approx(2**0.5, rel=0.1)
    assert other["agreement_pct"] < 20
    with pytest.raises(ValueError, match="2% of its logits are not finite"):
        contestants.agreement_of(np.where(expected == expected[0], np.nan, expected), expected)
    with pytest.raises(ValueError, match="do not depend on the image"):
        contestants.agreement_of(expected, np.tile(common, (64, 1)))


def test_demands_are_those_of_the_layers(card: ModuleType) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()
    found = card.demand_of(module, 16)
    assert found.macs == 27 * 8 * 64 + 80
    assert found.weights == 27 * 8 + 90
    assert found.activations == 3 * 256 + 8 * 64 + 8 + 10
    ceilings = card.Ceilings({"bf16": 1.0}, 2.0)
    floors = card.floors(found, ceilings, batch=10, precision="bf16", median_ms=0.5)
    assert floors["arithmetic_floor_ms"] == pytest.approx(1000 * 20 * found.macs / 1e12)
    num_bytes = 2 * (found.weights + 10 * found.activations)
    assert floors["bandwidth_floor_ms"] == pytest.approx(1000 * num_bytes / 2e9)
    assert floors["bandwidth_share"] == pytest.approx(floors["bandwidth_floor_ms"] / 0.5)


def test_every_job_has_something_to_measure(latency: ModuleType, contestants: ModuleType) -> None:
    for jobs in (latency.jobs(), latency.dry_jobs()):
        assert len(set(jobs)) == len(jobs)
        assert all(contestants.ways_of(job.network, job.stage) for job in jobs)
    covered = {(job.network, job.batch) for job in latency.jobs() if job.stage == "plain"}
    assert len(covered) == 15 * 4
    names = [way.name for way in contestants.WAYS]
    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("own_settings")
def test_the_dry_run_needs_no_gpu_and_the_real_one_does(
    latency: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        latency.main(["--out", str(tmp_path)])
    assert "finds no GPU here; give --dry-run" in capsys.readouterr().err
    latency.main(["--out", str(tmp_path), "--dry-run", "--seconds", "0"])
    assert "combinations did not fit into 0 s" in capsys.readouterr().out
