r"""The readers of files and objects from elsewhere under many thousand hostile cases each.

    python -m benchmarks.fuzz.run --target checkpoint --cases 100000 \
        --out benchmarks/results/fuzz.json
    python -m benchmarks.fuzz.run --target checkpoint --only 4711      # one case again

Each case is drawn from (seed, target, index) alone. It must end in a value that passes the
target's checks or in a ValueError of the documented form: one printable line that says what was
expected. Anything else is a finding: another exception, a crash, more than two seconds of
processor time (one more for each 20 million pixels that an image has), a file opened or program
started by the reader. Cases run in child processes of some thousand each, so that a crash is told
and the run goes on; a run that was stopped goes on where it was. About 15 minutes a target on one
core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from re import Pattern
from typing import Any, Literal, Protocol

from benchmarks.conditions import conditions

TARGETS = ("arch", "checkpoint", "image", "onnx")
MAX_SECONDS = 2.0
# Beyond what the process has when the first case begins.
MAX_GROWTH_MIB = 3072
_BLOCK = 10_000
START_METHOD: Literal["spawn", "fork"] = "spawn"
_MAX_MESSAGE = 1200
_HANGS_AFTER_S = 180.0
# Of the interpreter's audit events those that no reader has a reason for.
_FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.", "pty.")
_ALLOWED = ("os.listdir", "os.scandir", "os.fwalk", "os.putenv", "ctypes.cdata")


class Target(Protocol):
    """A reader, cases for it, and what must hold."""

    documented: Pattern[str]

    def make(self, draw: Random) -> tuple[str, Any]:
        """Returns the kind of a case, and the case."""

    def read(self, kind: str, case: Any) -> None:
        """Reads a case; raises what the reader raises, and AssertionError of what it got wrong."""


@dataclass
class Found:
    """What came of a range of cases."""

    cases: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest: dict[str, Any] = field(default_factory=lambda: {"seconds": 0.0})
    peak_memory_mib: float = 0.0
    seconds: float = 0.0

    def add(self, other: Found) -> None:
        """Adds the next range."""
        self.cases += other.cases
        self.accepted += other.accepted
        self.refused += other.refused
        self.kinds += other.kinds
        self.findings += other.findings
        self.slowest = max(self.slowest, other.slowest, key=lambda case: float(case["seconds"]))
        self.peak_memory_mib = max(self.peak_memory_mib, other.peak_memory_mib)
        self.seconds += other.seconds


def make_target(name: str, folder: Path) -> Target:
    """Returns a target by name; `folder` is where it may write."""
    if name == "arch":
        from .arch import ArchTarget

        return ArchTarget()
    if name == "checkpoint":
        from .checkpoint import CheckpointTarget

        return CheckpointTarget(folder)
    if name == "image":
        from .image import ImageTarget

        return ImageTarget()
    from .onnx import OnnxTarget

    return OnnxTarget(folder)


def draw_of(name: str, seed: int, index: int) -> Random:
    """Returns the source of one case's randomness."""
    return Random(f"{seed}/{name}/{index}")


def run_case(target: Target, name: str, seed: int, index: int, found: Found) -> None:
    """Runs one case and adds what came of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are doubled on purpose
        kind, case = target.make(draw_of(name, seed, index))
    found.cases += 1
    found.kinds[kind] += 1
    fault = None
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _watch.clear()
            _watch.on = True
            try:
                target.read(kind, case)
            finally:
                _watch.on = False
        found.accepted += 1
    except ValueError as error:
        fault = _fault_of(error, target.documented)
        found.refused[_reason(error)] += 1
    # Whatever else it is, is what is looked for.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        fault = _trace(error)
    seconds = time.process_time() - start
    if _watch.seen:
        fault = f"the reader caused {_watch.seen[0]}"
    if seconds > MAX_SECONDS + _extra_seconds(case):
        fault = fault or f"{seconds:.1f} s of processor time"
    if seconds > found.slowest["seconds"]:
        found.slowest = {"index": index, "kind": kind, "seconds": round(seconds, 3)}
    if fault:
        found.findings.append({"index": index, "kind": kind, "fault": fault})


def run_range(name: str, seed: int, indices: Iterable[int], folder: Path) -> Found:
    """Returns what came of some cases, run in this process."""
    target, found = make_target(name, folder), Found()
    for index in indices:
        run_case(target, name, seed, index, found)
    return found


class _Watch:
    """Notes audit events while it is on; installed once a child process."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def clear(self) -> None:
        self.seen = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event.startswith(_FORBIDDEN) and event not in _ALLOWED:
            self.seen.append(f"{event} {arguments!r}"[:300])


_watch = _Watch()


def _fault_of(error: ValueError, documented: Pattern[str]) -> str | None:
    text = str(error)
    if not documented.search(text):
        return f"not the documented form: {_trace(error)}"
    if not text.isprintable():
        return f"not printable: {text[:300]!r}"
    return f"{len(text)} characters: {text[:300]!r}" if len(text) > _MAX_MESSAGE else None


