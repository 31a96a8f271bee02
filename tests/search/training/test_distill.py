"""Distillation: the loss, teachers, cached logits, and the two steps."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.training.batches import Batch, default_preprocess
from fbnetv3.search.training.distill import (
    CachedTeacher,
    NetworkTeacher,
    cached_teacher,
    open_teacher,
    two_step,
)
from fbnetv3.search.training.logbook import EpochLog
from fbnetv3.search.training.loop import Loop
from fbnetv3.search.training.train import Hardware, train
from tests.search.tiny import (
    NUM_CLASSES,
    plain_recipe,
    tiny_images,
    tiny_model,
    tiny_run,
)

CPU = Hardware.of("cpu")
PLAIN = plain_recipe(4)


def teacher_of(model: nn.Module, weight: float = 0.8) -> NetworkTeacher:
    preprocess = default_preprocess(tiny_images(), 16)
    return NetworkTeacher(
        model, preprocess=preprocess, student=preprocess, weight=weight, hardware=CPU
    )


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES))


def test_the_loss_is_four_fifths_teacher_and_one_fifth_labels() -> None:
    student, teacher = linear(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES))
    run = tiny_run(recipe=PLAIN)
    loop = Loop(student, tiny_images(), tiny_images(), run, teacher_of(teacher))
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8) % NUM_CLASSES
    own, soft = student(x).log_softmax(1), teacher(x).softmax(1)
    labels = -own[torch.arange(8), y].mean()
    expected = 0.8 * -(soft * own).sum(1).mean() + 0.2 * labels
    torch.testing.assert_close(loop._loss(Batch(x, y, torch.arange(8)), 1.0), expected)


def test_a_teacher_sees_its_own_size_and_normalisation() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.mean((2, 3))

    student = default_preprocess(tiny_images(), 16)
    own = Preprocess(
        resize=32,
        crop=32,
        interpolation="bilinear",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    teacher = NetworkTeacher(Watching(), preprocess=own, student=student, hardware=CPU)
    pixels = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)

    def normal(x: Tensor, by: Preprocess) -> Tensor:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (by.mean, by.std))
        return (x - mean) / std

    index = torch.zeros(2, dtype=torch.long)
    teacher.logits(Batch(normal(pixels, student), index, index))
    expected = normal(pixels[:, :, :1, :1].expand(2, 3, 32, 32), own)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("change", [{"augment": "crop"}, {"mixup": 0.1}])
def test_cached_logits_refuse_what_changes_images(change: dict[str, object]) -> None:
    teacher = CachedTeacher(torch.zeros(96, NUM_CLASSES), weight=0.8, identity="t")
    run = tiny_run(recipe=dataclasses.replace(PLAIN, **change))  # type: ignore[arg-type]  # by name
    with pytest.raises(ValueError, match="cached"):
        train(linear(), tiny_images(), tiny_images(), run, teacher=teacher)


def test_cached_logits_teach_what_the_network_teaches(tmp_path: Path) -> None:
    images, path = tiny_images(), tmp_path / "logits.safetensors"
    teacher = teacher_of(tiny_model(seed=3))
    run = tiny_run(recipe=dataclasses.replace(PLAIN, epochs=1, warmup_epochs=0.0))
    cached = cached_teacher(teacher, images, run.preprocess, path, hardware=CPU)
    again = cached_teacher(teacher, images, run.preprocess, path, hardware=CPU)
    weights = []
    for taught in (teacher, cached, again):
        model = linear()
        train(model, images, images, run, teacher=taught)
        weights.append(next(iter(model.parameters())))
    torch.testing.assert_close(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_a_cache_of_another_teacher_is_refused(tmp_path: Path) -> None:
    images, path = tiny_images(), tmp_path / "logits.safetensors"
    preprocess = default_preprocess(images, 16)
    cached_teacher(teacher_of(tiny_model(seed=3)), images, preprocess, path, hardware=CPU)
    with pytest.raises(ValueError, match="another teacher"):
        cached_teacher(teacher_of(tiny_model(seed=4)), images, preprocess, path, hardware=CPU)


def test_a_checkpoint_taught_by_another_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, PLAIN, stop_epoch=1)
    train(tiny_model(), tiny_images(), tiny_images(), run, teacher=teacher_of(tiny_model(seed=3)))
    with pytest.raises(ValueError, match="its teacher is"):
        train(tiny_model(), tiny_images(), tiny_images(), run)


def test_two_steps_train_the_largest_and_then_all_from_it(tmp_path: Path) -> None:
    made: list[int] = []

    def make(seed: int) -> nn.Module:
        made.append(seed)
        return tiny_model(seed)

    networks = {"small": lambda: make(1), "large": lambda: make(2)}
    images, val = tiny_images(192), tiny_images(seed=1)
    names: list[str] = []
    results = two_step(
        networks,
        "large",
        images,
        val,
        tiny_run(tmp_path, PLAIN),
        on_epoch=lambda name, _: names.append(name),
    )
    assert made == [2, 1, 2]
    assert list(dict.fromkeys(names)) == ["teacher", "small", "large"]
    assert set(results) == {"small", "large"}
    assert all(result.top1_pct > 50 for result in results.values())
    assert {p.name for p in tmp_path.iterdir()} == {"teacher", "small", "large"}


def test_two_steps_that_were_stopped_go_on_where_they_were(tmp_path: Path) -> None:
    networks = {"small": lambda: tiny_model(1), "large": lambda: tiny_model(2)}
    images, val = tiny_images(96), tiny_images(seed=1)
    recipe = dataclasses.replace(PLAIN, epochs=2)

    def stop(name: str, log: EpochLog) -> None:
        if (name, log.epoch) == ("small", 1):
            raise InterruptedError

    whole = two_step(networks, "large", images, val, tiny_run(tmp_path / "whole", recipe))
    with pytest.raises(InterruptedError):
        two_step(networks, "large", images, val, tiny_run(tmp_path / "cut", recipe), on_epoch=stop)
    rest = two_step(networks, "large", images, val, tiny_run(tmp_path / "cut", recipe))
    for name, trained in whole.items():
        again = rest[name].best.state_dict()
        assert all(torch.equal(t, again[key]) for key, t in trained.best.state_dict().items())


def test_the_largest_has_to_be_one_of_them() -> None:
    with pytest.raises(ValueError, match="huge"):
        two_step({"small": tiny_model}, "huge", tiny_images(), tiny_images(), tiny_run())


def test_a_teacher_that_knows_more_classes_in_another_order_teaches_the_students(
    tmp_path: Path,
) -> None:
    labels = ("bird", "ant", "cat", "dog")
    teacher = tiny_model()
    preprocess = default_preprocess(tiny_images(), 16)
    save_pretrained(teacher, tmp_path, labels=labels, preprocess=preprocess)
    student = ("dog", "bird")
    opened = open_teacher(f"local-dir:{tmp_path}", student, preprocess, hardware=Hardware.of("cpu"))
    images = torch.randn(3, 3, 16, 16)
    found = opened.logits(Batch(images, torch.zeros(3), torch.zeros(3)))
    expected = teacher.eval()(images)[:, [3, 0]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"not lion"):
        open_teacher(f"local-dir:{tmp_path}", ("dog", "lion"), preprocess)
    with pytest.raises(ValueError, match="learns several labels per image and teacher"):
        open_teacher(f"local-dir:{tmp_path}", student, preprocess, multi_label=True)
