"""Run by `bench.peak_memory` in a process of its own: writes the peak of its memory in MiB."""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Loads a file, runs it three times, writes the peak.

    Args:
        arguments: file, backend, threads (0 is the backend's own), batch size, file to write.
    """
    from .bench import artefact_of, file_runner, noise_for

    path, backend, threads, batch_size, result = arguments
    runner = file_runner(Path(path), backend, int(threads) or None)
    contestant = runner.contestant(noise_for(artefact_of(Path(path)), int(batch_size)))
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
