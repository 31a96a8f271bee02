"""Silencing libraries that write to standard error by themselves."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

# Who redirects standard error must be the one who restores it.
_lock = threading.RLock()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silences what compiled code writes to file descriptor 2, for want of another setting."""
    with _lock, tempfile.TemporaryFile() as nowhere:
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
