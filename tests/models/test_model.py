"""timm's model contract on our network: everything that timm's own tests ask of a model."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import timm.models
import torch
import torch.nn.functional as F
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.create_act import get_act_layer
from timm.models.mobilenetv3 import MobileNetV3
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # timm re-exports
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.create import create
from fbnetv3.hub.pretrained_cfg import pretrained_cfg
from fbnetv3.models.blocks import DropPath, InvertedResidual
from fbnetv3.models.features import FeatureInfo
from fbnetv3.models.model import FBNetV3, build
from tests.archs import TINY

Make = Callable[..., FBNetV3]


def images(number: int = 2, side: int = 32, channels: int = 3, **kwargs: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(number, channels, side, side, generator=draw).to(**kwargs)


def seeded(arch: Arch = TINY, seed: int = 0, **kwargs: Any) -> FBNetV3:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(arch, **{"num_classes": 10, **kwargs})


@pytest.fixture(scope="module")
def tiny(golden_network: Make) -> FBNetV3:
    """A network in which every block and norm does something; not to be changed."""
    return golden_network(TINY, num_classes=10)


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(x)
    return found


@pytest.mark.parametrize(
    "method",
    [
        "forward_features",
        "forward_head",
        "forward_intermediates",
        "prune_intermediate_layers",
        "get_classifier",
        "reset_classifier",
        "group_matcher",
        "set_grad_checkpointing",
        "as_sequential",
    ],
)
def test_methods_take_what_timms_take(method: str) -> None:
    ours = inspect.signature(getattr(FBNetV3, method)).parameters
    theirs = inspect.signature(getattr(MobileNetV3, method)).parameters
    positions = [name for name in ours if name in theirs]
    assert positions == list(theirs)
    for name, parameter in theirs.items():
        default = None if method == "reset_classifier" else parameter.default
        if parameter.default is not inspect.Parameter.empty:
            assert ours[name].default == default


@pytest.mark.parametrize("name", ARCHS)
def test_every_network_says_what_it_is(name: str) -> None:
    arch = ARCHS[name]
    model = build(arch, device="meta")
    cfg = pretrained_cfg(name, arch, None)
    side = arch.resolution
    x = torch.zeros(1, 3, side, side, device="meta")
    last = model.forward_features(x)
    assert last.shape == (1, model.num_features, *cfg["pool_size"])
    assert model.forward_head(last, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.forward_head(last).shape == (1, model.num_classes) == (1, cfg["num_classes"])
    assert cfg["input_size"] == (model.in_chans, side, side)
    for entry in ("first_conv", "classifier"):
        assert f"{cfg[entry]}.weight" in model.state_dict()
    assert model.default_cfg is model.pretrained_cfg
    assert model.pretrained_model_args == {}


def test_without_classes_the_pooled_features_come_out(tiny: FBNetV3) -> None:
    headless = build(TINY, num_classes=0).eval()
    unpooled = build(TINY, num_classes=0, global_pool="").eval()
    state = {k: v for k, v in tiny.state_dict().items() if not k.startswith("classifier")}
    x = images()
    expected = tiny.forward_head(tiny.forward_features(x), pre_logits=True)
    for model in (headless, unpooled):
        model.load_state_dict(state)
        assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(headless(x), expected)
    assert unpooled(x).shape == (2, 48, 2, 2)
    assert torch.equal(unpooled.forward_features(x), tiny.forward_features(x))


def test_the_steps_are_the_whole(tiny: FBNetV3) -> None:
    x = images()
    features = tiny.forward_features(x)
    pre_logits = tiny.forward_head(features, pre_logits=True)
    assert torch.equal(tiny(x), tiny.forward_head(features))
    assert torch.equal(tiny(x), tiny.get_classifier()(pre_logits))
    assert torch.equal(tiny(x), tiny.as_sequential()(x))


@pytest.mark.parametrize("kind", ["avgmax", "fast", "fastavg", "fastmax", "fastavgmax"])
def test_timms_pooling_is_that_of_timm(kind: str, tiny: FBNetV3) -> None:
    model = copy.deepcopy(tiny)
    model.reset_classifier(10, kind)
    last = model.forward_features(images())
    expected = model.forward_head(SelectAdaptivePool2d(pool_type=kind)(last))
    torch.testing.assert_close(model.forward_head(last), expected)
    torch.testing.assert_close(torch.jit.script(model)(images()), expected)
    assert (model.pool_type, model.head.pool_type) == (kind, kind)


def test_activations_of_timm_are_taken_by_name() -> None:
    model = build(TINY, act_layer="mish")
    assert isinstance(model.stem.act, get_act_layer("mish"))
    prelu = create("fbnetv3_nano", act_layer="prelu")
    assert isinstance(prelu.stem.act, nn.PReLU)


def test_maximum_pooling_takes_the_maximum(tiny: FBNetV3) -> None:
    model = copy.deepcopy(tiny)
    model.reset_classifier(0, "max")
    x = images()
    features = model.forward_features(x)
    assert torch.equal(model(x), model.forward_head(features.amax((2, 3), keepdim=True)))


def test_dropout_acts_before_the_classifier_in_training_only(tiny: FBNetV3) -> None:
    model = copy.deepcopy(tiny)
    model.drop_rate = 0.5
    features = model.forward_features(images(8)).detach()
    kept = model.forward_head(features, pre_logits=True).detach()
    assert torch.equal(kept, tiny.forward_head(features, pre_logits=True))
    model.train()
    dropped = model.forward_head(features, pre_logits=True)
    ratio = (dropped / kept).detach()[kept != 0]
    assert {round(r, 4) for r in ratio.tolist()} == {0.0, 2.0}
    assert 0.4 < float((ratio == 0).float().mean()) < 0.6


def test_stochastic_depth_grows_and_drops_whole_samples_in_training_only() -> None:
    model: Any = seeded(drop_path_rate=0.8)
    blocks = [block for stage in model.stages for block in stage]
    for number, block in enumerate(blocks):
        rate = block.drop_path.rate if isinstance(block.drop_path, DropPath) else 0
        assert rate == pytest.approx(0.8 * number / len(blocks) if block.has_residual else 0)
    block = model.stages[2][1].eval()
    nn.init.ones_(block.project.bn.weight)
    x = torch.rand(400, 24, 2, 2, generator=torch.Generator().manual_seed(1))
    branch = block(x) - x
    assert branch.flatten(1).any(1).all()
    block.drop_path.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        found = block(x) - x
    rate = block.drop_path.rate
    gone = (found == 0).flatten(1).all(1)
    assert rate - 0.1 < float(gone.float().mean()) < rate + 0.1
    torch.testing.assert_close(found[~gone], branch[~gone] / (1 - rate), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_takes_other_channels(channels: int) -> None:
    model = seeded(in_chans=channels).eval()
    assert model.in_chans == channels
    assert outputs(model, images(channels=channels)).shape == (2, 10)


class _Scale(nn.Module):
    """A norm that keeps nothing but a scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@pytest.mark.parametrize(
    ("norm", "kind"), [(partial(nn.GroupNorm, 1), nn.GroupNorm), (_Scale, _Scale)]
)
def test_every_norm_can_be_exchanged(norm: Any, kind: type[nn.Module]) -> None:
    plain, model = build(TINY, device="meta"), seeded(norm_layer=norm)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    count = sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert sum(isinstance(m, kind) for m in model.modules()) == count
    assert outputs(model, images()).isfinite().all()


