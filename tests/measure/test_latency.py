"""Measuring: known durations come out, contestants take turns, noise is called noise."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.parity import error_of_std
from fbnetv3.measure.bench import Entry, Row, best, entries, peak_memory, sweep, write_rows
from fbnetv3.measure.environment import environment
from fbnetv3.measure.latency import (
    Contestant,
    Latency,
    _busy_ticks,
    busy_processors,
    measure,
)
from fbnetv3.measure.plot import draw, pareto, plot_rows
from fbnetv3.measure.roofline import Roofline, measure_roofline
from fbnetv3.measure.runners import (
    _WAYS,
    TORCH_BACKENDS,
    _Graph,
    file_runner,
    torch_precision,
    torch_runner,
)
from fbnetv3.models.model import FBNetV3


class Clock:
    """Stands for the module `time`: it passes where something sleeps, works or says so."""

    def __init__(self) -> None:
        self.wall_ns = self.cpu_ns = 0

    def perf_counter_ns(self) -> int:
        return self.wall_ns

    def process_time_ns(self) -> int:
        return self.cpu_ns

    def monotonic(self) -> float:
        return self.wall_ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9)

    def work(self, seconds: float, threads: int = 1) -> None:
        self.sleep(seconds)
        self.cpu_ns += round(threads * seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a measurement on a machine that does nothing else."""
    made = Clock()
    monkeypatch.setattr("fbnetv3.measure.latency.time", made)
    monkeypatch.setattr("fbnetv3.measure.latency._busy_ticks", lambda: 0)
    return made


def sleeper(name: str, ms: float) -> Contestant:
    return Contestant(name, lambda: time.sleep(ms / 1000))


def test_known_durations_come_out_in_the_order_given(clock: Clock) -> None:
    slow, fast = measure(
        [
            Contestant("slow", lambda: clock.sleep(0.006)),
            Contestant("fast", lambda: clock.work(0.002, threads=3)),
        ],
        min_runs=30,
    )
    for found, name, wall_ms, cpu_ms in ((slow, "slow", 6, 0), (fast, "fast", 2, 6)):
        assert (found.name, found.num_runs, found.verdict) == (name, 30, "ok")
        figures = (found.first_ms, found.min_ms, found.low_ms, found.median_ms, found.high_ms)
        assert (*figures, found.p90_ms, found.p99_ms) == pytest.approx((wall_ms,) * 7)
        assert found.cpu_ms == pytest.approx(cpu_ms)


def test_figures_are_those_of_the_samples(clock: Clock) -> None:
    durations = itertools.cycle([0.001, 0.002, 0.003, 0.004, 0.010])
    (found,) = measure([Contestant("x", lambda: clock.sleep(next(durations)))], min_runs=1000)
    assert (found.min_ms, found.median_ms, found.p90_ms) == pytest.approx((1, 3, 10))
    assert 1 < found.low_ms <= found.median_ms <= found.high_ms < 10
    assert found.verdict == "noisy: half of the runs spread over 67 %"


def test_the_machines_own_clocks_are_read() -> None:
    # Sleeping and working take what they say or, on a loaded machine, more.
    def work() -> None:
        end = time.process_time() + 0.004
        while time.process_time() < end:
            pass

    asleep, at_work = measure([sleeper("asleep", 6), Contestant("work", work)], min_runs=5)
    assert asleep.min_ms >= 6
    assert at_work.cpu_ms is not None
    assert at_work.cpu_ms > 3.9
    assert asleep.cpu_ms is not None
    assert asleep.cpu_ms < at_work.cpu_ms


def test_contestants_take_turns_in_changing_order_and_are_prepared() -> None:
    seen: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda: seen.append(name), lambda: seen.append(f"prepare {name}"))

    measure([contestant("a"), contestant("b")], min_runs=40, turn=4)
    turns = [entry for entry in seen if entry.startswith("prepare")][2:]
    assert len(turns) == 20
    assert {tuple(turns[n : n + 2]) for n in range(0, 20, 2)} == {
        ("prepare a", "prepare b"),
        ("prepare b", "prepare a"),
    }
    place = seen.index("prepare a", seen.index("prepare a") + 1)
    # One run untimed, four timed, then the next turn.
    assert seen[place + 1 : place + 6] == ["a"] * 5
    assert seen[place + 6].startswith("prepare")


def test_the_first_run_is_kept_apart(clock: Clock) -> None:
    durations = itertools.chain([0.05], itertools.repeat(0.001))
    (found,) = measure([Contestant("x", lambda: clock.sleep(next(durations)))], min_runs=20)
    assert (found.first_ms, found.p99_ms) == pytest.approx((50, 1))


