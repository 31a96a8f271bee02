"""Options that several commands of `fbnetv3-search` share, and what their words mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from fbnetv3.cli import completion
from fbnetv3.search.nars.words import Bins as BinWord
from fbnetv3.search.space.words import SpaceName

if TYPE_CHECKING:
    from fbnetv3.search.training.config import Hardware

TABLES = completion.files(".csv", ".npz", ".parquet")
A_SPACE = completion.any_of(completion.choices(*get_args(SpaceName)), completion.files(".json"))

DEVICES = completion.choices("cpu", "cuda", "mps")
TaskOption = Annotated[
    Literal["auto", "single-label", "multi-label"],
    typer.Option(help="Labels per image; auto: as the data say."),
]

CheckpointOption = Annotated[
    Path | None,
    typer.Option(help="Load the model's weights from this file: timm's, Meta's or our layout."),
]


def _predictors(incomplete: str) -> list[str]:
    from fbnetv3.search.predictors.registry import PREDICTORS

    return completion.choices(*PREDICTORS)(incomplete)


def parse_setting(text: str) -> tuple[str, Any]:
    """Returns the name and the value of `--set name=value`; the value is JSON, else a text.

    Raises:
        ValueError: there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r} is not understood; expected field=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def workers_of(asked: str, hardware: Hardware, batch_size: int, side: int) -> int:
    """Returns the number of image loading processes that an option gives: a number, or auto.

    Raises:
        ValueError: it is neither.
    """
    from fbnetv3.search.training.workers import default_workers

    if asked == "auto":
        return default_workers(hardware.device.type, batch_size, side)
    if not asked.isdecimal():
        raise ValueError(f"--workers {asked!r} is not understood; expected a number, or auto")
    return int(asked)


Folder = Annotated[Path, typer.Argument(help="Folder of the search.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Workers = Annotated[int, typer.Option(help="Number of local worker processes.")]
Gpus = Annotated[str, typer.Option(help="GPUs of the local workers, such as 0,1,2,3.")]
EngineName = Annotated[Literal["local", "ray"], typer.Option("--engine", help="Execution engine.")]
Address = Annotated[str | None, typer.Option(help="Address of the Ray cluster.")]
MaxRunning = Annotated[
    int | None, typer.Option(help="Maximum number of trials submitted to Ray at once.")
]
Cpus = Annotated[float, typer.Option(help="CPU cores per trial, on Ray.")]
GpusEach = Annotated[float, typer.Option(help="GPUs per trial, on Ray.")]
Straggler = Annotated[
    float | None,
    typer.Option(
        help="End a round after this many times the median trial duration; "
        "two such searches differ. Off by default."
    ),
]
Attempts = Annotated[
    int, typer.Option(help="Number of failed attempts after which a trial is replaced.")
]
Timeout = Annotated[float | None, typer.Option(help="Time limit of an attempt, in seconds.")]
Latency = Annotated[
    Path | None,
    typer.Option(
        help="Latency table, for limits on latency_ms.",
        autocompletion=completion.files(".json"),
    ),
]
Bins = Annotated[
    BinWord | None,
    typer.Option(
        help="Bins that a round samples; default: limits with several limits, or with one and "
        "--trainings, else equal."
    ),
]
Pool = Annotated[int, typer.Option(help="Size of the pool that candidates are chosen from.")]
Trainings = Annotated[
    int,
    typer.Option(
        help="Number of trainings of all rounds, which then adapt to it, with at most --batch "
        "trials each; 0: --rounds rounds of --batch. Retraining the best (--top candidates per "
        "limit with --final-seeds seeds) is extra."
    ),
]
Batch = Annotated[int, typer.Option(help="Number of trials per round; with --trainings, the most.")]
Rounds = Annotated[
    int,
    typer.Option(help="Number of rounds after the random first one; --trainings replaces it."),
]
Predictor = Annotated[
    str,
    typer.Option(help="mlp, mlp_ensemble, gp or auto.", autocompletion=_predictors),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", help="Limit to search for, such as macs<=500e6,params<=6e6; repeatable."
    ),
]


def read_latency_table(path: Path) -> Any:
    """Returns the table at a path.

    Raises:
        FileNotFoundError: there is none.
    """
    from fbnetv3.search.cost.latency_table import LatencyTable

    if not path.is_file():
        raise FileNotFoundError(f"no latency table at {path}; see fbnetv3-search latency-table")
    return LatencyTable.from_json(path.read_bytes())