@pytest.mark.parametrize("act", ["silu", nn.SiLU])
def test_every_activation_can_be_exchanged(act: Any) -> None:
    plain, model = build(TINY, device="meta"), seeded(act_layer=act)

    def count(network: FBNetV3, *kinds: type[nn.Module]) -> int:
        return sum(isinstance(module, kinds) for module in network.modules())

    assert count(plain, nn.Hardswish) > 0
    assert count(plain, nn.ReLU) == 3
    assert count(model, nn.Hardswish, nn.ReLU) == 0
    assert count(model, nn.SiLU) == count(plain, nn.Hardswish, nn.ReLU)
    assert count(model, nn.Hardsigmoid) == 5  # gates stay gates


def test_batch_norms_take_epsilon_and_momentum() -> None:
    norms = [
        module
        for module in build(TINY, device="meta", bn_eps=1e-3, bn_momentum=0.01).modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    usual: Any = build(TINY, device="meta").stem.bn
    assert (usual.eps, usual.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_have_the_type_asked_for(dtype: torch.dtype) -> None:
    model = seeded(dtype=dtype).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert outputs(model, images(dtype=dtype)).dtype == dtype


def test_a_network_on_meta_is_filled_by_loading(tiny: FBNetV3) -> None:
    with torch.device("meta"):
        model = build(TINY, num_classes=10)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    model.load_state_dict(tiny.state_dict(), assign=True)
    assert torch.equal(outputs(model.eval(), images()), outputs(tiny, images()))
    assert all(p.requires_grad for p in model.parameters())


def hooked(model: FBNetV3, x: Tensor) -> list[Tensor]:
    """The outputs of the modules that `feature_info` names, taken by hooks."""
    found: dict[str, Tensor] = {}
    names = model.feature_info.module_name()
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.__setitem__(name, out)
        )
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def test_intermediates_are_the_outputs_of_the_named_modules(tiny: FBNetV3) -> None:
    x = images()
    info = timm.models.FeatureInfo(copy.deepcopy(tiny.feature_info), (0, 1, 2, 3))
    last, features = tiny.forward_intermediates(x)
    assert torch.equal(last, tiny.forward_features(x))
    for feature, expected, channels, reduction in zip(
        features, hooked(tiny, x), info.channels(), info.reduction(), strict=True
    ):
        assert torch.equal(feature, expected)
        assert feature.shape == (2, channels, 32 // reduction, 32 // reduction)
    again, checkpointed = copy.deepcopy(tiny), None
    again.set_grad_checkpointing()
    _, checkpointed = again.forward_intermediates(x)
    assert all(torch.equal(a, b) for a, b in zip(checkpointed, features, strict=True))


@pytest.mark.parametrize(
    ("indices", "expected"),
    [(None, [0, 1, 2, 3]), (2, [2, 3]), ([1], [1]), ((-1, 0), [3, 0]), ([0, 3, 3], [0, 3, 3])],
)
def test_indices_choose_the_intermediates(tiny: FBNetV3, indices: Any, expected: list[int]) -> None:
    x = images()
    every = tiny.forward_intermediates(x, intermediates_only=True)
    found = tiny.forward_intermediates(x, indices=indices, intermediates_only=True)
    assert len(found) == len(expected)
    assert all(torch.equal(a, every[n]) for a, n in zip(found, expected, strict=True))


def test_extra_blocks_number_every_row(tiny: FBNetV3) -> None:
    x = images()
    every = tiny.forward_intermediates(x, intermediates_only=True, extra_blocks=True)
    assert [f.shape[1] for f in every] == [8, 8, 16, 24, 24, 32]
    features = tiny.forward_intermediates(x, intermediates_only=True)
    for feature, depth in zip(features, tiny.feature_info.get("stage"), strict=True):
        assert torch.equal(feature, every[depth])


def test_stopping_early_runs_no_later_row(tiny: FBNetV3) -> None:
    model, ran = copy.deepcopy(tiny), []
    for number, stage in enumerate(model.stages):
        stage.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.forward_intermediates(images(), indices=[1], intermediates_only=True, stop_early=True)
    assert ran == [0, 1]
    ran.clear()
    model.forward_intermediates(images(), indices=[1], intermediates_only=True)
    assert ran == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"indices": [4]}, r"feature indices are \[4\]; there are 4"),
        ({"indices": 5}, "feature indices are 5"),
        ({"indices": 0}, "feature indices are 0"),
        ({"indices": []}, r"feature indices are \[\]"),
        ({"output_fmt": "NLC"}, "output_fmt is 'NLC'; expected 'NCHW'"),
        ({"stop_early": True}, "stop_early needs intermediates_only=True"),
    ],
)
def test_intermediates_that_do_not_exist_are_refused(
    tiny: FBNetV3, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.forward_intermediates(images(), **kwargs)


@pytest.mark.parametrize(
    ("indices", "kept", "rows"), [(1, [3], 5), ([0], [0], 1), ([1, 2], [1, 2], 4), ((-3,), [1], 2)]
)
def test_pruning_keeps_what_the_features_need(
    tiny: FBNetV3, indices: Any, kept: list[int], rows: int
) -> None:
    x = images()
    expected = tiny.forward_intermediates(x, indices=kept, intermediates_only=True)
    model = copy.deepcopy(tiny)
    assert model.prune_intermediate_layers(indices) == kept
    assert len(model.stages) == rows
    assert not any(name.startswith(("head", "classifier")) for name in model.state_dict())
    last, found = model.forward_intermediates(x, indices=kept)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # What is left is a whole model: unpooled, of the last row's width, with its features listed.
    assert torch.equal(model(x), found[-1])
    assert torch.equal(last, found[-1])
    assert model.num_features == model.head_hidden_size == found[-1].shape[1]
    assert len(model.feature_info) == max(kept) + 1
    assert torch.equal(model.as_sequential()(x), found[-1])
    assert outputs(model, x).shape == found[-1].shape
    model.reset_classifier(7, "avg")
    assert model(x).shape == (2, 7)


def test_pruning_may_leave_the_head(tiny: FBNetV3) -> None:
    model, x = copy.deepcopy(tiny), images()
    assert model.prune_intermediate_layers([0, 3], prune_head=False) == [0, 3]
    assert torch.equal(model(x), tiny(x))
    assert model.prune_intermediate_layers([2], extra_blocks=True) == [2]
    assert len(model.stages) == 2
    with pytest.raises(ValueError, match="there are 2 features"):
        model.forward_intermediates(x, indices=[2])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", [{"dtype": torch.float64}, {"device": "meta"}])
def test_a_new_classifier_keeps_device_type_and_mode(training: bool, place: dict[str, Any]) -> None:
    model = build(TINY, num_classes=10, **place).train(training)
    model.reset_classifier(5)
    fresh = model.get_classifier()
    assert isinstance(fresh, nn.Linear)
    assert fresh.weight.shape == (5, 48)
    assert {m.training for m in model.modules()} == {training}
    assert len({(p.device, p.dtype) for p in model.parameters()}) == 1
    x = images(**place)
    assert model(x).shape == (2, 5)


def test_a_new_classifier_keeps_the_pooling_unless_told(tiny: FBNetV3) -> None:
    model, x = copy.deepcopy(tiny), images()
    model.reset_classifier(0, "max")
    pooled = model(x)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    model.reset_classifier(0, "")
    assert model(x).ndim == 4
    with pytest.raises(ValueError, match="give num_classes=0 too, or global_pool='avg'"):
        model.reset_classifier(3)
    model.reset_classifier(3, "avg")
    assert model.num_classes == model(x).shape[1] == 3


@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv2_l3", "fbnetv3_20g"])
@pytest.mark.parametrize("coarse", [False, True])
def test_groups_follow_the_depth_and_hold_every_parameter_once(name: str, coarse: bool) -> None:
    arch = ARCHS[name]
    model = build(arch, device="meta")
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse))
    names = [parameter for group in groups.values() for parameter in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    depth = len(arch.rows) if coarse else sum(row.repeats for row in arch.rows)
    assert list(groups) == list(range(depth + 2))
    assert all(name.startswith("stem.") for name in groups[0])
    place = slice(1, 2 if coarse else 3)  # stages.ROW.BLOCK
    for number in range(1, depth + 1):
        assert len({tuple(name.split(".")[place]) for name in groups[number]}) == 1
    assert all(name.startswith(("head.", "classifier.")) for name in groups[depth + 1])


def test_layer_decay_in_timms_optimizer_spares_the_late_layers() -> None:
    model = seeded()
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=1.0, momentum=0.9, weight_decay=0.1, layer_decay=0.5
    )
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {
        names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]
    }
    decay = {
        names[id(p)]: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert set(scale) == set(names.values())
    assert scale["classifier.weight"] == scale["head.expand.conv.weight"] == 1
    assert scale["stages.4.1.project.conv.weight"] == 0.5
    assert scale["stem.conv.weight"] == 0.5**9
    assert all((decay[name] == 0) == (p.ndim < 2) for name, p in model.named_parameters())


def gradients(model: FBNetV3, x: Tensor) -> dict[str, Tensor]:
    model.train().zero_grad()
    loss: Any = model(x).square().mean()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None for grad in found.values()), found
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def test_all_parameters_get_gradients(tiny: FBNetV3) -> None:
    found = gradients(copy.deepcopy(tiny), images(4))
    for name, grad in found.items():
        assert grad.isfinite().all(), name
        # Batch-norm takes away whatever the stem's bias adds.
        assert grad.any() or name == "stem.conv.bias", name


