"""A folder of static files that classifies photos in a browser, with one of our exported files.

Any server of static files can serve it, and it loads nothing from elsewhere. The page's own files
are in `data/demo/`; the network is an ONNX file, described by `demo.json` beside it;
onnxruntime-web runs it. The edge of this file: it writes a folder; `demo_server` serves it.
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
from fbnetv3.hub.license_policy import check_terms
from fbnetv3.hub.weights import WEIGHTS, is_commercial

from .web_runtime import RUNTIME, WebRuntime, fetch_runtime, unpack_runtime

_DATA = Path(__file__).parent.parent / "data"
_PAGE_FILES = ("index.html", "style.css", "demo.mjs", "preprocess.mjs")
# A folder that has it was made here, and may be made anew. It is filled last.
_RECORD = "demo.json"


@dataclass(frozen=True)
class Demo:
    """A folder that is ready to be served.

    Attributes:
        folder: where it lies.
        name: of the network.
        license: of its weights; empty where none is known.
        num_bytes: of all files together.
    """

    folder: Path
    name: str
    license: str
    num_bytes: int


def folder_of(model: str, cache_dir: str | Path | None = None) -> Path:
    """Returns a model's own folder in the cache, which may not exist yet."""
    name = Path(model.rpartition(":")[2]).resolve().name.removesuffix(ONNX.suffix)
    return cache.cache_dir(cache_dir) / "demo" / name


def build_demo(
    model: str,
    folder: str | Path,
    *,
    tarball: str | Path | None = None,
    runtime: WebRuntime = RUNTIME,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
) -> Demo:
    """Writes the page of a network into a folder and returns what was written.

    Args:
        model: a name whose weights can be loaded, or the path of an exported `.onnx` file.
        folder: new, empty, or an earlier demo's.
        tarball: of onnxruntime-web, where it is on this machine already.
        runtime: which release of it.
        cache_dir: as in `fbnetv3.create`.
        offline: as in `fbnetv3.create`.

    Raises:
        FetchError: weights or onnxruntime-web cannot be had; says what to do.
        FileNotFoundError: there is no such file.
        ValueError: the model is unknown or does not take photos, its licence is refused, or the
            folder is someone else's or cannot be written.
    """
    place = Path(folder)
    opened = _opened(model, cache_dir, offline)
    _claim(place)
    archive = fetch_runtime(runtime, tarball=tarball, cache_dir=cache_dir, offline=offline)
    backend = _place_model(opened, place / "model.onnx")
    unpack_runtime(archive, place / "runtime", runtime)
    _copy(_DATA / "demo" / "RUNTIME_LICENSE.txt", place / "runtime" / "LICENSE.txt")
    for name in _PAGE_FILES:
        _copy(_DATA / "demo" / name, place / name)
    for path in sorted((_DATA / "photos").iterdir()):
        _copy(path, place / "photos" / path.name)
    record = _described(backend, runtime, place)
    write_atomically(place / _RECORD, (json.dumps(record, indent=1) + "\n").encode())
    return Demo(
        folder=place,
        name=backend.artefact.name,
        license=backend.artefact.license,
        num_bytes=sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
    )


def _claim(place: Path) -> None:
    """Makes the folder, or sees that it is an earlier demo's."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()) and not (place / _RECORD).is_file():
            raise ValueError(
                f"{place} has other files in it; give a new or empty folder with --out, or an "
                "earlier demo's"
            )
        (place / _RECORD).touch()
        for name in ("runtime", "photos"):
            (place / name).mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write {place}: {error.strerror}; give a folder that is writable with --out"
        ) from error


def _opened(model: str, cache_dir: str | Path | None, offline: bool | None) -> Any:
    """Returns the model in memory, or the file as a backend; whether it may be used is checked."""
    if Path(model).suffix != ONNX.suffix:
        from fbnetv3.hub.create import create

        return create(model, pretrained=True, cache_dir=cache_dir, offline=offline)
    backend = ONNX.load(model, threads=1)
    check_terms(backend.artefact.name, backend.artefact.license)
    _check_takes_photos(backend)
    return backend


def _place_model(opened: Any, path: Path) -> ExportedBackend:
    if isinstance(opened, ExportedBackend):
        with replacing(path) as part:
            shutil.copyfile(opened.path, part)
    else:
        from fbnetv3.deploy.export import to_onnx

        to_onnx(opened, path)
    backend = ONNX.load(path, threads=1)
    _check_takes_photos(backend)
    return backend


def _check_takes_photos(backend: ExportedBackend) -> None:
    channels = backend.input_shape[3 if backend.artefact.in_graph else 1]
    if channels != 3:
        raise ValueError(f"{backend.path} takes images of {channels} channels; expected 3, RGB")


def _described(backend: ExportedBackend, runtime: WebRuntime, place: Path) -> dict[str, Any]:
    """Returns what the page has to know of the network."""
    artefact = backend.artefact
    weights = WEIGHTS.get(artefact.name)
    return {
        "name": artefact.name,
        "labels": list(backend.class_names),
        "preprocess": artefact.preprocess.to_dict(),
        "in_graph": artefact.in_graph,
        "license": artefact.license,
        "license_url": weights.license_url if weights else "",
        "commercial": is_commercial(artefact.license),
        "source_url": artefact.source_url,
        "precision": artefact.precision,
        "params": artefact.params,
        "macs_paper": artefact.macs_paper,
        "num_bytes": (place / "model.onnx").stat().st_size,
        "photos": [
            {"name": path.stem, "file": f"photos/{path.name}"}
            for path in sorted((_DATA / "photos").glob("*.jpg"))
        ],
        "runtime": runtime.version,
        "fbnetv3": __version__,
    }


def _copy(source: Path, target: Path) -> None:
    write_atomically(target, source.read_bytes())
