r"""int8 of the embedded CIFAR-10 weights on the whole test set: accuracy, size, speed.

    python -m benchmarks.release.int8_cifar10 --data DIR/cifar-10-batches-py --work /tmp/int8 \
        --out benchmarks/results/int8_cifar10.json

Calibrates on training images, judges on the 10,000 of the test set, for onnxruntime and OpenVINO.
About five minutes on one core.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.records import write
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.quantize import quantize
from fbnetv3.hub.create import create
from fbnetv3.measure.bench import best, entries, sweep
from fbnetv3.measure.int8_speed import compare_speed, operator_times
from fbnetv3.models.model import FBNetV3


def read(path: Path) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Returns images (32, 32, 3) and labels of one file of the data set."""
    with path.open("rb") as file:
        batch = pickle.load(file, encoding="bytes")  # the data set's own format
    images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return list(images), list(batch[b"labels"])


def main() -> None:
    """Quantises, judges, measures, writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fbnetv3_nano.cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    training, _ = read(options.data / "data_batch_1")
    test, labels = read(options.data / "test_batch")
    model = create(options.model, pretrained=True)
    assert isinstance(model, FBNetV3)
    float_path = options.work / "fp32.onnx"
    artefact = to_onnx(model, float_path).artefact
    results: dict[str, Any] = {"model": artefact.name, "conditions": conditions()}
    files = [float_path]
    for runtime, name in (("onnxruntime", "int8.onnx"), ("openvino", "int8.xml")):
        found = quantize(
            float_path,
            options.work / name,
            training[: options.calibration],
            evaluation=test,
            labels=labels,
            runtime=runtime,
            max_drop_pct=options.max_drop,
        )
        files.append(found.path)
        speed = compare_speed(float_path, found.path)
        results[runtime] = {
            "top1_float_pct": found.top1_float_pct,
            "top1_pct": found.top1_pct,
            "agreement_pct": found.agreement_pct,
            "num_images": found.num_evaluation,
            "num_bytes_float": found.num_bytes_float,
            "num_bytes": found.num_bytes,
            "method": found.method,
            "methods": found.methods,
            "dearest_layers": [(x.node, x.error_of_std, x.in_float) for x in found.layers[:10]],
            "verdict": speed.verdict,
            "rows": [row.to_dict() for row in speed.rows],
        }
        print(runtime, found.top1_float_pct, found.top1_pct, speed.verdict, flush=True)
    results["operators_fp32_ms"] = operator_times(float_path)
    results["operators_int8_ms"] = operator_times(options.work / "int8.onnx")
    batch = np.stack([artefact.preprocess(image) for image in _opened(test)])
    rows = sweep(entries(files), artefact, batch_sizes=(1, 16), images=batch, labels=labels)
    results["rows"] = [row.to_dict() for row in rows]
    for size in (1, 16):
        chosen = best(row for row in rows if row.batch == size)
        results[f"best_batch_{size}"] = f"{chosen.backend}, {chosen.threads} threads"
        print(f"batch {size}: best is {results[f'best_batch_{size}']}")
    write(options.out, results)


def _opened(images: list[NDArray[np.uint8]]) -> list[Any]:
    from fbnetv3.images.reader import open_image

    return [open_image(image) for image in images]


if __name__ == "__main__":
    main()
