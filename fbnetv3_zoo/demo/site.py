"""Writes a folder of static files that classify images in a browser with an exported model.

Any web server can serve the folder, and it loads nothing from elsewhere. The page's files are in
`data/demo/`; the model is an ONNX file, described by `demo.json` beside it, and runs in
onnxruntime-web. `server` serves the folder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbnetv3._internal.files import replacing, write_atomically
from fbnetv3._version import __version__
from fbnetv3.deploy.backend import ExportedBackend
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.hub import cache
from fbnetv3.hub.license_policy import is_commercial
from fbnetv3.hub.registry import FOLDERS
from fbnetv3.hub.weights import WEIGHTS

from .web_runtime import RUNTIME, WebRuntime, fetch_runtime, unpack_runtime

_DATA = Path(__file__).parent.parent / "data"
_PAGE_FILES = ("index.html", "style.css", "demo.mjs", "preprocess.mjs")
# Marks a folder of an earlier demo, which may be overwritten. Its content is written last.
_RECORD = "demo.json"


@dataclass(frozen=True)
class Demo:
    """A demo, ready to be served.

    Attributes:
        folder: the folder.
        name: name of the model.
        license: licence of its weights; empty if unknown.
        num_bytes: total size of the files.
    """

    folder: Path
    name: str
    license: str
    num_bytes: int


def folder_of(model: str, cache_dir: str | Path | None = None) -> Path:
    """Returns the folder of a model's demo in the cache, which may not exist yet."""
    name = Path(model.rpartition(":")[2]).resolve().name.removesuffix(ONNX.suffix)
    return cache.cache_dir(cache_dir) / "demo" / name


def title_of(model: str, name: str) -> str:
    """Returns what the page calls a model: its own name, or that of the folder it was saved in."""
    return folder_of(model).name if model.startswith(FOLDERS) else name


def build_demo(
    model: str,
    folder: str | Path,
    *,
    tarball: str | Path | None = None,
    runtime: WebRuntime = RUNTIME,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
) -> Demo:
    """Writes the demo of a model into a folder.

    Args:
        model: a name whose weights can be loaded, or the path of an exported `.onnx` file.
        folder: a new or empty folder, or that of an earlier demo.
        tarball: a local copy of onnxruntime-web's tarball.
        runtime: the release of onnxruntime-web.
        cache_dir: see `fbnetv3.create`.
        offline: see `fbnetv3.create`.

    Raises:
        FetchError: weights or onnxruntime-web cannot be downloaded; the message says what to do.
        FileNotFoundError: the model file does not exist.
        ValueError: the model is unknown or does not take RGB images, its licence is refused, or the
            folder has other files or cannot be written.
    """
    root = Path(folder)
    opened = _opened(model, cache_dir, offline)
    _prepare_folder(root)
    archive = fetch_runtime(runtime, tarball=tarball, cache_dir=cache_dir, offline=offline)
    backend = _write_model(opened, root / "model.onnx")
    unpack_runtime(archive, root / "runtime", runtime)
    _copy(_DATA / "demo" / "RUNTIME_LICENSE.txt", root / "runtime" / "LICENSE.txt")
    for name in _PAGE_FILES:
        _copy(_DATA / "demo" / name, root / name)
    for path in sorted((_DATA / "photos").iterdir()):
        _copy(path, root / "photos" / path.name)
    name = title_of(model, backend.artefact.name)
    record = {**_page_data(backend, runtime, root), "name": name}
    write_atomically(root / _RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return Demo(
        folder=root,
        name=name,
        license=backend.artefact.license,
        num_bytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
    )


def _prepare_folder(root: Path) -> None:
    """Creates the folder, or checks that it is an earlier demo's."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()) and not (root / _RECORD).is_file():
            raise ValueError(
                f"{root} has other files in it; give a new or empty folder with --out, or an "
                "earlier demo's"
            )
        (root / _RECORD).touch()
        for name in ("runtime", "photos"):
            (root / name).mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write {root}: {error.strerror}; give a writable folder with --out"
        ) from error


def _opened(model: str, cache_dir: str | Path | None, offline: bool | None) -> Any:
    """Returns the model, or the exported file as a backend, whose licence is checked."""
    if Path(model).suffix != ONNX.suffix:
        from fbnetv3.hub.create import create

        return create(model, pretrained=True, cache_dir=cache_dir, offline=offline)
    return _checked(ONNX.load(model, threads=1))


def _write_model(opened: Any, path: Path) -> ExportedBackend:
    if isinstance(opened, ExportedBackend):
        with replacing(path) as part:
            shutil.copyfile(opened.path, part)
    else:
        from fbnetv3.deploy.export import to_onnx

        to_onnx(opened, path)
    return _checked(ONNX.load(path, threads=1))


def _checked(backend: ExportedBackend) -> ExportedBackend:
    """Returns a backend that classifies RGB images, as the page needs."""
    backend.artefact.need_classes(str(backend.path))
    channels = backend.input_shape[3 if backend.artefact.in_graph else 1]
    if channels != 3:
        raise ValueError(f"{backend.path} takes images with {channels} channels; expected 3, RGB")
    return backend


def _page_data(backend: ExportedBackend, runtime: WebRuntime, root: Path) -> dict[str, Any]:
    """Returns the page's data about the model."""
    artefact = backend.artefact
    weights = WEIGHTS.get(artefact.name)
    return {
        "labels": list(backend.class_names),
        "thresholds": list(artefact.thresholds) if artefact.multi_label else None,
        "preprocess": artefact.preprocess.to_dict(),
        "in_graph": artefact.in_graph,
        "confidence": artefact.confidence.to_dict() if artefact.confidence else None,
        "license": artefact.license,
        "license_url": weights.license_url if weights else "",
        "commercial": not artefact.license or is_commercial(artefact.license),
        "source_url": artefact.source_url,
        "precision": artefact.precision,
        "params": artefact.params,
        "macs_paper": artefact.macs_paper,
        "num_bytes": (root / "model.onnx").stat().st_size,
        "photos": [
            {"name": path.stem, "file": f"photos/{path.name}"}
            for path in sorted((_DATA / "photos").glob("*.jpg"))
        ],
        "runtime": runtime.version,
        "fbnetv3": __version__,
    }


def _copy(source: Path, target: Path) -> None:
    write_atomically(target, source.read_bytes())
