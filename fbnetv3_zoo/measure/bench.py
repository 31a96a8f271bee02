"""Which way of running a network is fastest here, and does it keep the accuracy?

`sweep` measures the backends of one network against each other; each row binds a latency to the
file that was run, to how well it agrees with the float32 network, and to the machine. `best` picks.
The edge of this file: `latency` times, `runners` runs, `quantize` makes int8.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fbnetv3._internal.processors import available_cpus
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.multi_label import same_answers
from fbnetv3.deploy.parity import as_pixels
from fbnetv3.deploy.runtimes import RUNTIMES, Runtime, read_artefact, runtime_of

from .environment import environment
from .latency import Latency, measure
from .runners import Runner, file_runner, noise_for, torch_precision, torch_runner

if TYPE_CHECKING:
    from torch import nn

# Most points of top-1 that a path may lose to be called the best, where labels are known.
MAX_DROP_PCT = {"bf16": 0.1, "fp16": 0.1, "int8": 0.5, "fp32": 0.0}
# Without labels: least share of images with the same top-1 as float32.
MIN_AGREEMENT_PCT = 99.0


@dataclass(frozen=True)
class Row:
    """One way of running one network, measured.

    Attributes:
        model: the network.
        backend: how it ran.
        precision: of its arithmetic.
        threads: that it was given; None is the backend's own default.
        device: where it ran.
        batch: images in one run.
        image_size: height and width of an image, in pixels.
        latency: of one run.
        images_per_s: from the median.
        artefact_sha256: of the file that ran; of the tensors where torch ran them.
        num_bytes: of that file; None for torch.
        agreement_pct: share of images with the same top-1 as float32, None where none were given.
        top1_pct: accuracy on the images, None where no labels were given.
        top1_float_pct: accuracy in float32 on the same images.
        num_images: behind the last three.
        peak_mib: most memory of a process that does only this, None where not measured.
        macs_paper: multiply-adds of one image.
        params: trainable numbers.
    """

    model: str
    backend: str
    precision: str
    threads: int | None
    device: str
    batch: int
    image_size: int
    latency: Latency
    images_per_s: float
    artefact_sha256: str
    num_bytes: int | None
    agreement_pct: float | None
    top1_pct: float | None
    top1_float_pct: float | None
    num_images: int
    peak_mib: float | None
    macs_paper: int
    params: int

    @property
    def keeps_accuracy(self) -> bool:
        """Whether it loses no more than its precision may; float32 always does."""
        if self.precision == "fp32":
            return True
        if self.top1_pct is not None and self.top1_float_pct is not None:
            return self.top1_float_pct - self.top1_pct <= MAX_DROP_PCT[self.precision] + 1e-9
        return self.agreement_pct is not None and self.agreement_pct >= MIN_AGREEMENT_PCT

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as plain JSON types."""
        return {**dataclasses.asdict(self), "keeps_accuracy": self.keeps_accuracy}


@dataclass(frozen=True)
class Entry:
    """A way of running a network that is to be measured.

    Attributes:
        backend: one of `runners.TORCH_BACKENDS`, or for a file its runtime, with the precision
            behind it where that is not fp32: "onnxruntime-int8".
        precision: of its arithmetic.
        threads: that it is given; None is the backend's own default.
        path: the file; None where torch runs the module.
        device: where torch runs the module; a file is run on the CPU.
    """

    backend: str
    precision: str
    threads: int | None
    path: Path | None = None
    device: str = "cpu"

    @property
    def runtime(self) -> Runtime:
        """What runs the file."""
        return RUNTIMES[self.backend.removesuffix(f"-{self.precision}")]