def test_scattered_runs_are_called_noisy(clock: Clock) -> None:
    durations = itertools.cycle([0.001, 0.004])
    (found,) = measure([Contestant("x", lambda: clock.sleep(next(durations)))], min_runs=40)
    assert found.verdict.startswith("noisy: half of the runs spread over")


def test_too_few_runs_are_called_noisy_and_time_is_kept(clock: Clock) -> None:
    contestant = Contestant("x", lambda: clock.sleep(0.03))
    (found,) = measure([contestant], min_runs=1000, max_seconds=0.3, turn=2)
    # Of three runs in a turn two are timed; the turn that ends after 0.3 s is the last.
    assert found.num_runs == 8
    assert found.verdict == "noisy: 8 runs only"


def test_a_contestant_that_never_settles_is_warmed_up_for_three_seconds(clock: Clock) -> None:
    durations = itertools.count(1)
    (found,) = measure([Contestant("x", lambda: clock.sleep(next(durations) / 100))], min_runs=1)
    assert found.num_warmup == 26  # a first run, and windows of five until 3 s are over
    (found,) = measure(
        [Contestant("x", lambda: clock.sleep(next(durations) / 100))],
        min_runs=1,
        max_warmup_seconds=1e-3,
    )
    assert found.num_warmup == 6


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux says who works")
def test_work_shows_in_the_systems_ticks() -> None:
    before = _busy_ticks()
    assert before is not None
    while _busy_ticks() == before:  # the test's own work
        pass


def test_a_busy_machine_is_called_noisy(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0, os.sysconf("SC_CLK_TCK"))
    monkeypatch.setattr("fbnetv3.measure.latency._busy_ticks", lambda: next(ticks))
    (found,) = measure([Contestant("x", lambda: clock.sleep(0.001))], min_runs=20)
    # A second's ticks in a quarter of a second are four processors.
    assert found.verdict == f"noisy: 4.0 of {os.cpu_count()} processors were busy before the start"


def test_load_stands_in_where_the_system_does_not_say_who_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fbnetv3.measure.latency._busy_ticks", lambda: None)
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 1.0, 1.0))
    assert busy_processors() == 0
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 1.0, 1.0))
    assert "processors were busy" in measure([sleeper("x", 1)], min_runs=20)[0].verdict


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="contestants are \\[\\]; expected at least one"):
        measure([])
    with pytest.raises(ValueError, match="each with its own name"):
        measure([sleeper("x", 1), sleeper("x", 1)])
    with pytest.raises(ValueError, match="min_runs is 0; expected a number above 0"):
        measure([sleeper("x", 1)], min_runs=0)
    with pytest.raises(ValueError, match="max_warmup_seconds is 0"):
        measure([sleeper("x", 1)], max_warmup_seconds=0)


def test_the_environment_names_machine_and_versions() -> None:
    found = environment()
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["cpu"]
    assert found["num_cpus"] >= 1
    json.dumps(found)


@pytest.mark.parametrize("backend", [b for b in TORCH_BACKENDS if "compile" not in b])
def test_every_torch_backend_computes_the_network(small_model: FBNetV3, backend: str) -> None:
    if "cuda-graph" in backend:
        with pytest.raises(ValueError, match="needs device='cuda'"):
            torch_runner(small_model, backend)
        return
    x, expected = small_batch(small_model)
    runner = torch_runner(small_model, backend, threads=1)
    runner.prepare()
    assert torch.get_num_threads() == 1
    error = error_of_std(runner.logits(x), expected).max()
    exact = torch_precision(backend) == "fp32"
    assert error < (1e-4 if exact else 0.2)
    assert exact == (error < 1e-4)


