"""Run by `bench.peak_memory` in a process of its own: writes the peak of its memory in MiB."""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Loads a file, runs it three times, writes the peak.

    Args:
        arguments: file, runtime, precision, threads (0 is the runtime's own choice), batch size,
            file to write.
    """
    from fbnetv3.deploy.runtimes import RUNTIMES, read_artefact

    from .runners import file_runner, noise_for

    path, runtime, precision, threads, batch_size, result = arguments
    runner = file_runner(path, RUNTIMES[runtime], threads=int(threads) or None, precision=precision)
    contestant = runner.contestant(noise_for(read_artefact(path), int(batch_size)))
    for _ in range(3):
        contestant.run()
    Path(result).write_text(str(_peak_mib()))


def _peak_mib() -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        # Bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    # Not getrusage: on Linux its peak counts the process that started this one.
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
