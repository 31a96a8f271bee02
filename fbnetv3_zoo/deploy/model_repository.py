"""Writes an exported ONNX file into a model repository of NVIDIA Triton (protocol KServe v2).

The layout is Triton's: `NAME/config.pbtxt`, `NAME/labels.txt` and `NAME/VERSION/model.onnx`; see
the pages "Model Repository" and "Model Configuration" of its documentation. Nothing of Triton is
needed to write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.files import write_atomically

from .artefact import INPUT, OUTPUT, Artefact
from .backend import ExportedBackend
from .runtimes import ONNX

MAX_BATCH_SIZE = 32
# How long a request waits for others to share its batch.
QUEUE_DELAY_US = 2000
# What a client needs for its answers, and another training of the network changes: the file has
# that of the newest version, which is the one that Triton serves.
_LABELS = "labels.txt"
_OF_VERSION = ("confidence", "thresholds")
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class Served:
    """A model in a repository.

    Attributes:
        name: name of the model for requests.
        version: its version.
        folder: the folder of the model.
        max_batch_size: largest batch that the server makes of requests; 0 if the file has a fixed
            batch size, of which each request must be one.
    """

    name: str
    version: int
    folder: Path
    max_batch_size: int

    @property
    def model_path(self) -> Path:
        """The ONNX file of this version."""
        return self.folder / str(self.version) / "model.onnx"


def write_repository(
    onnx_path: str | Path, folder: str | Path, *, max_batch_size: int = MAX_BATCH_SIZE
) -> Served:
    """Adds an exported ONNX file to a model repository, as the next version of its model.

    Args:
        onnx_path: a file that `fbnetv3 export` or `fbnetv3 quantize` wrote.
        folder: the repository; it is made if it does not exist.
        max_batch_size: largest batch that the server makes of requests.

    Raises:
        FileNotFoundError: the ONNX file does not exist.
        ValueError: the file was not exported by this package, the folder cannot be written, or it
            has a model of this name with other classes, inputs or preprocessing.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size is {max_batch_size}; expected a whole number from 1")
    exported = ONNX.load(onnx_path, threads=1)
    if exported.artefact.batch_size is not None:
        max_batch_size = 0
    name = re.sub(r"[^\w.-]", "_", exported.artefact.name)
    place, config = Path(folder) / name, _config(exported, name, max_batch_size)
    labels = "".join(f"{label}\n" for label in map(_one_line, exported.class_names))
    before = {"config.pbtxt": config} | ({_LABELS: labels} if labels else {})
    for file, text in before.items():
        if (place / file).exists() and _kept(text) != _kept((place / file).read_text("utf-8")):
            raise ValueError(
                f"{place} has a model with another {file}; give another name (--name) or folder, "
                "or remove it"
            )
    version = 1 + max((int(p.name) for p in place.glob("*") if p.name.isdecimal()), default=0)
    served = Served(name, version, place, max_batch_size)
    try:
        served.model_path.parent.mkdir(parents=True)
        write_atomically(served.model_path, Path(onnx_path).read_bytes())
        for file, text in reversed(before.items()):  # the configuration last
            write_atomically(place / file, text)
    except OSError as error:
        raise ValueError(
            f"cannot write {place}: {error.strerror}; give a folder that is writable"
        ) from error
    return served


def _config(exported: ExportedBackend, name: str, max_batch_size: int) -> str:
    """Returns a `ModelConfig` of Triton in protobuf's text format."""
    (fed,), (found,) = exported.session.inputs, exported.session.outputs
    # Free axes are -1; the batch is not listed where the server makes batches.
    first = 1 if max_batch_size else 0
    dims, logits = (
        ", ".join(str(n) if isinstance(n, int) else "-1" for n in info.shape[first:])
        for info in (fed, found)
    )
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        f"input {{ name: {_quoted(INPUT)} data_type: {_TYPES[fed.dtype]} dims: [ {dims} ] }}",
        f"output {{ name: {_quoted(OUTPUT)} data_type: {_TYPES[found.dtype]} dims: [ {logits} ] "
        + (f"label_filename: {_quoted(_LABELS)} }}" if exported.class_names else "}"),
    ]
    if max_batch_size:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}",
        )
    lines += [
        f"{_parameter(key)}value {{ string_value: {_quoted(value)} }} }}"
        for key, value in _parameters(exported.artefact).items()
    ]
    return "\n".join(lines) + "\n"


def _parameters(artefact: Artefact) -> dict[str, str]:
    """Returns what a client must know, which Triton passes on."""
    pairs = artefact.to_metadata()
    keys = ("input", "license", "preprocess", "source_url", "task", *_OF_VERSION)
    return {key: pairs[f"fbnetv3.{key}"] for key in keys if f"fbnetv3.{key}" in pairs}


def _kept(text: str) -> list[str]:
    """Returns the lines of a file that are the same for all versions."""
    starts = tuple(_parameter(key) for key in _OF_VERSION)
    return [line for line in text.splitlines() if not line.startswith(starts)]


def _parameter(key: str) -> str:
    return f"parameters {{ key: {_quoted(key)} "


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def _one_line(label: str) -> str:
    return " ".join(label.split())
