"""The journeys of a newcomer, from the built wheel in empty environments: do they run, how long.

    python -m benchmarks.release.journeys --out benchmarks/results/journeys.json

Builds the wheel and the source archive. For each environment, a Python with the newest or the
lowest versions that pyproject.toml allows, it installs the wheel and nothing else, and goes through
`STEPS` in an empty folder without a network; then through `LACKING`: commands whose optional part
is not there must end with exit code 3 and a command of pip. An environment that is measured again
replaces its row. Needs pip's index, uv, and the Pythons on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.conditions import conditions
from benchmarks.records import ROOT

ENVIRONMENTS = ("3.11", "3.12", "3.13", "3.11:lowest")
MISSING = 3
# Of `conditions`; its versions are those of the Python that runs this script.
MACHINE = ("system", "cpu", "num_cpus", "load_1min", "commit")

# A folder to work in: photos, class folders of pieces of them, a space, a table, objects.
PREPARE = """
import shutil
from pathlib import Path
import numpy as np
from PIL import Image
import fbnetv3
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space import Space

photos = Path("photos")
shutil.copytree(Path(fbnetv3.__file__).parent / "data" / "photos", photos)
for name in ("chelsea", "rocket"):
    with Image.open(photos / f"{name}.jpg") as image:
        for piece in range(8):
            corner = 8 * piece
            folder = Path("classes", name)
            folder.mkdir(parents=True, exist_ok=True)
            image.crop((corner, corner, corner + 96, corner + 96)).save(folder / f"{piece}.png")
space = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(6)))
Path("space.json").write_text(space.to_json())
rows = space.unique(space.sample(200, np.random.default_rng(0))).tolist()
head = ",".join([f"g{n}" for n in range(6)] + ["cost:macs", "label"])
lines = [",".join(map(str, [*row, 100 + sum(row), 60 + sum(row)])) for row in rows]
Path("labels.csv").write_text("\\n".join([head, *lines]) + "\\n")
Path("labels.parquet").write_bytes(b"PAR1")
"""
DETECTOR = """
import torch
from fbnetv3.torchvision_backbone import faster_rcnn
detector = faster_rcnn("fbnetv3_a", num_classes=2).eval()
with torch.inference_mode():
    found = detector([torch.rand(3, 240, 320)])
assert set(found[0]) == {"boxes", "labels", "scores"}, found
print("one forward of a detector:", {key: tuple(value.shape) for key, value in found[0].items()})
"""
FEATURES = """
import torch, fbnetv3
network = fbnetv3.create("fbnetv3_a", features_only=True).eval()
with torch.inference_mode():
    maps = network(torch.rand(1, 3, 224, 224))
