"""The models that are measured on a GPU, and every way of running one, checked before timing."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.latency.networks import OURS, reparameterized, trainable_timm_network
from fbnetv3.arch.tables import ARCHS
from fbnetv3.measure.latency import Contestant
from fbnetv3.measure.runners import Runner, torch_precision, torch_runner
from fbnetv3.models.model import build

from .card import Demand, demand_of

# Images that a backend is checked on, where the batch has fewer.
_MIN_CHECKED = 16
# Most `rms_error` of `agreement_of` by precision. Random networks amplify rounding: bfloat16 gave
# 0.1 to 0.7 on a CPU. Unrelated logits give 1.4; float32 may be TF32, which is as fine as float16.
MAX_ERROR = {"fp32": 0.3, "bf16": 0.9, "fp16": 0.5}


@dataclass(frozen=True)
class Network:
    """A model on the device, with random weights and batch-norms that fit its activations.

    Attributes:
        name: of the architecture.
        side: of the input in pixels.
        device: where the modules are.
        modules: by who made them: "ours", "unfolded" (ours as a module of an unknown kind, whose
            batch-norms `torch_runner` does not fold), "timm" where timm has the model.
        demand: of one image.
    """

    name: str
    side: int
    device: str
    modules: dict[str, nn.Module]
    demand: Demand


def prepare(name: str, device: str, *, side: int | None = None) -> Network:
    """Builds a model and moves it to a device.

    Args:
        name: of one of ours or timm's.
        device: "cuda" or "cpu".
        side: of the input; the model's own unless given.
    """
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = {}
    own_side = ARCHS[name].resolution if name in ARCHS else None
    timms = trainable_timm_network(name)
    if name in ARCHS:
        modules["ours"] = build(ARCHS[name])
    if timms is not None:
        modules["timm"] = timms
        config: Any = timms.default_cfg
        own_side = own_side or int(config["input_size"][1])
    assert own_side is not None
    side = side or own_side
    batch = torch.from_numpy(images(32, side, seed=1)).to(device)
    for whose, module in modules.items():
        _settle(module.to(device), batch)
        modules[whose] = reparameterized(name, module)
    demand = demand_of(next(iter(modules.values())), side)
    if "ours" in modules:
        modules["unfolded"] = nn.Sequential(modules["ours"])
    return Network(name, side, device, modules, demand)


def images(number: int, side: int, *, seed: int) -> NDArray[np.float32]:
    """Returns random images (number, 3, side, side) that differ in coarse and in fine structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 3, 8, 8, generator=generator)
    fine = torch.randn(number, 3, side, side, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=side, mode="bilinear")
    result: NDArray[np.float32] = (smooth + 0.3 * fine).numpy()
    return result


