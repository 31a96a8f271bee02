"""torchvision's detectors and segmentation models on our trunk, and others by timm's contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from fbnetv3.arch.tables import ARCHS
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.integrations.coco_folder import CocoFolder
from fbnetv3.integrations.drawn_shapes import draw_shapes
from fbnetv3.integrations.torchvision_backbone import (
    Options,
    Pyramid,
    deeplab,
    faster_rcnn,
    faster_rcnn_c4,
    lraspp,
    mask_rcnn,
    retinanet,
    ssdlite,
)
from fbnetv3.integrations.trunk import Trunk, load_network
from fbnetv3.models.model import FBNetV3

SMALL: dict[str, Any] = {"min_size": 64, "max_size": 96}
PYRAMID = ["res2", "res3", "res4", "res5"]


@pytest.fixture
def nano(golden_network: Callable[..., FBNetV3], tmp_path: Path) -> str:
    """A saved network whose batch-norms all do something; returns what loads it."""
    save_pretrained(golden_network(ARCHS["fbnetv3_nano"], num_classes=10), tmp_path / "nano")
    return f"local-dir:{tmp_path / 'nano'}"


@pytest.mark.parametrize(
    ("make", "kwargs", "keys"),
    [
        (faster_rcnn, SMALL | {"out_channels": 16}, {"boxes", "labels", "scores"}),
        (
            faster_rcnn,
            SMALL | {"out_channels": 16, "features": ("res4", "res5")},
            {"boxes", "labels", "scores"},
        ),
        (faster_rcnn_c4, SMALL, {"boxes", "labels", "scores"}),
        (retinanet, SMALL | {"out_channels": 16}, {"boxes", "labels", "scores"}),
        (ssdlite, {"size": 64}, {"boxes", "labels", "scores"}),
    ],
)
@pytest.mark.parametrize("padding", ["same", "faithful"])
def test_detectors_run_at_odd_sizes(
    make: Callable[..., nn.Module], kwargs: dict[str, Any], keys: set[str], padding: Any
) -> None:
    model = make("fbnetv3_a", num_classes=3, options=Options(padding=padding), **kwargs).eval()
    with torch.no_grad():
        (output,) = model([torch.rand(3, 61, 83)])
    assert set(output) == keys
    assert output["boxes"].shape == (len(output["scores"]), 4)
    assert (output["labels"] > 0).all()


def test_mask_rcnn_gives_masks() -> None:
    model = mask_rcnn(
        "fbnetv3_nano", num_classes=3, out_channels=16, box_detections_per_img=2, **SMALL
    ).eval()
    with torch.no_grad():
        (output,) = model([torch.rand(3, 61, 83)])
    assert output["masks"].shape[1:] == (1, 61, 83)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_segmentation_gives_a_class_for_each_pixel(output_stride: int) -> None:
    x = torch.rand(2, 3, 61, 83)
    kwargs: dict[str, Any] = {"num_classes": 5, "output_stride": output_stride}
    deep = deeplab("fbnetv3_nano", aux=True, **kwargs).train()(x)
    assert {name: tuple(y.shape) for name, y in deep.items()} == {
        "out": (2, 5, 61, 83),
        "aux": (2, 5, 61, 83),
    }
    assert lraspp("fbnetv3_nano", **kwargs).eval()(x)["out"].shape == (2, 5, 61, 83)


def test_torchvisions_pyramid_takes_the_published_paddings() -> None:
    network = load_network("fbnetv3_a", padding="faithful")
    maps = Pyramid(Trunk(network, PYRAMID), out_channels=8).eval()(torch.zeros(1, 3, 256, 256))
    # mobile-vision's own sizes
    assert [x.shape[-1] for x in maps.values()] == [64, 32, 15, 7]


def test_weights_reach_trunk_and_heads(nano: str) -> None:
    expected = load_network(nano, pretrained=True).state_dict()
    model = faster_rcnn_c4(nano, num_classes=3, pretrained=True)
    for prefix, part in (
        ("stem.", model.backbone.body),
        ("stages.5.", model.roi_heads.box_head.tail),
        ("stages.4.1.", model.rpn.head.repeats),
    ):
        state = part.state_dict()
        names = [name for name in expected if name.startswith(prefix)]
        assert len(names) > 6
        assert all(torch.equal(state[name], expected[name]) for name in names)
    # The proposal head is a copy: training it leaves the trunk alone.
    copied = model.rpn.head.repeats.state_dict()["stages.4.1.expand.conv.weight"]
    own = model.backbone.body.state_dict()["stages.4.1.expand.conv.weight"]
    assert torch.equal(copied, own)
    assert copied.data_ptr() != own.data_ptr()


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
def test_no_norm_moves_the_output(norm: str, nano: str) -> None:
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    plain, other = (
        Options(norm=kind).trunk(Options(norm=kind).network(nano, True), PYRAMID).eval()
        for kind in ("BN", norm)
    )
    with torch.no_grad():
        for expected, got in zip(plain(x).values(), other(x).values(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_frozen_steps_leave_the_rest_to_train() -> None:
    model = faster_rcnn(
        "fbnetv3_nano", num_classes=3, out_channels=16, options=Options(freeze_at=2), **SMALL
    )
    body = model.backbone.body.body
    assert [all(p.requires_grad for p in stage.parameters()) for stage in body.stages] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (faster_rcnn, {"freeze_up_to": 2}, TypeError, "unknown argument 'freeze_up_to'"),
        (mask_rcnn, {"feature": ("res4",)}, TypeError, "unknown argument 'feature'"),
        (retinanet, {"box_nms_thresh": 0.5}, TypeError, "did you mean 'nms_thresh'"),
        (ssdlite, {"min_size": 300}, TypeError, "unknown argument 'min_size'"),
        (deeplab, {"freez_at": 1}, TypeError, "did you mean 'freeze_at'"),
        (lraspp, {"box_nms_thresh": 1}, TypeError, "unknown argument"),
        (faster_rcnn, {"weights": "DEFAULT"}, ValueError, "no published detectors"),
        (faster_rcnn, {"weights_backbone": "IMAGENET1K_V1"}, ValueError, "expected 'DEFAULT'"),
        (faster_rcnn, {"trainable_backbone_layers": 6}, ValueError, "from 0 to 5"),
        (faster_rcnn, {"options": {"freeze_at": 2}}, ValueError, "options is a dict"),
        (faster_rcnn, {"num_classes": 0}, ValueError, "num_classes is 0; expected"),
        (ssdlite, {"num_classes": 1}, ValueError, "from 2, which counts the background"),
        (retinanet, {"num_classes": True}, ValueError, "num_classes is True; expected"),
        (retinanet, {"num_clases": 3}, TypeError, "did you mean 'num_classes'"),
        (mask_rcnn, {"out_channel": 3}, TypeError, "did you mean 'out_channels'"),
        (mask_rcnn, {"out_channels": 0}, ValueError, "out_channels is 0; expected"),
        (deeplab, {"classifier": None}, TypeError, "classifier is given; deeplab makes its own"),
        (lraspp, {"low_channels": 3}, TypeError, "low_channels is given; lraspp makes"),
        (faster_rcnn_c4, {"rpn_head": None}, TypeError, "faster_rcnn_c4 makes its own"),
        (ssdlite, {"size": "a"}, ValueError, "size is 'a'; expected"),
        (ssdlite, {"pretrained": "no"}, ValueError, "pretrained is 'no'; expected True or False"),
        (deeplab, {"license": "commercal"}, ValueError, "'commercal'; expected 'commercial'"),
    ],
)
def test_an_argument_that_would_be_dropped_is_refused(
    make: Callable[..., nn.Module], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make("fbnetv3_nano", **({"num_classes": 3} | arguments))


def test_one_feature_may_be_given_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"out_features is \['layer4'\]; .*there is no 'layer4'"):
        faster_rcnn("fbnetv3_nano", num_classes=3, features="layer4")


def test_fields_of_the_options_may_be_given_by_themselves(nano: str, tmp_path: Path) -> None:
    network = load_network(nano, pretrained=True)
    file = tmp_path / "mine.pt"
    torch.save(network.state_dict(), file)
    model = faster_rcnn("fbnetv3_nano", num_classes=3, out_channels=16, checkpoint=file, **SMALL)
    own = model.backbone.body.body.state_dict()
    name = "stages.4.1.expand.conv.weight"
    assert torch.equal(own[name], network.state_dict()[name])


def test_a_licence_given_by_itself_is_kept() -> None:
    with pytest.raises(ValueError, match="no commercial use"):
        faster_rcnn("fbnetv3_a", num_classes=3, pretrained=True, license="commercial")


def test_trained_weights_are_frozen_as_in_torchvision_unless_told_otherwise(nano: str) -> None:
    def trains(**arguments: Any) -> list[bool]:
        model = faster_rcnn(nano, num_classes=3, out_channels=16, **SMALL, **arguments)
        stages = model.backbone.body.body.stages
        return [any(p.requires_grad for p in stage.parameters()) for stage in stages]

    assert trains(pretrained=True) == [False, False, True, True, True, True]
    assert trains(weights_backbone="DEFAULT") == [False, False, True, True, True, True]
    assert trains(pretrained=True, trainable_backbone_layers=5) == [True] * 6
    assert trains(pretrained=True, trainable_backbone_layers=0) == [False] * 6
    with pytest.warns(UserWarning, match="random weights; give pretrained=True"):
        assert trains() == [True] * 6


def test_a_wrong_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is 'GN'; expected one of BN, SyncBN, FrozenBN"):
        Options(norm="GN")


def test_images_are_normalised_as_in_torchvisions_own_detectors() -> None:
    theirs = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    for ours in (
        faster_rcnn("fbnetv3_nano", num_classes=3, out_channels=16),
        ssdlite("fbnetv3_nano", num_classes=3),
    ):
        assert list(ours.transform.image_mean) == list(theirs.transform.image_mean)
        assert list(ours.transform.image_std) == list(theirs.transform.image_std)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_images_are_learnt_by_heart(tmp_path: Path) -> None:
    folder = draw_shapes(tmp_path, side=96, rng=np.random.default_rng(0))
    shapes = CocoFolder(folder)
    torch.manual_seed(0)
    model = faster_rcnn(
        "fbnetv3_nano",
        num_classes=shapes.num_classes,
        out_channels=32,
        min_size=96,
        max_size=96,
        box_batch_size_per_image=64,
        rpn_batch_size_per_image=64,
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
    ).train()
    items = [shapes[n] for n in range(len(shapes))]
    images, targets = [image for image, _ in items], [target for _, target in items]
    steps = 120
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(model(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        outputs = model.eval()(images)
    found = {int(t["image_id"]): output for t, output in zip(targets, outputs, strict=True)}
    ap50 = shapes.score(found)["AP50"]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, AP50 {ap50:.3f}")
    assert losses[-1] < losses[0] / 10
    assert ap50 > 0.9


def test_a_detector_exports_to_onnx_and_finds_the_same(nano: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = faster_rcnn(nano, num_classes=3, pretrained=True, out_channels=16, **SMALL).eval()
    path = str(tmp_path / "detector.onnx")
    with warnings.catch_warnings():
        # torch's newer exporter does not trace torchvision's detectors.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            ([torch.rand(3, 64, 96)],),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["boxes", "labels", "scores"],
        )
    session = onnxruntime.InferenceSession(path)
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (expected,) = model([image])
    boxes, labels, scores = session.run(None, {"image": image.numpy()})
    assert len(boxes) == len(expected["boxes"]) > 0
    np.testing.assert_array_equal(labels, expected["labels"].numpy())
    np.testing.assert_allclose(boxes, expected["boxes"].numpy(), atol=1e-2)
    np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trunk_exports_to_onnx_at_any_size(nano: str, tmp_path: Path) -> None:
    trunk = Trunk(load_network(nano, pretrained=True), ["res3", "res5"]).eval()
    path = str(tmp_path / "trunk.onnx")
    free = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        trunk,
        (torch.rand(2, 3, 64, 96),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["image"],
        output_names=["res3", "res5"],
        dynamic_shapes={"x": {0: free, 2: free, 3: free}},
    )
    session = onnxruntime.InferenceSession(path)
    x = torch.rand(1, 3, 101, 75)
    with torch.no_grad():
        expected = list(trunk(x).values())
    for got, wanted in zip(session.run(None, {"image": x.numpy()}), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4 * float(wanted.std()))


@pytest.mark.needs("transformers")
def test_transformers_takes_the_network_by_timms_contract() -> None:
    import transformers

    import fbnetv3.timm_models  # noqa: F401  # registers the names

    config = transformers.TimmBackboneConfig(
        backbone="meta_fbnetv3_d",
        out_indices=[1, 2, 3, 4],
        features_only=True,
        use_pretrained_backbone=False,
    )
    model = transformers.TimmBackbone(config).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 96)).feature_maps
    assert [tuple(x.shape[1:]) for x in maps] == [
        (24, 16, 24),
        (40, 8, 12),
        (128, 4, 6),
        (240, 2, 3),
    ]
    assert list(model.channels) == [24, 40, 128, 240]


@pytest.mark.needs("segmentation_models_pytorch")
def test_segmentation_models_pytorch_takes_the_network_by_timms_contract() -> None:
    import segmentation_models_pytorch as smp

    import fbnetv3.timm_models  # noqa: F401  # registers the names

    model = smp.Unet("tu-meta_fbnetv3_d", encoder_weights=None, classes=4).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 4, 64, 96)


@pytest.mark.needs("segmentation_models_pytorch")
@pytest.mark.parametrize(
    "decoder", ["FPN", "DeepLabV3Plus", "PAN", "Linknet", "UnetPlusPlus", "MAnet"]
)
def test_decoders_that_need_halved_maps_take_the_names_for_it(decoder: str) -> None:
    import segmentation_models_pytorch as smp

    import fbnetv3.timm_models  # noqa: F401  # registers the names

    make = getattr(smp, decoder)
    torch.manual_seed(0)
    model = make("tu-same_fbnetv3_a", encoder_weights=None, classes=2).eval()
    other = make("tu-meta_fbnetv3_a", encoder_weights=None, classes=2, pad_type="same").eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(images)
        assert found.shape == (1, 2, 128, 160)
        assert torch.equal(other(images), found)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.filterwarnings("ignore:.*always returns")
@pytest.mark.parametrize(
    "make",
    [faster_rcnn, faster_rcnn_c4, mask_rcnn, retinanet, ssdlite, deeplab, lraspp],
    ids=lambda make: make.__name__,
)
def test_a_scripted_model_finds_the_same(make: Any) -> None:
    torch.manual_seed(0)
    model = make("fbnetv3_nano", num_classes=3).eval()
    scripted: Any = torch.jit.script(model)
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        if make in (deeplab, lraspp):
            found, expected = scripted(images)["out"], model(images)["out"]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            return
        # Scripted detectors return their losses too, as torchvision's own do.
        (found,), (expected,) = scripted([images[0]])[1], model([images[0]])
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-3)
