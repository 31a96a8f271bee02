"""Exported ONNX files under attack: what they say about themselves, and their bytes.

One case in three is metadata alone, the others are whole files that an `OnnxClassifier` opens and
runs on an image where it accepts them.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fbnetv3.arch.arch import Arch, Row
from fbnetv3.deploy.artefact import INPUT, OUTPUT, PREFIX, Artefact
from fbnetv3.deploy.classify import Prediction
from fbnetv3.deploy.onnx_model import OnnxClassifier

from .image import PREPROCESS, SIDE
from .mutate import mutate_bytes, mutate_json

NUM_CLASSES = 4
_JSON_FIELDS: tuple[str, ...] = (
    "arch",
    "labels",
    "preprocess",
    "in_graph",
    "exported_with",
    "parity",
)
_JSON_FIELDS += ("quantization",)
_TEXTS: tuple[str, ...] = (
    "",
    "0",
    "-1",
    "true",
    "null",
    "[]",
    "{}",
    "NaN",
    "9" * 5000,
    "\u0663",
    "1_000",
    "x" * 9000,
)
_TEXTS += ("\x1b[2J", "fbnetv3-artefact/2", "int8", "1e3", "[" * 990 + "]" * 990)
_TOKENS = (b"fbnetv3.", b"\x72", b"\x0a\x00", b"input", b"logits", b"Gemm", b"\xff" * 9, b"{}")


class OnnxTarget:
    """Metadata and files near a real export of a very small network."""

    documented = re.compile(
        r"was not exported by this version of fbnetv3|has damaged metadata .*export it again"
        r"|is not an ONNX file that can be run|is not an image classifier as in its metadata"
        r"|has \d+ class names for|takes images of .* pixels|cannot be run on an input of shape"
        r"|takes .*; (export it with --image-size|give RGB images|images are prepared as RGB)"
    )

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.onnx"
        self._metadata = [_artefact(in_graph).to_metadata() for in_graph in (False, True)]
        self._models = [_model(metadata, n == 1) for n, metadata in enumerate(self._metadata)]
        self._contents = [model.SerializeToString() for model in self._models]
        noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        self._image = Image.fromarray(noise)

    def make(self, draw: Random) -> tuple[str, Any]:
        """Returns the kind of a case, and metadata or a file's content."""
        kind = draw.choices(("metadata", "props", "graph", "bytes"), (30, 20, 25, 25))[0]
        number = draw.randrange(2)
        if kind == "metadata":
            return kind, dict(_mutated(draw, self._metadata[number]))
        if kind == "bytes":
            return kind, mutate_bytes(draw, self._contents[number], _TOKENS)
        model = onnx.ModelProto()
        model.CopyFrom(self._models[number])
        if kind == "graph":
            for _ in range(draw.choice((1, 1, 2, 3))):
                _change_graph(draw, model)
        else:
            del model.metadata_props[:]
            pairs = _mutated(draw, self._metadata[number])
            for key, value in pairs + pairs[: draw.choice((0, 0, 1, 5))]:
                model.metadata_props.add(key=key, value=value)
        return kind, model.SerializeToString()

    def read(self, kind: str, case: Any) -> None:
        """Reads a case and checks what was accepted."""
        if kind == "metadata":
            artefact = Artefact.from_metadata(case, source="case.onnx")
            again = Artefact.from_metadata(artefact.to_metadata(), source="again")
            assert again.to_metadata() == artefact.to_metadata()
            return
        self._path.write_bytes(case)
        classifier = OnnxClassifier(self._path, num_threads=1, num_workers=1)
        assert all(isinstance(name, str) for name in classifier.class_names)
        prediction = classifier(self._image)
        assert isinstance(prediction, Prediction)
        if prediction.error is None:
            assert len(prediction.labels) == min(5, len(classifier.class_names))
            assert 0 < sum(prediction.probabilities) < 1 + 1e-6


def _artefact(in_graph: bool) -> Artefact:
    arch = Arch(
        resolution=SIDE,
        stem_channels=8,
        rows=(Row("a", (3, 3), (2.0, 2.0), 8, 2, 2, True),),
        head_expansion=2.0,
        head_channels=16,
    )
    return Artefact(
        name="tiny",
        arch=arch,
        preprocess=PREPROCESS,
        in_graph=in_graph,
        class_names=("cat", "dog", "caf\u00e9", "ship"),
        weights_tag="",
        weights_sha256="0" * 64,
        license="MIT",
        source_url="https://example.org",
        macs_paper=1000,
        params=100,
        precision="fp32",
        exported_with={"torch": "2.8"},
        parity={"max_error_of_std": 1e-6},
    )


