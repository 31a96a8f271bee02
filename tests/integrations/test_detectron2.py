"""Detectron2 with our parts. Needs its repository on the Python path; skipped where it lacks.

Last run against commit 02b5c4e295e990042a714712c21dc79b731e8833 (2026-06-06), its plain source tree
with setuptools 81, torch 2.15.0, torchvision 0.29.2:
`pytest tests/integrations/test_detectron2.py -rA`.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

pytest.importorskip(
    "detectron2", reason="detectron2 has no release; put a checkout of it on PYTHONPATH"
)

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import LRScheduler
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads
from detectron2.solver import build_lr_scheduler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints import convert
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.detectron2_backbone import (
    NORMS,
    FBNetV3Backbone,
    FBNetV3BoxHead,
    FBNetV3FPN,
    FBNetV3Res5,
    FBNetV3RPNHead,
    check_pixels,
)
from fbnetv3.integrations.detectron2_config import (
    CONFIGS,
    NMS_READINGS,
    add_fbnetv3_config,
    get_config,
)
from fbnetv3.integrations.detectron2_hooks import EMAHook, Trainer
from fbnetv3.integrations.detectron2_weights import save_weights, zoo_weights
from fbnetv3.integrations.drawn_shapes import draw_shapes
from fbnetv3.integrations.trunk import load_network
from fbnetv3.models.model import FBNetV3

pytestmark = pytest.mark.detectron2
MEMBERS = [f"fbnetv3_{letter}" for letter in "abcdefg"]
PYRAMID = ["res2", "res3", "res4", "res5"]
SIDE = 96


@pytest.fixture
def nano(golden_network: Callable[..., FBNetV3], tmp_path: Path) -> str:
    """A saved network whose batch-norms all do something; returns what loads it."""
    save_pretrained(golden_network(ARCHS["fbnetv3_nano"], num_classes=10), tmp_path / "nano")
    return f"local-dir:{tmp_path / 'nano'}"


def small_config(kind: str) -> Any:
    """A ready configuration with the nano network, for images of `SIDE` pixels."""
    name = {"c4": "faster_rcnn_fbnetv3_a_c4", "fpn": "faster_rcnn_fbnetv3_g_fpn"}.get(
        kind, "mask_rcnn_fbnetv3_g_fpn"
    )
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FBNETV3.ARCH = "fbnetv3_nano"
    # SyncBN trains on GPUs only.
    cfg.MODEL.FBNETV3.NORM = "BN"
    cfg.MODEL.FPN.NORM = ""
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = (
        [[16, 32, 64]] if kind == "c4" else [[8], [16], [32], [64], [128]]
    )
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 200
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 100
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 75
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 128
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 64
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (SIDE,)
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = SIDE
    return cfg


@pytest.fixture
def shapes(tmp_path: Path) -> CocoFolder:
    """Eight drawn images with boxes and masks."""
    rng = np.random.default_rng(0)
    return CocoFolder(draw_shapes(tmp_path / "shapes", side=SIDE, rng=rng), masks=True)


def batch_of(shapes: CocoFolder) -> list[dict[str, Any]]:
    """The images as Detectron2's data loader gives them."""
    batch = []
    for image, target in (shapes[n] for n in range(len(shapes))):
        truth = Instances((SIDE, SIDE))
        truth.gt_boxes = Boxes(target["boxes"])
        truth.gt_classes = target["labels"] - 1
        truth.gt_masks = BitMasks(target["masks"].bool())
        batch.append(
            {"image": image * 255, "instances": truth, "image_id": int(target["image_id"])}
        )
    return batch


