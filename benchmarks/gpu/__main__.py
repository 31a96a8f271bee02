"""Everything that is to be measured on a GPU, in one run of about fifteen minutes.

    python -m benchmarks.gpu --out runs/gpu --data DIR/cifar-10-batches-py --minutes 14
    python -m benchmarks.gpu --out runs/gpu --dry-run

Parts, in order of worth: `tests`, `latency`, `training`, `search`. Each is a process with a share
of the time, and writes its results the moment it has them; what a part leaves goes to those after
it. The same command resumes a stopped run. `--dry-run` runs every part on the CPU with tiny
settings, to see that it works. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.records import ROOT

# Minutes that a part is given of each fourteen.
MINUTES = {"tests": 2.0, "latency": 4.0, "training": 4.0, "search": 4.0}
# A part ends by itself before its time is over; what hangs is stopped so many seconds after it.
GRACE_S = 20.0


def run_part(part: str, seconds: float, options: argparse.Namespace) -> str:
    """Runs one part in a process of its own; returns how it ended."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{part}", "--out", str(options.out)]
    command += ["--seconds", f"{seconds:.0f}"]
    if part in ("training", "search"):
        command += ["--data", str(options.data)] if options.data else []
    if part == "training" and options.work:
        command += ["--work", str(options.work)]
    command += ["--dry-run"] if options.dry_run else []
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(seconds + GRACE_S)
            ended = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            ended = "stopped, out of time"
    return f"{ended} after {time.monotonic() - started:.0f} s"


def main() -> None:
    """Runs the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--data", type=Path, help="CIFAR-10: its Python batches, or lossless mosaics"
    )
    parser.add_argument("--work", type=Path, help="folder of checkpoints; in OUT unless given")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=list(MINUTES), default=list(MINUTES))
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    ends = {}
    for number, part in enumerate(options.only):
        left = sum(MINUTES[name] for name in options.only[number:])
        seconds = (deadline - time.monotonic() - GRACE_S) * MINUTES[part] / left
        if seconds < 5:
            ends[part] = "left out, no time"
            continue
        print(f"--- {part}: {seconds:.0f} s", flush=True)
        ends[part] = run_part(part, seconds, options)
        print(f"--- {part}: {ends[part]}", flush=True)
    for part, ended in ends.items():
        print(f"{part}: {ended}")
    if any("failed" in ended for ended in ends.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
