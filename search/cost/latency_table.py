"""Latency of candidates as a cost: measured operators, summed and corrected.

Sums miss what lies between operators, so a line fitted on complete networks corrects them, and
other networks say how far off the result is. `operator_timing` measures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fbnetv3._internal.json_record import keywords_of, read_json
from fbnetv3._internal.messages import shown
from fbnetv3.arch.arch import Arch
from fbnetv3.search.space.layout import is_number
from fbnetv3.search.space.space import Floats, Matrix, Space

from .cost import gather, make_tables
from .operators import Operator, operator_forms, operators_of

SCHEMA = "fbnetv3-latency-table/1"


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
                raise ValueError(
                    f"{operator} is not in the table; measure this space's operators with "
                    "`fbnetv3-search latency-table`, with --num-classes as the number of classes"
                )
        return sum(self.timings[operator].median_ms for operator in operators)

    def predict_arch(self, arch: Arch, *, num_classes: int = 1000) -> float:
        """Returns the latency of one network in milliseconds."""
        operators = list(operators_of(arch, num_classes=num_classes))
        return self.offset_ms + self.slope * self.total_ms(operators)

    def cost(self, space: Space, *, num_classes: int = 1000) -> Callable[[Matrix], Floats]:
        """Returns a function of candidates (P, num_genes) that gives their milliseconds (P,)."""
        tables = make_tables(
            space, operator_forms(self.total_ms), num_classes=num_classes, in_chans=3
        )
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
            raise ValueError(f"this is not a latency table; expected schema {SCHEMA!r}")
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