def score(model: nn.Module, shapes: CocoFolder, batch: list[dict[str, Any]]) -> float:
    """AP50 of a model on the images."""
    with torch.no_grad():
        outputs = model.eval()([{"image": item["image"]} for item in batch])
    found = {
        item["image_id"]: {
            "boxes": output["instances"].pred_boxes.tensor,
            "labels": output["instances"].pred_classes + 1,
            "scores": output["instances"].scores,
        }
        for item, output in zip(batch, outputs, strict=True)
    }
    return shapes.score(found)["AP50"]


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("padding", ["same", "faithful"])
def test_the_pyramid_fits_every_network_at_odd_sizes(name: str, padding: str) -> None:
    trunk = FBNetV3Backbone(arch=name, out_features=PYRAMID, padding=padding)
    pyramid = FBNetV3FPN(
        bottom_up=trunk, in_features=PYRAMID, out_channels=16, top_block=LastLevelMaxPool()
    ).eval()
    shapes = pyramid.output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32, 64]
    with torch.no_grad():
        for height, width in ((97, 123), (65, 250)):
            maps = pyramid(torch.zeros(1, 3, height, width))
            assert list(maps) == list(shapes)
            sizes = list(trunk.trunk.sizes(height, width).values())
            if padding == "same":
                assert sizes == [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
            assert [tuple(x.shape[-2:]) for x in maps.values()][:4] == sizes
            assert all(maps[key].shape[1] == shape.channels for key, shape in shapes.items())


def test_the_pyramid_is_detectron2s_where_maps_double() -> None:
    trunk = FBNetV3Backbone(arch="fbnetv3_nano", out_features=PYRAMID)
    both = [
        kind(bottom_up=trunk, in_features=PYRAMID, out_channels=16, top_block=LastLevelMaxPool())
        for kind in (FBNetV3FPN, FPN)
    ]
    both[1].load_state_dict(both[0].state_dict())
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(*(pyramid.eval()(x).values() for pyramid in both), strict=True):
        assert torch.equal(ours, theirs)


def test_detectron2s_own_pyramid_fails_on_the_published_paddings() -> None:
    trunk = FBNetV3Backbone(arch="fbnetv3_a", out_features=PYRAMID, padding="faithful")
    theirs = FPN(bottom_up=trunk, in_features=PYRAMID, out_channels=16)
    with pytest.raises(RuntimeError, match="must match"):
        theirs(torch.zeros(1, 3, 256, 256))


@pytest.mark.parametrize("norm", NORMS)
def test_no_norm_loses_an_activation_or_moves_the_output(norm: str, nano: str) -> None:
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    made = [
        FBNetV3Backbone(arch=nano, out_features=PYRAMID, norm=kind, pretrained=True).eval()
        for kind in ("BN", norm)
    ]
    acts = [sum(isinstance(m, nn.Hardswish) for m in model.modules()) for model in made]
    assert acts[0] == acts[1] > 20
    with torch.no_grad():
        for expected, got in zip(*(model(x).values() for model in made), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_frozen_layers_move_no_output_even_in_training(freeze_at: int, nano: str) -> None:
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    arguments: dict[str, Any] = {"arch": nano, "out_features": PYRAMID, "pretrained": True}
    plain = FBNetV3Backbone(**arguments).eval()
    frozen = FBNetV3Backbone(**arguments, freeze_at=freeze_at).train()
    got = frozen(x)
    for level, (name, expected) in enumerate(plain(x).items(), start=2):
        if level <= freeze_at:
            torch.testing.assert_close(
                got[name], expected, rtol=1e-4, atol=1e-4 * float(expected.std())
            )
    trainable = {name for name, p in frozen.named_parameters() if p.requires_grad}
    assert ("trunk.stem.conv.weight" in trainable) == (freeze_at == 0)
    assert bool(trainable) == (freeze_at < 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_ready_configurations_build_and_run(name: str) -> None:
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(3, 77, 101) * 255}])
    assert output["instances"].image_size == (77, 101)
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    assert cfg.MODEL.FBNETV3.EMA_DECAY == 0.9998
    # A dump and a merge give the same values, tuples being lists then.
    again = get_cfg()
    add_fbnetv3_config(again)
    read = type(cfg).load_cfg
    again.merge_from_other_cfg(read(cfg.dump()))
    assert read(again.dump()) == read(cfg.dump())


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("retinanet")])
def test_training_constants_are_the_papers(name: str) -> None:
    cfg = get_config(name)
    assert cfg.SOLVER.BASE_LR == 0.16
    # Detectron2's 3x schedule: 270 000 steps of 16 images.
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == 270_000 * 16
    assert cfg.MODEL.FBNETV3.NORM == "SyncBN"
    cfg.MODEL.DEVICE = "cpu"
    norms = [m for m in build_model(cfg).modules() if isinstance(m, _BatchNorm)]
    assert len(norms) > 80
    assert {type(m) for m in norms} == {nn.SyncBatchNorm}


