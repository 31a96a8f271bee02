"""Time of `create("fbnetv3_e", pretrained=True)`: from a server on loopback, then from the cache.

    python -m benchmarks.latency.first_use --out benchmarks/results/first_use.json

The server has a file of the official layout and size (`published_files`). Every call is in a fresh
process of one thread, after the imports. The first downloads, verifies, converts and stores; later
ones take turns with calls that create random weights.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.records import write
from fbnetv3.hub.weights import MIRROR, OFFICIAL_HOST, WEIGHTS, Url

from .published_files import stand_in, write_official

MODEL = "fbnetv3_e"
_CALL = """
import time, warnings
import fbnetv3, fbnetv3.hub.create, fbnetv3.hub.loading
warnings.simplefilter("ignore")
wall, cpu = time.perf_counter(), time.process_time()
fbnetv3.create({model!r}, pretrained={pretrained})
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def seconds(*, pretrained: bool, mirror: str, home: Path) -> tuple[float, float]:
    """Returns the wall and CPU seconds of a call in a fresh process."""
    env = {**os.environ, MIRROR: mirror, "FBNETV3_HOME": str(home), "OMP_NUM_THREADS": "1"}
    code = _CALL.format(model=MODEL, pretrained=pretrained)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def measure(work: Path, n: int) -> dict[str, Any]:
    """Returns the first use, and n later ones beside n of random weights."""
    source = WEIGHTS[f"{MODEL}.meta_in1k"].source
    assert isinstance(source, Url)
    path = work / "host" / source.url.removeprefix(f"{OFFICIAL_HOST}/")
    path.parent.mkdir(parents=True)
    write_official(stand_in(MODEL), path)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(work / "host"))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    mirror, home = f"http://127.0.0.1:{server.server_port}", work / "home"
    try:
        first = seconds(pretrained=True, mirror=mirror, home=home)
    finally:
        server.shutdown()
        server.server_close()
    rows: dict[str, list[tuple[float, float]]] = {"from the cache": [], "random weights": []}
    for _ in range(n):  # the server is gone: what is not cached would fail
        for name, found in rows.items():
            found.append(seconds(pretrained=name != "random weights", mirror=mirror, home=home))
    return {
        "model": MODEL,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "first_use": {"wall_s": round(first[0], 3), "cpu_s": round(first[1], 3)},
        "later": {name: _summary(found) for name, found in rows.items()},
    }


def _summary(found: list[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = zip(*found, strict=True)
    return {
        "n": len(found),
        "wall_s": round(statistics.median(wall), 3),
        "cpu_s": round(statistics.median(cpu), 3),
        "cpu_s_range": [round(min(cpu), 3), round(max(cpu), 3)],
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=5, help="later calls of each kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.n)
    write(args.out, found)
    for name, row in found["later"].items():
        print(f"{name}: {row['cpu_s']:.3f} CPU s, {row['wall_s']:.3f} s")
    first = found["first_use"]
    print(
        f"first use of {found['file_mb']} MB: {first['cpu_s']:.3f} CPU s, {first['wall_s']:.3f} s"
    )


if __name__ == "__main__":
    main()
