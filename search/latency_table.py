"""Latency of candidates as a cost: every operator and shape measured once on a device, and summed.

An operator is one convolution with its batch-norm and activation, one squeeze-and-excite, or one
of the head's layers. Sums miss what lies between operators, so that a line fitted on whole
networks corrects them, and other networks say how far off the result is. Activations are timed as
hard-swish, and a gate without its last multiplication.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fbnetv3.arch import Arch, round_channels
from fbnetv3.json_record import keywords_of, read_json
from fbnetv3.messages import shown

from .cost import Form, gather, make_tables
from .layout import is_number
from .space import Floats, Matrix, Space

SCHEMA = "fbnetv3-latency-table/1"
KINDS = ("conv", "gate", "linear")
Notify = Callable[[int, int], None]


@dataclass(frozen=True, order=True)
class Operator:
    """One layer at one shape: what is timed.

    Attributes:
        kind: "conv" (convolution, batch-norm, activation), "gate" (squeeze-and-excite, `outputs`
            being its inner width) or "linear" (1x1 on a 1x1 map).
        inputs: channels that come in.
        outputs: channels that go out.
        side: of the input map in pixels.
        kernel: side of the kernel.
        stride: of the convolution.
        padding: of the convolution.
        groups: of the convolution.
    """

    kind: str
    inputs: int
    outputs: int
    side: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True)
class Timing:
    """What was measured of an operator, in milliseconds: median, its 95 % interval, samples."""

    median_ms: float
    low_ms: float
    high_ms: float
    num_runs: int


@dataclass(frozen=True)
class LatencyTable:
    """Measured operators, and how to turn their sum into a network's latency.

    Attributes:
        timings: of each operator.
        slope: milliseconds of a network for each millisecond of the sum.
        offset_ms: milliseconds that every network takes besides.
        error_pct: mean absolute error on networks that the line was not fitted on, None unfitted.
        num_networks: (fitted on, held out).
        device: what was measured on, with versions, threads and batch.
    """

    timings: Mapping[Operator, Timing]
    slope: float = 1.0
    offset_ms: float = 0.0
    error_pct: float | None = None
    num_networks: tuple[int, int] = (0, 0)
    device: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def total_ms(self, operators: Sequence[Operator]) -> float:
        """Returns the sum of operators' medians.

        Raises:
            ValueError: one of them was not measured.
        """
        for operator in operators:
            if operator not in self.timings:
                raise ValueError(f"{operator} is not in the table; measure this space's operators")
        return sum(self.timings[operator].median_ms for operator in operators)

    def predict_arch(self, arch: Arch, *, num_classes: int = 1000) -> float:
        """Returns the latency of one network in milliseconds."""
        operators = list(operators_of(arch, num_classes=num_classes))
        return self.offset_ms + self.slope * self.total_ms(operators)

    def cost(self, space: Space, *, num_classes: int = 1000) -> Callable[[Matrix], Floats]:
        """Returns a function of candidates (P, num_genes) that gives their milliseconds (P,)."""
        tables = make_tables(space, _forms(self.total_ms), num_classes=num_classes, in_chans=3)
        return lambda matrix: np.asarray(
            self.offset_ms + self.slope * gather(tables, space, matrix)[0]
        )

    def to_json(self) -> str:
        """Returns the table as a JSON text that `from_json` reads back to an equal table."""
        rows = [
            {**dataclasses.asdict(operator), **dataclasses.asdict(timing)}
            for operator, timing in sorted(self.timings.items())
        ]
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({"schema": SCHEMA, **fields, "timings": rows}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> LatencyTable:
        """Returns the table of a JSON text.

        Raises:
            ValueError: the text is no table of this version, or is damaged.
        """
        fields = read_json(text, "the latency table")
        if not isinstance(fields, dict) or fields.pop("schema", None) != SCHEMA:
            raise ValueError(f"this is no latency table; expected schema {SCHEMA!r}")
        given = keywords_of(LatencyTable, fields, "the latency table")
        rows = given["timings"]
        if not isinstance(rows, list):
            raise ValueError(f"the latency table's timings are {shown(rows)}; expected a list")
        given["timings"] = dict(_row(row, f"timings[{n}]") for n, row in enumerate(rows))
        pair = given.get("num_networks", (0, 0))
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_count, pair))):
            raise ValueError(f"num_networks is {shown(pair)}; expected two counts")
        given["num_networks"] = (pair[0], pair[1])
        for name in ("slope", "offset_ms", "error_pct"):
            value = given.get(name, 0.0)
            if not (is_number(value) or (name == "error_pct" and value is None)):
                raise ValueError(f"{name} is {shown(value)}; expected a finite number")
        if not isinstance(given.get("device", {}), dict):
            raise ValueError(f"device is {shown(given['device'])}; expected a JSON object")
        return LatencyTable(**given)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _row(row: Any, where: str) -> tuple[Operator, Timing]:
    """Returns what was timed and the timing of one row of a table's JSON."""
    both = [f.name for kind in (Operator, Timing) for f in dataclasses.fields(kind)]
    if not isinstance(row, dict) or sorted(row) != sorted(both):
        raise ValueError(f"{where} is {shown(row)}; expected a JSON object with {', '.join(both)}")
    for name, value in row.items():
        if name == "kind":
            ok, expected = isinstance(value, str), "text"
        elif name.endswith("_ms"):
            ok, expected = is_number(value) and value >= 0, "milliseconds"
        else:
            ok, expected = _is_count(value), "a count"
        if not ok:
            raise ValueError(f"{where}: {name} is {shown(value)}; expected {expected}")
    timing = Timing(**{f.name: row.pop(f.name) for f in dataclasses.fields(Timing)})
    return Operator(**row), timing


