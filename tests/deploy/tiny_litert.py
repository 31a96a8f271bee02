"""The committed `tiny.tflite`: its network, and how it is written again.

    python -m tests.deploy.tiny_litert

in an environment with litert-torch, which the project's own cannot have.
"""

from __future__ import annotations

from pathlib import Path

from fbnetv3.arch.arch import Arch, Row
from fbnetv3.images.preprocess import CIFAR10_MEAN, CIFAR10_STD, Preprocess

TINY = Path(__file__).with_name("tiny.tflite")
NAMES = [f"thing {n}" for n in range(10)]
ARCH = Arch(
    resolution=32,
    stem_channels=8,
    rows=(
        Row("MB1", (3, 3), (1, 1), 8, 1, 1, False),
        Row("MB2", (5, 5), (3, 3), 16, 2, 2, True),
    ),
    head_expansion=2,
    head_channels=32,
)
PREPROCESS = Preprocess(
    resize=36, crop=32, interpolation="bilinear", mean=CIFAR10_MEAN, std=CIFAR10_STD
)

if __name__ == "__main__":
    from fbnetv3.deploy.runtimes.litert import export
    from tests.conftest import golden_weights

    print(
        export(golden_weights(ARCH, num_classes=10), TINY, preprocess=PREPROCESS, class_names=NAMES)
    )
