"""Options and arguments that several commands of `fbnetv3` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
