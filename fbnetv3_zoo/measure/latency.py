"""How long something takes, measured so that the number can be trusted.

Contestants are warmed up until they are steady, then run in turns, so that whatever else the
machine does falls on all of them. A result carries its spread, an interval for its median, and a
verdict when the machine was too busy to say. The edge of this file: it times functions; `runners`
makes functions of models.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .environment import load_1min, read_text

# Warm-up ends when the medians of two successive windows differ by less than this.
_STEADY = 0.02
_WINDOW = 5
# A quarter of the samples may lie this far apart before a result is called noisy.
_MAX_IQR = 0.15
# So many processors may be at other work.
_MAX_BUSY = 0.3
_BOOTSTRAPS = 1000


def _nothing() -> None:
    """Does nothing: most contestants need no preparation."""


@dataclass(frozen=True)
class Contestant:
    """Something to be timed.

    Attributes:
        name: of it.
        run: one whole run, such as the inference of one batch.
        prepare: called, untimed, before each turn: sets what contestants would take from each
            other, such as torch's number of threads.
        cuda: whether it runs on a CUDA device: it is timed with events then.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], None] = _nothing
    cuda: bool = False


@dataclass(frozen=True)
class Latency:
    """What was measured of one contestant; milliseconds of wall time unless said otherwise.

    Attributes:
        name: of the contestant.
        num_runs: samples behind the figures.
        min_ms: fastest.
        median_ms: half of the runs were faster.
        low_ms: 95 % interval of the median, lower end (bootstrap).
        high_ms: 95 % interval of the median, upper end.
        p90_ms: nine in ten runs were faster.
        p99_ms: ninety-nine in a hundred runs were faster.
        cpu_ms: median of the processor time of all threads; equals the wall time of one thread on
            a quiet machine. None on a GPU.
        first_ms: the very first run: compilation and allocation are in it.
        num_warmup: runs before the samples.
        verdict: "ok", or why the figures are not to be trusted.
    """

    name: str
    num_runs: int
    min_ms: float
    median_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    p99_ms: float
    cpu_ms: float | None
    first_ms: float
    num_warmup: int
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain JSON types."""
        return asdict(self)


@dataclass
class _Samples:
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(
    contestants: Sequence[Contestant],
    *,
    min_runs: int = 100,
    max_seconds: float = 60.0,
    max_warmup_seconds: float = 3.0,
    turn: int = 5,
    seed: int = 0,
) -> list[Latency]:
    """Returns the latency of each contestant, in the order given.

    Args:
        contestants: to be timed against each other, all of them ready to run.
        min_runs: samples wanted of each.
        max_seconds: for all of them together, warm-up apart; fewer samples are taken where they do
            not fit, and the verdict says so below 20.
        max_warmup_seconds: for each of them that does not become steady sooner.
        turn: timed runs before the next contestant's turn; one more is run untimed at its start,
            which finds the caches cold.
        seed: of the order of the turns and the bootstrap.

    Raises:
        ValueError: there are no contestants, two share a name, or a number is out of range.
    """
    names = [contestant.name for contestant in contestants]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"contestants are {names}; expected at least one, each with its own name")
    for name, value in (
        ("min_runs", min_runs),
        ("max_seconds", max_seconds),
        ("max_warmup_seconds", max_warmup_seconds),
        ("turn", turn),
    ):
        if not value > 0:  # also NaN
            raise ValueError(f"{name} is {value}; expected a number above 0")
    rng = np.random.default_rng(seed)
    busy = busy_processors()
    warm = {one.name: _warm_up(one, max_warmup_seconds) for one in contestants}
    samples = {name: _Samples() for name in names}
    deadline = time.monotonic() + max_seconds
    while any(len(taken.wall) < min_runs for taken in samples.values()):
        for number in rng.permutation(len(contestants)):
            _take_turn(contestants[number], samples[names[number]], turn)
        if time.monotonic() > deadline:
            break
    return [
        _summary(contestant, samples[contestant.name], *warm[contestant.name], busy=busy, rng=rng)
        for contestant in contestants
    ]


def _warm_up(contestant: Contestant, max_seconds: float) -> tuple[float, int]:
    """Runs until steady or long enough; returns the first run's milliseconds and all runs."""
    contestant.prepare()
    first, _ = _time(contestant)
    previous, runs = np.inf, 1
    deadline = time.monotonic() + max_seconds
    while time.monotonic() < deadline:
        current = statistics.median(_time(contestant)[0] for _ in range(_WINDOW))
        runs += _WINDOW
        if abs(current - previous) < _STEADY * current:
            break
        previous = current
    return first, runs


