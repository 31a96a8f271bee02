"""The metadata of an exported file: architecture, weights, classes, preprocessing, parity.

They are stored as strings in the metadata of an ONNX file (keys `fbnetv3.*`) or the runtime info of
an OpenVINO file, so that the file can be used alone. This file needs neither torch nor onnx, and
opens no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fbnetv3._internal.json_record import read_json
from fbnetv3._internal.messages import one_line, shown
from fbnetv3.arch.arch import Arch
from fbnetv3.hub.confidence import Confidence
from fbnetv3.images.preprocess import Preprocess

from .multi_label import checked_thresholds

SCHEMA = "fbnetv3-artefact/1"
# That of the room `detection`, in any version.
DETECTOR_SCHEMA = "fbnetv3-detector-file"
PREFIX = "fbnetv3."
INPUT, OUTPUT = "input", "logits"
SINGLE_LABEL, MULTI_LABEL = "image-classification", "multi-label-classification"
# Of a model without a classifier.
FEATURES = "image-feature-extraction"
_JSON_NAMES = {bool: "true or false", dict: "a JSON object", list: "a list"}


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """The metadata of an exported model.

    Attributes:
        name: name of the model, such as "fbnetv3_e.meta_in1k"; of a saved one that of its folder.
        arch: its architecture.
        preprocess: preprocessing of images.
        in_graph: whether the graph scales and normalises: the input is then uint8 (N, H, W, 3),
            else float32 (N, 3, H, W).
        class_names: class names in the order of the logits; empty if unknown.
        weights_tag: tag of the published weights; empty for the user's own.
        weights_sha256: SHA-256 of the weights' file, or of the tensors if there was none.
        license: SPDX name of the weights' licence; empty if unknown.
        source_url: page that published the weights; of your own, the ones they were trained from.
        macs_paper: MACs (multiply-adds) of one image in the paper's convention.
        params: number of parameters before batch-norm was folded.
        precision: "fp32", "fp16", "bf16" or "int8".
        exported_with: tool -> version.
        parity: figures of the comparison with the original model.
        quantization: settings of the quantization; empty if the file is not quantized.
        num_classes: number of logits; 0 for `FEATURES`, or if the file does not state it.
        batch_size: the only batch size that the file takes; None for any.
        task: `SINGLE_LABEL`, `MULTI_LABEL` with a score of its own for each class, or `FEATURES`.
        thresholds: score from which an image has each class, for `MULTI_LABEL`; else empty.
        confidence: temperature and threshold of the answers; None if they were not fitted.
    """

    name: str
    arch: Arch
    preprocess: Preprocess
    in_graph: bool
    class_names: tuple[str, ...]
    weights_tag: str
    weights_sha256: str
    license: str
    source_url: str
    macs_paper: int
    params: int
    precision: str
    exported_with: Mapping[str, str]
    parity: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    batch_size: int | None = None
    task: str = SINGLE_LABEL
    thresholds: tuple[float, ...] = ()
    confidence: Confidence | None = None

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.task == MULTI_LABEL

    def need_classes(self, source: str) -> None:
        """Refuses the model of a file, `source`, that has no classifier.

        Raises:
            ValueError: the file gives features.
        """
        if self.task == FEATURES:
            raise ValueError(
                f"{source} gives features of an image and no classes, as its model has no "
                "classifier; fbnetv3.deploy.runtimes.load(FILE).run_batch() returns them"
            )

    def to_metadata(self) -> dict[str, str]:
        """Returns the record as string pairs, sorted by key."""
        layout = "NHWC uint8 0..255" if self.in_graph else "NCHW float32"
        fields = {
            "schema": SCHEMA,
            "name": self.name,
            "arch": _compact(self.arch.to_dict()),
            "arch_sha256": self.arch.sha256,
            "weights_tag": self.weights_tag,
            "weights_sha256": self.weights_sha256,
            "license": self.license,
            "source_url": self.source_url,
            "task": self.task,
            "labels": _compact(list(self.class_names)),
            "preprocess": _compact(self.preprocess.to_dict()),
            "num_classes": str(self.num_classes),
            "batch_size": _compact(self.batch_size),
            "input": _compact({"layout": layout, "channel_order": "RGB"}),
            "in_graph": _compact(self.in_graph),
            "macs_paper": str(self.macs_paper),
            "params": str(self.params),
            "precision": self.precision,
            "exported_with": _compact(dict(self.exported_with)),
            "parity": _compact(dict(self.parity)),
            "quantization": _compact(dict(self.quantization)),
        }
        if self.multi_label:
            fields["thresholds"] = _compact(list(self.thresholds))
        if self.confidence is not None:
            fields["confidence"] = _compact(self.confidence.to_dict())
        return {PREFIX + key: fields[key] for key in sorted(fields)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], *, source: str) -> Artefact:
        """Returns the record that `to_metadata` wrote; other keys are ignored.

        Args:
            metadata: the file's string pairs.
            source: name of the file, for messages.

        Raises:
            ValueError: the file was not exported by this package, or a field is damaged.
        """
        schema = metadata.get(PREFIX + "schema")
        if schema != SCHEMA:
            found = f"schema {shown(schema)}" if schema else "no fbnetv3 metadata"
            cure = "export it with `fbnetv3 export`"
            if schema and schema.startswith(DETECTOR_SCHEMA):
                raise ValueError(
                    f"{source} is a detector; `fbnetv3 detect` has the commands for it, such as "
                    "`fbnetv3 detect predict`"
                )
            if not schema:
                cure += (
                    ', or give fbnetv3.Classifier its preprocessing and class names: see "Files of '
                    'other tools" in docs/tutorials/deploy.md'
                )
            raise ValueError(
                f"{source} was not exported by this version of fbnetv3 ({found}, expected "
                f"{SCHEMA!r}); {cure}"
            )
        try:
            texts = {k.removeprefix(PREFIX): v for k, v in metadata.items() if k.startswith(PREFIX)}
            arch = Arch.from_json(texts["arch"])
            if arch.sha256 != texts["arch_sha256"]:
                raise ValueError("arch does not match arch_sha256")
            return Artefact(
                name=texts["name"],
                arch=arch,
                preprocess=Preprocess.from_dict(_value(texts, "preprocess", dict)),
                in_graph=_value(texts, "in_graph", bool),
                class_names=_names(texts),
                weights_tag=texts["weights_tag"],
                weights_sha256=texts["weights_sha256"],
                license=texts["license"],
                source_url=texts["source_url"],
                macs_paper=_integer(texts, "macs_paper"),
                params=_integer(texts, "params"),
                precision=texts["precision"],
                exported_with=_value(texts, "exported_with", dict),
                parity=_value(texts, "parity", dict),
                quantization=_value(texts, "quantization", dict),
                # Files of before these fields lack them.
                num_classes=_integer({"num_classes": "0", **texts}, "num_classes"),
                batch_size=_batch_size(texts.get("batch_size", "null")),
                task=texts["task"],
                thresholds=_thresholds(texts, source),
                # Files of earlier versions have none.
                confidence=Confidence.from_dict(_value(texts, "confidence", dict))
                if "confidence" in texts
                else None,
            )
        except (KeyError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(str(error))
            raise ValueError(
                f"{source} has damaged metadata ({reason}); export it again with `fbnetv3 export`"
            ) from error


def _value(texts: Mapping[str, str], key: str, kind: type) -> Any:
    value = read_json(texts[key], key)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {shown(value)}; expected {_JSON_NAMES[kind]}")
    return value


def _names(texts: Mapping[str, str]) -> tuple[str, ...]:
    names = _value(texts, "labels", list)
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"labels has {shown(name)}; expected text")
    return tuple(names)


def _thresholds(texts: Mapping[str, str], source: str) -> tuple[float, ...]:
    if texts["task"] != MULTI_LABEL:
        return ()
    values = _value(texts, "thresholds", list)
    return checked_thresholds(values, len(values), source)


def _batch_size(text: str) -> int | None:
    return None if text == "null" else _integer({"batch_size": text}, "batch_size")


def _integer(texts: Mapping[str, str], key: str) -> int:
    text = texts[key]
    # int() would also accept blanks, underscores and the digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"{key} is {shown(text)}; expected a whole number")
    return int(text)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
