"""What a latency depends on besides the network: the machine, its load, versions."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from fbnetv3.deploy.runtimes import RUNTIMES

_PACKAGES = [
    "fbnetv3-zoo",
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime-gpu",
    *dict.fromkeys(part for r in RUNTIMES.values() for part in (r.library, r.quantizer) if part),
]
_FLAGS = [
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
]


def environment() -> dict[str, Any]:
    """Returns what a latency depends on besides the network: machine, load, versions."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(load_1min(), 2),
        "num_cpus": os.cpu_count(),
        **_processor(),
    }
    governor = read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    quota = read_text("/sys/fs/cgroup/cpu.max")
    found |= {"governor": governor or "unknown", "cgroup_cpu_max": quota or "none"}
    with contextlib.suppress(AttributeError):  # not on macOS and Windows
        found["affinity"] = len(os.sched_getaffinity(0))
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | _gpu()


def _processor() -> dict[str, Any]:
    pairs: dict[str, str] = {}
    for line in read_text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        pairs.setdefault(key.strip(), value.strip())
    flags = set((pairs.get("flags") or pairs.get("Features") or "").split())
    return {
        "cpu": pairs.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
    }


def _gpu() -> dict[str, Any]:
    import sys

    # Whoever measures on a GPU has imported torch; a CPU measurement need not pay for it.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def load_1min() -> float:
    """Returns how many processes wanted a processor in the last minute; 0 where unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def read_text(path: str) -> str:
    """Returns a file's text without blanks at its ends; nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
