"""The counts of the paper's COCO detectors equal built modules and the committed result."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import efficientnet_b0, efficientnet_b1

from fbnetv3.integrations.trunk import ProposalHead, RegionHead, Trunk, load_network
from tests.modules import benchmark
from tests.paths import ROOT

SIZE = (200, 333)
# EfficientNet's own: rows end in front of the last 1x1 convolution.
PEERS = {"EfficientNet-B0": efficientnet_b0, "EfficientNet-B1": efficientnet_b1}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    return benchmark("detection.cost")


def cost_of(module: nn.Module, *shape: int) -> tuple[int, int]:
    """Multiply-adds of a real run, each layer's weights at each place of its output; parameters."""
    macs = []

    def add(layer: Any, _: object, output: Tensor) -> None:
        places = output.shape[2:].numel() if output.ndim == 4 else 1
        macs.append(layer.weight.numel() * places)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    x = torch.zeros(1, *shape)
    with torch.no_grad():
        module.eval()([x] if isinstance(module, ProposalHead) else x)
    return sum(macs), sum(p.numel() for p in module.parameters())


def network_of(script: ModuleType, name: str) -> object:
    pairs = [network for pair in script.COMPARISONS["zoo"] for network in pair]
    return next(network for network in pairs if network.name == name)


@pytest.mark.parametrize("name", ["fbnetv3_a", "fbnetv3_e"])
def test_counts_are_those_of_our_detector(script: ModuleType, name: str) -> None:
    cost = script.count(network_of(script, name), *SIZE, 7)
    trunk = Trunk(load_network(name), ["res4"])
    channels = trunk.features[0].channels
    size = trunk.sizes(*SIZE)["res4"]
    proposals = ProposalHead(load_network(name), in_channels=channels, num_anchors=15)
    head = RegionHead(load_network(name))
    boxes = nn.Sequential(head, nn.Linear(head.tail.out_channels, 401))
    assert (cost.trunk.macs, cost.trunk.params) == cost_of(trunk, 3, *SIZE)
    assert (cost.proposals.macs, cost.proposals.params) == cost_of(proposals, channels, *size)
    macs, params = cost_of(boxes, channels, 6, 6)
    assert (cost.boxes.macs, cost.boxes.params) == (7 * macs, params)


@pytest.mark.parametrize("name", PEERS)
def test_counts_are_those_of_torchvisions_efficientnet(script: ModuleType, name: str) -> None:
    cost = script.count(network_of(script, name), *SIZE, 1)
    features = PEERS[name](weights=None).features
    assert (cost.trunk.macs, cost.trunk.params) == cost_of(features[:6], 3, *SIZE)
    boxes = nn.Sequential(
        features[6], features[7], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(320, 401)
    )
    assert (cost.boxes.macs, cost.boxes.params) == cost_of(boxes, 112, 6, 6)
    # All blocks of a row are alike, so that the row's last one, copied, is each block's copy.
    one = cost_of(features[5][-1:], 112, 13, 21)
    last = (112 * 75 * 13 * 21, 112 * 75 + 75)
    repeats = len(features[5])
    assert cost.proposals.macs == repeats * one[0] + last[0]
    assert cost.proposals.params == repeats * one[1] + last[1]


def test_the_papers_shares_come_out(script: ModuleType) -> None:
    found = script.compare()
    saved = found["comparisons"][0]["saved_pct"]
    assert saved["macs"] == pytest.approx(18.3, abs=0.5)
    assert saved["params"] == pytest.approx(34.1, abs=0.5)


def test_the_committed_result_has_not_drifted(script: ModuleType) -> None:
    committed = json.loads((ROOT / "benchmarks" / "results" / "detection_cost.json").read_text())
    assert committed == script.compare(), "run: python -m benchmarks.detection.cost"
