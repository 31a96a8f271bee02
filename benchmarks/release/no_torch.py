"""Time from the start of a process to a label, from the built wheel, where no torch is installed.

    python -m benchmarks.release.no_torch --out benchmarks/results/no_torch.json

Exports A with random weights, builds the wheel, and installs it with `--no-deps` in a new
environment beside onnxruntime, numpy and Pillow; `fbnetv3 classify` has typer too. Needs pip's
index and uv.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.latency.startup import PHOTO, summary
from benchmarks.records import ROOT, write
from fbnetv3.deploy.export import to_onnx
from fbnetv3.hub.create import create

API = """
import sys
import fbnetv3
print(fbnetv3.OnnxClassifier(sys.argv[1])(sys.argv[2]).label)
assert "torch" not in sys.modules
"""


def install(folder: Path) -> Path:
    """Returns the programs' folder of an environment with the wheel and without torch."""
    subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", folder, ROOT], check=True)
    subprocess.run(["uv", "venv", "-q", folder / "venv"], check=True)
    pip: list[str | Path] = ["uv", "pip", "install", "-q", "--python", folder / "venv"]
    needed = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "pillow", "typer")]
    subprocess.run([*pip, *needed], check=True)
    subprocess.run([*pip, "--no-deps", *folder.glob("*.whl")], check=True)
    return folder / "venv" / "bin"


def measure(commands: dict[str, list[str]], n: int, cwd: Path) -> list[dict[str, Any]]:
    """Returns a row a command, run in turns after one turn that fills the disk's cache."""
    walls: dict[str, list[float]] = {name: [] for name in commands}
    printed = {}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for turn in range(n + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(
                command, capture_output=True, text=True, env=clean, cwd=cwd, check=True
            )
            if turn:
                walls[name].append(1e3 * (time.perf_counter() - start))
            printed[name] = done.stdout.strip()
    return [
        {"name": name, "wall_ms": summary(walls[name]), "printed": printed[name]}
        for name in commands
    ]


def main() -> None:
    """Installs, measures, writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="fbnetv3_a")
    parser.add_argument("-n", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = install(folder)
        # Where the commands run, so that what they print has no path of this machine.
        model = f"{args.model}.onnx"
        to_onnx(create(args.model), folder / model)
        photo = Path(shutil.copy(PHOTO, folder)).name
        rows = measure(
            {
                "python": [str(programs / "python"), "-c", "pass"],
                "import onnxruntime, numpy, PIL.Image": [
                    str(programs / "python"),
                    "-c",
                    "import onnxruntime, numpy, PIL.Image",
                ],
                "OnnxClassifier": [str(programs / "python"), "-c", API, model, photo],
                "fbnetv3 classify --model": [
                    str(programs / "fbnetv3"),
                    "classify",
                    photo,
                    "--model",
                    model,
                ],
            },
            args.n,
            folder,
        )
    write(args.out, {"model": args.model, "rows": rows})
    for row in rows:
        print(row["name"], row["wall_ms"], row["printed"].splitlines()[:1])


if __name__ == "__main__":
    main()
