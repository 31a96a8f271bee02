"""Serves a folder on localhost, with the headers that WebAssembly threads need."""

from __future__ import annotations

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    # Independent of the system's MIME types: browsers refuse modules of another type.
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
        # Browsers allow shared memory between threads only on isolated pages.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    # On Windows this would let two servers share a port.
    allow_reuse_address = os.name != "nt"
    daemon_threads = True


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of `folder`, bound to its port; `serve_forever` starts it.

    Args:
        folder: the folder, which may be filled later.
        port: the port; 0 takes any free one.

    Raises:
        OSError: the port is not available.
    """
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise OSError(
            f"cannot serve at {HOST}:{port}: {error.strerror}; give another --port, or --port 0 "
            "for any free one"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """Returns the URL to open in a browser."""
    return f"http://{HOST}:{server.server_address[1]}/"