def _take_turn(contestant: Contestant, samples: _Samples, turn: int) -> None:
    contestant.prepare()
    contestant.run()
    for _ in range(turn):
        wall, cpu = _time(contestant)
        samples.wall.append(wall)
        samples.cpu.append(cpu)


def _time(contestant: Contestant) -> tuple[float, float]:
    """Returns the milliseconds of one run: of wall time (on a GPU: of the GPU), of CPU time."""
    if contestant.cuda:
        return _time_on_gpu(contestant.run), 0.0
    cpu = time.process_time_ns()
    wall = time.perf_counter_ns()
    contestant.run()
    wall = time.perf_counter_ns() - wall
    return wall / 1e6, (time.process_time_ns() - cpu) / 1e6


def _time_on_gpu(run: Callable[[], object]) -> float:
    """Returns milliseconds from an event before the run to one after it, on an idle GPU.

    The GPU reaches the first event at once and the second after the last launch, so that the time
    in which it waits for the CPU to launch is included.
    """
    import torch

    event: Any = torch.cuda.Event  # torch types no events
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _summary(
    contestant: Contestant,
    samples: _Samples,
    first_ms: float,
    num_warmup: int,
    *,
    busy: float,
    rng: np.random.Generator,
) -> Latency:
    wall = np.array(samples.wall)
    low, high = _interval(wall, rng)
    return Latency(
        name=contestant.name,
        num_runs=len(wall),
        min_ms=float(wall.min()),
        median_ms=float(np.median(wall)),
        low_ms=low,
        high_ms=high,
        p90_ms=float(np.percentile(wall, 90)),
        p99_ms=float(np.percentile(wall, 99)),
        cpu_ms=None if contestant.cuda else float(np.median(samples.cpu)),
        first_ms=first_ms,
        num_warmup=num_warmup,
        verdict=_verdict(wall, busy),
    )


def _interval(values: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    draws = rng.choice(values, (_BOOTSTRAPS, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _verdict(wall: NDArray[np.float64], busy: float) -> str:
    reasons = []
    quarter, middle, three = np.percentile(wall, [25, 50, 75])
    if (three - quarter) / middle > _MAX_IQR:
        reasons.append(f"half of the runs spread over {100 * (three - quarter) / middle:.0f} %")
    if busy > _MAX_BUSY:
        reasons.append(f"{busy:.1f} of {os.cpu_count()} processors were busy before the start")
    if len(wall) < 20:
        reasons.append(f"{len(wall)} runs only")
    return "noisy: " + "; ".join(reasons) if reasons else "ok"


def busy_processors(seconds: float = 0.25) -> float:
    """Returns how many processors others keep busy while this process sleeps.

    Where the system does not tell, what of the load of the last minute is more than it can carry.
    """
    before = _busy_ticks()
    if before is None:
        return max(0.0, load_1min() - (os.cpu_count() or 1))
    time.sleep(seconds)
    after = _busy_ticks()
    return 0.0 if after is None else (after - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks() -> int | None:
    """Returns the clock ticks that all processors together have worked, on Linux."""
    first = read_text("/proc/stat").splitlines()[:1]
    if not first or not first[0].startswith("cpu "):
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, first[0].split()[1:])
    return user + nice + system + sum(rest[:3])
