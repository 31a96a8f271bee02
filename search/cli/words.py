"""Options that several commands of `fbnetv3-search` share, and what their words mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from fbnetv3.cli import completion
from fbnetv3.search.nars.words import Bins as BinWord
from fbnetv3.search.space.words import SpaceName

TABLES = completion.files(".csv", ".npz", ".parquet")
A_SPACE = completion.any_of(completion.choices(*get_args(SpaceName)), completion.files(".json"))


def _predictors(incomplete: str) -> list[str]:
    from fbnetv3.search.predictors.registry import PREDICTORS

    return completion.choices(*PREDICTORS)(incomplete)


Folder = Annotated[Path, typer.Argument(help="The search's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Workers = Annotated[int, typer.Option(help="Processes of this machine that train at once.")]
Gpus = Annotated[str, typer.Option(help="Devices of local workers, such as 0,1,2,3.")]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="What carries trainings out.")
]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster.")]
MaxRunning = Annotated[
    int | None, typer.Option(help="Trials handed to Ray at once; set it where the cluster grows.")
]
Cpus = Annotated[float, typer.Option(help="Cores of a trial, on Ray.")]
GpusEach = Annotated[float, typer.Option(help="GPUs of a trial, on Ray.")]
Straggler = Annotated[
    float | None,
    typer.Option(
        help="Close a round after so many times a trial's median duration; "
        "two such searches differ. Off by default."
    ),
]
Attempts = Annotated[int, typer.Option(help="Failed attempts after which a trial is replaced.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds after which an attempt has failed.")]
Latency = Annotated[
    Path | None,
    typer.Option(
        help="Latency table; limits may then name latency_ms.",
        autocompletion=completion.files(".json"),
    ),
]
Bins = Annotated[
    BinWord | None,
    typer.Option(help="How a round is spread; default: limits if several, else equal."),
]
Predictor = Annotated[
    str,
    typer.Option(help="mlp, mlp_ensemble, gp or auto.", autocompletion=_predictors),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Find the best for macs<=500e6,params<=6e6; repeatable."),
]

_LIMIT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*$")


def parse_limit(text: str, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns cost -> (lowest, highest) of a text such as "macs>=4e8,macs<=6e8".

    Raises:
        ValueError: the text has another form.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for part in filter(None, text.split(",")):
        match = _LIMIT.match(part)
        try:
            name, sign, number = match.groups() if match else ("", "", "")
            value = float(number)
        except ValueError:
            raise ValueError(f"limit {part!r} is not understood; expected macs<=500e6") from None
        name = (names or {}).get(name, name)
        low, high = bounds.get(name, (-float("inf"), float("inf")))
        bounds[name] = (low, value) if sign == "<=" else (value, high)
    return bounds


def cost_names(problem: Any) -> dict[str, str]:
    """Returns short name -> cost: `macs` is the paper's convention where there are two."""
    import numpy as np

    known = problem.costs(problem.space.sample(1, np.random.default_rng(0)))
    return {"macs": "macs_paper"} if "macs_paper" in known and "macs" not in known else {}


def read_latency_table(path: Path) -> Any:
    """Returns the table at a path.

    Raises:
        FileNotFoundError: there is none.
    """
    from fbnetv3.search.cost.latency_table import LatencyTable

    if not path.is_file():
        raise FileNotFoundError(f"no latency table at {path}; see fbnetv3-search latency-table")
    return LatencyTable.from_json(path.read_bytes())
