"""Weights without a published hash: random ones are refused, trained ones are recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fbnetv3
from fbnetv3._internal.errors import FetchError
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.hub import hub_repo
from fbnetv3.hub.cached_weights import CachedWeights
from fbnetv3.hub.meaning import check_meaning
from fbnetv3.hub.verify import verify
from fbnetv3.hub.weights import WEIGHTS, HubFile, Url, Weights
from fbnetv3.images.labels import class_names
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.taught import teach

Make = Callable[..., FBNetV3]
NANO = ARCHS["fbnetv3_nano"]
SMALL = Preprocess(
    resize=64, crop=64, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
NAMES = class_names("imagenet1k")

pytestmark = pytest.mark.filterwarnings("ignore:.* is licensed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    (tmp_path / "home").mkdir()


def record(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Weights:
    """ImageNet weights of a small network, without a published hash."""
    changed: dict[str, Any] = {
        "model": "fbnetv3_nano",
        "tag": "test",
        "source": Url(url="https://host.invalid/model.pth"),
        "preprocess": SMALL,
        **changes,
    }
    weights = dataclasses.replace(WEIGHTS["fbnetv3_a.meta_in1k"], **changed)
    monkeypatch.setitem(WEIGHTS, weights.name, weights)
    return weights


def taught(golden_network: Make, *answers: str) -> dict[str, Tensor]:
    """Returns a network whose classifier gives these answers for the package's photos."""
    model = golden_network(NANO, num_classes=1000)
    teach(model, SMALL, *answers)
    return model.state_dict()


def put(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"state_dict": from_fbnetv3(state, NANO, "official")}, path)
    return path


@pytest.mark.parametrize("name", ["fbnetv3_a.meta_in1k", "fbnetv3_b.ra2_in1k"])
def test_random_weights_in_the_place_of_published_ones_are_refused(
    name: str, golden_network: Make, tmp_path: Path
) -> None:
    weights = WEIGHTS[name]
    home = tmp_path / "home"
    state = from_fbnetv3(build(weights.arch).state_dict(), weights.arch, weights.dialect)
    if isinstance(weights.source, HubFile):
        path = home / f"{name}.safetensors"
        write_tensors(path, state, {})
    else:
        path = home / f"{name}.pth"
        torch.save({"state_dict": state}, path)
    with pytest.raises(ValueError, match="does not have the published weights") as caught:
        fbnetv3.create(name, pretrained=True)
    assert str(path) in str(caught.value)
    # Nothing of the wrong file is recorded, so that the right one can take its place.
    assert [p.name for p in home.iterdir() if p.suffix != ".lock"] == [path.name]
    outcome = {result.name: result for result in verify(name)}
    assert outcome["load"].ok
    assert outcome["photos"].ok is False
    assert outcome["sha256"].ok is None
    assert "nobody publishes it" in outcome["sha256"].detail


