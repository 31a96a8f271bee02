"""The FastAPI application of docs/tutorials/deploy.md behind uvicorn, under load.

    python -m benchmarks.release.serving nano.onnx --out benchmarks/results/serving.json

Needs fastapi, python-multipart and uvicorn. For each number of clients, each with a connection of
its own, the requests take turns among 64 JPEGs; one in a hundred is no image, which the server must
refuse. A wrong label or status counts. About a minute; server and clients share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions import conditions
from benchmarks.records import ROOT, write
from fbnetv3.deploy.classify import load

from .soak import crops, rss_mib

CLIENTS = (1, 4, 16)
_MODEL = "nano.onnx"
_BROKEN = b"no image at all"
_BOUNDARY = "a-boundary"


def application() -> str:
    """Returns the code of the tutorial's application, which opens `nano.onnx`."""
    text = (ROOT / "docs" / "tutorials" / "deploy.md").read_text()
    (code,) = re.findall(r"```python\n((?:(?!```).)*FastAPI\(\)(?:(?!```).)*)```", text, re.DOTALL)
    return str(code)


@contextlib.contextmanager
def served(model: Path) -> Iterator[tuple[int, int]]:
    """Serves a file with the application; gives the port and the server's process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(model, Path(folder) / _MODEL)
        (Path(folder) / "app.py").write_text(application())
        words = ["-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
        server = subprocess.Popen([sys.executable, *words], cwd=folder)
        try:
            while True:
                if server.poll() is not None:
                    raise RuntimeError(f"uvicorn ended with {server.returncode}")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield port, server.pid
        finally:
            server.terminate()
            server.wait()


def body_of(content: bytes) -> bytes:
    """Returns a form with one file."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="p.jpg"\r\n\r\n'
    )
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()


def load_of(
    port: int, num_clients: int, num_requests: int, images: list[bytes], labels: list[list[str]]
) -> dict[str, Any]:
    """Returns what a number of clients at once got, and how long they waited."""
    waited: list[float] = []
    wrong: list[str] = []
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    def work(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(client, num_requests, num_clients):
            broken = number % 100 == 99
            place = number % len(images)
            content = body_of(_BROKEN if broken else images[place])
            start = time.perf_counter()
            connection.request("POST", "/classify", content, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            waited.append(time.perf_counter() - start)
            expected = (422, None) if broken else (200, labels[place])
            if (response.status, answer.get("labels")) != expected:
                wrong.append(f"request {number}: {response.status}, {answer}")
        connection.close()

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(client,)) for client in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ms = 1000 * np.array(waited)
    return {
        "num_clients": num_clients,
        "num_requests": len(waited),
        "requests_per_s": len(waited) / (time.perf_counter() - start),
        "median_ms": float(np.median(ms)),
        "p99_ms": float(np.percentile(ms, 99)),
        "num_wrong": len(wrong),
        "wrong": wrong[:5],
    }


def main() -> None:
    """Serves, asks, and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=5000, help="for each number of clients")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images = crops(64)
    classifier = load(options.model, num_threads=1)
    answers = [classifier(image) for image in images]
    start = time.perf_counter()
    for image in images:
        classifier(image)
    alone_ms = 1000 * (time.perf_counter() - start) / len(images)
    labels = [list(answer.labels) for answer in answers]
    rows, memory = [], []
    with served(options.model) as (port, process):
        for num_clients in CLIENTS:
            rows.append(load_of(port, num_clients, options.requests, images, labels))
            memory.append(rss_mib(process))
            print(rows[-1], flush=True)
    found = {"model": options.model.name, "conditions": conditions(), "alone_ms": alone_ms}
    write(options.out, {**found, "rows": rows, "memory_mib": memory})
    if any(row["num_wrong"] for row in rows):
        raise SystemExit("wrong answers; see the result")


if __name__ == "__main__":
    main()