def entries(
    files: Sequence[Path],
    backends: Sequence[str] = (),
    threads: Sequence[int | None] = (),
    device: str = "cpu",
) -> list[Entry]:
    """Returns every way of running a network that this machine has.

    Args:
        files: exported files of the network, of any precision.
        backends: of torch, "torch" and the like, to be measured too.
        threads: numbers of threads to try on the CPU; one and all that may be used unless given.
        device: where torch's backends run; files are run on the CPU.

    Raises:
        ValueError: torch has no such backend, or a file runs on another system only.
    """
    tried = list(threads) or sorted({1, available_cpus()})
    found = [
        Entry(backend, torch_precision(backend), number, device=device)
        for backend in backends
        for number in (tried if device == "cpu" else [None])
    ]
    for path in files:
        own = read_artefact(path).precision
        system = runtime_of(path).only_on
        if system not in ("", sys.platform):
            raise ValueError(
                f"{path} runs only on {system}, and this is {sys.platform}; measure it there, or "
                "export another format"
            )
        ways = [
            (runtime.name if precision == "fp32" else f"{runtime.name}-{precision}", precision)
            for runtime in RUNTIMES.values()
            if runtime.runs(path.suffix.lower(), own) and runtime.available()
            for precision in (runtime.precisions() if own == "fp32" else (own,))
        ]
        found += [Entry(*way, number, path) for number in tried for way in ways]
    return found


def sweep(
    tried: Sequence[Entry],
    artefact: Artefact,
    *,
    module: nn.Module | None = None,
    batch_sizes: Sequence[int] = (1,),
    images: NDArray[np.float32] | None = None,
    labels: Sequence[int] | None = None,
    min_runs: int = 100,
    max_seconds: float = 60.0,
    memory: bool = False,
) -> list[Row]:
    """Returns a row for each entry and batch size, all of one batch size measured in turns.

    Args:
        tried: what to measure.
        artefact: of the network.
        module: what torch's entries run.
        batch_sizes: images in one run.
        images: prepared, (N, 3, H, W), to compare each entry with float32 on.
        labels: the class of each image; not of a multi-label network.
        min_runs: as for `measure`.
        max_seconds: as for `measure`, for each batch size.
        memory: also run each entry alone in a process of its own and take its peak.

    Raises:
        ValueError: there is nothing to measure, an entry needs `module`, or a batch is empty.
    """
    if not tried:
        raise ValueError("nothing to measure; give a backend or a file")
    if min(batch_sizes) < 1:
        raise ValueError(f"batch size is {min(batch_sizes)}; expected a whole number from 1")
    runners = [_runner(entry, module, number) for number, entry in enumerate(tried)]
    quality = _compare(runners, tried, artefact, images, labels)
    rows = []
    for batch_size in batch_sizes:
        batch = noise_for(artefact, batch_size)
        # Runs are paired with what they were asked for; a contestant holds its own input.
        contestants = [runner.contestant(batch) for runner in runners]
        timed = measure(contestants, min_runs=min_runs, max_seconds=max_seconds)
        for number, (entry, latency) in enumerate(zip(tried, timed, strict=True)):
            sha256, size = _identity(entry, artefact)
            peak = peak_memory(entry, batch_size) if memory and entry.path is not None else None
            rows.append(
                Row(
                    model=artefact.name,
                    backend=entry.backend,
                    precision=entry.precision,
                    threads=entry.threads,
                    device=entry.device,
                    batch=batch_size,
                    image_size=artefact.preprocess.crop,
                    latency=dataclasses.replace(latency, name=entry.backend),
                    images_per_s=1000 * batch_size / latency.median_ms,
                    artefact_sha256=sha256,
                    num_bytes=size,
                    peak_mib=peak,
                    macs_paper=artefact.macs_paper,
                    params=artefact.params,
                    **quality[number],
                )
            )
    return rows


def best(rows: Iterable[Row]) -> Row:
    """Returns the fastest row that keeps the accuracy.

    Raises:
        ValueError: there is none.
    """
    return contenders(rows)[0]


