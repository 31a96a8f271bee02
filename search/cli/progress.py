"""How far a training is: a bar on a terminal, else lines."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import typer

from fbnetv3.cli.group import note

if TYPE_CHECKING:
    from fbnetv3.search.training.stopping import StopRequest

# The time of an epoch is told from this many steps after the first.
_TIMED_STEPS = 5


class Line(Protocol):
    """The log of an epoch."""

    def line(self) -> str:
        """Returns it as one line of text."""


class Progress:
    """A bar on a terminal, else a line per epoch, and one every half minute within an epoch.

    Attributes:
        at: how far the training is, in words.
    """

    def __init__(self, epochs: int, *, silent: bool, line_seconds: float = 30.0) -> None:
        self._epochs, self._silent = epochs, silent
        self.at = "the start"
        self._line_seconds, self._last_line = line_seconds, time.monotonic()
        self._timed = False
        # When the first step that was seen ended, and how many steps were done by then.
        self._began: tuple[float, int] | None = None
        self._bar: Any = None
        if sys.stderr.isatty() and not silent:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training")

    def plan(self, lines: Iterable[str]) -> None:
        """Prints what will be trained."""
        for line in lines:
            if self._bar is not None:
                self._bar.console.print(line, markup=False, highlight=False)
            else:
                typer.echo(line, err=True)

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Moves the bar."""
        self.at = f"step {done} of {steps} of epoch {epoch}"
        now, made, total = time.monotonic(), (epoch - 1) * steps + done, self._epochs * steps
        self._began = self._began or (now, made)
        began, made_then = self._began
        if not (self._timed or self._silent) and made - made_then >= _TIMED_STEPS:
            self._timed = True
            seconds = steps * (now - began) / (made - made_then)
            self.plan([f"time    about {datetime.timedelta(seconds=round(seconds))} per epoch"])
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=f"epoch {epoch} of {self._epochs}",
                completed=made,
                total=total,
            )
        elif not self._silent and now - self._last_line >= self._line_seconds and done < steps:
            self._last_line = now
            text = self.at
            if made > made_then:  # the first step that is seen tells nothing of the time it takes
                left = (total - made) * (now - began) / (made - made_then)
                text += f", about {datetime.timedelta(seconds=round(left))} left"
            typer.echo(text, err=True)

    def epoch(self, log: Line) -> None:
        """Prints the line of an epoch."""
        if self._bar is not None:
            self._bar.console.print(log.line())
        elif not self._silent:
            typer.echo(log.line())

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def stoppable(shown: Progress) -> Iterator[StopRequest]:
    """Yields what tells a training to stop; a signal ends the program once its step is saved."""
    from fbnetv3.search.training.stopping import Stopped, StopRequest

    stop = StopRequest()
    try:
        with stop.listening():
            yield stop
    except Stopped as stopped:
        shown.close()
        note(f"{stopped} at {shown.at}; a checkpoint was saved, the same command resumes")
        raise typer.Exit(128 + stopped.signal) from None
    finally:
        shown.close()
