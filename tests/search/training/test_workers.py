"""How many decoding processes a training gets by default."""

import pytest

from fbnetv3.search.training.workers import default_workers

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
