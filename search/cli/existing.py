"""The commands on a search that exists: resume, status, rebuild."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnetv3._internal.messages import counted
from fbnetv3.cli import completion

from .carrying_out import carry_out, engine_maker, learn_from, policy_of, resumable
from .words import (
    Address,
    AsJson,
    Attempts,
    Cpus,
    EngineName,
    Folder,
    Gpus,
    GpusEach,
    MaxRunning,
    Straggler,
    Timeout,
    Workers,
)

if TYPE_CHECKING:
    from fbnetv3.search.nars.growing import Kind


def resume(
    folder: Folder,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of more labels to learn from.", autocompletion=completion.files(".csv")
        ),
    ] = None,
    trainings: Annotated[
        int | None, typer.Option(help="A larger number of trainings than the search had.")
    ] = None,
    cost: Annotated[
        float | None, typer.Option(help="A larger budget in full trainings than it had.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="A longer time than it had, what was spent included.")
    ] = None,
    workers: Workers = 1,
    gpus: Gpus = "",
    engine: EngineName = "local",
    address: Address = None,
    max_running: MaxRunning = None,
    cpus: Cpus = 1.0,
    gpus_each: GpusEach = 0.0,
    straggler: Straggler = None,
    attempts: Attempts = 3,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Resume a stopped search, or give one more to train.

    The result is the one of an undisturbed search. Options of the engine are not remembered: give
    them again. Writes FOLDER, as `run` does; of a finished search only answers and report, again.
    With a larger budget it goes on from all that it has trained.

    Examples:
        fbnetv3-search resume runs/t
        fbnetv3-search resume runs/s --workers 2 --labels more.csv
        fbnetv3-search resume runs/t --trainings 24
    """
    from fbnetv3.search.nars.growing import grow
    from fbnetv3.search.storage.store import Store

    larger: dict[Kind, Any] = {"trainings": trainings, "cost": cost, "time_s": time}
    given = {kind: budget for kind, budget in larger.items() if budget is not None}
    options = {"trainings": "--trainings", "cost": "--cost", "time_s": "--time"}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(options[kind] for kind in given)} given; expected one")
    for kind, budget in given.items():
        grow(folder, kind, budget, name=options[kind])
    with resumable(folder), Store.open(folder) as store:
        learn_from(store, labels)
        make = engine_maker(engine, workers, gpus, address, max_running, cpus, gpus_each)
        carry_out(store, make, policy_of(straggler, attempts, timeout), as_json)


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show the progress of a search, also while it runs.

    Rounds, trials, and the best label within each limit so far. Writes nothing.

    Examples:
        fbnetv3-search status runs/t
        fbnetv3-search status runs/t --json
    """
    from fbnetv3.search.nars.status import status_of
    from fbnetv3.search.storage.store import Store

    with Store.read(folder) as store:
        found = status_of(store)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    counts, rounds = found["trials"], "no round yet"
    if found["rounds"]:
        rounds = f"{found['rounds']} of {found['of_rounds']} rounds"
    typer.echo(
        f"{found['state']}: {rounds}, "
        f"{counts['done']} done, {counts['leased']} running, {counts['queued']} waiting, "
        f"{counts['failed']} failed"
    )
    for one in found["best"]:
        value = "none yet" if one["label"] is None else f"{one['label']:.3f}"
        typer.echo(f"best within {one['limit'] or 'no limit'}: {value}")
    if found["coordinator"]:
        typer.echo(f"coordinator: {found['coordinator']}")


def rebuild(folder: Folder) -> None:
    """Make the database again from the search's other files.

    For a lost or damaged search.sqlite; writes FOLDER/search.sqlite. Nothing is trained again.

    Examples:
        fbnetv3-search rebuild runs/t
    """
    from fbnetv3.search.nars.answers import restore_answers
    from fbnetv3.search.storage.store import Store

    with Store.rebuild(folder) as store:
        restore_answers(store)
        counts = store.counts()
        for message in store.messages:
            typer.echo(message, err=True)
    trials = counted(sum(counts.values()), "trial")
    typer.echo(f"{trials}, {counts['done']} of them with a label")