def test_the_paper_s_nms_is_a_named_reading() -> None:
    name = "faster_rcnn_fbnetv3_a_c4"
    assert get_config(name).MODEL.RPN.POST_NMS_TOPK_TEST == 75
    assert get_config(name, nms="threshold").MODEL.RPN.NMS_THRESH == 0.75
    assert get_config(name, nms="detections").TEST.DETECTIONS_PER_IMAGE == 75
    with pytest.raises(ValueError, match=r"expected one of proposals, threshold"):
        get_config(name, nms="boxes")
    assert set(NMS_READINGS) == {"proposals", "threshold", "detections", "default"}
    with pytest.raises(ValueError, match="unknown configuration 'faster_rcnn'"):
        get_config("faster_rcnn")


def test_a_configuration_names_weights_of_a_given_license() -> None:
    for name, weights in {
        "faster_rcnn_fbnetv3_b_c4": "fbnetv3_b.ra2_in1k",
        "faster_rcnn_fbnetv3_d_c4": "fbnetv3_d.ra2_in1k",
        "mask_rcnn_fbnetv3_g_fpn": "fbnetv3_g.ra2_in1k",
    }.items():
        assert f"fbnetv3://{weights}" == get_config(name, license="commercial").MODEL.WEIGHTS
        assert get_config(name).MODEL.WEIGHTS.endswith(".meta_in1k")
    with pytest.raises(ValueError, match=r"another configuration: faster_rcnn_fbnetv3_b_c4"):
        get_config("faster_rcnn_fbnetv3_a_c4", license="commercial")
    with pytest.raises(ValueError, match="license is 'mine'; expected 'commercial' or one of"):
        get_config("faster_rcnn_fbnetv3_g_fpn", license="mine")


def test_d2gos_names_are_the_same_maps() -> None:
    cfg = small_config("c4")
    cfg.MODEL.FBNETV3.OUT_FEATURES = ["trunk3"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["trunk3"]
    model = build_model(cfg)
    assert model.backbone.output_shape()["trunk3"] == ShapeSpec(channels=64, stride=16)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
    ],
)
def test_statistics_of_another_kind_are_refused(key: str, value: Any) -> None:
    cfg = small_config("c4")
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=r"the weights expect 'RGB', \[123.675, 116.28, 103.53\]"):
        build_model(cfg)
    cfg.MODEL.FBNETV3.CHECK_PIXELS = False
    build_model(cfg)


def test_detectron2s_defaults_are_refused() -> None:
    cfg = get_cfg()
    with pytest.raises(ValueError, match="Call add_fbnetv3_config"):
        check_pixels(cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ARCH", "fbnetv3_h", "unknown model 'fbnetv3_h'; did you mean"),
        ("OUT_FEATURES", ["res6"], "there is no 'res6'"),
        ("NORM", "LN", "norm is 'LN'; expected one of BN, SyncBN"),
        ("PADDING", "valid", "expected 'same' or 'faithful'"),
        ("CHECKPOINT", "/nowhere/x.pth", "/nowhere/x.pth"),
    ],
)
def test_wrong_settings_say_what_is_expected(key: str, value: Any, message: str) -> None:
    cfg = small_config("c4")
    cfg.merge_from_list([f"MODEL.FBNETV3.{key}", value])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_model(cfg)


def test_heads_of_the_bare_trunk_refuse_a_pyramid() -> None:
    cfg = small_config("fpn")
    cfg.MODEL.ROI_BOX_HEAD.NAME = "build_fbnetv3_box_head"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p4"]
    with pytest.raises(ValueError, match="expected different names out of"):
        build_model(cfg)
    with pytest.raises(ValueError, match="in_channels is 128; the row of 'res4' is 64 wide"):
        FBNetV3RPNHead(in_channels=128, num_anchors=3, arch="fbnetv3_nano")


