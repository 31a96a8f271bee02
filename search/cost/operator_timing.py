"""Times operators on this machine and calibrates their sums on complete networks.

Activations are timed as hard-swish, and a gate without its last multiplication.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3._internal.files import write_atomically
from fbnetv3.arch.arch import Arch

from .latency_table import LatencyTable, Timing
from .operators import Operator, operators_of

Notify = Callable[[int, int], None]


def measure_operators(
    operators: Sequence[Operator],
    *,
    path: str | Path | None = None,
    device: str = "cpu",
    batch: int = 1,
    min_runs: int = 30,
    seconds_each: float = 0.2,
    notify: Notify = lambda _done, _all: None,
) -> LatencyTable:
    """Returns the timings of operators on this machine, in batches of 16 that take turns.

    Args:
        operators: what to time; those that the file has already are not timed again.
        path: file written after each batch, so that an interrupted run resumes.
        device: "cpu" or "cuda".
        batch: batch size.
        min_runs: minimum number of samples per operator.
        seconds_each: time for each operator; fewer samples are taken where they do not fit.
        notify: called with (done, all).

    Raises:
        ValueError: the file's timings are of another device, batch or version.
    """
    path = None if path is None else Path(path)
    about = _device(device, batch)
    table = LatencyTable({}, device=about)
    if path is not None and path.is_file():
        table = LatencyTable.from_json(path.read_bytes())
        if table.device != about:
            raise ValueError(
                f"{path.name} was measured on {dict(table.device)}; this device is {about}; "
                "use another file"
            )
    missing = [operator for operator in dict.fromkeys(operators) if operator not in table.timings]
    for start in range(0, len(missing), 16):
        part = missing[start : start + 16]
        runs = {str(operator): _runner(operator, device, batch) for operator in part}
        found = _time(runs, device, min_runs, seconds_each * len(part))
        timings = dict(table.timings) | dict(zip(part, found, strict=True))
        # New operators leave the fitted line as it is: it belongs to the device.
        table = dataclasses.replace(table, timings=timings)
        _write(table, path)
        notify(start + len(part), len(missing))
    return table


def calibrate(
    table: LatencyTable,
    archs: Sequence[Arch],
    *,
    path: str | Path | None = None,
    num_classes: int = 1000,
    min_runs: int = 30,
    seconds_each: float = 1.0,
) -> LatencyTable:
    """Returns the table with its line fitted on every second network, evaluated on the others.

    Args:
        table: with the operators of all the networks.
        archs: distinct networks, ten or more.
        path: where to write the table.
        num_classes: of the classifier.
        min_runs: samples wanted of each network.
        seconds_each: time for each network.

    Raises:
        ValueError: fewer than four networks.
    """
    path = None if path is None else Path(path)
    if len(archs) < 4:
        raise ValueError(f"{len(archs)} networks; expected at least 4 for fitting and evaluation")
    device, batch = str(table.device.get("device", "cpu")), int(table.device.get("batch", 1))
    sums = np.array(
        [table.total_ms(list(operators_of(arch, num_classes=num_classes))) for arch in archs]
    )
    runs = {
        f"network {n}": _network(arch, device, batch, num_classes) for n, arch in enumerate(archs)
    }
    timings = _time(runs, device, min_runs, seconds_each * len(archs))
    truth = np.array([timing.median_ms for timing in timings])
    fit = np.arange(len(archs)) % 2 == 0
    slope, offset = np.polyfit(sums[fit], truth[fit], 1)
    if slope <= 0:
        slope, offset = float(truth[fit].sum() / sums[fit].sum()), 0.0
    error = np.abs(offset + slope * sums - truth)[~fit] / truth[~fit]
    table = dataclasses.replace(
        table,
        slope=float(slope),
        offset_ms=float(offset),
        error_pct=float(100 * error.mean()),
        num_networks=(int(fit.sum()), int((~fit).sum())),
    )
    _write(table, path)
    return table


def _write(table: LatencyTable, path: Path | None) -> None:
    if path is not None:
        write_atomically(path, table.to_json())


def _time(
    runs: Mapping[str, Callable[[], object]], device: str, min_runs: int, seconds: float
) -> list[Timing]:
    from fbnetv3.measure.latency import Contestant, measure

    contestants = [Contestant(name, run, cuda=device == "cuda") for name, run in runs.items()]
    found = measure(contestants, min_runs=min_runs, max_seconds=seconds)
    return [Timing(x.median_ms, x.low_ms, x.high_ms, x.num_runs) for x in found]


def _runner(operator: Operator, device: str, batch: int) -> Callable[[], object]:
    """Returns one inference of an operator's module, built as networks have it."""
    import torch

    module = _module(operator).eval().to(device)
    x = torch.randn(batch, operator.inputs, operator.side, operator.side, device=device)

    def run() -> object:
        with torch.inference_mode():
            return module(x)

    return run


def _module(operator: Operator) -> Any:
    from functools import partial

    from torch import nn

    from fbnetv3.models.model import ACTS

    act = ACTS["hard_swish"]
    if operator.kind == "gate":
        layers = [
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(operator.inputs, operator.outputs, 1),
            act(),
            nn.Conv2d(operator.outputs, operator.inputs, 1),
            nn.Hardsigmoid(),
        ]
        return nn.Sequential(*layers)
    conv = partial(nn.Conv2d, operator.inputs, operator.outputs)
    if operator.kind == "linear":
        return nn.Sequential(conv(1, bias=False), act())
    layers = [
        conv(
            operator.kernel, operator.stride, operator.padding, groups=operator.groups, bias=False
        ),
        nn.BatchNorm2d(operator.outputs),
        act(),
    ]
    return nn.Sequential(*layers)


def _network(arch: Arch, device: str, batch: int, num_classes: int) -> Callable[[], object]:
    import torch

    from fbnetv3.models.model import build

    model = build(arch, device=device, num_classes=num_classes).eval()
    x = torch.randn(batch, 3, arch.resolution, arch.resolution, device=device)

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def _device(device: str, batch: int) -> dict[str, Any]:
    """Returns what timings depend on, of this machine."""
    import platform

    import torch

    name = platform.processor() or platform.machine()
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else name,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "torch": torch.__version__,
    }