def small_batch(model: FBNetV3, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns two images and their logits in float32 on the CPU."""
    x = np.random.default_rng(seed).standard_normal((2, 3, 32, 32), np.float32)
    with torch.inference_mode():
        return x, model(torch.from_numpy(x)).numpy()


def test_every_word_for_a_torch_backend_has_a_meaning() -> None:
    assert set(_WAYS) == set(TORCH_BACKENDS)
    for backend in TORCH_BACKENDS:
        words = {word for word in ("bf16", "fp16") if word in backend}
        assert torch_precision(backend) == (words.pop() if words else "fp32")
    with pytest.raises(ValueError, match="backend is 'torch-int8'; expected one of torch, "):
        torch_precision("torch-int8")


def test_a_device_that_is_not_there_is_refused(
    small_model: FBNetV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="finds no GPU here"):
        torch_runner(small_model, "torch-cuda-graph", device="cuda")


def test_torch_takes_no_number_of_threads_on_a_gpu(tmp_path: Path) -> None:
    tried = entries([], ["torch", "torch-cuda-graph-bf16"], [1, 2], "cuda:1")
    assert tried == [
        Entry("torch", "fp32", None, device="cuda:1"),
        Entry("torch-cuda-graph-bf16", "bf16", None, device="cuda:1"),
    ]
    assert entries([], ["torch-fp16"], [1, 2]) == [
        Entry("torch-fp16", "fp16", 1),
        Entry("torch-fp16", "fp16", 2),
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [b for b in TORCH_BACKENDS if "compile" not in b])
def test_a_gpu_is_timed_with_events(small_model: FBNetV3, backend: str) -> None:
    x, _ = small_batch(small_model)
    runner = torch_runner(small_model, backend, device="cuda")
    (found,) = measure([runner.contestant(x)], min_runs=20)
    assert found.cpu_ms is None
    assert found.median_ms > 0


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [b for b in TORCH_BACKENDS if "compile" not in b])
def test_every_torch_backend_computes_the_network_on_a_gpu(
    small_model: FBNetV3, backend: str
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    runner = torch_runner(small_model, backend, device="cuda")
    runner.prepare()
    for seed in range(3):  # a captured graph has to take each new input
        x, expected = small_batch(small_model, seed)
        error = error_of_std(runner.logits(x), expected).max()
        assert error < (0.02 if torch_precision(backend) == "fp32" else 0.2)  # TF32


@pytest.mark.gpu
@pytest.mark.slow
def test_a_compiled_network_is_captured(small_model: FBNetV3) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    runner = torch_runner(small_model, "torch-compile-cuda-graph-bf16", device="cuda")
    for seed in range(2):
        x, expected = small_batch(small_model, seed)
        assert error_of_std(runner.logits(x), expected).max() < 0.2


@pytest.mark.gpu
def test_a_replay_reads_its_own_input_after_other_tensors_came_and_went(
    small_model: FBNetV3,
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, expected = small_batch(small_model)
    module = copy.deepcopy(small_model).to("cuda")
    graph = _Graph(module, torch.from_numpy(x).to("cuda"))
    for _ in range(100):  # takes whatever memory was given back
        torch.full((2, 3, 32, 32), torch.nan, device="cuda")
    graph.replay()
    assert error_of_std(graph.output.cpu().numpy(), expected).max() < 0.02


@pytest.mark.gpu
def test_a_sweep_measures_torch_on_a_gpu(small_model: FBNetV3, small_export: Exported) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tried = entries([], ["torch", "torch-cuda-graph-bf16"], device="cuda")
    images = np.random.default_rng(0).standard_normal((20, 3, 32, 32), np.float32)
    rows = sweep(
        tried, small_export.artefact, module=small_model, images=images, min_runs=5, max_seconds=2
    )
    assert [(row.backend, row.device) for row in rows] == [
        ("torch", "cuda"),
        ("torch-cuda-graph-bf16", "cuda"),
    ]
    assert rows[0].agreement_pct == 100


def test_rows_bind_latency_to_file_and_agreement(
    small_model: FBNetV3, small_export: Exported, tmp_path: Path
) -> None:
    artefact: Artefact = small_export.artefact
    tried = [Entry("torch", "fp32", 1), *entries([small_export.path], threads=[1])]
    images = np.random.default_rng(0).standard_normal((20, 3, 32, 32), np.float32)
    labels = file_runner(small_export.path).logits(images).argmax(1).tolist()
    labels[0] = (labels[0] + 1) % 10
    rows = sweep(
        tried,
        artefact,
        module=small_model,
        batch_sizes=(1, 2),
        images=images,
        labels=labels,
        min_runs=5,
        max_seconds=2,
    )
    assert len(rows) == 2 * len(tried)
    onnx_row = next(row for row in rows if row.backend == "onnxruntime")
    assert onnx_row.artefact_sha256 == small_export.sha256
    assert onnx_row.num_bytes == small_export.num_bytes
    assert onnx_row.agreement_pct == 100
    assert onnx_row.top1_pct == onnx_row.top1_float_pct == 95
    assert onnx_row.keeps_accuracy
    assert best(rows) in rows
    path = tmp_path / "rows.jsonl"
    write_rows(rows, path)
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["batch"] for row in read] == [1] * len(tried) + [2] * len(tried)
    assert read[0]["environment"]["torch"]
    with pytest.raises(ValueError, match="torch needs a torch module"):
        sweep(tried, artefact)
    with pytest.raises(ValueError, match="nothing to measure"):
        sweep([], artefact)


def row(precision: str, ms: float, **changes: Any) -> Row:
    latency = Latency("x", 100, ms, ms, ms, ms, ms, ms, ms, ms, 10, "ok")
    plain = Row(
        model="x",
        backend=f"some-{precision}",
        precision=precision,
        threads=1,
        device="cpu",
        batch=1,
        image_size=32,
        latency=latency,
        images_per_s=1000 / ms,
        artefact_sha256="",
        num_bytes=1,
        agreement_pct=None,
        top1_pct=None,
        top1_float_pct=None,
        num_images=0,
        peak_mib=None,
        macs_paper=10**6,
        params=10**6,
    )
    return dataclasses.replace(plain, **changes)


def test_the_best_is_the_fastest_that_keeps_the_accuracy() -> None:
    exact = row("fp32", 10)
    unproven = row("int8", 1)
    assert best([exact, unproven]) == exact
    bad = row("int8", 2, top1_pct=79.4, top1_float_pct=80.0, num_images=1000, agreement_pct=99.5)
    good = dataclasses.replace(bad, top1_pct=79.5)
    assert best([exact, bad]) == exact
    assert best([exact, good]) == good
    # bfloat16 may lose a tenth of a point.
    half = row("bf16", 3, top1_pct=79.8, top1_float_pct=80.0, num_images=1000, agreement_pct=99.9)
    assert best([exact, half]) == exact
    unlabelled = row("bf16", 3, agreement_pct=99.2, num_images=500)
    assert best([exact, unlabelled]) == unlabelled
    with pytest.raises(ValueError, match="no row keeps the accuracy"):
        best([unproven])


def test_peak_memory_is_that_of_a_process_of_its_own(small_export: Exported) -> None:
    entry = Entry("onnxruntime", "fp32", 1, small_export.path)
    small, large = peak_memory(entry, 1), peak_memory(entry, 256)
    # numpy and onnxruntime alone take tens of MiB; 256 inputs are 3 MiB, activations far more.
    assert 30 < small < large - 20
    with pytest.raises(ValueError, match="torch has no file"):
        peak_memory(Entry("torch", "fp32", 1), 1)
    with pytest.raises(RuntimeError, match="measuring the memory"):
        peak_memory(dataclasses.replace(entry, path=Path("missing.onnx")), 1)


def test_the_roofline_is_above_what_a_network_reaches() -> None:
    found: Roofline = measure_roofline()
    assert found.fp32_gmacs > 0.5
    assert found.read_gbytes > 0.5
    assert found.floor_ms(10**9, 0) == pytest.approx(1000 / found.fp32_gmacs)
    assert found.floor_ms(0, 10**9) == pytest.approx(1000 / found.read_gbytes)


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 70.0), (2.0, 69.0), (2.0, 75.0), (3.0, 75.0), (4.0, 80.0)]
    assert pareto(points) == [0, 2, 4]


def test_names_in_a_picture_cover_neither_each_other_nor_a_point() -> None:
    rows = [
        {**row("fp32", ms, top1_pct=80.0).to_dict(), "backend": backend, "model": model}
        for model, backend, ms in (
            *(("first", "a", 10), ("first", "b", 10.01), ("second", "a", 10.02)),
            *(("first", "c", 10.03), ("second", "b", 90)),
        )
    ]
    left, *others = draw(rows).axes
    boxes = [text.get_window_extent() for text in left.texts]
    assert len(boxes) > 2
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    points = left.transData.transform([(r["latency"]["median_ms"], 80.0) for r in rows])
    assert not any(box.contains(*point) for box in boxes for point in points)
    # All backends have one point there.
    assert all(sorted(t.get_text() for t in axes.texts) == ["first", "second"] for axes in others)
    assert all(len(axes.get_xticks()) > 1 for axes in (left, *others))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_rows_become_a_picture_that_repeats(tmp_path: Path, suffix: str) -> None:
    rows = [row("fp32", 10, top1_pct=80.0).to_dict(), row("int8", 4, top1_pct=79.8).to_dict()]
    one, two = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    plot_rows(rows, one)
    plot_rows(rows, two)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 5000
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png"):
        plot_rows(rows, tmp_path / "x.pdf")
    with pytest.raises(ValueError, match="no row has an accuracy"):
        plot_rows([row("fp32", 10).to_dict()], one)
