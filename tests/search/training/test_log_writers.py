"""Logs in other programs: each epoch once, also over a resume, read back by the program itself."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fbnetv3.search.training import log_writers
from fbnetv3.search.training.log_writers import RECORD, check_writers, written_to
from fbnetv3.search.training.logbook import EpochLog

SETTINGS = {"lr": 0.1, "epochs": 3, "model": "x"}


def logs(num: int) -> list[EpochLog]:
    return [
        EpochLog(
            epoch=n, steps=6 * n, lr=0.1, loss=1 / n, seconds=1.0, images_per_s=9.0, top1_pct=n
        )
        for n in range(1, num + 1)
    ]


def tell(name: str, folder: Path, epochs: int, *, stopped: bool = False) -> None:
    with written_to([name, name], folder, SETTINGS) as write:
        for log in logs(epochs):
            write(log)
        if stopped:
            raise KeyboardInterrupt


def run_twice(name: str, folder: Path) -> None:
    """Logs two epochs, is stopped, and goes on to a third, as a resumed run tells them."""
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        tell(name, folder, 2, stopped=True)
    tell(name, folder, 3)


@pytest.mark.needs("tensorboard")
def test_tensorboard_reads_each_epoch_once(tmp_path: Path) -> None:
    run_twice("tensorboard", tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    for name, values in (("loss", [1, 1 / 2, 1 / 3]), ("top1_pct", [1, 2, 3])):
        events = found.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx(values)
    assert "ema_top1_pct" not in found.Tags()["scalars"]


@pytest.mark.needs("mlflow")
@pytest.mark.slow
def test_mlflow_has_one_run_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    run_twice("mlflow", tmp_path / "run")
    import mlflow

    uri = (tmp_path / "run" / "mlruns").as_uri()
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fbnetv3")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"lr": "0.1", "epochs": "3", "model": "x"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


@pytest.mark.needs("wandb")
@pytest.mark.slow
def test_wandb_goes_on_with_the_run_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_twice("wandb", tmp_path / "run")
    record = json.loads((tmp_path / "run" / RECORD).read_text())["wandb"]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{record['id']}.wandb"))
    assert record["epoch"] == 3
    assert len(files) == 2, "two files of one run, which `wandb sync` joins"
    # Its service may write the last lines a moment after it says that it is done.
    while len(found := [step for file in files for step in _steps(file)]) < 3:
        time.sleep(0.05)
    assert found == [1, 2, 3]


def _steps(file: Path) -> list[int]:
    """Returns the steps in a run's file: protobuf records in the format of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), 7, b""
    found = []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # too little is left of a block for a head
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                found.append(int(record.history.step.num))
    return found


class Flaky:
    """A program that is away for the second epoch."""

    id = "f"

    def __init__(self, folder: Path, id: str, after: int, settings: Mapping[str, Any]) -> None:
        if settings.get("down"):
            raise ConnectionError("no\nserver")
        self.seen: list[int] = []
        self.tries = 0
        made.append(self)

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        self.tries += 1
        if self.tries == 2:
            raise ConnectionError("gone")
        self.seen.append(number)

    def close(self, finished: bool) -> None:
        self.finished = finished


made: list[Flaky] = []


def test_a_program_that_fails_is_warned_of_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(log_writers.WRITERS, "flaky", ("json", Flaky))
    with pytest.warns(UserWarning, match="epoch 2 is not in flaky yet: gone"):
        tell("flaky", tmp_path, 3)
    assert (made[-1].seen, made[-1].finished) == ([1, 2, 3], True)
    with pytest.raises(ValueError, match=r"flaky cannot log this run \(no server\)"):
        written_to(["flaky"], tmp_path, {"down": True}).__enter__()


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log 'clearml'; expected tensorboard, wandb, ml"):
        check_writers(["clearml"])
