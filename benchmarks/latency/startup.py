"""Times of starting: imports, commands, and `create` beside timm's, each in a fresh process.

    python -m benchmarks.latency.startup --out benchmarks/results/startup.json --write-docs

The contestants take turns. `wall` is the whole process; `call` is the creation alone, inside it,
when everything is imported. No trained weights are needed: files of the published layouts and sizes
are made first (`published_files`) and put where the real ones would be. timm has no
`fbnetv3_a`; its `fbnetv3_b` is the same network with other paddings.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.records import PERFORMANCE_PAGE, ROOT, write, write_block
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub.create import create

from .published_files import stand_in, write_official

PHOTO = ROOT / "fbnetv3_zoo" / "data" / "photos" / "chelsea.jpg"
CALL = """
import time
{imports}
start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""


def make_weights(home: Path) -> None:
    """Writes what Meta and timm published for A and G, with random numbers in it."""
    for letter, peer in (("a", "b"), ("g", "g")):
        model = stand_in(f"fbnetv3_{letter}")
        write_official(model, home / f"fbnetv3_{letter}.meta_in1k.pth")
        theirs = from_fbnetv3(model.state_dict(), model.arch, "timm", force=True)
        write_tensors(home / f"timm_{peer}.safetensors", theirs, {"format": "pt"})
        create(f"fbnetv3_{letter}.meta_in1k", pretrained=True, cache_dir=home, offline=True)


def contestants(home: Path) -> dict[str, list[str]]:
    """Returns name -> command."""
    program = str(Path(sys.executable).with_name("fbnetv3"))
    ours, theirs = "import fbnetv3, fbnetv3.hub.create, fbnetv3.hub.loading", "import timm"

    def python(imports: str, call: str) -> list[str]:
        return [sys.executable, "-c", CALL.format(imports=imports, call=call)]

    found = {
        "python": [sys.executable, "-c", "pass"],
        "import fbnetv3": [sys.executable, "-c", "import fbnetv3"],
        "import torch": [sys.executable, "-c", "import torch"],
        "import timm": [sys.executable, "-c", "import timm"],
        "fbnetv3 --version": [program, "--version"],
        "fbnetv3 list": [program, "list"],
        "fbnetv3 info fbnetv3_a": [program, "info", "fbnetv3_a"],
        "import fvcore.nn": [sys.executable, "-c", "import fvcore.nn"],
        "fbnetv3 flops fbnetv3_a": [program, "flops", "fbnetv3_a"],
        "fbnetv3 classify --embedded": [program, "classify", str(PHOTO), "--embedded"],
    }
    for letter, peer in (("a", "b"), ("g", "g")):
        found |= {
            f"create {letter}": python(ours, f"fbnetv3.create('fbnetv3_{letter}')"),
            f"timm create {peer}": python(theirs, f"timm.create_model('fbnetv3_{peer}')"),
            f"create {letter} pretrained": python(
                ours, f"fbnetv3.create('fbnetv3_{letter}', pretrained=True, offline=True)"
            ),
            f"timm create {peer} from a file": python(
                theirs,
                f"timm.create_model('fbnetv3_{peer}', "
                f"checkpoint_path={str(home / f'timm_{peer}.safetensors')!r})",
            ),
        }
    return found


def measure(commands: dict[str, list[str]], n: int, home: Path) -> list[dict[str, Any]]:
    """Returns a row a contestant: n, median, least and most, in milliseconds."""
    walls: dict[str, list[float]] = {name: [] for name in commands}
    calls: dict[str, list[float]] = {name: [] for name in commands}
    env = {**os.environ, "FBNETV3_HOME": str(home), "FBNETV3_OFFLINE": "1"}
    for turn in range(n + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
            seconds = time.perf_counter() - start
            if not turn:  # the first turn fills the disk's cache
                continue
            walls[name].append(1e3 * seconds)
            if command[1] == "-c" and done.stdout:
                calls[name].append(1e3 * float(done.stdout))
    return [
        {"name": name, "wall_ms": summary(walls[name]), "call_ms": summary(calls[name])}
        for name in commands
    ]


def summary(values: list[float]) -> dict[str, float] | None:
    """Returns n, median, min and max of times in milliseconds; None of none."""
    if not values:
        return None
    return {
        "n": len(values),
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown."""
    lines = ["| | process (ms) | call alone (ms) |", "| --- | --- | --- |"]
    for row in rows:
        call = row["call_ms"]
        lines.append(
            f"| `{row['name']}` | {row['wall_ms']['median']:.0f} | "
            f"{'' if call is None else format(call['median'], '.0f')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=9)
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_weights(home)
        rows = measure(contestants(home), args.n, home)
    write(args.out, {"rows": rows})
    print(table(rows))
    if args.write_docs:
        write_block(PERFORMANCE_PAGE, "startup", table(rows))


if __name__ == "__main__":
    main()
