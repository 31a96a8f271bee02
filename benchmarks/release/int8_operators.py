r"""Where onnxruntime's time goes, operator by operator, in a float file and the int8 files of it.

    python -m benchmarks.release.int8_operators FP32.onnx INT8.onnx \
        --out benchmarks/results/int8_operators.md

One image, one thread. Of each node the fastest of the runs counts, so that other programs disturb
little. Depthwise convolutions are listed apart. The last line of the table says how much faster
int8 would be if nothing but its convolutions took time. Seconds per file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.conditions import conditions

_CONVOLUTIONS = ("pointwise", "depthwise")


def fastest_us(path: Path, num_runs: int) -> dict[str, tuple[float, int]]:
    """Returns operator -> microseconds and number of nodes, with convolutions by their kind."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimized)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        shape = session.get_inputs()[0].shape
        noise = np.random.default_rng(0).standard_normal((1, *shape[1:])).astype(np.float32)
        for _ in range(num_runs):
            session.run(None, {session.get_inputs()[0].name: noise})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        grouped = {
            node.name
            for node in onnx.load(optimized).graph.node
            if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        }
    best: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name, kind = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
        if kind in ("Conv", "QLinearConv"):
            kind = f"{kind}, {_CONVOLUTIONS[name in grouped]}"
        kinds[name] = kind
        best[name] = min(best.get(name, np.inf), event["dur"])
    total: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for name, duration in best.items():
        spent, count = total[kinds[name]]
        total[kinds[name]] = (spent + duration, count + 1)
    return dict(sorted(total.items(), key=lambda item: -item[1][0]))


def main() -> None:
    """Profiles the files, prints and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="the float file first")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = ["| file | operator | nodes | microseconds |", "|---|---|---|---|"]
    whole = []
    for path in options.files:
        found = fastest_us(path, options.runs)
        whole.append(sum(spent for spent, _ in found.values()))
        lines += [f"| {path.name} | {k} | {n} | {us:.0f} |" for k, (us, n) in found.items()]
        convolutions = sum(us for kind, (us, _) in found.items() if "Conv" in kind)
        lines.append(
            f"| {path.name} | all | | {whole[-1]:.0f}: {whole[0] / whole[-1]:.2f}x the first file, "
            f"{whole[0] / convolutions:.2f}x if only convolutions took time |"
        )
    about = conditions()
    lines += ["", f"onnxruntime {ort.__version__}, one thread, {options.runs} runs. {about}", ""]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