def _model(metadata: dict[str, str], in_graph: bool) -> Any:
    """Returns a network by hand that takes and gives what an exported one does."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((8, 3, 3, 3), np.float32),
        "matrix": rng.standard_normal((NUM_CLASSES, 8), np.float32),
        "bias": np.zeros(NUM_CLASSES, np.float32),
    }
    start, nodes = INPUT, []
    if in_graph:
        nodes.append(helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Transpose", ["float"], ["moved"], perm=[0, 3, 1, 2]))
        start = "moved"
    nodes += [
        helper.make_node("Conv", [start, "kernel"], ["map"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["map"], ["act"]),
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], [OUTPUT], transB=1),
    ]
    kind = TensorProto.UINT8 if in_graph else TensorProto.FLOAT
    shape: list[str | int | None] = ["N", SIDE, SIDE, 3] if in_graph else ["N", 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "fbnetv3",
        [helper.make_tensor_value_info(INPUT, kind, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", NUM_CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    return model


def _mutated(draw: Random, metadata: dict[str, str]) -> list[tuple[str, str]]:
    pairs = dict(metadata)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        key = draw.choice(list(pairs))
        match draw.randrange(6):
            case 0:
                pairs[key] = draw.choice(_TEXTS)
            case 1:
                if draw.random() < 0.3:
                    pairs.pop(key)
            case 2:
                pairs[key + draw.choice((" ", "x"))] = pairs[key]
            case _:
                key = PREFIX + draw.choice(_JSON_FIELDS)
                if key in pairs and _is_json(pairs[key]):
                    # What can just be read may be nested too deeply to be copied or written.
                    with contextlib.suppress(RecursionError):
                        text = mutate_json(draw, json.loads(pairs[key]))
                        pairs[key] = text.encode("utf-8", "replace").decode()
    return list(pairs.items())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _change_graph(draw: Random, model: Any) -> None:
    change = draw.choice((_change_end, _change_end, _change_node, _change_tensor, _change_list))
    change(draw, model)


def _change_end(draw: Random, model: Any) -> None:
    """Changes what the graph says that it takes or gives."""
    ends = [*model.graph.input, *model.graph.output]
    if not ends:
        return
    value = draw.choice(ends)
    kind = value.type.tensor_type
    match draw.randrange(6):
        case 0:
            value.name = draw.choice((INPUT, OUTPUT, "", "other"))
        case 1 | 2 if kind.shape.dim:
            dim = draw.choice(list(kind.shape.dim))
            new = draw.choice(("N", "M", 0, 1, 2, 3, 5, -1, 1 << 31, 1 << 40, None))
            dim.Clear()
            if isinstance(new, str):
                dim.dim_param = new
            elif new is not None:
                dim.dim_value = new
        case 3 if kind.shape.dim:
            del kind.shape.dim[-1]
        case 4:
            kind.shape.dim.add(dim_value=draw.choice((1, 4)))
            if draw.random() < 0.3:
                kind.ClearField("shape")
        case _:
            kind.elem_type = draw.choice((0, 1, 2, 7, 8, 9, 10, 11, 16, 99))


def _change_node(draw: Random, model: Any) -> None:
    """Changes an operator or what it is joined to."""
    if not model.graph.node:
        return
    node = draw.choice(list(model.graph.node))
    names = draw.choice((node.input, node.output))
    if names and draw.random() < 0.5:
        names[0] = draw.choice((INPUT, OUTPUT, "flat", "", "nothing"))
    else:
        node.op_type = draw.choice(("Relu", "Identity", "Softmax", "Nothing", "Shape", "Loop"))


def _change_tensor(draw: Random, model: Any) -> None:
    """Changes a weight: its shape, where it lies, its numbers."""
    if not model.graph.initializer:
        return
    tensor = draw.choice(list(model.graph.initializer))
    match draw.randrange(3):
        case 0 if tensor.dims:
            tensor.dims[0] = draw.choice((0, 1, 3, 5, 1 << 40, -1))
        case 1:
            tensor.data_location = TensorProto.EXTERNAL
            where = draw.choice(("/etc/passwd", "../../etc/passwd", "case.onnx", ""))
            tensor.external_data.add(key="location", value=where)
        case _:
            length = len(tensor.raw_data)
            tensor.raw_data = draw.choice((b"", tensor.raw_data[:-4], b"\xff" * length))


def _change_list(draw: Random, model: Any) -> None:
    """Drops or doubles a part, or changes a version."""
    place = draw.choice(("input", "output", "node", "initializer", "opset", "version"))
    if place == "opset":
        model.opset_import[0].version = draw.choice((0, 1, 7, 13, 22, 99, 1 << 40))
    elif place == "version":
        model.ir_version = draw.choice((0, 1, 3, 99))
    elif held := getattr(model.graph, place):
        if draw.random() < 0.5:
            del held[draw.randrange(len(held))]
        else:
            held.add().CopyFrom(draw.choice(list(held)))