def _settle(module: nn.Module, batch: torch.Tensor) -> None:
    """Gives batch-norms random scales and the statistics of a batch.

    Fresh models start some scales at zero, so that their logits would not depend on the image.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad(), _exact():
        module.train()(batch)
    module.eval()


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Computes in float32 without TF32; cuDNN tries no algorithms, which takes seconds."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def reference(network: Network, whose: str, batch: NDArray[np.float32]) -> NDArray[Any]:
    """Returns logits of a module as it is, in float32 without TF32."""
    with torch.inference_mode(), _exact():
        logits = network.modules[whose](torch.from_numpy(batch).to(network.device))
        result: NDArray[Any] = logits.float().cpu().numpy()
    return result


@dataclass(frozen=True)
class Way:
    """A way of running a model.

    Attributes:
        name: in results.
        whose: of `Network.modules`.
        backend: of `torch_runner`, which also says the precision; of the runner of `make`.
        stage: "plain", "compile", "autotune", "aoti" or "onnxruntime"; measured together.
        make: makes the runner for a batch size.
    """

    name: str
    whose: str
    backend: str
    stage: str = "plain"
    make: Callable[[Network, Way, int], Runner] = lambda network, way, _batch: torch_runner(
        network.modules[way.whose], way.backend, device=network.device, name=way.name
    )

    @property
    def precision(self) -> str:
        """Of weights and arithmetic."""
        return torch_precision(self.backend)

    def left_out(self, network: Network, *, dry_run: bool) -> str | None:
        """Returns why it cannot be measured here, None where it can."""
        if self.whose not in network.modules:
            return f"{self.whose} has no {network.name}"
        if network.device == "cpu" and "cuda-graph" in self.backend:
            return "CUDA graphs need a GPU"
        if dry_run and self.stage != "plain":
            return "a dry run compiles nothing"
        if self.stage == "onnxruntime":
            return _no_provider(_PROVIDERS[self.name])
        return None


@dataclass(frozen=True)
class Checked:
    """A runner whose logits were compared with the reference's.

    Attributes:
        way: that was made.
        runner: to be timed.
        contestant: it, on its batch.
        record: how far the logits are from the reference's, and how long the set-up took.
    """

    way: Way
    runner: Runner
    contestant: Contestant
    record: dict[str, Any]


def images_for(network: Network, batch_size: int) -> NDArray[np.float32]:
    """Returns what the ways of a model are checked on; the first batch of them is timed."""
    return images(max(batch_size, _MIN_CHECKED), network.side, seed=2)


def checked(
    network: Network,
    way: Way,
    batch_size: int,
    batch: NDArray[np.float32],
    expected: NDArray[Any],
) -> Checked:
    """Makes a runner and compares its logits with float32 before it may be timed.

    Args:
        network: to be run.
        way: of running it.
        batch_size: images in one run.
        batch: of `images_for`.
        expected: logits of `reference` for them.

    Raises:
        ValueError: the logits are not finite, or not those of the model.
    """
    start = time.perf_counter()
    runner = way.make(network, way, batch_size)
    runner.prepare()
    with _autotuned() if way.stage == "autotune" else contextlib.nullcontext():
        parts = [runner.logits(batch[:batch_size])]
    setup_s = time.perf_counter() - start
    for first in range(batch_size, len(batch) - batch_size + 1, batch_size):
        parts.append(runner.logits(batch[first : first + batch_size]))
    agreement = agreement_of(np.concatenate(parts), expected)
    if agreement["rms_error"] > MAX_ERROR[way.precision]:
        raise ValueError(f"its logits are not those of float32: {agreement}")
    compiled = way.stage in ("compile", "autotune", "aoti")
    record = {
        **agreement,
        "setup_s": setup_s,
        "compile_s": setup_s if compiled else None,
    }
    return Checked(way, runner, runner.contestant(batch[:batch_size]), record)


def agreement_of(got: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Returns how far logits (N, K) are from the expected ones.

    The median over the images is taken off both: it does not depend on the image and would hide
    what does. Medians, since a few images excite a random network far more than the others.
    "rms_error" is the root mean square of the differences in units of that of the expected logits.

    Raises:
        ValueError: a logit is not finite, or the expected ones do not depend on the image.
    """
    if not np.isfinite(got).all():
        raise ValueError(f"{(~np.isfinite(got)).mean():.0%} of its logits are not finite")
    expected = expected[: len(got)].astype(np.float64)
    centre = np.median(expected, 0)
    spread = _typical(expected - centre)
    if not spread > 1e-3 * float(np.median(np.abs(expected))):
        raise ValueError("the logits do not depend on the image; nothing can be compared")
    difference = got - expected
    same = (got - centre).argmax(1) == (expected - centre).argmax(1)
    return {
        "max_abs_diff": float(np.abs(difference).max()),
        "rms_error": _typical(difference) / spread,
        "agreement_pct": 100 * float(same.mean()),
        "num_checked": len(got),
    }


def _typical(differences: NDArray[Any]) -> float:
    """Returns the root mean square over the logits of an image, in the median of the images."""
    return float(np.median(np.sqrt((differences**2).mean(1))))


