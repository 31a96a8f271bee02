"""`fbnetv3 classify --engine ray` on two nodes of this machine, one of which is killed.

    python -m benchmarks.release.ray_classify --images 20000 --work W --out FILE

Makes JPEGs of 500 x 375 pixels out of the package's photos, one in a thousand of them damaged,
exports a model, and starts a cluster of a head without cores and two nodes of one core. After a
third of the photos one node is killed, and another is started. Then every photo must have one row,
and as many rows an error as photos are damaged; a sample is compared with `Classifier`'s answers.
Throughput per core is the number of photos over the core seconds of the nodes that were there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.records import write
from fbnetv3.deploy.answer_table import AnswerTable
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.ray_classify import classify_on_ray, ray_cluster
from fbnetv3.hub.create import create
from fbnetv3.images.labels import example_photos
from tests.search.ray_nodes import add_node
from tests.search.ray_nodes import ray_cluster as cluster_here

_DAMAGED = 1000
_SIZE = (500, 375)


def make_photos(folder: Path, number: int) -> list[str]:
    """Writes the photos, and returns their paths, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    opened = [Image.open(path).convert("RGB") for path in example_photos()]
    contents = []
    for n in range(50):
        image = opened[n % len(opened)]
        left, top = (int(rng.integers(0, side // 3)) for side in image.size)
        box = (left, top, left + image.width // 2, top + image.height // 2)
        buffer = BytesIO()
        image.crop(box).resize(_SIZE).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    paths = [folder / f"{n:06}.jpg" for n in range(number)]
    for n, path in enumerate(paths):
        content = contents[n % len(contents)]
        path.write_bytes(content[: len(content) // 2] if n % _DAMAGED == 7 else content)
    return [str(path) for path in paths]


def classify_and_kill(model: Path, photos: list[str], output: Path) -> dict[str, Any]:
    """Classifies the photos while a node dies; returns what came of it."""
    from pyarrow import parquet

    table = AnswerTable(output, "benchmark", photos)
    like = Classifier(model, num_threads=1)
    done = parts = 0
    ends: list[float] = []
    with cluster_here(num_cpus=0) as cluster, ray_cluster(None):
        nodes = [add_node(cluster, num_cpus=1) for _ in range(2)]
        killed_at = back_at = None
        begun = time.monotonic()
        for number, records in classify_on_ray(table.missing(), model, like=like):
            table.add(number, records)
            done, parts = done + len(records), parts + 1
            ends.append(time.monotonic() - begun)
            if killed_at is None and done >= len(photos) / 3:
                cluster.remove_node(nodes[0], allow_graceful=False)
                killed_at = time.monotonic() - begun
                add_node(cluster, num_cpus=1)
                back_at = time.monotonic() - begun
        seconds = time.monotonic() - begun
    failed = table.finish()
    rows = [row["file"] for row in parquet.read_table(output, columns=["file"]).to_pylist()]
    assert killed_at is not None
    assert back_at is not None
    core_seconds = 2 * seconds - (back_at - killed_at) - ends[0]
    sample = photos[:: max(1, len(photos) // 200)]
    answers = {row["file"]: row for row in parquet.read_table(output).to_pylist()}
    equal = all(
        answers[p.source]["labels"] == list(p.labels) and answers[p.source]["error"] == p.error
        for p in like.stream(sample)
    )
    return {
        "images": len(photos),
        "parts": parts,
        "rows": len(rows),
        "complete": set(rows) == set(photos),
        "duplicates": len(rows) - len(set(rows)),
        "damaged": sum(n % _DAMAGED == 7 for n in range(len(photos))),
        "rows_with_error": failed,
        "sample_equal_to_one_machine": equal,
        "seconds": round(seconds, 1),
        "seconds_to_first_part": round(ends[0], 1),
        "node_killed_at_s": round(killed_at, 1),
        "node_back_at_s": round(back_at, 1),
        "images_per_core_second": round(len(photos) / core_seconds, 1),
    }


def one_machine(model: Path, photos: list[str]) -> float:
    """Returns the images per second of process time of one `Classifier`, without Ray."""
    like = Classifier(model, num_threads=1, num_workers=1)
    begun = time.process_time()
    for _ in like.stream(photos):
        pass
    return round(len(photos) / (time.process_time() - begun), 1)


def main() -> None:
    """Parses, runs, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--model", default="fbnetv3_a.cifar10")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos = make_photos(args.work / "photos", args.images)
    model = args.work / "model.onnx"
    to_onnx(create(args.model, pretrained=True), model)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        found = classify_and_kill(model, photos, Path(folder, "answers.parquet"))
    found["images_per_cpu_second_without_ray"] = one_machine(model, photos[:1000])
    print(found)
    write(args.out, {"model": args.model, "size_px": list(_SIZE), **found})
    shutil.rmtree(args.work / "photos")
    if not (found["complete"] and not found["duplicates"] and found["sample_equal_to_one_machine"]):
        raise SystemExit("photos are missing, doubled or different")


if __name__ == "__main__":
    main()