def operators_of(arch: Arch, *, num_classes: int = 1000) -> Iterator[Operator]:
    """Yields every operator of a network in order, at its own resolution."""
    side = arch.resolution
    yield Operator("conv", 3, arch.stem_channels, side, 3, 2, 1)
    side = (side + 1) // 2
    for block in arch.blocks():
        if block.kernel == 1:
            yield Operator("conv", block.in_channels, block.out_channels, side)
            continue
        after = (side + 2 * block.padding - block.kernel) // block.stride + 1
        yield from _block_operators(
            block.in_channels,
            block.mid_channels,
            block.out_channels,
            block.kernel,
            block.groups,
            block.se_channels,
            (side, block.stride, block.padding),
            after,
        )
        side = after
    mid = arch.head_mid_channels
    yield Operator("conv", arch.rows[-1].channels, mid, side)
    yield Operator("linear", mid, arch.head_channels, 1)
    yield Operator("linear", arch.head_channels, num_classes, 1)


def _block_operators(
    inputs: int,
    mid: int,
    outputs: int,
    kernel: int,
    groups: int,
    gate: int,
    entry: tuple[int, int, int],
    after: int,
) -> Iterator[Operator]:
    side, stride, padding = entry
    if mid != inputs:
        yield Operator("conv", inputs, mid, side)
    yield Operator("conv", mid, mid, side, kernel, stride, padding, groups)
    if gate:
        yield Operator("gate", mid, gate, after)
    yield Operator("conv", mid, outputs, after)


def _forms(total_ms: Callable[[Sequence[Operator]], float]) -> dict[str, Form]:
    """Returns what `cost.make_tables` needs to sum operators in place of multiply-adds."""

    def stem(inputs: int, outputs: int, resolution: int) -> float:
        return total_ms([Operator("conv", inputs, outputs, resolution, 3, 2, 1)])

    def block(**cells: Any) -> float:
        return total_ms(_cell_operators(**cells)) * int(cells["copies"]) if cells["copies"] else 0.0

    def head(inputs: int, expansion: float, features: int, classes: int, side: int) -> float:
        mid = round_channels(inputs * expansion)
        layers = [
            Operator("conv", inputs, mid, side),
            Operator("linear", mid, features, 1),
            Operator("linear", features, classes, 1),
        ]
        return total_ms(layers)

    return {"stem": _each(stem), "block": _each(block), "head": _each(head)}


def _each(form: Callable[..., float]) -> Form:
    """Returns a function of arrays that calls `form` once for every entry."""

    def over(**cells: Any) -> tuple[Floats]:
        wide = np.broadcast_arrays(*cells.values())
        entries = zip(*(array.ravel().tolist() for array in wide), strict=True)
        found = [form(**dict(zip(cells, entry, strict=True))) for entry in entries]
        return (np.array(found).reshape(wide[0].shape),)

    return over


def _cell_operators(
    inputs: int,
    outputs: int,
    kernel: int,
    expansion: float,
    groups: int,
    se: bool,
    stride: int,
    padding: int,
    before: int,
    after: int,
    copies: int,
) -> list[Operator]:
    """Returns the operators of one block of a space's cells."""
    if kernel == 1:
        return [Operator("conv", inputs, outputs, before)]
    mid = round_channels(inputs * expansion)
    entry = (before, stride, kernel // 2 if padding < 0 else padding)
    gate = round_channels(inputs // 4) if se else 0
    return list(_block_operators(inputs, mid, outputs, kernel, groups or mid, gate, entry, after))


def operators_of_space(space: Space, *, num_classes: int = 1000) -> list[Operator]:
    """Returns every distinct operator of every network of a space."""
    found: set[Operator] = set()

    def note(operators: Sequence[Operator]) -> float:
        found.update(operators)
        return 0.0

    make_tables(space, _forms(note), num_classes=num_classes, in_chans=3)
    return sorted(found)


def measure_operators(
    operators: Sequence[Operator],
    *,
    path: Path | None = None,
    device: str = "cpu",
    batch: int = 1,
    min_runs: int = 30,
    seconds_each: float = 0.2,
    notify: Notify = lambda _done, _all: None,
) -> LatencyTable:
    """Returns the timings of operators on this machine, in batches of 16 that take turns.

    Args:
        operators: what to time; those that the file has already are not timed again.
        path: written after each batch, so that a run that was ended goes on.
        device: "cpu" or "cuda".
        batch: images.
        min_runs: samples wanted of each.
        seconds_each: time for each operator; fewer samples are taken where they do not fit.
        notify: called with (done, all).

    Raises:
        ValueError: the file's timings are of another device, batch or version.
    """
    about = _device(device, batch)
    table = LatencyTable({}, device=about)
    if path is not None and path.is_file():
        table = LatencyTable.from_json(path.read_bytes())
        if table.device != about:
            raise ValueError(
                f"{path.name} was measured on {dict(table.device)}; this is {about}; use another"
                " file"
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
    path: Path | None = None,
    num_classes: int = 1000,
    min_runs: int = 30,
    seconds_each: float = 1.0,
) -> LatencyTable:
    """Returns the table with its line fitted on every second network and judged on the others.

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
    if len(archs) < 4:
        raise ValueError(f"{len(archs)} networks; expected at least 4 to fit on and to judge by")
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
        part = path.with_name(path.name + ".part")
        part.write_text(table.to_json())
        part.replace(path)


def _time(
    runs: Mapping[str, Callable[[], object]], device: str, min_runs: int, seconds: float
) -> list[Timing]:
    from fbnetv3.latency import Contestant, measure

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

    from fbnetv3.model import ACTS

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

    from fbnetv3.model import build

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
