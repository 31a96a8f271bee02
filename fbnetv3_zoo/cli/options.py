"""Options and arguments that several commands of `fbnetv3` share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from fbnetv3._internal.checks import checked_seed

from . import completion

# Answers where no better weights can be had, and where the caller asks for it.
EMBEDDED = "fbnetv3_nano.cifar10"
TABLES = completion.any_of(completion.networks, completion.files(".json"))

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
License = Annotated[
    str | None,
    typer.Option(
        help="'commercial' (weights that allow it), or an SPDX name.",
        autocompletion=completion.licenses,
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        help="'commercial' refuses weights that forbid commercial use.",
        autocompletion=completion.choices("commercial"),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Device of PyTorch models: cpu, cuda or cuda:1.",
        autocompletion=completion.choices("cpu", "cuda"),
    ),
]
Offline = Annotated[bool | None, typer.Option(help="Do not access the network.")]
CacheDir = Annotated[
    Path | None, typer.Option(help="Cache folder of weights, in place of the default one.")
]
# Of the commands that train, `train` and `detect train`.
RunFolder = Annotated[
    Path, typer.Option(help="Output folder; a run in it is resumed, also with more --epochs.")
]
Seed = Annotated[int, typer.Option(help="Random seed.", callback=checked_seed)]
CheckpointSteps = Annotated[
    int, typer.Option(help="Also save a checkpoint every N steps; 0: after epochs only.")
]
ValidateEpochs = Annotated[int, typer.Option(help="Validate every N epochs.")]
LoadingProcesses = Annotated[str, typer.Option(help="Number of image loading processes, or auto.")]

_UNITS = {"": 1e6, "k": 1e3, "m": 1e6, "g": 1e9}
# No model of the zoo has so many millions; such a number is the count itself.
_MAX_MILLIONS = 1e5


def counted_in_millions(text: str) -> float:
    """Returns a count: a number of millions, or with a unit (600M, 0.6G), or in full (6e8).

    Raises:
        ValueError: the text is none of these.
    """
    parts = re.fullmatch(r"(.+?)([kmg]?)", text.strip().lower())
    try:
        number, unit = (float(parts[1]), parts[2]) if parts else (math.nan, "")
    except ValueError:
        number = math.nan
    if not (0 <= number < math.inf):
        raise ValueError(f"limit is {text!r}; expected millions (600), 600M, 0.6G or 6e8")
    return number if not unit and number >= _MAX_MILLIONS else number * _UNITS[unit]
