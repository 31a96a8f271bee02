"""Runs the tests that are marked `gpu` within a time limit, and records what came out.

    python -m benchmarks.gpu.tests --out DIR --seconds 120

Writes DIR/tests.log while they run and DIR/tests.json at the end, which names every test that
passed, failed (with its message) or was skipped (with the reason). At the limit the tests are
interrupted; the record then holds those that were done, and which one was running. Ends with 1 if
one failed or the limit was hit. With --dry-run it also runs where there is no GPU: all are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.records import ROOT, write

# After the interrupt, for pytest to write its report.
_GRACE_S = 10
_TEST_LIMIT_S = 100
_OUTCOME = re.compile(
    r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)(?: \((.*)\))?\s*(?:\[ *\d+%\])?$", re.M
)


def marked_files(root: Path = ROOT) -> list[str]:
    """Returns the files that hold tests for a GPU; to collect the others takes half a minute."""
    found = sorted((root / "tests").rglob("test_*.py"))
    return [str(path.relative_to(root)) for path in found if "mark.gpu" in path.read_text()]


def run(out: Path, seconds: float, *, root: Path = ROOT) -> dict[str, Any]:
    """Returns what came out, having written DIR/tests.log; see `outcomes`.

    Args:
        out: existing directory.
        seconds: limit of the run; to stop takes up to ten seconds more.
        root: checkout whose `tests/` are run.
    """
    log, report = out.resolve() / "tests.log", out.resolve() / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors"]
    command += ["-o", "addopts=--import-mode=importlib --strict-markers"]
    command += ["--timeout", str(_TEST_LIMIT_S), "--durations", "10", "--junit-xml", str(report)]
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *marked_files(root)],
            cwd=root,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            # Processes that a test has started are stopped with it.
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _stop(process)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "limit_hit": code is None,
        "exit_code": code,
        **outcomes(log.read_text(errors="replace"), report),
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends what still runs, at first so that pytest can report."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcomes(log: str, report: Path) -> dict[str, Any]:
    """Returns the tests by outcome, from pytest's report or, where there is none, from its log."""
    lines = log.splitlines()
    running = [line.strip() for line in lines if re.fullmatch(r"tests/\S+?::.+ ", line)]
    found: dict[str, Any] = {"passed": [], "failed": [], "skipped": [], "running": running}
    if not report.is_file():
        for name, outcome, reason in _OUTCOME.findall(log):
            if outcome == "PASSED":
                found["passed"].append(name)
            elif outcome == "SKIPPED":
                found["skipped"].append({"test": name, "reason": reason})
            else:
                found["failed"].append({"test": name, "message": f"{outcome}: see the log"})
        if not _OUTCOME.search(log):
            found["log_end"] = lines[-20:]
        return found
    for case in ElementTree.parse(report).iter("testcase"):
        if case.get("name") is None:  # the one that was interrupted
            continue
        test = f"{case.get('classname')}::{case.get('name')}"
        wrong = [*case.iter("failure"), *case.iter("error")]
        skipped = case.find("skipped")
        if wrong:
            message = "\n".join(f"{e.get('message')}\n{e.text or ''}" for e in wrong)
            found["failed"].append({"test": test, "message": message[-4000:]})
        elif skipped is not None:
            found["skipped"].append({"test": test, "reason": skipped.get("message")})
        else:
            found["passed"].append(test)
    return found


def main() -> int:
    """Runs the tests; returns the exit code."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output directory")
    parser.add_argument("--seconds", type=float, default=120, help="time limit of the tests")
    parser.add_argument("--dry-run", action="store_true", help="run without a GPU as well")
    asked = parser.parse_args()
    if not (asked.dry_run or torch.cuda.is_available()):
        parser.error("torch finds no GPU here: give --dry-run")
    asked.out.mkdir(parents=True, exist_ok=True)
    found = run(asked.out, asked.seconds)
    write(asked.out / "tests.json", found)
    passed, failed, skipped = (len(found[name]) for name in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped in {found['seconds']} s")
    if not torch.cuda.is_available():
        print("there is no GPU here, so that all tests are skipped: this was a dry run")
    for failure in found["failed"]:
        print(f"failed: {failure['test']}")
    if found["limit_hit"]:
        print(f"stopped at the limit of {asked.seconds:g} s, in {found['running'] or 'no test'}")
    return 1 if found["limit_hit"] or found["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