def contenders(rows: Iterable[Row]) -> list[Row]:
    """Returns the fastest row that keeps the accuracy, and those that may be as fast.

    The others have a 95 % interval of the median that overlaps with its own. The fastest median
    is first.

    Raises:
        ValueError: there is none.
    """
    kept = [row for row in rows if row.keeps_accuracy]
    if not kept:
        raise ValueError("no row keeps the accuracy; measure a float32 backend too")
    kept.sort(key=lambda row: row.latency.median_ms / row.batch)
    slowest_ms = kept[0].latency.high_ms / kept[0].batch
    return [row for row in kept if row is kept[0] or row.latency.low_ms / row.batch <= slowest_ms]


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Appends rows to a JSON Lines file, each with the machine it was measured on."""
    machine = environment()
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**row.to_dict(), "environment": machine}) + "\n")


def peak_memory(entry: Entry, batch_size: int) -> float:
    """Returns the peak memory of a fresh process that runs a file three times, in MiB.

    Raises:
        ValueError: the entry is torch's, whose process holds a module that no file has.
        RuntimeError: the process failed.
    """
    if entry.path is None:
        raise ValueError(f"{entry.backend} has no file; its peak memory is not measured")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "peak"
        numbers = [str(entry.threads or 0), str(batch_size)]
        arguments = [str(entry.path), entry.runtime.name, _arithmetic(entry), *numbers]
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.peak_memory", *arguments, str(result)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ},
        )
        if done.returncode:
            raise RuntimeError(f"measuring the memory of {entry.backend} failed: {done.stderr}")
        return float(result.read_text())


def _arithmetic(entry: Entry) -> str:
    """Returns what an entry's runtime is to compute float32 in; an int8 file has its own ways."""
    return entry.precision if entry.precision in entry.runtime.precisions() else "fp32"


def _runner(entry: Entry, module: nn.Module | None, number: int) -> Runner:
    name = f"{entry.backend} {number}"
    if entry.path is not None:
        return file_runner(
            entry.path,
            entry.runtime,
            threads=entry.threads,
            precision=_arithmetic(entry),
            name=name,
        )
    if module is None:
        raise ValueError(f"{entry.backend} needs a torch module; give module=")
    return torch_runner(
        module, entry.backend, threads=entry.threads, device=entry.device, name=name
    )


def _compare(
    runners: Sequence[Runner],
    tried: Sequence[Entry],
    artefact: Artefact,
    images: NDArray[np.float32] | None,
    labels: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """Returns each runner's agreement and accuracy; entries that differ in threads share theirs."""
    nothing = {"agreement_pct": None, "top1_pct": None, "top1_float_pct": None, "num_images": 0}
    if images is None or not len(images):
        return [nothing] * len(runners)
    # Of a multi-label network every decision counts, else the first guess.
    answers: dict[tuple[str, Path | None], NDArray[np.float32]] = {}
    for runner, entry in zip(runners, tried, strict=True):
        key = (entry.backend, entry.path)
        if key not in answers:
            runner.prepare()
            as_pixel = artefact.in_graph and entry.path is not None
            fed = as_pixels(images, artefact) if as_pixel else images
            parts = [runner.logits(fed[n : n + 16]) for n in range(0, len(fed), 16)]
            answers[key] = np.concatenate(parts)
    exact = next(
        (answers[entry.backend, entry.path] for entry in tried if entry.precision == "fp32"), None
    )
    found = []
    truth = None if labels is None else np.asarray(labels)
    for entry in tried:
        got = answers[entry.backend, entry.path]
        found.append(
            {
                "agreement_pct": None
                if exact is None
                else 100 * float(same_answers(exact, got, artefact.thresholds).mean()),
                "top1_pct": None if truth is None else 100 * float((got.argmax(1) == truth).mean()),
                "top1_float_pct": None
                if truth is None or exact is None
                else 100 * float((exact.argmax(1) == truth).mean()),
                "num_images": len(images),
            }
        )
    return found


def _identity(entry: Entry, artefact: Artefact) -> tuple[str, int | None]:
    if entry.path is None:
        return artefact.weights_sha256, None
    digest, size = hashlib.sha256(), 0
    for path in entry.runtime.parts(entry.path):
        content = path.read_bytes()
        digest.update(content)
        size += len(content)
    return digest.hexdigest(), size
