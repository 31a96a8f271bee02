"""Chromium without a window, driven over its own protocol through two pipes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
# The protocol's pipes are descriptors 3 and 4.
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One tab. Commands are those of the DevTools protocol; events are passed over."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._count = 0
        self._waiting = b""
        self._session: dict[str, str] = {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def send(self, method: str, **params: Any) -> Any:
        """Returns the browser's answer to a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            while b"\0" not in self._waiting:
                chunk = os.read(self._from.fileno(), 1 << 16)
                assert chunk, "the browser has ended"
                self._waiting += chunk
            answer, _, self._waiting = self._waiting.partition(b"\0")
            parsed = json.loads(answer)
            if parsed.get("id") == self._count:
                assert "error" not in parsed, parsed
                return parsed["result"]

    def evaluate(self, expression: str) -> Any:
        """Returns what an expression, or the promise that it is, comes to."""
        found = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str, wait_for: Sequence[str], timeout_s: float = 60) -> dict[str, str]:
        """Opens an address; returns the root element's data once it has one of these keys."""
        self.send("Page.navigate", url=url)
        return self.wait_for(wait_for, timeout_s)

    def wait_for(self, keys: Sequence[str], timeout_s: float = 60) -> dict[str, str]:
        """Returns the root element's data once it has one of these keys."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found: dict[str, str] = self.evaluate("({...document.documentElement?.dataset})")
            if any(key in found for key in keys):
                return found
            time.sleep(0.02)
        raise AssertionError(f"none of {keys}: {self.evaluate('document.body.innerText')}")


@contextmanager
def chromium(profile: Path, *options: str) -> Iterator[Page]:
    """Gives a tab of a browser that ends with the block.

    Args:
        profile: an empty folder.
        options: of the program, beside the usual.
    """
    program = shutil.which("chromium")
    assert program is not None
    ends = [*os.pipe(), *os.pipe()]
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ends[0], ends[3])]
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _LAUNCH, *map(str, theirs), program, *_OPTIONS, *options),
            f"--user-data-dir={profile}",
        ],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (ends[0], ends[3], *theirs):
        os.close(end)
    try:
        yield Page(ends[1], ends[2])
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
