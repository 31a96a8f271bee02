"""Inference in forked processes, which have none of the threads of their parent.

Web servers that load a model before they fork their workers are the usual case. A runtime that
waits for the parent's threads waits forever: a session when it runs or ends, torch in the thread
that used it before the fork.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

_Native = TypeVar("_Native")
_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")
_alive: weakref.WeakSet[Reopened[Any]] = weakref.WeakSet()
_first_pid = os.getpid()


class Reopened(Generic[_Native]):
    """A runtime's own objects for an open file; a forked process and a copy by pickle open it anew.

    Args:
        start: opens the file; can be pickled.
    """

    def __init__(self, start: Callable[[], _Native]) -> None:
        self._start = start
        self._native: _Native | None = start()
        _alive.add(self)

    def __reduce__(self) -> tuple[type[Reopened[_Native]], tuple[Callable[[], _Native]]]:
        """Returns how to open the file again."""
        return type(self), (self._start,)

    def get(self) -> _Native:
        """Returns the objects, for this process."""
        native = self._native
        if native is None:
            native = self._native = self._start()
        return native


def with_own_threads(
    function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Returns what a function of torch returns, called where torch can start threads.

    That is another thread if this is the main one of a forked process. OpenMP keeps the threads it
    started for a thread, and would wait for those of the parent here.
    """
    if os.getpid() != _first_pid and threading.current_thread() is threading.main_thread():
        with ThreadPoolExecutor(1) as other:
            return other.submit(function, *args, **kwargs).result()
    return function(*args, **kwargs)


def _leave_to_parent() -> None:
    for opened in _alive:
        # Never freed: freeing a session, also when Python exits, waits for its threads.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened._native))
        opened._native = None


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_leave_to_parent)
