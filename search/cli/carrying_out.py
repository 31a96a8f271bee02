"""Carrying a search out with the engine of the options, and printing what it found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from fbnetv3._internal.messages import counted
from fbnetv3._internal.ray_start import need_ray
from fbnetv3.cli.group import note


def learn_from(store: Any, labels: list[Path] | None, objective: Any = None) -> None:
    """Imports files of labels into a search, and says what of them it left out."""
    from fbnetv3.search.nars.export import import_labels, label_epochs
    from fbnetv3.search.nars.problem import problem_of

    if not labels:
        return
    problem, epochs = problem_of(store.settings, objective), label_epochs(store)
    for path in labels:
        found = import_labels(store, problem.space, problem.costs, path, epochs=epochs)
        if found.left_out:
            note(
                f"{path}: learning from {counted(found.taken, 'label')}; left out "
                f"{found.left_out} of trainings of another length than {counted(epochs, 'epoch')}"
                + (" or a rung of this search" if store.settings["plan"].get("rungs") else "")
            )


def policy_of(straggler: float | None, attempts: int, timeout: float | None) -> Any:
    """Returns the policy that the options of the engine say."""
    from fbnetv3.search.execution.coordinator import Policy

    return Policy(straggler_factor=straggler, max_attempts=attempts, timeout_s=timeout)


def engine_maker(
    name: str,
    workers: int,
    gpus: str,
    address: str | None,
    max_running: int | None,
    cpus: float,
    gpus_each: float,
) -> Callable[[Any], Any]:
    """Returns what makes the engine for a store; the words are looked at here, before any work."""
    if workers < 1:
        raise ValueError(f"--workers is {workers}; expected 1 or more")
    if name == "ray":
        need_ray(address)
    others = {"--address": address, "--max-running": max_running, "--gpus-each": gpus_each or None}
    wrong = [option for option, value in others.items() if value is not None]
    if name == "local" and wrong:
        raise ValueError(f"{', '.join(wrong)}: for --engine ray; --gpus is for this machine's")
    if name == "ray" and gpus:
        raise ValueError(f"--gpus is {gpus}, for --engine local; on Ray give --gpus-each 1")

    def make(store: Any) -> Any:
        spec = store.settings["objective"]
        if name == "ray":
            from fbnetv3.search.execution.ray_engine import RayEngine

            return RayEngine(spec, store.folder, address=address, max_running=max_running,
                             cpus=cpus, gpus=gpus_each)  # fmt: skip
        from fbnetv3.search.execution.engine import LocalEngine

        num = trained_at_a_time(workers, gpus)
        return LocalEngine(spec, store.folder, gpus=_devices(gpus), workers=num)

    return make


def trained_at_a_time(workers: int, gpus: str, max_running: int | None = None) -> int:
    """Returns the number of trainings at a time that the options of an engine ask for."""
    return max_running or len(_devices(gpus)) or workers


def _devices(gpus: str) -> list[str]:
    return [device for device in gpus.split(",") if device]


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Says after Ctrl-C how the search in a folder goes on, once there is one."""
    from fbnetv3.search.storage.files import SETTINGS

    try:
        yield
    except KeyboardInterrupt:
        if (folder / SETTINGS).exists():
            note(f"stopped; with the same engine, go on: fbnetv3-search resume {folder}")
        raise


def carry_out(
    store: Any,
    make: Callable[[Any], Any],
    policy: Any,
    as_json: bool,
    objective: Any = None,
) -> None:
    """Runs or resumes a search to its end, with its report, and prints the results."""
    from fbnetv3.search.execution.spec import space_of
    from fbnetv3.search.nars.answers import describe
    from fbnetv3.search.nars.run import run_search
    from fbnetv3.search.report.live import Live, round_line
    from fbnetv3.search.report.page import write_report

    with contextlib.closing(make(store)) as engine, Live(store, quiet=as_json) as live:
        answers = run_search(store, engine, policy=policy, notify=live.note, objective=objective)
    for message in store.messages:
        typer.echo(message, err=True)
    write_report(store, store.folder / "report.html")
    space = space_of(store.settings)
    if as_json:
        typer.echo(json.dumps([describe(space, one) for one in answers], indent=2))
        return
    for number, answer in enumerate(answers):
        typer.echo(round_line(number, answer))
    typer.echo(f"report: {store.folder / 'report.html'}")
