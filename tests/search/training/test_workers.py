"""How many decoding processes a training gets by default."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fbnetv3.search.data.datasets import open_images
from fbnetv3.search.training import workers
from fbnetv3.search.training.batches import (
    TrainBatches,
    default_preprocess,
    eval_batches,
)
from fbnetv3.search.training.loading import loaded, outlive_signals
from fbnetv3.search.training.parallel import World
from fbnetv3.search.training.workers import default_workers, usable_workers
from tests.search.data.test_data import write_folders
from tests.search.tiny import tiny_recipe

GIB = 1 << 30


@pytest.mark.parametrize(
    ("device", "cpus", "shared", "expected"),
    [
        ("cuda", 8, 64 * GIB, 8),
        ("cuda", 64, 64 * GIB, 16),
        ("cuda", 1, 64 * GIB, 1),
        ("cpu", 8, 64 * GIB, 2),
        ("cpu", 2, 64 * GIB, 1),
        ("cpu", 1, 64 * GIB, 0),
        # A batch of 64 photos takes 38.5 MB, and 64 MB is what a container has.
        ("cuda", 8, 64 << 20, 0),
        ("cuda", 8, 1 * GIB, 6),
    ],
)
def test_workers_follow_the_device_the_cpus_and_shared_memory(
    device: str, cpus: int, shared: int, expected: int
) -> None:
    assert default_workers(device, 64, 224, cpus=cpus, shared_bytes=shared) == expected


def test_processes_whose_sockets_would_have_too_long_paths_are_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*["folder"] * 20)
    deep.mkdir(parents=True)
    assert usable_workers(2, 1) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.warns(UserWarning, match="too long for their sockets.*set TMPDIR to a shorter"):
        assert usable_workers(2, 1) == 0
    assert usable_workers(0, 1) == 0


@pytest.mark.timeout(60)
def test_images_are_decoded_below_a_temporary_folder_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "data", {"a": 8, "b": 8}, side=100)  # too large to be held in memory
    images = open_images(tmp_path / "data")
    deep = tmp_path.joinpath(*["folder"] * 20)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.warns(UserWarning, match="too long for their sockets"):
        batches = TrainBatches(
            images,
            tiny_recipe(),
            default_preprocess(images, 16),
            seed=0,
            world=World(),
            device=torch.device("cpu"),
            workers=1,
        )
    assert len(list(batches.epoch(0))) == 1


@pytest.mark.parametrize(
    ("asked", "batch", "expected"), [(2, 64, 0), (2, 16, 2), (4, 16, 2), (2, 250, 0), (0, 250, 0)]
)
def test_what_a_containers_64_mb_do_not_hold_is_decoded_without_processes(
    asked: int, batch: int, expected: int
) -> None:
    context = (
        pytest.warns(UserWarning, match=r"/dev/shm has 67 MB left.*--shm-size=2g")
        if expected < asked
        else contextlib.nullcontext()
    )
    with context:
        found = usable_workers(asked, batch * 3 * 224 * 224 * 4, shared_bytes=64 << 20)
    assert found == expected


@pytest.mark.timeout(120)
def test_validation_does_not_take_more_shared_memory_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path, {"a": 8, "b": 8}, side=100)  # too large to be held in memory
    images = open_images(tmp_path)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(workers, "_free_shared_bytes", lambda: 3 * 100 * 100 * 20)
    preprocess = default_preprocess(images, 100)
    where: dict[str, Any] = {"world": World(), "device": torch.device("cpu"), "workers": 1}
    with pytest.warns(UserWarning, match="by 0 processes instead of 1"):
        (batch,) = eval_batches(images, preprocess, batch_size=16, **where)
    assert len(batch.images) == 16


def test_a_process_that_ended_for_want_of_shared_memory_says_what_to_do() -> None:
    class Loader:
        def __iter__(self) -> Iterator[int]:
            yield 1
            raise RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory."
            )

    batches = loaded(Loader())  # type: ignore[arg-type]
    assert next(batches) == 1
    with pytest.raises(OSError, match=r"want of shared memory.*--workers 0"):
        next(batches)


def _signalled_early(worker: int) -> None:
    """Has the process get its signals before it is ready for them."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), number)
    outlive_signals(worker)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.timeout(120)
def test_a_signal_that_reaches_a_process_while_it_starts_takes_no_batch() -> None:
    loader = DataLoader(
        TensorDataset(torch.arange(6)),
        batch_size=2,
        num_workers=2,
        worker_init_fn=_signalled_early,
    )
    assert [batch.tolist() for (batch,) in loaded(loader)] == [[0, 1], [2, 3], [4, 5]]