def test_weights_are_a_zoo_name_away(
    golden_network: Callable[..., FBNetV3], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The official file, as it would lie in the cache after a download, but of random numbers.
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    monkeypatch.setattr("fbnetv3.hub.cached_weights.check_meaning", lambda *_: None)
    model = golden_network(ARCHS["fbnetv3_a"])
    official = convert.from_fbnetv3(model.state_dict(), model.arch, "official")
    torch.save({"model_ema": official}, tmp_path / "fbnetv3_a.meta_in1k.pth")
    cfg = get_config("faster_rcnn_fbnetv3_a_c4")
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg)
    with pytest.warns(UserWarning, match="non-commercial"):
        DetectionCheckpointer(detector).load(cfg.MODEL.WEIGHTS)
    expected = model.state_dict()
    found = 0
    for name, tensor in detector.state_dict().items():
        inner = name.split(".trunk.")[-1].split(".tail.")[-1].split(".repeats.")[-1]
        if inner in expected:
            assert torch.equal(tensor, expected[inner]), name
            found += 1
    parts = (detector.backbone, detector.roi_heads.box_head, detector.proposal_generator.rpn_head)
    assert found > 500
    assert all(any(p is not None for p in part.parameters()) for part in parts)
    assert zoo_weights("fbnetv3_a").name == "fbnetv3_a.meta_in1k.pth"
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    with pytest.raises(ValueError, match="no commercial use"):
        zoo_weights("fbnetv3_a")


def test_weights_are_loaded_as_the_model_is_built(nano: str) -> None:
    cfg = small_config("c4")
    cfg.MODEL.FBNETV3.ARCH, cfg.MODEL.FBNETV3.PRETRAINED = nano, True
    model = build_model(cfg)
    expected = load_network(nano, pretrained=True).state_dict()
    for prefix, part in (
        ("stem.", model.backbone.trunk),
        ("stages.5.", model.roi_heads.box_head.tail),
        ("stages.4.1.", model.proposal_generator.rpn_head.repeats),
    ):
        state = part.state_dict()
        names = [name for name in expected if name.startswith(prefix)]
        assert len(names) > 6
        assert all(torch.equal(state[name], expected[name]) for name in names)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = save_weights(load_network("fbnetv3_e"), tmp_path / "e.pth")
    cfg = get_config("faster_rcnn_fbnetv3_a_c4")
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ValueError, match="belongs to another architecture"):
        DetectionCheckpointer(build_model(cfg)).load(str(path))


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    # What Detectron2's own base configurations name: a pickled dict of arrays of a ResNet.
    path = tmp_path / "R-50.pkl"
    arrays = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "res2_0_branch2a_w": np.ones(3)}
    path.write_bytes(pickle.dumps(arrays))
    with pytest.raises(ValueError, match="the checkpoint has no tensor of the backbone"):
        DetectionCheckpointer(build_model(small_config("c4"))).load(str(path))


def test_lazy_configurations_need_plain_values_only() -> None:
    heads = LazyCall(Res5ROIHeads)(
        num_classes=2,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=LazyCall(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        in_features=["res4"],
        pooler=LazyCall(ROIPooler)(
            output_size=6, scales=(1 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        res5=LazyCall(FBNetV3Res5)(arch="fbnetv3_nano"),
        box_predictor=LazyCall(FastRCNNOutputLayers)(
            input_shape=LazyCall(ShapeSpec)(channels=88),
            box2box_transform=LazyCall(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes=2,
        ),
    )
    trunk = LazyCall(FBNetV3Backbone)(arch="fbnetv3_nano", out_features=["res4"])
    maps = instantiate(trunk)(torch.zeros(1, 3, 64, 64))
    made = instantiate(heads).eval()
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 40.0, 40.0]]))
    proposals.objectness_logits = torch.zeros(1)
    with torch.no_grad():
        (found,), _ = made(None, maps, [proposals])
    assert found.image_size == (64, 64)
    pyramid = LazyCall(FBNetV3FPN)(
        bottom_up=LazyCall(FBNetV3Backbone)(arch="fbnetv3_nano", out_features=PYRAMID),
        in_features="${.bottom_up.out_features}",
        out_channels=16,
        top_block=LazyCall(LastLevelMaxPool)(),
    )
    with torch.no_grad():
        assert list(instantiate(pyramid)(torch.zeros(1, 3, 70, 90))) == [
            "p2",
            "p3",
            "p4",
            "p5",
            "p6",
        ]
    box_head = instantiate(LazyCall(FBNetV3BoxHead)(arch="fbnetv3_nano", norm="FrozenBN"))
    assert box_head.output_shape == ShapeSpec(channels=88)


def test_the_cosine_starts_where_the_warm_up_ends() -> None:
    cfg = get_config("faster_rcnn_fbnetv3_e_c4")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 50, 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], cfg.SOLVER.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for step in range(10):
        assert rates[step] == pytest.approx(0.16 * (0.001 + 0.999 * step / 10), rel=1e-6)
    for step in range(10, 50):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert rates[step] == pytest.approx(0.16 * cosine, abs=1e-6)