def test_checkpointing_gives_the_same_gradients(tiny: FBNetV3) -> None:
    x, plain, again = images(4), copy.deepcopy(tiny), copy.deepcopy(tiny)
    again.set_grad_checkpointing()
    ran = []
    again.stages[0].register_forward_pre_hook(lambda *_: ran.append(1))
    expected, found = gradients(plain, x), gradients(again, x)
    assert len(ran) == 2  # once forward, once again for the gradients
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, msg=name)
    again.set_grad_checkpointing(False)
    gradients(again, x)
    assert len(ran) == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_torchscript_gives_the_same_outputs() -> None:
    model = seeded(drop_rate=0.2, drop_path_rate=0.5)
    scripted: Any = torch.jit.script(model)
    assert scripted(images()).shape == (2, 10)  # in training, with everything that drops
    model.eval()
    scripted.eval()
    x = images()
    torch.testing.assert_close(scripted(x), model(x))
    torch.testing.assert_close(scripted.forward_features(x), model.forward_features(x))
    pooled = scripted.forward_head(scripted.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))


def test_fx_traces_the_network_and_takes_its_features(tiny: FBNetV3) -> None:
    x = images()
    traced = torch.fx.symbolic_trace(tiny)
    assert torch.equal(traced(x), tiny(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        assert torch.equal(torch.jit.script(traced)(x), tiny(x))
    assert torch.fx.symbolic_trace(seeded(drop_path_rate=0.5))(x).shape == (2, 10)
    names = tiny.feature_info.module_name()
    found = create_feature_extractor(copy.deepcopy(tiny), return_nodes=names)(x)
    expected = tiny.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(found[name], e) for name, e in zip(names, expected, strict=True))


def test_a_copy_is_equal_and_apart(tiny: FBNetV3) -> None:
    model, x = copy.deepcopy(tiny), images()
    assert torch.equal(model(x), tiny(x))
    assert model.feature_info == tiny.feature_info
    assert isinstance(model.feature_info, FeatureInfo)
    assert model.feature_info.size_at(33, 47) == tiny.feature_info.size_at(33, 47)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert tiny(x).any()


def test_a_state_dict_is_all_there_is(tiny: FBNetV3) -> None:
    model = seeded(seed=3).eval()
    x = images()
    assert not torch.equal(model(x), tiny(x))
    assert not any(model.load_state_dict(tiny.state_dict()))
    assert torch.equal(model(x), tiny(x))


def residual_blocks(model: FBNetV3) -> Iterator[InvertedResidual]:
    for module in model.modules():
        if isinstance(module, InvertedResidual) and module.has_residual:
            yield module


@pytest.mark.parametrize("training", [True, False])
def test_fresh_residual_blocks_are_the_identity(training: bool) -> None:
    blocks = list(residual_blocks(seeded()))
    assert len(blocks) == 5
    for block in blocks:
        x = images(4, side=8, channels=block.project.conv.out_channels)
        assert torch.equal(block.train(training)(x), x)


def test_fresh_weights_are_drawn_as_the_official_ones() -> None:
    model = seeded(ARCHS["fbnetv3_nano"])
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d) or conv.weight.numel() < 5000:
            continue
        if name.endswith("se.expand"):
            bound = 1 / math.sqrt(conv.in_channels)
            assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound
        else:
            fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
            assert float(conv.weight.detach().std()) == pytest.approx(
                math.sqrt(2 / fan_out), rel=0.05
            )
    zeros = [block.project.bn for block in residual_blocks(model)]
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.weight.eq(0 if norm in zeros else 1).all()
            assert norm.bias.eq(0).all()


