"""The classifier against torchvision, torch and Pillow used by hand."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fbnetv3._internal.errors import FetchError
from fbnetv3.arch.tables import ARCHS
from fbnetv3.deploy.classify import Classifier, Prediction, softmax
from fbnetv3.deploy.export import Exported
from fbnetv3.hub.create import create
from fbnetv3.images.labels import class_names, example_photos
from fbnetv3.images.preprocess import CIFAR10_MEAN, CIFAR10_STD, Preprocess
from fbnetv3.models.model import FBNetV3, build

CIFAR = Preprocess(
    resize=32,
    crop=32,
    interpolation="bilinear",
    mean=CIFAR10_MEAN,
    std=CIFAR10_STD,
)
LABELS = class_names("cifar10")
PHOTOS = example_photos()


def network() -> FBNetV3:
    """Returns a small network whose running statistics and last norms are not trivial."""
    generator = torch.Generator().manual_seed(5)
    model = build(ARCHS["fbnetv3_nano"].small_image(), num_classes=10)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim > 1:
                spread = (2 / tensor[0].numel()) ** 0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
        assert isinstance(model.classifier, nn.Linear)
        model.classifier.weight /= 100  # logits of a few, so that no probability is 0 or 1
    return model.eval()


@pytest.fixture(scope="module")
def model() -> FBNetV3:
    return network()


@pytest.fixture(scope="module")
def classifier(model: FBNetV3) -> Classifier:
    return Classifier(model, preprocess=CIFAR, class_names=LABELS, batch_size=3)


def by_hand(model: nn.Module, path: Path) -> NDArray[np.float32]:
    """Returns the ten probabilities by way of torchvision and torch."""
    with Image.open(path) as photo, torch.inference_mode():
        logits = model(CIFAR.torchvision()(photo.convert("RGB"))[None])
        result: NDArray[np.float32] = logits.softmax(1)[0].numpy()
    return result


def same(ours: Prediction, theirs: Prediction) -> bool:
    close = np.allclose(ours.probabilities, theirs.probabilities, rtol=0, atol=1e-5)
    return ours.labels == theirs.labels and close


def test_a_photo_gets_the_answer_of_torch_and_torchvision(
    model: FBNetV3, classifier: Classifier
) -> None:
    answers = [classifier(path) for path in PHOTOS]
    for path, answer in zip(PHOTOS, answers, strict=True):
        expected = by_hand(model, path)
        order = np.argsort(-expected)[:5]
        assert answer.source == str(path)
        assert answer.error is None
        assert answer.indices == tuple(order.tolist())
        assert answer.labels == tuple(LABELS[index] for index in order)
        np.testing.assert_allclose(answer.probabilities, expected[order], rtol=0, atol=1e-5)
    assert len({answer.probabilities for answer in answers}) == len(PHOTOS)


def test_one_input_gives_one_answer_whatever_it_is(classifier: Classifier) -> None:
    path = PHOTOS[0]
    expected = classifier(path)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), file, image, array, tensor, tensor / 255):
            answer = classifier(source)
            assert isinstance(answer, Prediction)
            assert same(answer, expected)


def test_several_inputs_give_a_list_in_their_order(classifier: Classifier) -> None:
    expected = [classifier(path) for path in PHOTOS] * 4
    several = PHOTOS * 4
    for inputs in (several, tuple(several), iter(several)):
        answers = classifier(inputs)
        assert isinstance(answers, list)
        assert len(answers) == 12
        assert all(map(same, answers, expected))
    assert classifier([]) == []
    assert [a.source for a in classifier(PHOTOS[0].parent)] == [str(path) for path in PHOTOS]
    assert len(classifier([PHOTOS[0]])) == 1


def test_a_batch_of_arrays_or_tensors_is_several_images(classifier: Classifier) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    expected = [classifier(array) for array in batch]
    assert all(map(same, classifier(batch), expected))
    assert all(map(same, classifier(tensors), expected))


def test_a_batch_goes_on_past_broken_images(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "empty.png").touch()
    (tmp_path / "half.jpg").write_bytes(PHOTOS[0].read_bytes()[:9000])
    broken: list[Any] = [
        tmp_path / "text.jpg",
        tmp_path / "empty.png",
        tmp_path / "half.jpg",
        tmp_path / "nowhere.jpg",
        tmp_path,
        np.zeros((2, 2, 2)),
        None,
    ]
    inputs: list[Any] = []
    for one in broken:
        inputs += [one, PHOTOS[1]]
    answers = classifier(inputs)
    expected = classifier(PHOTOS[1])
    for answer in answers[1::2]:
        assert same(answer, expected)
    for answer, words in zip(
        answers[::2],
        (
            "text.jpg: not an image",
            "empty.png: the file is empty",
            "half.jpg: image file is truncated",
            "no image file",
            "it is a folder",
            "shape (2, 2, 2)",
            "from a NoneType",
        ),
        strict=True,
    ):
        assert words in (answer.error or "")
        assert answer.labels == answer.probabilities == answer.indices == ()
        with pytest.raises(ValueError, match="image"):
            _ = answer.label
    assert all(answer.error for answer in classifier(broken[:3]))
    assert "nowhere.jpg" in classifier(tmp_path / "nowhere.jpg").error


def test_inputs_that_hold_no_images_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in"):
        classifier(tmp_path)
    with pytest.raises(ValueError, match="inputs are a int"):
        classifier(7)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="inputs are a int"):
        classifier.stream(7)  # type: ignore[arg-type]  # raised before the first answer is asked


def test_a_stream_takes_at_most_two_batches_ahead(classifier: Classifier) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield PHOTOS[taken % 3]

    before = threading.active_count()
    stream = classifier.stream(endless())
    assert taken == 0
    for given in range(1, 20):
        assert next(stream).source == str(PHOTOS[given % 3])
        assert taken <= given + 2 * classifier.batch_size
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


def test_an_error_of_the_iterator_is_passed_on(classifier: Classifier) -> None:
    def failing() -> Iterator[Path]:
        yield PHOTOS[0]
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera unplugged"):
        classifier(failing())


def test_decoding_goes_on_while_the_network_runs() -> None:
    """The network waits here for the whole next batch, which in turns would never come."""
    decoded = threading.Semaphore(0)
    answered = waited_for = 0

    class Waiting:
        def run_batch(self, images: NDArray[Any]) -> NDArray[np.float32]:
            nonlocal answered, waited_for
            while waited_for < min(answered + 2 * len(images), 40):
                assert decoded.acquire(timeout=60), "nothing was decoded meanwhile"
                waited_for += 1
            answered += len(images)
            return np.zeros((len(images), 10), np.float32)

    def prepare(image: Image.Image) -> NDArray[np.float32]:
        decoded.release()
        return np.zeros((3, 8, 8), np.float32)

    waiting = Classifier(
        Waiting(), preprocess=prepare, class_names=LABELS, batch_size=4, num_workers=2
    )
    assert len(waiting([Image.new("RGB", (8, 8))] * 40)) == 40
    assert waited_for == 40


def test_eight_threads_at_once_get_the_same_answers(classifier: Classifier) -> None:
    expected = [classifier(path) for path in PHOTOS]

    def work(_: int) -> bool:
        answers = classifier(PHOTOS * 3)
        single = classifier(PHOTOS[1])
        return all(map(same, answers, expected * 3)) and same(single, expected[1])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


@pytest.mark.parametrize("num_callers", [1, 8])
def test_num_threads_holds_inside_and_is_put_back(num_callers: int) -> None:
    seen = set()

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.add(torch.get_num_threads())
            time.sleep(0.01)
            return images.mean((2, 3))

    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        spy = Classifier(Spy(), preprocess=CIFAR, class_names=["r", "g", "b"], num_threads=2)
        with ThreadPoolExecutor(num_callers) as pool:
            list(pool.map(spy, PHOTOS * 4))
        assert seen == {2}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        seen.clear()
        Classifier(Spy(), preprocess=CIFAR, class_names=["r", "g", "b"])(PHOTOS[0])
        assert seen == {3}
    finally:
        torch.set_num_threads(usual)


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3 * 32 * 32, 10)).train()
    for one in (model, own):
        made = Classifier(one, preprocess=CIFAR, class_names=LABELS)
        assert same(made(PHOTOS[0]), made(PHOTOS[0]))  # no dropout, no batch statistics
        assert one.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_of_the_module_is_kept(dtype: torch.dtype) -> None:
    model = network()
    made = Classifier(model.to(dtype), preprocess=CIFAR, class_names=LABELS, top_k=10)
    answer = made(PHOTOS[0])
    expected = by_hand(model.float(), PHOTOS[0])
    atol = 0.1 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(
        answer.probabilities, expected[list(answer.indices)], rtol=0, atol=atol
    )


def test_softmax_stands_any_logits() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [-1e300, -1e300, -1e300], [1.0, 2.0, 3.0]])
    expected = torch.from_numpy(logits).softmax(1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12)


def test_logits_that_are_not_finite_are_an_error_of_that_image() -> None:
    class Broken:
        def run_batch(self, images: NDArray[Any]) -> NDArray[np.float32]:
            logits = np.zeros((len(images), 10), np.float32)
            logits[0, 3] = np.nan
            return logits

    answers = Classifier(Broken(), preprocess=CIFAR, class_names=LABELS)(PHOTOS)
    assert "not finite" in (answers[0].error or "")
    assert answers[1].probabilities == pytest.approx([0.1] * 5)
    assert answers[1].labels == LABELS[:5]  # equal probabilities stay in the order of the logits


def test_top_k_is_descending_and_at_most_all(model: FBNetV3) -> None:
    for top_k, given in ((1, 1), (3, 3), (10, 10), (99, 10)):
        made = Classifier(model, preprocess=CIFAR, class_names="cifar10", top_k=top_k)
        answer = made(PHOTOS[2])
        assert len(answer.labels) == len(answer.probabilities) == len(answer.indices) == given
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert answer.label == answer.labels[0]
    assert sum(answer.probabilities) == pytest.approx(1)


def test_a_prediction_is_plain_json(classifier: Classifier) -> None:
    fields = json.loads(json.dumps(classifier(PHOTOS[0]).to_dict()))
    names = ["source", "labels", "probabilities", "indices", "error", "none_of_these"]
    assert list(fields) == names
    assert fields["error"] is None
    assert fields["none_of_these"] is None, "no threshold was fitted for this model"
    assert len(fields["labels"]) == len(fields["probabilities"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"top_k": True}, "top_k is True"),
        ({"num_threads": 0}, "num_threads is 0"),
        ({"num_workers": 1.5}, r"num_workers is 1\.5"),
        ({"class_names": ["cat", "dog"]}, "2 class_names for a model of 10 classes"),
        ({"class_names": "cifar"}, "unknown class list 'cifar'"),
        ({"class_names": None}, "give class_names="),
        ({"device": "nowhere"}, "device is 'nowhere'"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_refused(
    model: FBNetV3, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(model, **{"preprocess": CIFAR, "class_names": LABELS, **arguments})


def test_a_backend_keeps_its_own_device_and_threads(classifier: Classifier) -> None:
    for argument in ({"device": "cpu"}, {"num_threads": 1}):
        with pytest.raises(ValueError, match="this backend has its own"):
            Classifier(classifier.backend, preprocess=CIFAR, class_names=LABELS, **argument)


def test_models_that_cannot_classify_are_refused() -> None:
    with pytest.raises(ValueError, match="give preprocess="):
        Classifier(nn.Flatten(), class_names=LABELS)
    with pytest.raises(ValueError, match="model is a int"):
        Classifier(3, preprocess=CIFAR, class_names=LABELS)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="did you mean 'fbnetv3_a'"):
        Classifier("fbnetv3_aa")
    made = Classifier(nn.Flatten(), preprocess=CIFAR, class_names=LABELS)
    with pytest.raises(ValueError, match=r"of shape \(1, 3072\) for 1 images; expected \(1, 10\)"):
        made(PHOTOS[0])


def test_a_models_own_weights_say_preprocessing_and_labels() -> None:
    model = create("fbnetv3_a")
    with pytest.raises(ValueError, match="give class_names="):
        Classifier(model)
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "meta_in1k"}  # as loading would
    made = Classifier(model)
    assert made.class_names == class_names("imagenet1k")
    assert isinstance(made.preprocess, Preprocess)
    assert (made.preprocess.resize, made.preprocess.crop) == (242, 224)
    assert len(made(PHOTOS[0]).labels) == 5


def test_a_backend_needs_no_torch() -> None:
    """In a fresh process where torch cannot be imported."""
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from fbnetv3.deploy.classify import Classifier
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess

class Mean:
    def run_batch(self, images):
        return images.mean((2, 3))

preprocess = Preprocess(resize=9, crop=8, interpolation="bilinear",
                        mean=(0, 0, 0), std=(1, 1, 1))
answers = Classifier(Mean(), preprocess=preprocess, class_names=["r", "g", "b"])(example_photos())
assert [a.error for a in answers] == [None] * 3
print(answers[0].label)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "r\n", done.stderr


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
def test_a_gpu_answers_as_the_cpu_does(model: FBNetV3) -> None:
    photos = list(PHOTOS)
    answers = [
        Classifier(model, preprocess=CIFAR, class_names=LABELS, device=device, top_k=10)(photos)
        for device in ("cpu", "cuda")
    ]
    assert len(answers[0]) == len(photos) > 0
    for one, other in zip(*answers, strict=True):
        assert other.error is None
        assert other.labels[0] == one.labels[0]
        assert sorted(other.labels) == sorted(one.labels)
        found = dict(zip(other.labels, other.probabilities, strict=True))
        assert found == pytest.approx(
            dict(zip(one.labels, one.probabilities, strict=True)), abs=1e-3
        )


def test_a_named_model_takes_the_options_of_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FetchError, match=r"offline, and fbnetv3_e\.meta_in1k") as caught:
        Classifier("fbnetv3_e", offline=True, cache_dir=tmp_path)
    assert str(tmp_path / "fbnetv3_e.meta_in1k.pth") in str(caught.value)
    with pytest.raises(ValueError, match=r"fbnetv3_e\.meta_in1k is licensed .* 'commercial'"):
        Classifier("fbnetv3_e", license="commercial", offline=True)


def test_a_file_of_no_stated_licence_is_refused_for_commercial_use(small_export: Exported) -> None:
    with pytest.raises(ValueError, match="states no licence"):
        Classifier(small_export.path, license="commercial")
