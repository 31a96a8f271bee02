r"""Every network in every option against torch float32, on photos: error and same top-1.

    python -m benchmarks.release.parity --photos ../shared/data/imagenet_sample_1000.zip \
        --num 1000 --out benchmarks/results/parity.jsonl --work /tmp/parity

Weights are the golden data's, fitted to the photos as far as that needs no labels: batch-norms have
the photos' statistics and the classifier's mean answer is taken off, so that answers, which mean
nothing, differ from photo to photo. Errors are in standard deviations of an image's logits. Options
in bfloat16 are run where the processor computes in it. A stopped run goes on with the networks that
are not in the file. About 15 minutes a network for 1,000 photos on one core, most of it torch's own
part; `--num 100` gives a tenth.
"""

from __future__ import annotations

import argparse
import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.describe import describe
from fbnetv3.deploy.export import to_onnx
from fbnetv3.deploy.parity import error_of_std
from fbnetv3.deploy.runtimes import load, runtime_of
from fbnetv3.deploy.runtimes.openvino import convert, has_bf16
from fbnetv3.hub.verify import golden_tensor
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.images.reader import open_image
from fbnetv3.measure.runners import torch_runner
from fbnetv3.models.model import FBNetV3, build

Run = Callable[[NDArray[Any]], NDArray[Any]]
BATCH = 8


def golden(name: str) -> FBNetV3:
    """Returns a network with the golden data's weights."""
    model = build(ARCHS[name], device="meta")
    state = {
        key: torch.from_numpy(golden_tensor(key, tuple(tensor.shape)))
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def settle(model: FBNetV3, batches: Iterator[NDArray[np.float32]]) -> None:
    """Gives batch-norms the statistics of photos, and the classifier a bias against its mean."""
    x = torch.from_numpy(np.concatenate(list(itertools.islice(batches, 8))))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        model.train()(x)
        classifier = model.eval().get_classifier()
        classifier.bias -= model(x).mean(0)


def photos(path: Path, number: int, preprocess: Preprocess) -> Iterator[NDArray[np.float32]]:
    """Yields batches of the zip's photos, evenly taken, prepared."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.lower().endswith((".jpeg", ".jpg", ".png"))]
        chosen = names[:: max(1, len(names) // number)][:number]
        for start in range(0, len(chosen), BATCH):
            opened = [
                open_image(io.BytesIO(archive.read(name))) for name in chosen[start : start + BATCH]
            ]
            yield np.stack([preprocess(image) for image in opened])


def options_of(model: FBNetV3, artefact: Artefact, work: Path, name: str) -> dict[str, Run]:
    """Returns every option: what it is called, and how it is run."""
    found: dict[str, Run] = {}
    bf16 = has_bf16()
    for backend in ("torch-channels-last", "torch-optimized", *(["torch-bf16"] if bf16 else [])):
        found[backend] = torch_runner(model, backend, threads=1).logits
    files: dict[str, dict[str, Any]] = {
        "onnx": {},
        "onnx batch+size": {"dynamic": "batch+size"},
        "onnx batch 1": {"dynamic": None},
        "onnx fp16": {"precision": "fp16"},
        "onnx preprocess": {"include_preprocess": True},
    }
    for option, arguments in files.items():
        path = work / f"{name} {option}.onnx"
        to_onnx(model, path, preprocess=artefact.preprocess, **arguments)
        found[option] = load(path, threads=1).run_batch
    path = work / f"{name} onnx.onnx"
    xml = path.with_suffix(".xml")
    convert(path, xml)
    for precision in runtime_of(xml).precisions():
        option = "openvino" if precision == "fp32" else f"openvino {precision}"
        found[option] = runtime_of(xml).load(xml, threads=1, precision=precision).run_batch
    return found


def compare(name: str, path: Path, number: int, work: Path) -> list[dict[str, Any]]:
    """Returns a row for each option of a network."""
    model = golden(name)
    artefact = describe(model)
    settle(model, photos(path, number, artefact.preprocess))
    options = options_of(model, artefact, work, name)
    reference = torch_runner(model, "torch", threads=1).logits
    errors: dict[str, list[NDArray[Any]]] = {option: [] for option in options}
    agreed: dict[str, list[NDArray[Any]]] = {option: [] for option in options}
    tops: list[NDArray[Any]] = []
    for batch in photos(path, number, artefact.preprocess):
        expected = reference(batch)
        tops.append(expected.argmax(1))
        for option, run in options.items():
            got = run(batch)
            errors[option].append(error_of_std(got, expected))
            agreed[option].append(got.argmax(1) == expected.argmax(1))
    return [
        {
            "network": name,
            "option": option,
            "max_error_of_std": float(np.concatenate(errors[option]).max()),
            "median_error_of_std": float(np.median(np.concatenate(errors[option]))),
            "top1_agreement_pct": 100 * float(np.concatenate(agreed[option]).mean()),
            "num_photos": sum(map(len, tops)),
            # How many different answers: agreement on one single answer would prove little.
            "num_answers": len(np.unique(np.concatenate(tops))),
        }
        for option in options
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Returns rows as a table, a line for each option: greatest error and agreement of each."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["network"], row["option"]): row for row in rows}
    photos_of = {row["num_photos"] for row in rows}
    answers = [row["num_answers"] for row in rows]
    out = [
        f"On {' or '.join(f'{n:,}' for n in sorted(photos_of))} photos: the greatest error of a "
        "logit against torch float32, in standard deviations of the image's logits, and how often "
        f"the first answer is the same. Torch gave {min(answers)} to {max(answers)} different "
        "answers.",
        "",
        f"| option | {' | '.join(networks)} |",
        "|---" * (1 + len(networks)) + "|",
    ]
    for option in dict.fromkeys(row["option"] for row in rows):
        cells = []
        for network in networks:
            row = found.get((network, option))
            cells.append(
                f"{row['max_error_of_std']:.1e}, {row['top1_agreement_pct']:.1f} %" if row else ""
            )
        out.append(f"| {option} | {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Compares and appends rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=[f"fbnetv3_{x}" for x in "abcdefg"])
    parser.add_argument("--photos", type=Path, required=True, help="zip of photos")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--work", type=Path, required=True, help="folder for exported files")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    done = {row["network"] for row in read_lines(options.out)}
    for name in options.networks:
        if name in done:
            continue
        rows = compare(name, options.photos, options.num, options.work)
        about = conditions()
        append(options.out, ({**row, "conditions": about} for row in rows))
        for row in rows:
            print(
                f"{name:12} {row['option']:20} max {row['max_error_of_std']:.1e} median "
                f"{row['median_error_of_std']:.1e} same top-1 {row['top1_agreement_pct']:.2f} % "
                f"({row['num_photos']} photos, {row['num_answers']} answers)",
                flush=True,
            )
    options.out.with_suffix(".md").write_text(table(read_lines(options.out)))


if __name__ == "__main__":
    main()
