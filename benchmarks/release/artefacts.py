r"""One table of every exported file: size, accuracy, loss, latency, first answer, two streams.

    python -m benchmarks.release.artefacts prepare --data D --work W
    python -m benchmarks.release.artefacts measure --data D --work W \
        --out benchmarks/results/artefacts.jsonl

`prepare` writes the files of a network (`--model`, else `fbnetv3_a.cifar10`) in every runtime that
is installed, in float32, float16 where a runtime has it, and int8 (each calibrated on training
images): install the extras `openvino`, `executorch` and `litert` first. A `.tflite` file needs
another environment, and is taken if W has one; `fbnetv3 export fbnetv3_a.cifar10 -o
W/fbnetv3_a.cifar10.tflite` says how. `measure` appends a row per network, runtime and precision,
and skips those that are in the result: accuracy on the first test images of CIFAR-10, loss against
torch in float32, latency at 1 and 2 threads with all files of the network taking turns, the time
from a fresh process to its first answer, and the images per second of two threads that share one
session of one thread. About 5 minutes of two idle cores for each network; `--quick` tries
everything.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from benchmarks.release.int8_cifar10 import read
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import ONNX, RUNTIMES, Runtime, read_artefact
from fbnetv3.deploy.words import Precision
from fbnetv3.hub.create import create
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image
from fbnetv3.measure.latency import Latency, measure
from fbnetv3.measure.runners import Runner, file_runner, torch_precision, torch_runner
from fbnetv3.models.model import FBNetV3

TORCH = ("torch-optimized", "torch-bf16")
BATCH = 50
FLOATS: tuple[Precision, ...] = ("fp32", "fp16")
FIRST = """
import sys
import fbnetv3
make = fbnetv3.load if "/" in sys.argv[1] else fbnetv3.Classifier
answer = make(sys.argv[1], num_threads=1)(sys.argv[2])
assert answer.label, answer.error
"""


def prepare(name: str, data: Path, work: Path, num_calibration: int) -> None:
    """Writes the files that are not there yet."""
    model = create(name, pretrained=True)
    assert isinstance(model, FBNetV3)
    sources = [(file_of(name, work, ONNX, precision), precision) for precision in FLOATS]
    for onnx_path, precision in sources:
        if not onnx_path.exists():
            to_onnx(model, onnx_path, precision=precision)
    images, _ = read(data / "data_batch_1")
    for runtime in RUNTIMES.values():
        path, small = (file_of(name, work, runtime, precision) for precision in ("fp32", "int8"))
        if not runtime.available():
            print(f"{runtime.name}: not installed, or for another system", flush=True)
            continue
        try:
            if runtime.written_from == "onnx":
                for source, precision in sources:
                    converted = file_of(name, work, runtime, precision)
                    if not converted.exists():
                        runtime.file.convert(source, converted)
            elif not path.exists():
                runtime.need_writer()
                runtime.file.export(model, path)
            if runtime.quantizer and not small.exists():
                quantize(
                    file_of(name, work, runtime.quantized_from, "fp32"),
                    small,
                    images[:num_calibration],
                    evaluation=images[-BATCH:],
                    runtime=runtime.name,
                    sensitivity=False,
                )
        except ImportError as error:
            print(f"{runtime.name}: {error}", flush=True)


def file_of(network: str, work: Path, runtime: Runtime, precision: str) -> Path:
    """Returns where a network's file is."""
    stem = re.sub(r"[^\w.-]", "_", network)
    return work / f"{stem}{'' if precision == 'fp32' else f'_{precision}'}{runtime.suffix}"


class Way(NamedTuple):
    """A way to run the network.

    Attributes:
        runtime: name of the runtime.
        precision: of its arithmetic, or of the file's numbers.
        path: its file; None for the torch module itself.
        num_bytes: size of the file with its companions, or of the module's weights.
        runner: number of threads -> the network made ready.
    """

    runtime: str
    precision: str
    path: Path | None
    num_bytes: int
    runner: Callable[[int], Runner]


def ways(network: str, model: FBNetV3, work: Path) -> list[Way]:
    """Returns those of torch and of every file of the network in W."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    found = []
    for backend in TORCH:
        run = partial(torch_runner, model, backend)
        found.append(Way("torch", torch_precision(backend), None, weights, _with_threads(run)))
    for runtime in RUNTIMES.values():
        for own in (*FLOATS, "int8"):
            path = file_of(network, work, runtime, own)
            if not path.exists() or not runtime.available():
                continue
            num_bytes = sum(part.stat().st_size for part in runtime.parts(path))
            for precision in runtime.precisions() if own == "fp32" else ("fp32",):
                shown = precision if own == "fp32" else own
                name = f"{runtime.name} {shown}"  # each contestant has its own
                run = partial(file_runner, path, runtime, precision=precision, name=name)
                found.append(Way(runtime.name, shown, path, num_bytes, _with_threads(run)))
    return found


def _with_threads(run: Callable[..., Runner]) -> Callable[[int], Runner]:
    return lambda threads: run(threads=threads)


def top1(run: Any, images: NDArray[Any], labels: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Returns the accuracy in percent, and the classes."""
    parts = [run(images[n : n + BATCH]).argmax(1) for n in range(0, len(images), BATCH)]
    classes = np.concatenate(parts)
    return 100 * float((classes == labels).mean()), classes