class _Seeded(SimpleTrainer):  # type: ignore[misc]  # detectron2 has no types
    """Detectron2 samples boxes with the global generator; a step's seed is its number."""

    def run_step(self) -> None:
        torch.manual_seed(self.iter)
        super().run_step()


def _trainer(cfg: Any, batch: list[dict[str, Any]], folder: Path) -> tuple[Any, EMAHook, Any]:
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    trainer = _Seeded(model, itertools.repeat(batch[:2]), optimizer)
    ema = EMAHook(model, 0.9)
    schedule = build_lr_scheduler(cfg, optimizer)
    trainer.register_hooks([ema, LRScheduler(optimizer, schedule)])
    checkpointer = DetectionCheckpointer(
        model, str(folder), trainer=trainer, optimizer=optimizer, schedule=schedule
    )
    return trainer, ema, checkpointer


def test_a_resumed_run_is_the_run_that_was_not_stopped(shapes: CocoFolder, tmp_path: Path) -> None:
    cfg = small_config("c4")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 4, 1
    batch = batch_of(shapes)
    whole, whole_ema, _ = _trainer(cfg, batch, tmp_path)
    whole.train(0, 4)
    first, _, checkpointer = _trainer(cfg, batch, tmp_path)
    first.train(0, 2)
    checkpointer.save("two")
    second, second_ema, checkpointer = _trainer(cfg, batch, tmp_path)
    checkpointer.resume_or_load("", resume=True)
    second.train(2, 4)
    for expected, got in (
        (whole.model.state_dict(), second.model.state_dict()),
        (whole_ema.model.state_dict(), second_ema.model.state_dict()),
    ):
        assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    moved = [not torch.equal(a, b) for a, b in zip(*map(_weights, (first, second)), strict=True)]
    assert sum(moved) > 50


def _weights(trainer: Any) -> Iterator[Tensor]:
    return iter(trainer.model.parameters())


def test_the_average_is_the_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    hook = EMAHook(model, 0.5)
    hook.trainer = type("Trainer", (), {"iter": 0})()
    nn.init.constant_(model.weight, 8.0)
    hook.before_train()
    for value in (4.0, 2.0):
        nn.init.constant_(model.weight, value)
        hook.after_step()
    # ((8 + 4) / 2 + 2) / 2
    assert hook.model.get_parameter("weight").item() == 4.0
    with pytest.raises(ValueError, match=r"decay is 1\.0; expected a number between 0 and 1"):
        EMAHook(model, 1.0)


def test_bf16_and_checkpointed_rows_train(shapes: CocoFolder) -> None:
    cfg = small_config("c4")
    cfg.MODEL.FBNETV3.GRAD_CHECKPOINTING = True
    model = build_model(cfg).train()
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        losses = model(batch_of(shapes)[:2])
    total = sum(losses.values())
    total.backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["c4", "fpn", "mask"])
def test_eight_images_are_learnt_by_heart(kind: str, shapes: CocoFolder) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(kind)).train()
    batch = batch_of(shapes)
    steps = 200
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    losses = []
    with EventStorage():
        for _ in range(steps):
            parts = model(batch)
            loss = sum(parts.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    ap50 = score(model, shapes, batch)
    print(f"{kind}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, AP50 {ap50:.3f}")
    assert losses[-1] < losses[0] / 10
    assert ap50 > 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_trainer_trains_evaluates_and_saves_the_average(tmp_path: Path) -> None:
    from detectron2.data.datasets import register_coco_instances

    folder = draw_shapes(tmp_path / "coco", side=SIDE, num_images=4, rng=np.random.default_rng(1))
    name = f"shapes_{tmp_path.name}"
    register_coco_instances(name, {}, str(folder / "annotations.json"), str(folder / "images"))
    cfg = small_config("c4")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 2, 3, 1
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert "AP50" in trainer._last_eval_results["bbox"]
    saved = torch.load(tmp_path / "out" / "ema" / "model.pth", weights_only=True)["model"]
    average = trainer.ema.model.state_dict()
    assert all(torch.equal(saved[key], tensor) for key, tensor in average.items())
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
