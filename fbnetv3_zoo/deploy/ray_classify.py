"""Classification on a Ray cluster, with Ray Data (extra `ray`).

Each actor holds the exported model, which the driver sends, and classifies parts of the photos: it
reads, decodes and runs the model as `Classifier` does on one machine. Paths go out and predictions
come back, so that the nodes need to share the photos' disk, but none for the results. The work of a
node that dies is done again by another. The package must be installed on every node.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fbnetv3._internal.messages import one_line
from fbnetv3._internal.optional import need
from fbnetv3._internal.ray_start import need_ray, start_ray

from . import runtimes
from .classify import Classifier


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connects to a cluster, unless there is a connection, which is then used and kept.

    Args:
        address: address of the cluster; None starts or joins one on this machine.

    Raises:
        ImportError: Ray Data is not installed.
        ValueError: no cluster answers at the address.
    """
    need_ray(address)
    for library in ("pyarrow", "pandas"):
        need(library)
    import ray

    ours = start_ray(address)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def classify_on_ray(
    parts: Mapping[int, Sequence[str]],
    model: Path,
    *,
    like: Classifier,
    threads: int = 1,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields number and predictions (`Prediction.to_dict()`) of each part, in the order they end.

    Call it inside `ray_cluster`. As many actors run as the cluster has room for.

    Args:
        parts: paths of photos by the number of the part.
        model: an exported file.
        like: a classifier with the file, whose settings are used.
        threads: cores of each actor, and its threads.

    Raises:
        ValueError: a node cannot see the folders of the photos.
    """
    import ray as untyped

    ray: Any = untyped  # its functions are not typed strictly
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    files = {
        str(file.relative_to(model.parent)): file.read_bytes()
        for file in runtimes.runtime_of(model).parts(model)
    }
    # Names of files need not be UTF-8, as texts in Ray's tables must be.
    rows = [
        {"part": number, "photos": [os.fsencode(os.path.abspath(photo)) for photo in photos]}
        for number, photos in parts.items()
    ]
    if not rows:
        return
    cores = ray.cluster_resources().get("CPU", 0)
    first = max(1, min(len(rows), int(cores // threads)))
    answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _PartClassifier,
        fn_constructor_kwargs={
            "files": ray.put(files),
            "name": model.name,
            "options": {
                "top_k": like.top_k,
                "batch_size": like.batch_size,
                "thresholds": like.thresholds,
                "preprocess": like.preprocess,
                "num_threads": threads,
                "num_workers": threads,
            },
        },
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=first, max_size=len(rows)),
        num_cpus=threads,
    )
    for row in answered.iter_rows():
        for folder in filter(os.path.isdir, map(os.fsdecode, row["unseen"])):
            raise ValueError(
                f"a node of the cluster cannot see {one_line(folder)}; the photos must be in the "
                "same folder on every node, such as on a shared disk"
            )
        records = json.loads(row["records"])
        # By the names that the caller gave.
        sources = parts[row["part"]]
        yield (
            row["part"],
            [{**r, "source": source} for r, source in zip(records, sources, strict=True)],
        )


class _PartClassifier:
    """An actor: classifies the photos of a row.

    Args:
        files: a reference to the model's files, name -> content.
        name: of these the one to open.
        options: arguments of `Classifier`.
    """

    def __init__(self, files: Any, name: str, options: Mapping[str, Any]) -> None:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            for file, content in ray.get(files).items():
                path = Path(folder, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._classifier = Classifier(Path(folder, name), **options)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        photos = [os.fsdecode(photo) for photo in row["photos"]]
        folders = dict.fromkeys(map(os.path.dirname, photos))
        return {
            "part": row["part"],
            "records": json.dumps([found.to_dict() for found in self._classifier.stream(photos)]),
            "unseen": [os.fsencode(folder) for folder in folders if not os.path.isdir(folder)],
        }
