"""The command `demo`: parsing and printing around `demo` and `demo_server`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import EMBEDDED, CacheDir, Offline


def demo(
    model: Annotated[
        str,
        typer.Option(
            help="Model, model.tag, local-dir:DIR, or an exported .onnx file.",
            autocompletion=completion.any_of(completion.networks, completion.files(".onnx")),
        ),
    ] = EMBEDDED,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: one in the cache.")
    ] = None,
    serve: Annotated[bool, typer.Option(help="Serve the page on this machine.")] = True,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to serve on; 0 picks a free one.")
    ] = 8765,
    runtime: Annotated[
        Path | None, typer.Option(help="Tarball of onnxruntime-web; default: downloaded once.")
    ] = None,
    offline: Offline = None,
    cache_dir: CacheDir = None,
) -> None:
    """Serve a page that classifies images in the browser.

    No photo leaves the browser: the page runs the network itself. Writes a folder of static files,
    about 43 MB, nearly all of it onnxruntime-web, which is fetched once. Ctrl-C ends the serving.

    Examples:
        fbnetv3 demo
        fbnetv3 demo --model fbnetv3_b.ra2_in1k --port 0 --no-open
        fbnetv3 demo --model nano.onnx --out site --no-serve
    """
    from fbnetv3.demo.server import address_of, open_server
    from fbnetv3.demo.site import build_demo, folder_of

    folder = out or folder_of(model, cache_dir)
    with contextlib.ExitStack() as stack:
        # Before the work, which takes a while: a port that is taken shows at once.
        server = stack.enter_context(open_server(folder, port)) if serve else None
        built = build_demo(model, folder, tarball=runtime, cache_dir=cache_dir, offline=offline)
        print(f"model: {built.name} ({built.license or 'no licence stated'})")
        print(f"{built.folder}: {built.num_bytes / 1e6:.1f} MB, to be served as static files")
        if server is None:
            return
        print(f"{address_of(server)} until Ctrl+C", flush=True)
        if open_:
            import webbrowser

            webbrowser.open(address_of(server))
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
