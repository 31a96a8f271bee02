r"""Whole detectors in files: parity, average precision and latency per runtime, float and int8.

    python -m benchmarks.detection.deployed W/ssdlite-fbnetv3_a-160-20-0 \
        W/ssdlite-torchvision-mobilenet_v3_large-160-20-0 --data FOLDER --work X \
        --out benchmarks/results/detection_deployed.jsonl

Each RUN is the output folder of `fbnetv3 detect train`, or of `benchmarks.detection.trained`, whose
`--work` is W here; FOLDER is what they were trained on. It is exported to ONNX and OpenVINO, and an
SSDlite to ExecuTorch and LiteRT where what writes them is installed, which compares its boxes with
PyTorch's; it is quantized by training images, and every form is scored on the test split. Then all
forms of all detectors take turns on one photo, decoded beforehand, from its pixels to boxes.
`--size` also measures the latency at another size of images, without scores. Three minutes
for three detectors on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.records import append
from fbnetv3.deploy.runtimes import RUNTIMES
from fbnetv3.detection.data import open_scored
from fbnetv3.detection.detections import Detections, Detector
from fbnetv3.detection.detectors import CONFIG, TorchDetector, load_detector
from fbnetv3.detection.export import export_detector
from fbnetv3.detection.exported import ExportedDetector
from fbnetv3.detection.quantize import quantize_detector
from fbnetv3.detection.scoring import evaluate
from fbnetv3.hub.pretrained import WEIGHTS_FILE
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.measure.latency import Contestant, measure

# Name of a form -> its file; what is int8 is quantized from the first.
WHOLE = {"onnxruntime": "float.onnx", "openvino": "float.xml"}
FIXED = {"executorch": "float.pte", "litert": "float.tflite"}
INT8 = {"onnxruntime int8": "int8.onnx", "openvino int8": "int8.xml"}
NUM_CALIBRATION = 50


def at_size(run: Path, size: int | None, work: Path) -> Path:
    """Returns the folder of a detector for another size of images; None is its own."""
    if size is None:
        return run
    folder = work / f"{run.name}-at-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads((run / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "size": size}))
    shutil.copy(run / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    return folder


def forms_of(
    run: Path, data: Path, work: Path, threads: int
) -> tuple[dict[str, Detector], dict[str, Any]]:
    """Returns a detector in all forms, and the parity of the files."""
    built = load_detector(run)
    images = CocoFolder(data, split="train")
    photos = [images.image_path(n) for n in range(min(NUM_CALIBRATION, len(images)))]
    work.mkdir(parents=True, exist_ok=True)
    paths, parity = {}, {}
    for form, name in {**WHOLE, **(FIXED if built.config.detector == "ssdlite" else {})}.items():
        try:
            RUNTIMES[form].need_writer()
        except ImportError as error:
            print(f"no {form}: {error}", flush=True)
            continue
        paths[form] = work / name
        parity[form] = dataclasses.asdict(export_detector(built, paths[form]).agreement)
    for form, name in INT8.items():
        if form.removesuffix(" int8") in paths:
            paths[form] = work / name
            quantize_detector(paths["onnxruntime"], paths[form], photos)
    found: dict[str, Detector] = {"torch": TorchDetector(built)}
    found |= {name: ExportedDetector(path, num_threads=threads) for name, path in paths.items()}
    return found, parity


def runner(detector: Detector, pixels: NDArray[np.uint8]) -> Callable[[], Detections]:
    """Returns what runs a detector on decoded pixels."""
    if isinstance(detector, ExportedDetector):
        return partial(detector.run, pixels)
    return partial(detector, pixels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, scores, measures and appends rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    parser.add_argument("--size", type=int, help="pixels, in place of what was trained on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring latency")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    test = open_scored(options.data, "test")
    rows: dict[str, dict[str, Any]] = {}
    contestants = []
    pixels = np.array(open_image(example_photos()[0]))
    for run in options.runs:
        work = options.work / f"{run.name}-{options.size or 'own'}"
        folder = at_size(run, options.size, options.work)
        found, parity = forms_of(folder, options.data, work, options.threads)
        for form, detector in found.items():
            name = f"{run.name}, {form}"
            rows[name] = {
                "run": run.name,
                "size": options.size or load_detector(run).config.size,
                "form": form,
                "threads": options.threads,
                "parity": parity.get(form),
                # Of weights at a size that they were not trained for nothing follows.
                "scores": None if options.size else evaluate(detector, test).values,
            }
            contestants.append(Contestant(name, runner(detector, pixels)))
    for latency in measure(contestants, min_runs=20, max_seconds=options.seconds):
        rows[latency.name]["latency"] = latency.to_dict()
    about = conditions()
    append(options.out, ({**row, "conditions": about} for row in rows.values()))
    for name, row in rows.items():
        ap = "" if row["scores"] is None else f" AP {100 * row['scores']['AP']:5.1f} %"
        print(f"{name:70} {row['latency']['median_ms']:8.2f} ms{ap}")


if __name__ == "__main__":
    main()
