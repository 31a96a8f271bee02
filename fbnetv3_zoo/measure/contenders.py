"""Which network to take within a budget: published accuracy against counted or measured cost.

`choose` looks through published figures; `measure_networks` times a few of the networks on this
machine. The edge of this file: `hub.published` has the figures, `runners` runs.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fbnetv3.hub.published import Published

from .environment import environment
from .plot import pareto

if TYPE_CHECKING:
    from torch import nn

    from .runners import Runner

# (network without tag, resolution) -> milliseconds.
Latencies = Mapping[tuple[str, int], float]
DEFAULT_BACKEND = "onnxruntime"
# Networks of up to so many times the cost may still be as fast: operators differ.
_WORTH_MEASURING = 2.0


@dataclass(frozen=True)
class Choice:
    """Which network to take.

    Attributes:
        winner: the most accurate one within the budget.
        against: the network that set it, None where only limits did.
        front: all networks within the limits that no other one beats in accuracy at no more cost,
            by rising cost.
        latency_ms: what was measured, by network and resolution; None where MACs are the cost.
    """

    winner: Published
    against: Published | None
    front: tuple[Published, ...]
    latency_ms: Latencies | None

    def cost(self, row: Published) -> float:
        """Returns milliseconds where they were measured, otherwise MACs."""
        return _cost(row, self.latency_ms)


def _cost(row: Published, latency_ms: Latencies | None) -> float:
    return float(row.macs) if latency_ms is None else latency_ms[key(row)]


def key(row: Published) -> tuple[str, int]:
    """Returns what the speed of a row depends on: weights do not matter."""
    return row.model, row.resolution


def choose(
    rows: Sequence[Published], against: Published | None = None, latency_ms: Latencies | None = None
) -> Choice:
    """Returns the most accurate of networks that cost no more than a given one.

    Args:
        rows: the networks within all other limits.
        against: the network whose cost is the budget; any cost is within it unless given.
        latency_ms: makes latency the cost; networks that are not in it are left out.

    Raises:
        ValueError: no network is within the limits, or `against` has no latency.
    """
    if latency_ms is not None:
        if against is not None and key(against) not in latency_ms:
            timed = ", ".join(sorted(f"{name}@{side}" for name, side in latency_ms))
            raise ValueError(
                f"no latency of {against.model} at {against.resolution} pixels; measured: {timed}"
            )
        rows = [row for row in rows if key(row) in latency_ms]
    cost = functools.partial(_cost, latency_ms=latency_ms)
    budget = float("inf") if against is None else cost(against)
    within = [row for row in rows if cost(row) <= budget]
    if not within:
        raise ValueError("no network with published figures is within the limits; raise one")
    winner = max(within, key=lambda row: (row.top1_pct, -cost(row)))
    front = pareto([(cost(row), row.top1_pct) for row in rows])
    return Choice(winner, against, tuple(rows[number] for number in front), latency_ms)


def worth_measuring(
    rows: Iterable[Published], against: Published, most: int = 8
) -> list[Published]:
    """Returns the networks that may beat one at its latency, and itself first.

    They are more accurate than it, have at most twice its MACs, and are best for their MACs: the
    first, second, ... Pareto front, until there are enough. Each network is listed once for each
    resolution, with its most accurate weights.
    """
    best: dict[tuple[str, int], Published] = {}
    for row in rows:
        near = row.macs <= _WORTH_MEASURING * against.macs and row.top1_pct >= against.top1_pct
        # Others than timm's cannot be built here.
        if near and row.source != "Ultralytics" and key(row) != key(against):
            best[key(row)] = max(row, best.get(key(row), row), key=lambda r: r.top1_pct)
    left, found = list(best.values()), [against]
    while left and len(found) < most:
        front = [left[n] for n in pareto([(row.macs, row.top1_pct) for row in left])]
        # Where not all of a front fit, the most accurate do.
        found += sorted(front, key=lambda row: -row.top1_pct)[: most - len(found)]
        left = [row for row in left if row not in front]
    return found


def backends() -> list[str]:
    """Returns the backends that can run any network on this machine."""
    from fbnetv3.deploy.runtimes import ONNX, RUNTIMES

    from .runners import TORCH_BACKENDS

    files = [r.name for r in RUNTIMES.values() if r.runs(ONNX.suffix, "fp32") and r.available()]
    return [*files, *(name for name in TORCH_BACKENDS if "graph" not in name)]


def timm_network(name: str) -> nn.Module:
    """Returns timm's network as it is for inference, with random weights.

    Branches that are only for training (RepViT, FastViT, ...) are merged.

    Raises:
        ValueError: timm has no such network.
    """
    import timm
    from timm.utils.model import reparameterize_model

    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no network {name!r}")
    merged: nn.Module = reparameterize_model(timm.create_model(name, pretrained=False).eval())
    return merged


def measure_networks(
    rows: Sequence[Published],
    *,
    backend: str = DEFAULT_BACKEND,
    threads: int = 1,
    min_runs: int = 50,
    max_seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Returns a record for each network, all measured in turns: batch 1, random weights.

    Args:
        rows: the networks, each at its resolution.
        backend: one of `backends()`.
        threads: number of inference threads.
        min_runs: as for `latency.measure`.
        max_seconds: as for `latency.measure`, for all of them together.
        progress: called with a sentence before each step.

    Raises:
        ValueError: the backend is unknown, or timm lacks a network.
    """
    if backend not in backends():
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(backends())}")
    from .latency import measure

    contestants = []
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            progress(f"building {row.model} at {row.resolution} pixels ({number + 1}/{len(rows)})")
            batch = np.zeros((1, 3, row.resolution, row.resolution), np.float32)
            name = f"{row.model}@{row.resolution}"
            runner = _runner(row, backend, threads, Path(folder) / f"{name}.onnx", name)
            contestants.append(runner.contestant(batch))
        progress(f"measuring {len(rows)} networks in turns, at most {max_seconds:.0f} seconds")
        timed = measure(contestants, min_runs=min_runs, max_seconds=max_seconds)
    machine = environment()
    return [
        {
            "network": row.model,
            "side": row.resolution,
            "backend": backend,
            "threads": threads,
            "batch": 1,
            "macs": row.macs,
            "params": row.params,
            "latency": latency.to_dict(),
            "environment": machine,
        }
        for row, latency in zip(rows, timed, strict=True)
    ]


