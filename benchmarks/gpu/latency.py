"""Latency of A to G and of their peers on a GPU, in every backend, side by side.

    python -m benchmarks.gpu.latency --out results --seconds 240

Each result is a line of DIR/latency.jsonl as soon as it is there; a stopped run resumes with what
is not in the file. The most valuable combinations of model, batch size and backends come first; one
that would not fit into the seconds that are left is skipped. The backends of a combination take
turns, timed with CUDA events; compiling is timed apart. Weights are random: speed does not depend
on them. A backend whose logits are not finite, or far from those in float32, is recorded with that
error and not timed.

timm has FBNetV3-B, D and G. For the others "torch", our own module as it is, stands in for timm's:
it is not timm's code. `--dry-run` goes through everything on a CPU with tiny inputs.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.conditions import conditions
from benchmarks.latency.networks import OURS
from benchmarks.records import append, read_lines
from fbnetv3.measure.latency import measure

from .card import Ceilings, describe_card, floors, measure_ceilings, use_settings
from .contestants import (
    BASELINES,
    WAYS,
    Checked,
    Network,
    Way,
    checked,
    images_for,
    prepare,
    reference,
    ways_of,
)

FIRST = (
    "fbnetv3_a",
    "efficientnet_b0",
    "fbnetv3_d",
    "efficientnet_b2",
    "fbnetv3_g",
    "mobilenetv4_conv_medium",
    "repvit_m1_0",
    "resnet50",
)
REST = (
    "fbnetv3_b",
    "efficientnet_b1",
    "fbnetv3_c",
    "fbnetv3_e",
    "efficientnet_b3",
    "fbnetv3_f",
    "efficientnet_b4",
)
# Seconds that a job of a stage is expected to take before one has been measured.
EXPECTED_S = {"plain": 15.0, "compile": 60.0, "autotune": 120.0, "aoti": 60.0, "onnxruntime": 40.0}


class Job(NamedTuple):
    """One model and batch size in the ways of one stage, which take turns."""

    network: str
    batch: int
    stage: str


class Settings(NamedTuple):
    """How a run measures.

    Attributes:
        device: "cuda", or "cpu" in a dry run.
        side: of the inputs; the models' own where None.
        min_runs: samples wanted of each way.
        max_seconds: of timing for each job, warm-up apart.
        max_warmup_seconds: for each way.
        expected_s: seconds that a job of a stage takes, until one has been measured.
        dry_run: whether nothing is compiled.
    """

    device: str = "cuda"
    side: int | None = None
    min_runs: int = 30
    max_seconds: float = 2.5
    max_warmup_seconds: float = 0.3
    expected_s: dict[str, float] = EXPECTED_S
    dry_run: bool = False


DRY = Settings("cpu", 64, 3, 0.5, 0.05, dict.fromkeys(EXPECTED_S, 5.0), dry_run=True)


def jobs() -> list[Job]:
    """Returns everything there is to measure, the most valuable first."""
    found = [Job(name, batch, "plain") for name in FIRST[:2] for batch in (1, 256)]
    found += [Job("fbnetv3_a", batch, "compile") for batch in (1, 256)]
    found += [Job(name, batch, "plain") for name in FIRST[2:] for batch in (1, 256)]
    found += [Job("efficientnet_b0", batch, "compile") for batch in (1, 256)]
    found += [
        Job(name, batch, "onnxruntime")
        for name in ("fbnetv3_a", "fbnetv3_d", "fbnetv3_g")
        for batch in (1, 256)
    ]
    found += [Job(name, batch, "plain") for name in FIRST for batch in (64, 8)]
    found += [Job(name, batch, "plain") for name in REST for batch in (1, 256, 64, 8)]
    found += [Job(name, batch, "compile") for name in FIRST[2:5] for batch in (1, 256)]
    found += [Job(name, batch, "autotune") for batch in (256, 1) for name in FIRST[:2]]
    found += [Job("fbnetv3_a", batch, "aoti") for batch in (1, 256)]
    return found


def dry_jobs() -> list[Job]:
    """Returns jobs of every stage, small enough for a CPU."""
    names = ("fbnetv3_b", "mobilenetv4_conv_medium")
    found = [Job(name, batch, "plain") for name in names for batch in (1, 2)]
    return found + [Job("fbnetv3_b", 1, stage) for stage in EXPECTED_S if stage != "plain"]


def key(row: dict[str, Any]) -> tuple[str, int, str]:
    """Returns what a line of results is of."""
    return row["network"], row["batch"], row["backend"]


class Bench:
    """Measures jobs into a file.

    Args:
        path: JSON Lines, appended to.
        settings: how to measure.
        ceilings: of the card.
        about: what goes into each line.
    """

    def __init__(
        self, path: Path, settings: Settings, ceilings: Ceilings, about: dict[str, Any]
    ) -> None:
        self.path, self.settings, self.ceilings, self.about = path, settings, ceilings, about
        self.done = {key(row) for row in read_lines(path)}
        self._networks: dict[str, Network] = {}

    def run(self, todo: Sequence[Job], deadline: float, names: Sequence[str] | None = None) -> int:
        """Measures what is not in the file and fits; returns how many jobs did not fit.

        Args:
            todo: in the order of their worth.
            deadline: on the clock of `time.monotonic`.
            names: of the ways that are measured; None is all.
        """
        expected_s, skipped = dict(self.settings.expected_s), 0
        for job in todo:
            ways = [
                way
                for way in ways_of(job.network, job.stage)
                if self._is_new(job, way) and (names is None or way.name in names)
            ]
            if not ways:
                continue
            if time.monotonic() + expected_s[job.stage] > deadline:
                skipped += 1
                continue
            start = time.monotonic()
            self.measure(job, ways)
            took = time.monotonic() - start
            expected_s[job.stage] = 1.2 * took
            print(f"{job.network} batch {job.batch} {job.stage}: {took:.1f} s", flush=True)
        return skipped

    def measure(self, job: Job, ways: Sequence[Way]) -> None:
        """Measures some ways of a job in turns, with the baseline that they are compared with.

        Raises:
            BrokenDeviceError: this process cannot go on; something has been recorded.
        """
        before = len(self.done)
        try:
            network = self._network(job.network)
            self._time(job, network, self._ready(job, network, ways))
        except Exception as error:
            known = isinstance(error, BrokenDeviceError) and len(self.done) > before
            self._failed(job, () if known else ways, error)
        self._clear(job)

    def _ready(self, job: Job, network: Network, ways: Sequence[Way]) -> list[Checked]:
        """Returns the ways that work; records why the others do not."""
        batch = images_for(network, job.batch)
        exact: dict[str, Any] = {}
        found: list[Checked] = []
        for way in self._with_baseline(network, ways):
            why = way.left_out(network, dry_run=self.settings.dry_run)
            if why is not None:
                self._record(job, way, left_out=why)
                continue
            try:
                if way.whose not in exact:
                    exact[way.whose] = reference(network, way.whose, batch)
                found.append(checked(network, way, job.batch, batch, exact[way.whose]))
            except Exception as error:  # of any backend: the others go on
                self._failed(job, [way], error)
        return found

    def _time(self, job: Job, network: Network, ready: Sequence[Checked]) -> None:
        if not any(self._is_new(job, one.way) for one in ready):
            return
        found = measure(
            [one.contestant for one in ready],
            min_runs=self.settings.min_runs,
            max_seconds=self.settings.max_seconds,
            max_warmup_seconds=self.settings.max_warmup_seconds,
        )
        medians = {one.way.name: got.median_ms for one, got in zip(ready, found, strict=True)}
        baseline = next((name for name in BASELINES["fp32"] if name in medians), None)
        for one, got in zip(ready, found, strict=True):
            self._record(
                job,
                one.way,
                side=network.side,
                latency=got.to_dict(),
                images_per_s=1000 * job.batch / got.median_ms,
                baseline=baseline,
                baseline_ms=medians.get(baseline or ""),
                **one.record,
                **dataclasses.asdict(network.demand),
                **floors(
                    network.demand,
                    self.ceilings,
                    batch=job.batch,
                    precision=one.way.precision,
                    median_ms=got.median_ms,
                ),
            )

    def _with_baseline(self, network: Network, ways: Sequence[Way]) -> list[Way]:
        """Returns the ways after what they are compared with, which is not recorded again."""
        named = {way.name: way for way in WAYS}
        baseline = next(
            named[name] for name in BASELINES["fp32"] if named[name].whose in network.modules
        )
        rest = [way for way in ways if way != baseline]
        measurable = any(
            way.left_out(network, dry_run=self.settings.dry_run) is None for way in rest
        )
        return [baseline, *rest] if measurable or baseline in ways else rest

    def _is_new(self, job: Job, way: Way) -> bool:
        return (job.network, job.batch, way.name) not in self.done

    def _record(self, job: Job, way: Way, **found: Any) -> None:
        if not self._is_new(job, way):
            return
        row = {
            "network": job.network,
            "batch": job.batch,
            "backend": way.name,
            "precision": way.precision,
            "stage": job.stage,
            **found,
            **self.about,
        }
        append(self.path, [row])
        self.done.add(key(row))

    def _failed(self, job: Job, ways: Sequence[Way], error: Exception) -> None:
        if isinstance(error, BrokenDeviceError):
            text = str(error)
        else:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            print(f"{job.network} batch {job.batch}: {text}", flush=True)
        for way in ways:
            self._record(job, way, error=text)
        if not usable(self.settings.device):
            raise BrokenDeviceError(text) from error

    def _network(self, name: str) -> Network:
        if name not in self._networks:
            self._networks[name] = prepare(name, self.settings.device, side=self.settings.side)
        return self._networks[name]

    def _clear(self, job: Job) -> None:
        """Frees what the job held, and the compiled programs, of which torch keeps only a few."""
        if job.stage in ("compile", "autotune"):
            torch.compiler.reset()
        gc.collect()
        if self.settings.device != "cpu":
            torch.cuda.empty_cache()


class BrokenDeviceError(Exception):
    """An error after which a process cannot use the GPU any more."""


def usable(device: str) -> bool:
    """Returns whether this process can still compute on a device; some errors on a GPU stay."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError:
        return False


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each model and batch size: plain PyTorch, the best backend, the speed-up.

    "eager" is timm's own model in float32; a star marks ours as it is, where timm has none. "bf16"
    is the same in bfloat16 and channels-last. The best of ours is named for our models, the best of
    all for the others; its speed-up is over eager runs that took turns with it.
    """
    yield (
        f"{'model':24} {'batch':>5} {'eager ms':>9}  {'bf16 ms':>9} {'best ms':>9} {'times':>6} "
        f"{'(bf16)':>6} {'img/s':>8}  best"
    )
    timed = [row for row in rows if "latency" in row]
    found = dict.fromkeys((row["batch"], row["network"]) for row in timed)
    for batch, name in sorted(found, key=lambda pair: pair[0]):
        own = {r["backend"]: r for r in timed if (r["network"], r["batch"]) == (name, batch)}
        ours = [row for row in own.values() if name not in OURS or "timm" not in row["backend"]]
        if not ours:
            continue
        best = min(ours, key=_ms)
        eager, half = (
            next((own[way] for way in BASELINES[precision] if way in own), None)
            for precision in ("fp32", "bf16")
        )
        half_ms = None if half is None else _ms(half)
        star = "*" if eager is not None and eager["backend"] == "torch" else " "
        yield (
            f"{name:24} {batch:5} {_cell(eager)}{star} {_cell(half)} {_ms(best):9.3f} "
            f"{_ratio(best.get('baseline_ms'), best)} {_ratio(half_ms, best)} "
            f"{best['images_per_s']:8.0f}  "
            f"{best['backend']}"
        )


def _ms(row: dict[str, Any]) -> float:
    return float(row["latency"]["median_ms"])


def _cell(row: dict[str, Any] | None) -> str:
    return f"{'-':>9}" if row is None else f"{_ms(row):9.3f}"


def _ratio(ms: float | None, best: dict[str, Any]) -> str:
    return f"{'-':>6}" if ms is None else f"{ms / _ms(best):6.2f}"


def start(options: argparse.Namespace) -> None:
    """Measures the card, then the models."""
    settings = DRY if options.dry_run else Settings()
    deadline = time.monotonic() + options.seconds
    path = options.out / "latency.jsonl"
    about = {"settings": use_settings(), "card": describe_card()}
    about["environment"] = conditions()
    ceilings = (
        measure_ceilings("cpu", size=128, num_bytes=2**20)
        if options.dry_run
        else measure_ceilings("cuda")
    )
    bench = Bench(path, settings, ceilings, {"ceilings": dataclasses.asdict(ceilings), **about})
    print(f"{about['card']} {ceilings}", flush=True)
    try:
        todo = dry_jobs() if options.dry_run else options.only or jobs()
        skipped = bench.run(todo, deadline, options.ways)
    except BrokenDeviceError as error:
        print(f"starting again after {error}", flush=True)
        left = max(0.0, deadline - time.monotonic())
        words = ["-m", "benchmarks.gpu.latency", "--out", str(options.out), "--seconds", str(left)]
        os.execv(sys.executable, [sys.executable, *words])
    if skipped:
        print(f"{skipped} combinations did not fit into {options.seconds:.0f} s")
    print("\n".join(table(read_lines(path))), flush=True)


def as_job(text: str) -> Job:
    """Returns the job of "MODEL:BATCH:STAGE"."""
    network, batch, stage = text.split(":")
    return Job(network, int(batch), stage)


def main(words: Sequence[str] | None = None) -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of latency.jsonl")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit")
    parser.add_argument("--dry-run", action="store_true", help="tiny inputs on the CPU")
    parser.add_argument(
        "--only", nargs="+", type=as_job, metavar="MODEL:BATCH:STAGE", help="jobs, in this order"
    )
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS])
    options = parser.parse_args(words)
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; give --dry-run to go through everything on a CPU")
    start(options)


if __name__ == "__main__":
    main()
