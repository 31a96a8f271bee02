"""SIGTERM, Ctrl-C and a closed terminal as a request to stop: the run first saves its step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):  # noqa: N818  # what a user asked for, no error
    """The run was asked to stop, and its checkpoint has all that was trained.

    Attributes:
        signal: the number of the signal, such as `signal.SIGTERM`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class StopRequest:
    """Signals that were received, which the training loop looks at after each step.

    Nothing is received outside `listening`. A second Ctrl-C interrupts at once, as usual.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._raises = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receives signals in place of their usual effects. For the main thread only.

        SIGTERM, Ctrl-C, and SIGHUP of a terminal that closes, unless it is ignored as under nohup.
        """
        numbers = [signal.SIGTERM, signal.SIGINT]
        # Windows has none.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = [signal.signal(number, self._receive) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def check(self) -> None:
        """Stops the run if a signal was received.

        Raises:
            Stopped: one was.
        """
        if self._received is not None:
            raise Stopped(self._received)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal raise `Stopped` from wherever the body is: it must not change the run."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def _receive(self, number: int, _frame: Any) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if self._raises:
            raise Stopped(number)