def _runner(row: Published, backend: str, threads: int, path: Path, name: str) -> Runner:
    from fbnetv3.arch.tables import ARCHS
    from fbnetv3.deploy.runtimes import RUNTIMES
    from fbnetv3.models.inference import fold_batch_norm
    from fbnetv3.models.model import FBNetV3, build

    from .runners import file_runner, torch_runner

    module: nn.Module = (
        timm_network(row.model) if row.model not in ARCHS else build(ARCHS[row.model])
    )
    module.eval()
    if backend not in RUNTIMES:
        return torch_runner(module, backend, threads=threads, name=name)
    _export(fold_batch_norm(module) if isinstance(module, FBNetV3) else module, row, path)
    return file_runner(path, RUNTIMES[backend], threads=threads, name=name)


def _export(module: nn.Module, row: Published, path: Path) -> None:
    """Writes any network as an ONNX file for one image; all go the same way."""
    import torch

    from fbnetv3.deploy.export import quiet

    with quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(1, 3, row.resolution, row.resolution),),
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


def read_latencies(path: Path, backend: str = DEFAULT_BACKEND, threads: int = 1) -> Latencies:
    """Returns the medians of a file of `find --output`, for one image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such results.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; `--latency here --output {path}` writes one")
    try:
        found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        ways = {(row["backend"], row["threads"], row["batch"]) for row in found}
        chosen = {
            (row["network"], row["side"]): float(row["latency"]["median_ms"])
            for row in found
            if (row["backend"], row["threads"], row["batch"]) == (backend, threads, 1)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a file of latencies that `fbnetv3 find --output` wrote: {error!r}"
        ) from None
    if not chosen:
        has = ", ".join(
            sorted({f"{name} with {number}" for name, number, size in ways if size == 1})
        )
        raise ValueError(
            f"{path} has no latency of one image in {backend} with {threads} threads; it has: "
            f"{has or 'none'}"
        )
    return chosen
