"""What this machine can do at most, measured: the roofline that networks are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

_SIDE = 1024
_STREAM_BYTES = 256 * 2**20
_REPEATS = 7


@dataclass(frozen=True)
class Roofline:
    """Best rates seen, of `threads` threads.

    Attributes:
        threads: that worked.
        fp32_gmacs: 10^9 multiply-adds a second in a float32 matrix product.
        bf16_gmacs: the same in bfloat16; on processors without it, torch emulates.
        read_gbytes: 10^9 bytes a second read from memory.
    """

    threads: int
    fp32_gmacs: float
    bf16_gmacs: float
    read_gbytes: float

    def to_dict(self) -> dict[str, float]:
        """Returns the rates as plain JSON types."""
        return asdict(self)

    def floor_ms(self, macs: int, num_bytes: int, *, bf16: bool = False) -> float:
        """Returns the least time that so many multiply-adds and bytes take."""
        rate = self.bf16_gmacs if bf16 else self.fp32_gmacs
        return max(macs / rate, num_bytes / self.read_gbytes) / 1e6


def measure_roofline(threads: int = 1) -> Roofline:
    """Returns the best of several runs of a square matrix product and of a long sum.

    Args:
        threads: of torch, whose setting is put back.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = []
        for dtype in (torch.float32, torch.bfloat16):
            a, b = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
            rates.append(_SIDE**3 / _fastest(lambda a=a, b=b: a @ b) / 1e9)  # type: ignore[misc]
        long = torch.ones(_STREAM_BYTES // 8, dtype=torch.float64)
        return Roofline(threads, rates[0], rates[1], _STREAM_BYTES / _fastest(long.sum) / 1e9)
    finally:
        torch.set_num_threads(before)


def _fastest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
