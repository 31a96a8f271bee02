"""One exported file under many threads for long: no wrong label, flat memory, broken images told.

    python -m benchmarks.release.soak MODEL.onnx --requests 20000 --out benchmarks/results/soak.json

The file may be of any format that `fbnetv3.load` opens. One request in a hundred is a broken image.
About 5 ms a request for A on one core.
"""

from __future__ import annotations

import argparse
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.records import write
from fbnetv3.deploy.classify import load
from fbnetv3.images.labels import example_photos


def rss_mib(process: int | str = "self") -> float:
    """Returns a process's memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def crops(number: int) -> list[bytes]:
    """Returns JPEGs cut out of the package's photos at different places."""
    rng = np.random.default_rng(0)
    opened = [Image.open(path).convert("RGB") for path in example_photos()]
    made = []
    for place in range(number):
        image = opened[place % len(opened)]
        left, top = (int(rng.integers(0, side // 3)) for side in image.size)
        buffer = BytesIO()
        image.crop((left, top, left + image.width // 2, top + image.height // 2)).save(
            buffer, "JPEG"
        )
        made.append(buffer.getvalue())
    return made


def soak(path: Path, num_requests: int, num_threads: int) -> dict[str, Any]:
    """Runs the requests and returns what went wrong and how memory went."""
    classifier = load(path, num_threads=1, num_workers=1)
    images = crops(64)
    broken = [images[0][: len(images[0]) // 3], b"", b"no image at all"]
    expected = [classifier(image) for image in images]
    wrong: list[str] = []
    told = [0]
    sent = [0]
    memory: list[float] = []
    lock = threading.Lock()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(num_requests // num_threads):
            bad = rng.random() < 0.01
            number = int(rng.integers(len(broken) if bad else len(images)))
            answer = classifier(broken[number] if bad else images[number])
            with lock:
                sent[0] += 1
                told[0] += bad and answer.error is not None
                if bad != (answer.error is not None) or (
                    not bad and answer.labels != expected[number].labels
                ):
                    wrong.append(f"{'broken' if bad else 'image'} {number}: {answer}")
                if sent[0] % max(1, num_requests // 20) == 0:
                    memory.append(rss_mib())
                    print(
                        f"{sent[0]} requests, {memory[-1]:.1f} MiB, {len(wrong)} wrong", flush=True
                    )

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "model": path.name,
        "num_requests": sent[0],
        "num_threads": num_threads,
        "seconds": time.perf_counter() - start,
        "num_wrong": len(wrong),
        "wrong": wrong[:5],
        "num_broken_told": told[0],
        "memory_mib": memory,
        "growth_second_half_mib": memory[-1] - memory[len(memory) // 2],
    }


def main() -> None:
    """Soaks and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = soak(options.model, options.requests, options.threads)
    write(options.out, found)
    if found["num_wrong"]:
        raise SystemExit(f"{found['num_wrong']} wrong answers: {found['wrong']}")


if __name__ == "__main__":
    main()