def first_answer_s(model: str, times: int) -> float:
    """Returns the median time from starting Python to the first label, of a file or a name."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        command = [sys.executable, "-c", FIRST, model, str(example_photos()[0])]
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def two_streams(run: Any, batch: NDArray[Any], seconds: float) -> float:
    """Returns the images per second of two threads that call one backend."""
    done = [0, 0]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            run(batch)
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def rows(
    network: str, data: Path, work: Path, done: set[tuple[str, str, str]], *, quick: bool
) -> Iterator[dict[str, Any]]:
    """Yields a row for each way that is not done; latencies interleaved over all of them."""
    model = create(network, pretrained=True)
    assert isinstance(model, FBNetV3)
    every = ways(network, model, work)
    left = [way for way in every if (network, way.runtime, way.precision) not in done]
    if not left:
        return
    raw, labels = read(data / "test_batch")
    num = 100 if quick else 2000
    preprocess = read_artefact(file_of(network, work, ONNX, "fp32")).preprocess
    images = np.stack([preprocess(open_image(image)) for image in raw[:num]])
    truth = np.array(labels[:num])
    exact_pct, exact = top1(torch_runner(model, "torch", threads=1).logits, images, truth)
    timed: dict[int, list[Latency]] = {}
    for threads in (1, 2):
        contestants = [way.runner(threads).contestant(images[:1]) for way in left]
        timed[threads] = measure(
            contestants, min_runs=10 if quick else 100, max_seconds=3.0 if quick else 60.0
        )
    for number, way in enumerate(left):
        runner = way.runner(1)
        runner.prepare()
        top1_pct, classes = top1(runner.logits, images, truth)
        yield {
            "network": network,
            "runtime": way.runtime,
            "precision": way.precision,
            "num_bytes": way.num_bytes,
            "num_images": num,
            "top1_pct": round(top1_pct, 2),
            "lost_points": round(exact_pct - top1_pct, 2),
            "same_top1_pct": round(100 * float((classes == exact).mean()), 2),
            **{f"latency_{threads}": _latency(one[number]) for threads, one in timed.items()},
            # A file that runs in several precisions is opened in float32, and torch computes in it.
            "first_answer_s": first_answer_s(
                network if way.path is None else str(way.path.absolute()), 1 if quick else 5
            ),
            "two_streams_images_per_s": two_streams(
                runner.logits, images[:1], 0.5 if quick else 3.0
            ),
        }


def _latency(one: Latency) -> dict[str, Any]:
    names = ("median_ms", "low_ms", "high_ms", "num_runs", "verdict")
    return {name: getattr(one, name) for name in names}


def table(found: list[dict[str, Any]]) -> str:
    """Returns rows as a table."""
    out = [
        "Networks in torch and as every file that this package writes, one image at a time: size, "
        "top-1 on the first test images of CIFAR-10 and the points lost against torch in float32, "
        "median latency at 1 and 2 threads (all files of a network taking turns), time from the "
        "start of a Python process to its first label, and images per second of two threads that "
        "share one session of one thread. A latency with * was measured while other programs kept "
        "the machine busy.",
        "",
        "| network | runtime | precision | MB | images | top-1 % | lost | same % | 1 thread, ms "
        "| 2 threads, ms | first answer, s | two streams, img/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        ms = [
            f"{one['median_ms']:.2f}{'' if one['verdict'] == 'ok' else ' *'}"
            for one in (row["latency_1"], row["latency_2"])
        ]
        out.append(
            f"| `{row['network']}` | {row['runtime']} | {row['precision']} | "
            f"{row['num_bytes'] / 1e6:.2f} | {row['num_images']} | "
            f"{row['top1_pct']:.2f} | {row['lost_points']:+.2f} | {row['same_top1_pct']:.2f} | "
            f"{ms[0]} | {ms[1]} | {row['first_answer_s']:.2f} | "
            f"{row['two_streams_images_per_s']:.0f} |"
        )
    return "\n".join(out) + "\n"


def main() -> None:
    """Writes the files, or measures them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["prepare", "measure"])
    parser.add_argument("--data", type=Path, required=True, help="cifar-10-batches-py")
    parser.add_argument("--work", type=Path, required=True, help="folder for the files")
    parser.add_argument("--out", type=Path, help="JSON Lines, appended to; a table beside it")
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--quick", action="store_true", help="only try that it works")
    parser.add_argument("--model", default="fbnetv3_a.cifar10")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.step == "prepare":
        prepare(options.model, options.data, options.work, options.calibration)
        return
    if options.out is None:
        parser.error("measure needs --out")
    done = {(row["network"], row["runtime"], row["precision"]) for row in read_lines(options.out)}
    about = {"conditions": conditions()}
    for row in rows(options.model, options.data, options.work, done, quick=options.quick):
        append(options.out, [{**row, **about}])
        print(row, flush=True)
    options.out.with_suffix(".md").write_text(table(read_lines(options.out)))


if __name__ == "__main__":
    main()