def test_a_seed_repeats_the_weights() -> None:
    first, again, other = seeded(seed=1), seeded(seed=1), seeded(seed=2)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    for name in ("stem.conv.weight", "classifier.weight"):
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("name", ["fbnetv3_nano", "fbnetv3_a"])
def test_the_first_loss_is_that_of_guessing(name: str) -> None:
    arch = ARCHS[name].small_image(32)
    model = seeded(arch, num_classes=10).train()
    labels = torch.arange(16) % 10
    with torch.no_grad():
        loss = F.cross_entropy(model(images(16)), labels)
    assert float(loss) == pytest.approx(math.log(10), abs=0.15)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": -1}, "num_classes is -1; expected a whole number from 0"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": 10.0}, "num_classes is 10.0"),
        ({"in_chans": 0}, "in_chans is 0; expected a whole number from 1"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0; expected a number of at least 0 and below 1"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
        ({"output_stride": 4}, r"output_stride is 4; expected one of \(8, 16, 32\)"),
        ({"global_pool": "median"}, "global_pool is 'median'; expected one of"),
        ({"global_pool": "catavgmax"}, "global_pool is 'catavgmax'; expected one of"),
        ({"global_pool": ""}, "global_pool is '' with 1000 classes; give num_classes=0"),
        ({"act_layer": "no_act"}, "act_layer is 'no_act'; expected a factory, one of"),
        ({"norm_layer": "bn"}, "norm_layer is 'bn'; expected what makes a layer"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(TINY, device="meta", **kwargs)


def test_an_unknown_argument_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"'drop_rat'; expected those .* did you mean 'drop_rate'"):
        build(TINY, device="meta", drop_rat=0.1)
    with pytest.raises(TypeError, match=r"'pretrain'; .* did you mean 'pretrained'"):
        create("fbnetv3_nano", pretrain=True)


def test_only_a_table_is_built() -> None:
    with pytest.raises(ValueError, match=r"arch is a str; expected fbnetv3\.Arch"):
        build("fbnetv3_a")  # type: ignore[arg-type]  # wrong on purpose
