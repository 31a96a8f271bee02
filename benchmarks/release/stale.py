"""Which results were measured before the code that they measure last changed?

    python -m benchmarks.release.stale
    python -m benchmarks.release.stale --write

For each file in `results/` it lists the commit that the result was made at (the one that its
conditions name, otherwise the one that committed the file) and the later commits that touched
`MEASURED`: the script and the code that decides the figure. A change there may or may not move it,
so that a file with such commits is to be measured again, or looked at. `--write` puts the table
into README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, ROOT, write_block

_MODEL = ("fbnetv3_zoo/models", "fbnetv3_zoo/arch")
_RUNTIMES = ("fbnetv3_zoo/deploy/runtimes", "fbnetv3_zoo/deploy/export.py")
_TRAINING = ("search/training", "search/data")
_SEARCH = ("search/nars", "search/predictors", "search/space")
# Result (the first pattern that fits counts) -> what its figures depend on.
MEASURED: dict[str, tuple[str, ...]] = {
    "latency*": ("benchmarks/latency/networks.py", *_MODEL, *_RUNTIMES, "fbnetv3_zoo/measure"),
    "startup.json": ("benchmarks/latency/startup.py", "fbnetv3_zoo/__init__.py", "fbnetv3_zoo/cli"),
    "first_use.json": (
        *("benchmarks/latency/first_use.py", "benchmarks/latency/published_files.py"),
        *("fbnetv3_zoo/hub", "fbnetv3_zoo/checkpoints", "fbnetv3_zoo/models"),
    ),
    "time_by_part*": ("benchmarks/latency/time_by_part.py", *_MODEL, *_RUNTIMES),
    "gpu/latency*": ("benchmarks/gpu/latency.py", *_MODEL, "fbnetv3_zoo/measure/runners.py"),
    "gpu/*": ("benchmarks/gpu", *_MODEL, *_TRAINING),
    "detection_cost.json": ("benchmarks/detection/cost.py", "fbnetv3_zoo/arch"),
    "detection_parts*": (
        *("benchmarks/detection/parts.py", "fbnetv3_zoo/integrations/torchvision_backbone.py"),
        *_MODEL,
    ),
    "detection_*": ("benchmarks/detection", *_MODEL, "fbnetv3_zoo/integrations"),
    "search/kill9.json": ("benchmarks/search/scale.py", "search/execution", "search/storage"),
    "search/ray_nodes.json": ("benchmarks/search/scale.py", "search/execution", "search/storage"),
    "search/workers.json": ("benchmarks/search/scale.py", "search/execution", "search/storage"),
    "search/store.json": ("benchmarks/search/scale.py", "search/storage"),
    "search/latency.json": ("benchmarks/search/speed.py", "search/cost"),
    "search/costs.json": ("benchmarks/search/speed.py", "search/cost", "fbnetv3_zoo/arch"),
    "search/wide.jsonl": (
        *("benchmarks/search/wide.py", "benchmarks/search/wide_truths.py"),
        *("benchmarks/search/peers.py", "search/api", *_SEARCH),
    ),
    "search/*": ("benchmarks/search", *_SEARCH),
    "nars_cifar/final/*": (
        *("benchmarks/studies/nars_cifar_final.py", "search/execution"),
        *(*_SEARCH, *_TRAINING),
    ),
    "nars_cifar/*": ("benchmarks/studies", *_SEARCH, *_TRAINING),
    "paper/*": ("benchmarks/studies/other_networks.py", *_SEARCH, *_TRAINING),
    "training/*": ("benchmarks/training", *_MODEL, *_TRAINING),
    "fuzz.json": (
        *("benchmarks/fuzz", "fbnetv3_zoo/checkpoints", "fbnetv3_zoo/images"),
        *("fbnetv3_zoo/hub/arch_file.py", "fbnetv3_zoo/deploy/artefact.py"),
    ),
    "journeys.json": ("benchmarks/release/journeys.py", "pyproject.toml"),
    "no_torch.json": ("benchmarks/release/no_torch.py", "fbnetv3_zoo/deploy/onnx_model.py"),
    "soak*.json": ("benchmarks/release/soak.py", "fbnetv3_zoo/deploy/classify.py", *_RUNTIMES),
    "serving.json": ("benchmarks/release/serving.py", "fbnetv3_zoo/deploy/classify.py", *_RUNTIMES),
    "parity.*": ("benchmarks/release/parity.py", *_MODEL, *_RUNTIMES),
    "artefacts.jsonl": ("benchmarks/release/artefacts.py", *_MODEL, *_RUNTIMES),
    "ray_classify.json": (
        "benchmarks/release/ray_classify.py",
        "fbnetv3_zoo/deploy/ray_classify.py",
    ),
    "imagenet_loss.*": ("benchmarks/release/imagenet_loss.py", *_RUNTIMES),
    "int8_*": ("benchmarks/release/int8_cifar10.py", "fbnetv3_zoo/deploy/quantize.py", *_RUNTIMES),
    "ssdlite_trunk.jsonl": ("benchmarks/studies/ssdlite_trunk.py", "fbnetv3_zoo/detection"),
    "qat_*": (
        *("benchmarks/release/qat_cifar10.py", "search/training/quantized.py"),
        *("fbnetv3_zoo/deploy/fake_quantize.py", "fbnetv3_zoo/deploy/qdq.py"),
    ),
    "confidence*": ("benchmarks/release/confidence.py", "fbnetv3_zoo/deploy/confidence.py"),
    "coverage.json": ("fbnetv3_zoo", "search", "tests"),
}
# Written from a result beside it, or about all of them.
_DERIVED = (".md", ".svg", ".html", ".recipe.json")


@dataclass(frozen=True)
class Age:
    """How old a result is.

    Attributes:
        result: file in `results/`.
        commit: it was made at, in short.
        stated: whether the file names that commit; otherwise it is the one that committed the file.
        later: how many commits touched what it measures since.
        newest: subject of the newest of these; "" for none.
    """

    result: str
    commit: str
    stated: bool
    later: int
    newest: str


def results() -> list[str]:
    """Returns the result files that hold measurements."""
    names = (str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.*"))
    return sorted(name for name in names if not name.endswith(_DERIVED))


def measured(result: str) -> tuple[str, ...]:
    """Returns the paths that a result depends on.

    Raises:
        KeyError: no pattern fits it.
    """
    for pattern, paths in MEASURED.items():
        if fnmatch(result, pattern):
            return paths
    raise KeyError(f"add a line for {result} to MEASURED")


def git(*words: str) -> str:
    """Returns what git prints; nothing where it fails, as for a commit that it lacks."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def stated_commits(path: Path) -> Iterator[str]:
    """Yields the commits that a file's conditions name."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            commit = value.get("commit")
            if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,40}", commit):
                yield commit
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    text = path.read_text(errors="replace")  # some are archives
    for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
        try:
            yield from walk(json.loads(line))
        except ValueError:
            continue


def age(result: str) -> Age:
    """Returns how old a result is; of several commits in a file, the oldest counts."""
    path = RESULTS / result
    known = [c for c in dict.fromkeys(stated_commits(path)) if git("cat-file", "-t", c)]
    own = git("log", "-1", "--format=%h", "--", str(path))
    dated = sorted(known, key=lambda c: int(git("show", "-s", "--format=%ct", c)))
    commit = git("rev-parse", "--short", dated[0]) if dated else own
    lines = git("log", "--no-merges", "--format=%s", f"{commit}..HEAD", "--", *measured(result))
    subjects = lines.splitlines()
    return Age(result, commit, bool(dated), len(subjects), subjects[0] if subjects else "")


def table(ages: list[Age]) -> str:
    """Returns the Markdown table of the results, those with the most later commits first."""
    lines = [
        "| in `results/` | made at | later commits to what it measures |",
        "| --- | --- | --- |",
    ]
    for one in sorted(ages, key=lambda one: (-one.later, one.result)):
        at = one.commit if one.stated else f"{one.commit} (of the file)"
        later = f"{one.later}, the newest: {one.newest}" if one.later else "none"
        lines.append(f"| `{one.result}` | {at} | {later.replace('|', ' ')} |")
    return "\n".join(lines)


def main() -> None:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    write = parser.parse_args().write
    found = table([age(result) for result in results()])
    if not write:
        print(found)
        return
    write_block(ROOT / "benchmarks" / "README.md", "stale", found)


if __name__ == "__main__":
    main()
