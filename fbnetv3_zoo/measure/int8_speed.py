"""Does an int8 file pay on this machine, and if not, where does its time go?"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fbnetv3.deploy.runtimes import ONNX, read_artefact, runtime_of

from .bench import Row, entries, sweep
from .runners import noise_for

# What surrounds integer convolutions where hard-swish and the gate have no integer kernel.
_AROUND = ("QuantizeLinear", "DequantizeLinear", "HardSwish", "HardSigmoid", "QLinearMul")


@dataclass(frozen=True)
class SpeedReport:
    """Whether an int8 file pays on this machine.

    Attributes:
        rows: the float file and the int8 file in every runtime that is installed.
        speedup: median of the float file in the runtime of its format over that of the int8 file.
        operators: milliseconds by operator in the int8 file, where onnxruntime runs it.
        verdict: a sentence for people.
    """

    rows: tuple[Row, ...]
    speedup: float
    operators: dict[str, float]
    verdict: str


def compare_speed(
    float_path: Path, small_path: Path, *, threads: int = 1, max_seconds: float = 20.0
) -> SpeedReport:
    """Returns how much faster an int8 file is than the float one it was made of, and why not.

    Args:
        float_path: the fp32 file.
        small_path: the int8 file.
        threads: of each.
        max_seconds: for the measurement.
    """
    artefact = read_artefact(float_path)
    tried = entries([float_path, small_path], threads=[threads])
    rows = sweep(tried, artefact, max_seconds=max_seconds)
    int8 = min((r for r in rows if r.precision == "int8"), key=lambda r: r.latency.median_ms)
    base = next(row for row in rows if row.backend == runtime_of(float_path).name)
    speedup = base.latency.median_ms / int8.latency.median_ms
    smaller = (base.num_bytes or 0) / (int8.num_bytes or 1)
    in_onnx = runtime_of(small_path) is ONNX
    operators = operator_times(small_path) if in_onnx else {}
    text = f"{smaller:.1f}x smaller, {speedup:.2f}x the speed of fp32 in {base.backend}"
    if speedup < 1.1:
        text = f"SMALLER BUT NOT FASTER: {text}"
        spent = sum(operators.values())
        around = sum(ms for name, ms in operators.items() if name in _AROUND)
        if spent:
            text += f"; {100 * around / spent:.0f} % of its time is spent between int8 and float"
        fastest = min(rows, key=lambda r: r.latency.median_ms)
        if fastest is not int8:
            text += f"; {fastest.backend} is the fastest"
        if in_onnx:
            text += "; `fbnetv3 quantize --runtime openvino` runs whole blocks in int8"
    pairs = zip(tried, rows, strict=True)
    others = [row for entry, row in pairs if entry.runtime is not ONNX]
    if others:
        times = ", ".join(f"{r.backend} {r.latency.median_ms:.2f} ms" for r in others)
        text += f" ({times})"
    verdicts = {row.latency.verdict for row in rows} - {"ok"}
    if verdicts:
        text += f" [{sorted(verdicts)[0]}]"
    return SpeedReport(tuple(rows), speedup, operators, text)


def operator_times(path: Path, *, num_runs: int = 10, threads: int = 1) -> dict[str, float]:
    """Returns milliseconds of one run by operator, as onnxruntime's profiler has them, most first.

    Args:
        path: an exported ONNX file; one image is run.
        num_runs: averaged over, after two that are not counted.
        threads: inside an operator.
    """
    import onnxruntime as ort

    from fbnetv3.deploy.artefact import INPUT, OUTPUT

    batch = noise_for(read_artefact(path), 1)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(num_runs + 2):
            session.run([OUTPUT], {INPUT: batch})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    each = len(kernels) // (num_runs + 2)
    total: dict[str, float] = {}
    for event in kernels[2 * each :]:
        name = event["args"]["op_name"]
        total[name] = total.get(name, 0.0) + event["dur"] / 1000 / num_runs
    return dict(sorted(total.items(), key=lambda item: -item[1]))
