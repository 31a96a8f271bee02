"""Latency of A..G and of what a user would pick instead, in every backend, side by side.

    python -m benchmarks.latency.networks --out benchmarks/results/latency.jsonl --work /tmp/latency

A network is measured in all its backends in turns, at each number of threads. Weights are random:
speed does not depend on them, and accuracy is measured elsewhere. A stopped run goes on with the
networks that are not in the file yet. Needs the extra `openvino` for its rows, and a processor with
bfloat16 for those in bfloat16. About five minutes a network on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.conditions import conditions
from benchmarks.records import append, read_lines
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.runtimes import ONNX, runtime_of
from fbnetv3.deploy.runtimes.openvino import has_bf16
from fbnetv3.measure.latency import measure
from fbnetv3.measure.roofline import measure_roofline
from fbnetv3.measure.runners import Runner, file_runner, torch_runner
from fbnetv3.models.model import build

OURS = tuple(f"fbnetv3_{letter}" for letter in "abcdefg")
PEERS = (
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_medium",
    "resnet50",
    "repvit_m1_0",
)
TORCH = ("torch", "torch-channels-last", "torch-optimized")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network ready to be measured: as module, as ONNX file, as int8 OpenVINO file."""

    name: str
    side: int
    module: nn.Module
    timm_module: nn.Module | None
    onnx_path: Path
    int8_path: Path | None
    macs: int
    num_bytes: int


def prepare(name: str, work: Path) -> Network:
    """Builds a network with random weights and writes its files, or takes those that are there."""
    torch.manual_seed(0)
    timm_module: nn.Module | None = None
    if name in ARCHS:
        side = ARCHS[name].resolution
        module: nn.Module = build(ARCHS[name])
        timm_module = timm_network(name, side)
    else:
        found = timm_network(name, None)
        assert found is not None
        module, side = found, int(found.default_cfg["input_size"][1])  # type: ignore[index]
    for layer in module.modules():
        # Fresh networks of ours start blocks at zero; zeros have no range to quantise.
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    module.eval()
    onnx_path = work / f"{name}.onnx"
    if not onnx_path.exists():
        export(name, module, side, onnx_path)
    int8_path = int8_of(onnx_path, side)
    return Network(
        name=name,
        side=side,
        module=module,
        timm_module=timm_module,
        onnx_path=onnx_path,
        int8_path=int8_path,
        macs=count_macs(module, side),
        num_bytes=4 * sum(parameter.numel() for parameter in module.parameters()),
    )


def timm_network(name: str, side: int | None) -> nn.Module | None:
    """Returns timm's own network of that name, where it has one, as it is for inference."""
    made = trainable_timm_network(name)
    return None if made is None else reparameterized(name, made)


def trainable_timm_network(name: str) -> nn.Module | None:
    """Returns timm's own network of that name, where it has one, as it is for training."""
    import timm

    if not timm.is_model(name) or (name in OURS and name[-1] not in "bdg"):
        return None
    made: nn.Module = timm.create_model(name, pretrained=False).eval()
    return made


def reparameterized(name: str, module: nn.Module) -> nn.Module:
    """Returns one of timm's networks with its branches merged, where it has any to merge."""
    if not name.startswith("repvit"):
        return module
    from timm.utils.model import reparameterize_model

    merged: nn.Module = reparameterize_model(module)
    return merged


def export(name: str, module: nn.Module, side: int, path: Path) -> None:
    """Writes a module as ONNX: ours with `to_onnx`, timm's with torch's exporter as it is."""
    if name in ARCHS:
        from fbnetv3.deploy.export import to_onnx
        from fbnetv3.models.model import FBNetV3

        assert isinstance(module, FBNetV3)
        to_onnx(module, path)
        return
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, side, side),),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def int8_of(onnx_path: Path, side: int) -> Path | None:
    """Writes an int8 OpenVINO file for its speed; ranges come from noise, accuracy is not meant."""
    path = onnx_path.with_suffix(".xml")
    try:
        import nncf
        import openvino
    except ImportError:
        return None
    if not path.exists():
        rng = np.random.default_rng(0)
        items = [rng.standard_normal((1, 3, side, side), np.float32) for _ in range(8)]
        model = openvino.Core().read_model(str(onnx_path))
        preset = nncf.QuantizationPreset.MIXED
        small = nncf.quantize(model, nncf.Dataset(items), preset=preset, subset_size=8)
        openvino.save_model(small, str(path), compress_to_fp16=False)
    return path