def test_weights_with_random_answers_are_refused(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = record(monkeypatch)
    state = golden_network(NANO, num_classes=1000).state_dict()
    with pytest.raises(ValueError, match="does not have the published weights"):
        check_meaning(weights, state)


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        (("tabby", "espresso", "missile"), True),
        (("Egyptian cat", "cup", "space shuttle"), True),
        (("tiger cat", "coffee mug", "goldfish"), True),
        (("goldfish", "espresso", "missile"), False),
        (("tabby", "goldfish", "tench"), False),
    ],
)
def test_the_cat_and_one_more_photo_must_be_known(
    answers: tuple[str, ...], known: bool, golden_network: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, state = record(monkeypatch), taught(golden_network, *answers)
    # The other answers all score the same, so that only these count.
    state["classifier.bias"][[NAMES.index(n) for n in set(NAMES[:20]) - set(answers)]] = 1.0
    if known:
        assert str(check_meaning(weights, state)).startswith(f"chelsea: {answers[0]}")
    else:
        with pytest.raises(ValueError, match="does not know"):
            check_meaning(weights, state)


def test_answers_that_do_not_depend_on_the_photo_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = build(NANO, num_classes=1000).state_dict()
    state["classifier.weight"].zero_()
    for name in ("tabby", "espresso", "missile"):
        state["classifier.bias"][NAMES.index(name)] = 9.0
    with pytest.raises(ValueError, match="answers do not depend on the photo"):
        check_meaning(record(monkeypatch), state)


def test_weights_that_know_the_photos_are_recorded_and_then_required(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, home = record(monkeypatch), tmp_path / "home"
    path = put(
        taught(golden_network, "tabby", "espresso", "missile"), home / "fbnetv3_nano.test.pth"
    )
    fbnetv3.create(weights.name, pretrained=True)
    facts = json.loads((home / "fbnetv3_nano.test.json").read_text())
    assert facts["published_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(facts["tensors_sha256"]) == 64
    outcome = {result.name: result for result in verify(weights.name)}
    assert outcome["sha256"].detail.endswith(f"recorded in {home / 'fbnetv3_nano.test.json'}")
    assert outcome["photos"].detail == "chelsea: tabby, coffee: espresso, rocket: missile"
    assert outcome["not checked"].ok is None
    assert "recorded at first use (not published)" in outcome["not checked"].detail
    # Another network that knows the photos is still another one.
    other = taught(golden_network, "tiger cat", "cup", "missile")
    put(other, path)
    (home / "fbnetv3_nano.test.fbnetv3.safetensors").unlink()
    with pytest.raises(ValueError, match="as recorded in"):
        fbnetv3.create(weights.name, pretrained=True)


def test_weights_of_another_number_of_classes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="has 4 classes, expected 1000"):
        check_meaning(record(monkeypatch), build(NANO, num_classes=4).state_dict())


def test_verify_records_nothing(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record(monkeypatch)
    put(
        taught(golden_network, "tabby", "espresso", "missile"),
        tmp_path / "home" / "fbnetv3_nano.test.pth",
    )
    verify("fbnetv3_nano.test")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["fbnetv3_nano.test.pth"]


def _two_sources(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Weights, dict[str, Tensor]]:
    """Weights on a hub that cannot be reached and, as a pickle, at a second address."""
    state = taught(golden_network, "tabby", "espresso", "missile")
    theirs = put(state, tmp_path / "theirs.pth")
    digits = hashlib.sha256(theirs.read_bytes()).hexdigest()[:8]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FBNETV3_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = record(
        monkeypatch,
        source=HubFile(repo="me/mine", filename="model.safetensors", revision="main"),
        second=Url(url=theirs.as_uri(), sha256=digits),
    )
    return weights, state


def test_the_second_source_serves_where_the_hub_cannot_be_reached(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, state = _two_sources(golden_network, monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match="comes from its second source"):
        found = CachedWeights(weights).tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert CachedWeights(weights, offline=True).tensors().keys() == state.keys()
    (result,) = (r for r in verify(weights.name) if r.name == "sha256")
    assert "published; only its beginning" in result.detail


def test_a_second_source_with_other_digits_is_refused(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, _ = _two_sources(golden_network, monkeypatch, tmp_path)
    put(taught(golden_network, "tiger cat", "cup", "missile"), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="has SHA-256"):
        CachedWeights(weights).path()
    assert not list((tmp_path / "home").glob("*.pth"))


@pytest.mark.filterwarnings("ignore:.*second source")
def test_both_sources_must_have_the_same_tensors(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, state = _two_sources(golden_network, monkeypatch, tmp_path)
    CachedWeights(weights).tensors()
    home = tmp_path / "home"
    (home / "fbnetv3_nano.test.fbnetv3.safetensors").unlink()
    first = home / "fbnetv3_nano.test.safetensors"
    write_tensors(first, from_fbnetv3(state, NANO, "official"), {})
    CachedWeights(weights).tensors()
    compared = {r.name: r.ok for r in verify(weights.name)}
    assert compared["second source"] is True
    other = taught(golden_network, "tiger cat", "cup", "missile")
    write_tensors(first, from_fbnetv3(other, NANO, "official"), {})
    assert {r.name: r.ok for r in verify(weights.name)}["sha256"] is False
    facts = json.loads((home / "fbnetv3_nano.test.json").read_text())
    del facts["published_sha256"]
    (home / "fbnetv3_nano.test.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="other tensors than"):
        CachedWeights(weights).tensors()
    assert {r.name: r.ok for r in verify(weights.name)}["second source"] is False


def test_timms_second_source_is_the_one_that_timm_names() -> None:
    import timm

    for name, weights in WEIGHTS.items():
        if weights.tag != "ra2_in1k":
            continue
        theirs = timm.models.get_pretrained_cfg(name)
        assert theirs is not None
        assert isinstance(theirs.url, str)
        assert weights.second is not None
        moved = theirs.url.replace("/rwightman/", "/huggingface/")
        assert weights.second.url == moved
        assert moved.endswith(f"-{weights.second.sha256}.pth")


def test_the_mirror_takes_the_place_of_the_official_host(
    golden_network: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    official = WEIGHTS["fbnetv3_a.meta_in1k"].source
    assert isinstance(official, Url)
    weights = record(monkeypatch, source=official)
    mirrored = tmp_path / "mirror" / official.url.removeprefix("https://dl.fbaipublicfiles.com/")
    mirrored.parent.mkdir(parents=True)
    state = taught(golden_network, "tabby", "espresso", "missile")
    put(state, mirrored)
    monkeypatch.setenv("FBNETV3_OFFLINE", "0")
    monkeypatch.setenv("FBNETV3_MIRROR", f"{(tmp_path / 'mirror').as_uri()}/")
    assert CachedWeights(weights).tensors().keys() == state.keys()


def test_no_record_claims_a_hash_that_is_not_published() -> None:
    for weights in WEIGHTS.values():
        embedded = weights.tag == "cifar10"
        assert weights.hash_origin.startswith(
            "stated in the package" if embedded else "recorded at first use"
        )


def test_the_hash_that_the_hub_states_is_required(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / hashlib.sha256(b"right").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"right")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hub_repo.stated_sha256(link) == blob.name
    weights = dataclasses.replace(WEIGHTS["fbnetv3_b.ra2_in1k"], second=None)
    CachedWeights(weights, cache_dir=tmp_path / "home").verify(link)
    blob.write_bytes(b"wrong")
    with pytest.raises(ValueError, match=f"expected {blob.name} as stated by the hub"):
        CachedWeights(weights, cache_dir=tmp_path / "home").verify(link)


def test_a_hub_that_does_not_answer_is_given_up_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    source = HubFile(repo="me/mine", filename="model.safetensors", revision="main")
    with pytest.raises(FetchError, match="check the network"):
        hub_repo.download_hub_file(source, "main", tmp_path, timeout_s=2)