def _trace(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    return "".join(lines)[-1500:]


def _reason(error: ValueError) -> str:
    """Returns the fixed words of a message: without numbers, names and what is quoted."""
    text = str(error).partition("bytes): ")[2] or str(error)
    words = [
        word for word in text.split()[:24] if word.strip(",;:.()").isalpha() and word.isascii()
    ]
    return " ".join(words)[:60]


def _extra_seconds(case: Any) -> float:
    """Returns what large images may take beyond the rest: decoding is linear in the pixels."""
    from io import BytesIO

    from PIL import Image

    if not isinstance(case, bytes):
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = Image.open(BytesIO(case)).size
    except Exception:
        return 0.0
    return size[0] * size[1] / 20e6


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(name: str, seed: int, first: int, last: int, pipe: Connection) -> None:
    """Runs a range, and says before each case which it is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "wb") as nowhere:  # libtiff and others write there by themselves
        os.dup2(nowhere.fileno(), 2)
    with tempfile.TemporaryDirectory() as folder:
        target, found = make_target(name, Path(folder)), Found()
        for warm in range(50):  # imports and caches
            run_case(target, name, -1, warm, Found())
        sys.addaudithook(_watch.hook)
        before = _memory_mib()
        start = time.perf_counter()
        for index in range(first, last):
            pipe.send(index)
            high = _memory_mib()
            run_case(target, name, seed, index, found)
            if _memory_mib() > max(high, before + MAX_GROWTH_MIB):
                fault = f"memory grew to {_memory_mib():.0f} MiB"
                found.findings.append({"index": index, "kind": "memory", "fault": fault})
        found.seconds = time.perf_counter() - start
        found.peak_memory_mib = round(_memory_mib(), 1)
        pipe.send(found)


def run_block(name: str, seed: int, first: int, last: int) -> Found:
    """Returns what came of a range, run in a child; of one that died up to where it did."""
    context: Any = multiprocessing.get_context(START_METHOD)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, seed, first, last, sender))
    child.start()
    sender.close()
    index: int | None = None
    fault = f"no answer within {_HANGS_AFTER_S:.0f} s"
    try:
        # The first message comes after the imports.
        while receiver.poll(_HANGS_AFTER_S):
            message = receiver.recv()
            if isinstance(message, Found):
                child.join()
                return message
            index = message
    except EOFError:
        child.join()
        fault = f"the process died with exit code {child.exitcode}"
    finally:
        child.kill()
    if index is None:
        raise SystemExit(f"the child of {name} did not start: {fault}")
    # What went before is run once more; the case itself is left out.
    found = run_block(name, seed, first, index) if index > first else Found()
    found.cases += 1
    found.findings.append({"index": index, "kind": "process", "fault": fault})
    return found


def _load(out: Path, name: str, seed: int) -> Found:
    kept = json.loads(out.read_text()).get(name, {}) if out.exists() else {}
    if kept.get("seed") != seed:
        return Found()
    fields = {key: kept[key] for key in vars(Found())}
    return Found(**fields | {key: Counter(fields[key]) for key in ("refused", "kinds")})


def _save(out: Path, name: str, seed: int, found: Found) -> None:
    content = json.loads(out.read_text()) if out.exists() else {}
    record = dict(vars(found))
    for key in ("refused", "kinds"):
        record[key] = dict(sorted(record[key].items(), key=lambda pair: (-pair[1], pair[0])))
    record["num_refused"] = sum(found.refused.values())
    record["num_findings"] = len(found.findings)
    content[name] = {"seed": seed, **record, "conditions": conditions()}
    out.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Runs a target to so many cases, or one case, and ends with an error where there are finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case here and show what came of it")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            target = make_target(options.target, Path(folder))
            kind, case = target.make(draw_of(options.target, options.seed, options.only))
            print(kind, repr(case)[:3000] if isinstance(case, bytes | str) else type(case))
            found = run_range(options.target, options.seed, [options.only], Path(folder))
        print(found)
        return
    if options.out is None:
        parser.error("--out is missing: where the counts go")
    found = _load(options.out, options.target, options.seed)
    while found.cases < options.cases:
        last = min(found.cases + _BLOCK, options.cases)
        found.add(run_block(options.target, options.seed, found.cases, last))
        _save(options.out, options.target, options.seed, found)
        print(
            f"{options.target}: {found.cases} cases, {found.accepted} accepted, "
            f"{len(found.findings)} findings, {found.seconds:.0f} s, "
            f"{found.peak_memory_mib:.0f} MiB",
            flush=True,
        )
    if found.findings:
        raise SystemExit(f"{len(found.findings)} findings; see {options.out}")


if __name__ == "__main__":
    main()