def count_macs(module: nn.Module, side: int) -> int:
    """Returns multiply-adds of convolutions and matrix products for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, 3, side, side, device=next(module.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops()) // 2


def runners_of(network: Network, threads: int | None, *, compiled: bool) -> Iterator[Runner]:
    """Yields the network in every backend at one number of threads."""

    def named(backend: str) -> str:
        return f"{backend}@{threads or 'default'}"

    bf16 = network.int8_path is not None and has_bf16()
    more = (*(("torch-bf16",) if bf16 else ()), *(("torch-compile",) if compiled else ()))
    for backend in (*TORCH, *more):
        yield torch_runner(network.module, backend, threads=threads, name=named(backend))
    if network.timm_module is not None and network.name in OURS:
        yield torch_runner(network.timm_module, "torch", threads=threads, name=named("timm"))
    path = network.onnx_path
    yield file_runner(path, ONNX, threads=threads, name=named("onnxruntime"))
    if network.int8_path is not None:
        openvino = runtime_of(network.int8_path)
        for precision in openvino.precisions():
            name = named("openvino" if precision == "fp32" else f"openvino-{precision}")
            yield file_runner(path, openvino, threads=threads, precision=precision, name=name)
        name = named("openvino-int8")
        yield file_runner(network.int8_path, openvino, threads=threads, name=name)


def measure_network(
    network: Network,
    batch: int,
    *,
    threads: list[int | None],
    compiled: bool,
    min_runs: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Returns a row for each backend and number of threads, all measured in turns."""
    x = np.random.default_rng(0).standard_normal((batch, 3, network.side, network.side), np.float32)
    tried: list[tuple[int | None, Runner]] = [
        (number, runner)
        for number in threads
        for runner in runners_of(network, number, compiled=compiled)
    ]
    found = measure(
        [runner.contestant(x) for _, runner in tried], min_runs=min_runs, max_seconds=seconds
    )
    eager = {
        runner.threads: result.median_ms
        for (_, runner), result in zip(tried, found, strict=True)
        if runner.name.startswith(("timm@", "torch@"))
    }
    rows = []
    for (number, runner), result in zip(tried, found, strict=True):
        rows.append(
            {
                "network": network.name,
                "side": network.side,
                "backend": runner.name.split("@")[0],
                "threads": number,
                "batch": batch,
                "macs": network.macs,
                "params": network.num_bytes // 4,
                "latency": result.to_dict(),
                "speedup_over_eager": eager[number] / result.median_ms,
            }
        )
    return rows


def main() -> None:
    """Measures and appends rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument(
        "--threads",
        nargs="+",
        type=lambda text: None if text == "default" else int(text),
        default=[None, 1, 2],
        help="numbers, or `default` for each backend's own",
    )
    parser.add_argument("--compiled", action="store_true", help="torch.compile too (slow setup)")
    parser.add_argument("--min-runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=90.0, help="for each network and batch")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported files")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, appended to")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["batch"]) for row in read_lines(options.out)}
    for name in options.networks:
        left = [batch for batch in options.batch if (name, batch) not in done]
        if not left:
            continue
        network = prepare(name, options.work)
        for batch in left:
            roofline = measure_roofline(1)
            rows = measure_network(
                network,
                batch,
                threads=options.threads,
                compiled=options.compiled,
                min_runs=options.min_runs,
                seconds=options.seconds,
            )
            about = {"roofline": roofline.to_dict(), "environment": conditions()}
            append(options.out, ({**row, **about} for row in rows))
            show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the rows of one network and batch size."""
    for row in sorted(rows, key=lambda row: row["latency"]["median_ms"]):
        latency = row["latency"]
        print(
            f"{row['network']:24} batch {row['batch']:3} threads {row['threads'] or 'default':>7} "
            f"{row['backend']:20} {latency['median_ms']:9.2f} ms "
            f"[{latency['low_ms']:.2f}, {latency['high_ms']:.2f}] "
            f"{row['speedup_over_eager']:6.2f}x  {latency['verdict']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
