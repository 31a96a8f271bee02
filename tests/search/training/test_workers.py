"""How many decoding processes a training gets by default."""

import tempfile
from pathlib import Path

import pytest
import torch

from fbnetv3.search.data.datasets import open_images
from fbnetv3.search.training.batches import TrainBatches, default_preprocess
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
    assert usable_workers(2) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.warns(UserWarning, match="too long for their sockets.*set TMPDIR to a shorter"):
        assert usable_workers(2) == 0
    assert usable_workers(0) == 0


@pytest.mark.timeout(60)
def test_images_are_decoded_below_a_temporary_folder_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "data", {"a": 8, "b": 8}, side=40)
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
