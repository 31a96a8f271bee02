"""A folder of static files on this machine's own address, with the headers that threads need."""

from __future__ import annotations

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    # Not left to the system's table: browsers refuse modules of another type.
    extensions_map = {  # noqa: RUF012  # as the base class has it
        "": "application/octet-stream",
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".jpg": "image/jpeg",
        ".json": "application/json",
        ".mjs": "text/javascript; charset=utf-8",
        ".png": "image/png",
        ".txt": "text/plain; charset=utf-8",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        # Only a page that is isolated from others may share memory among threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    # On Windows it would let two servers share a port.
    allow_reuse_address = os.name != "nt"
    daemon_threads = True


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of `folder` that already holds its port; `serve_forever` answers.

    Args:
        folder: may be filled later.
        port: 0 takes any that is free.

    Raises:
        OSError: the port cannot be had.
    """
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise OSError(
            f"cannot serve at {HOST}:{port}: {error.strerror}; give another --port, or --port 0 "
            "for any that is free"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """Returns what to open in a browser."""
    return f"http://{HOST}:{server.server_address[1]}/"
