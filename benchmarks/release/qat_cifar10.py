r"""What quantization-aware training gains over calibration alone, on CIFAR-10's test images.

    python -m benchmarks.release.qat_cifar10 --model fbnetv3_nano.cifar10 \
        --data DIR/cifar-10-batches-py --work W \
        --out benchmarks/results/qat_fbnetv3_nano.cifar10.json

Exports the embedded weights, quantizes them by calibration on 512 training images and by `fbnetv3
quantize --qat` on all 50,000, and runs all three files on the 10,000 test images. A difference has
the 95 % interval of its mean over images, as each image is answered by both files. Labels are used
for nothing but this. A stopped training goes on from W. The accuracies do not depend on the
machine's load: about 6 minutes of one core for nano, and 40 for A.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.records import write
from benchmarks.release.int8_cifar10 import read
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.hub.create import create
from fbnetv3.images.reader import open_image
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.quantized import quantize_aware, recipe_for

_BATCH = 100


def logits_of(path: Path, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Returns the logits (N, classes) of a file."""
    backend = ONNX.load(path, threads=1)
    parts = []
    for start in range(0, len(images), _BATCH):
        opened = [open_image(image) for image in images[start : start + _BATCH]]
        parts.append(backend.run_batch(np.stack([backend.preprocess(one) for one in opened])))
    return np.concatenate(parts)


def mean_and_interval(values: NDArray[Any]) -> tuple[float, float]:
    """Returns a mean in percent, and half of its 95 % interval."""
    scaled = 100 * values.astype(np.float64)
    return float(scaled.mean()), float(1.96 * scaled.std(ddof=1) / len(values) ** 0.5)


def main() -> None:
    """Quantizes both ways, judges, writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fbnetv3_nano.cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="default: those of the command")
    parser.add_argument("--lr", type=float, help="default: that of the command")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    training = [image for n in range(1, 6) for image in read(options.data / f"data_batch_{n}")[0]]
    test, labels = read(options.data / "test_batch")
    model = create(options.model, pretrained=True)
    assert isinstance(model, FBNetV3)
    paths = {way: options.work / f"{way}.onnx" for way in ("float", "ptq", "qat")}
    artefact = to_onnx(model, paths["float"]).artefact
    recipe = recipe_for(len(training), epochs=options.epochs, lr=options.lr)
    common = {"evaluation": test, "labels": labels, "sensitivity": False}
    quantize(paths["float"], paths["ptq"], training[:512], **common)
    found = quantize_aware(
        paths["float"],
        paths["qat"],
        training,
        folder=options.work / "run",
        recipe=recipe,
        hardware=Hardware(device=torch.device("cpu")),
        on_epoch=lambda log: print(log.line(), flush=True),
        on_step=lambda epoch, step, steps: print(
            f"epoch {epoch}: step {step} of {steps}", end="\r"
        ),
        **common,
    )
    truth = np.array(labels)
    answers = {way: logits_of(path, test).argmax(1) for way, path in paths.items()}
    right = {way: (given == truth).astype(np.float64) for way, given in answers.items()}
    rows = []
    for way, path in paths.items():
        lost, lost_half = mean_and_interval(right["float"] - right[way])
        rows.append(
            {
                "way": way,
                "num_bytes": path.stat().st_size,
                "top1_pct": mean_and_interval(right[way])[0],
                "lost_points": lost,
                "lost_points_interval": lost_half,
                "same_top1_pct": 100 * float((answers[way] == answers["float"]).mean()),
            }
        )
        print(rows[-1])
    gained, half = mean_and_interval(right["qat"] - right["ptq"])
    print(f"training gains {gained:+.2f} points, 95 % interval +-{half:.2f}")
    write(
        options.out,
        {
            "model": artefact.name,
            "num_images": len(test),
            "num_training": len(training),
            "recipe": recipe.to_dict(),
            "calibration": found.method,
            "rows": rows,
            "gained_points": gained,
            "gained_points_interval": half,
            "conditions": conditions(),
        },
    )


if __name__ == "__main__":
    main()