print("features_only:", [tuple(one.shape) for one in maps])
assert len(maps) == 5
"""
# Journey, command, what its output must hold.
STEPS: tuple[tuple[str, str, str], ...] = (
    ("ship", "fbnetv3 classify photos/chelsea.jpg --embedded", "chelsea.jpg: cat"),
    ("ship", "fbnetv3 export fbnetv3_nano.cifar10 -o nano.onnx", "nano.onnx"),
    ("ship", "fbnetv3 classify photos/chelsea.jpg --model nano.onnx", "chelsea.jpg: cat"),
    ("ship", "fbnetv3 quantize nano.onnx --calib photos -o int8.onnx", "int8.onnx"),
    ("ship", "fbnetv3 classify photos/chelsea.jpg --model int8.onnx", "chelsea.jpg: cat"),
    ("ship", "fbnetv3 latency fbnetv3_nano.cifar10 --threads 1 --seconds 1", "onnx"),
    ("detect", f"python -c {shlex.quote(DETECTOR)}", "one forward of a detector"),
    ("detect", f"python -c {shlex.quote(FEATURES)}", "(1, 16, 112, 112)"),
    (
        "search",
        "fbnetv3-search run s --space space.json --table labels.csv --batch 8 --rounds 1 "
        "--pool 100 --limit macs<=110",
        "report: s/report.html",
    ),
    ("search", "fbnetv3-search report s", "report.html"),
    ("search", "fbnetv3-search export s --out answers --csv trials.csv", "labels in trials.csv"),
    (
        "search",
        "fbnetv3 train --data classes --model fbnetv3_nano.cifar10 --epochs 1 --out run",
        "run",
    ),
    ("search", "fbnetv3 eval local-dir:run --data classes", "top1"),
)
# Library -> a command that needs it.
LACKING = {
    "openvino": "fbnetv3 export fbnetv3_nano.cifar10 -o nano.xml",
    "nncf": "fbnetv3 quantize nano.onnx --calib photos -o nano_int8.xml",
    "executorch": "fbnetv3 export fbnetv3_nano.cifar10 -o nano.pte",
    "ray": "fbnetv3-search resume s --engine ray",
    "optuna": "fbnetv3-search export s --optuna sqlite:///study.db",
    "pyarrow": "fbnetv3-search run t --space space.json --table labels.parquet",
    "pycocotools": "python -c 'import fbnetv3.integrations.coco_folder as f; f.CocoFolder(\"p\")'",
    "detectron2": "python -c 'import fbnetv3.detectron2_backbone'",
}
_VERSIONS = """
import json, re, sys
from importlib.metadata import requires, version
needed = [re.match(r"[\\w-]+", line)[0] for line in requires("fbnetv3-zoo") if "extra" not in line]
print(json.dumps({"python": sys.version.split()[0]} | {name: version(name) for name in needed}))
"""


class Environment:
    """An environment with the wheel, and an empty folder to run commands in."""

    def __init__(self, folder: Path, wheel: Path, python: str, *, lowest: bool) -> None:
        self._bin = folder / "venv" / "bin"
        self._place = folder / "place"
        self._place.mkdir()
        pip = ["uv", "pip", "install", "-q", "--python", str(folder / "venv")]
        start = time.perf_counter()
        subprocess.run(["uv", "venv", "-q", "--python", python, folder / "venv"], check=True)
        if lowest:
            # The wheel named alone would be all that counts as direct.
            direct = ["--resolution", "lowest-direct", "-r", str(ROOT / "pyproject.toml")]
            subprocess.run([*pip, *direct], check=True, cwd=folder)
        subprocess.run([*pip, str(wheel)], check=True, cwd=folder)
        self.install_s = round(time.perf_counter() - start, 1)

    def run(self, command: str) -> tuple[subprocess.CompletedProcess[str], float]:
        """Returns how a command ended, and its seconds."""
        program, *words = shlex.split(command)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        kept |= {"PATH": f"{self._bin}:{kept['PATH']}", "FBNETV3_HOME": str(self._place / "home")}
        kept |= {"FBNETV3_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        start = time.perf_counter()
        done = subprocess.run(
            [self._bin / program, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._place,
            env=kept,
        )
        return done, round(time.perf_counter() - start, 1)


def journey(place: Environment) -> list[dict[str, Any]]:
    """Returns a row for each of `STEPS`: seconds, and the error output of those that failed."""
    prepared, _ = place.run(f"python -c {shlex.quote(PREPARE)}")
    prepared.check_returncode()
    rows = []
    for name, command, expected in STEPS:
        done, seconds = place.run(command)
        good = done.returncode == 0 and expected in done.stdout + done.stderr
        row: dict[str, Any] = {"journey": name, "command": command, "seconds": seconds, "ok": good}
        if not good:
            row |= {"exit_code": done.returncode, "printed": done.stdout + done.stderr}
        rows.append(row)
        shown = expected if "\n" in command else command
        print(f"{'ok' if good else 'FAILED':6} {seconds:6.1f} s  {shown}", flush=True)
    return rows


def lacking(place: Environment) -> list[dict[str, Any]]:
    """Returns a row for each of `LACKING`: what it says, and whether that tells how to go on."""
    rows = []
    for library, command in LACKING.items():
        done, _ = place.run(command)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        expected = MISSING if command.startswith("fbnetv3") else 1
        good = done.returncode == expected and library in last and "pip install" in last
        rows.append({"library": library, "command": command, "message": last, "ok": good})
        print(f"{'ok' if good else 'FAILED':6} without {library}: {last}", flush=True)
    return rows


def main() -> None:
    """Builds, installs, runs, writes one JSON; ends with 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--environments", nargs="+", default=ENVIRONMENTS, help="python[:lowest]")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["environments"] if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        dist = Path(name) / "dist"
        subprocess.run(["uv", "build", "-q", "--out-dir", dist, ROOT], check=True)
        (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        sizes = {"wheel": wheel.stat().st_size, "sdist": archive.stat().st_size}
        for which in args.environments:
            print(f"--- Python {which}", flush=True)
            python, _, resolution = which.partition(":")
            machine = conditions()
            folder = Path(name) / which.replace(":", "_")
            folder.mkdir()
            place = Environment(folder, wheel, python, lowest=resolution == "lowest")
            versions, _ = place.run(f"python -c {shlex.quote(_VERSIONS)}")
            versions.check_returncode()
            rows[which] = {
                "versions": json.loads(versions.stdout),
                "install_s": place.install_s,
                "machine": {key: machine[key] for key in MACHINE},
                "bytes": sizes,
                "steps": journey(place),
                "lacking": lacking(place),
            }
            args.out.write_text(json.dumps({"environments": rows}, indent=1) + "\n")
    failed = [
        row
        for which in args.environments
        for row in rows[which]["steps"] + rows[which]["lacking"]
        if not row["ok"]
    ]
    if failed:
        raise SystemExit(f"{len(failed)} steps failed")


if __name__ == "__main__":
    main()