def _autotuned() -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which whatever compiles is tuned as `mode="max-autotune"` does.

    The mode's own CUDA graphs copy each input; the runner captures one instead.
    """
    import torch._inductor as inductor
    from torch._inductor import config

    options: Any = inductor.list_mode_options("max-autotune-no-cudagraphs")
    patched: contextlib.AbstractContextManager[Any] = config.patch(options)
    return patched


def _aot_inductor(network: Network, way: Way, batch_size: int) -> Runner:
    """Returns the folded model as a compiled package, which C++ can load without Python."""
    import torch._inductor as inductor

    from fbnetv3.models.inference import fold_batch_norm
    from fbnetv3.models.model import FBNetV3

    module = network.modules[way.whose]
    assert isinstance(module, FBNetV3)
    folded = fold_batch_norm(module).to(torch.bfloat16).to(memory_format=torch.channels_last)

    def placed(batch: NDArray[Any]) -> torch.Tensor:
        x = torch.from_numpy(batch).to(network.device, torch.bfloat16)
        return x.contiguous(memory_format=torch.channels_last)

    x = placed(images(batch_size, network.side, seed=0))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        program = torch.export.export(folded, (x,))
        path = inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        run: Any = inductor.aoti_load_package(path)

    def timed(batch: NDArray[Any]) -> Callable[[], object]:
        x = placed(batch)
        return lambda: run(x)

    return Runner(
        name=way.name,
        threads=None,
        logits=lambda batch: run(placed(batch)).float().cpu().numpy(),
        timed=timed,
        prepare=lambda: None,
        cuda=network.device != "cpu",
    )


_PROVIDERS = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}


def _no_provider(provider: str) -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    import onnxruntime

    has = provider in onnxruntime.get_available_providers()
    return None if has else f"onnxruntime {onnxruntime.__version__} has no {provider}"


def _onnxruntime(network: Network, way: Way, batch_size: int) -> Runner:
    """Returns the exported model in onnxruntime, input and output on the device.

    A run ends when the GPU is done, so that it is timed with the CPU's clock.
    """
    import copy

    import onnxruntime

    from fbnetv3.deploy.export import to_onnx
    from fbnetv3.models.model import FBNetV3

    module = network.modules[way.whose]
    assert isinstance(module, FBNetV3)
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(copy.deepcopy(module).cpu(), Path(folder) / "model.onnx").path
        session = onnxruntime.InferenceSession(
            str(path), providers=[_PROVIDERS[way.name], "CPUExecutionProvider"]
        )
    (taken,), (given,) = session.get_inputs(), session.get_outputs()

    def bound(batch: NDArray[Any]) -> Any:
        binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(batch, network.device, 0)
        binding.bind_ortvalue_input(taken.name, value)
        binding.bind_output(given.name, network.device)
        return binding

    def logits(batch: NDArray[Any]) -> NDArray[Any]:
        binding = bound(batch)
        session.run_with_iobinding(binding)
        found: NDArray[Any] = binding.copy_outputs_to_cpu()[0]
        return found

    def timed(batch: NDArray[Any]) -> Callable[[], object]:
        binding = bound(batch)
        return lambda: session.run_with_iobinding(binding)

    return Runner(way.name, None, logits, timed, prepare=lambda: None)


_GRAPH, _COMPILED_GRAPH = "torch-cuda-graph-bf16", "torch-compile-cuda-graph-bf16"
WAYS = (
    # name, whose, backend, stage
    Way("timm", "timm", "torch"),
    Way("timm-bf16", "timm", "torch-bf16"),
    Way("timm-cuda-graph-bf16", "timm", _GRAPH),
    Way("torch", "ours", "torch"),
    Way("unfolded-bf16", "unfolded", "torch-bf16"),
    Way("torch-bf16", "ours", "torch-bf16"),
    Way("torch-fp16", "ours", "torch-fp16"),
    Way("torch-cuda-graph", "ours", "torch-cuda-graph"),
    Way(_GRAPH, "ours", _GRAPH),
    Way("torch-compile-bf16", "ours", "torch-compile-bf16", "compile"),
    Way(_COMPILED_GRAPH, "ours", _COMPILED_GRAPH, "compile"),
    Way("timm-compile-cuda-graph-bf16", "timm", _COMPILED_GRAPH, "compile"),
    Way("torch-autotune-cuda-graph-bf16", "ours", _COMPILED_GRAPH, "autotune"),
    Way("timm-autotune-cuda-graph-bf16", "timm", _COMPILED_GRAPH, "autotune"),
    Way("aotinductor-bf16", "ours", "torch-bf16", "aoti", _aot_inductor),
    Way("onnxruntime-cuda", "ours", "torch", "onnxruntime", _onnxruntime),
    Way("onnxruntime-tensorrt", "ours", "torch", "onnxruntime", _onnxruntime),
)
# The first of these that a model has is what its speed-up is over, in float32 and in bfloat16.
BASELINES = {"fp32": ("timm", "torch"), "bf16": ("timm-bf16", "unfolded-bf16")}


def ways_of(name: str, stage: str) -> list[Way]:
    """Returns the ways of a stage that make sense for a model; peers are timm's alone."""
    return [way for way in WAYS if way.stage == stage and (way.whose == "timm" or name in OURS)]
