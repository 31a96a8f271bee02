"""The training loop: learning, exact resume, processes, and what goes wrong."""

import dataclasses
import errno
import itertools
import json
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fbnetv3._internal.errors import Diverged
from fbnetv3.checkpoints.checkpoint import read_tensors, stated_license
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.training import checkpointing, loop
from fbnetv3.search.training.logbook import EpochLog, plot_curve
from fbnetv3.search.training.optimizers import make_optimizer, set_lr
from fbnetv3.search.training.scoring import Score
from fbnetv3.search.training.stopping import Stopped, StopRequest
from fbnetv3.search.training.train import Hardware, train, train_epochs
from tests.paths import ROOT
from tests.search.distributed import run_two, shared_recipe
from tests.search.tiny import (
    NUM_CLASSES,
    plain_recipe,
    tiny_images,
    tiny_model,
    tiny_recipe,
    tiny_run,
)

LEARNING = plain_recipe(6)


class Stop(Exception):  # noqa: N818  # stands for a kill
    """Ends a run in the middle of a step."""


def stop_at(epoch: int, step: int) -> Callable[[int, int, int], None]:
    def on_step(now: int, done: int, _steps: int) -> None:
        if (now, done) == (epoch, step):
            raise Stop

    return on_step


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the averaged and the raw weights that a run left."""
    files = ("model.safetensors", "model_raw.safetensors")
    return {f"{f}/{k}": t for f in files for k, t in read_tensors(folder / f).items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_it_learns_and_reports_raw_and_averaged_weights() -> None:
    result = train(tiny_model(), tiny_images(192), tiny_images(seed=1), tiny_run(recipe=LEARNING))
    assert [log.epoch for log in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.curve[-1].loss < 0.5 * result.curve[0].loss
    assert result.top1_pct == result.curve[-1].ema_top1_pct
    assert result.top1_pct > 90
    last = result.curve[-1].top1_pct
    assert last is not None
    assert last > 90


def test_a_seed_repeats_and_another_differs() -> None:
    losses = [
        train(tiny_model(), tiny_images(), tiny_images(seed=1), tiny_run(seed=seed)).curve[-1].loss
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_callers_generators_are_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), np.random.random(), torch.rand(1))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    run = dataclasses.replace(tiny_run(), stop_epoch=1)
    train(tiny_model(), tiny_images(), tiny_images(), run)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected


def small_run(folder: Path | None, **fields: Any) -> Any:
    return tiny_run(folder, tiny_recipe(epochs=3), **fields)


def logs_of(folder: Path) -> list[dict[str, Any]]:
    """Returns a run's log without what the clock says."""
    rows: list[dict[str, Any]] = json.loads((folder / "log.json").read_text())
    timed = ("seconds", "images_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def finish(
    folder: Path,
    on_step: Any = lambda *_: None,
    *,
    stop: StopRequest | None = None,
    **fields: Any,
) -> None:
    recipe = tiny_recipe()
    model = tiny_model(drop_rate=recipe.dropout, drop_path_rate=recipe.drop_path)
    run = small_run(folder, checkpoint_steps=2, **fields)
    train(model, tiny_images(), tiny_images(seed=1), run, on_step=on_step, stop=stop)


@pytest.mark.parametrize("moment", [(1, 1), (1, 2), (2, 3), (2, 6), (3, 1)])
def test_a_stopped_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, moment: tuple[int, int]
) -> None:
    finish(tmp_path / "whole")
    with pytest.raises(Stop):
        finish(tmp_path / "stopped", stop_at(*moment))
    finish(tmp_path / "stopped")
    assert_equal(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))
    assert logs_of(tmp_path / "stopped") == logs_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *itertools.product((signal.SIGTERM, signal.SIGINT), ((1, 1), (2, 6), (3, 5))),
        (signal.SIGHUP, (2, 1)),
    ],
)
def test_a_signal_saves_its_step_and_the_run_resumes_to_the_same_bits(
    tmp_path: Path, number: signal.Signals, moment: tuple[int, int]
) -> None:
    def send(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == moment:
            signal.raise_signal(number)

    finish(tmp_path / "whole")
    stop = StopRequest()
    with stop.listening(), pytest.raises(Stopped) as caught:
        finish(tmp_path / "stopped", send, stop=stop)
    assert caught.value.signal == number
    found = checkpointing.load_newest(tmp_path / "stopped" / "checkpoints")
    assert found is not None
    assert (found[1]["epoch"] + 1, found[1]["step_in_epoch"]) == moment
    finish(tmp_path / "stopped")
    assert_equal(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))
    assert logs_of(tmp_path / "stopped") == logs_of(tmp_path / "whole")


def test_a_closed_terminal_does_not_stop_what_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    stop = StopRequest()
    try:
        with stop.listening():
            signal.raise_signal(signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_saves_the_step_and_leaves_none_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(32))
    for path in paths:
        Image.new("RGB", (20, 20), "red").save(path)
    images = ImageSet(name="photos", classes=("a", "b"), labels=torch.arange(32) % 2, sources=paths)

    def send(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == (2, 1):
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, number)
            signal.raise_signal(number)

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    run = tiny_run(tmp_path / "run", workers=1)
    stop = StopRequest()
    with stop.listening(), pytest.raises(Stopped):
        train(model, images, images, run, on_step=send, stop=stop)
    found = checkpointing.load_newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert (found[1]["epoch"], found[1]["step_in_epoch"]) == (1, 1)
    assert multiprocessing.active_children() == []


def test_a_signal_in_validation_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "score_each", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    stop = StopRequest()
    with stop.listening(), pytest.raises(Stopped):
        finish(tmp_path / "stopped", stop=stop)
    monkeypatch.undo()
    finish(tmp_path / "stopped")
    finish(tmp_path / "whole")
    assert_equal(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))


def test_a_second_ctrl_c_interrupts_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest().listening():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_adamw_with_clipped_gradients_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe = tiny_recipe(optimizer="adamw", lr=0.002, clip_norm=0.5, balance="sampler", epochs=2)

    def run(name: str, on_step: Any = lambda *_: None) -> None:
        config = tiny_run(tmp_path / name, recipe, checkpoint_steps=2)
        train(tiny_model(), tiny_images(), tiny_images(seed=1), config, on_step=on_step)

    run("whole")
    with pytest.raises(Stop):
        run("stopped", stop_at(2, 3))
    run("stopped")
    assert_equal(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))


def test_clipped_gradients_have_the_norm_that_was_asked_for() -> None:
    layer = nn.Linear(3 * 16 * 16, NUM_CLASSES)
    recipe = tiny_recipe(
        optimizer="sgd", lr=0.25, momentum=0.0, weight_decay=0.0, clip_norm=0.125, mixup=0.0,
        schedule="constant", warmup_epochs=0.0, epochs=1,
    )  # fmt: skip
    seen = [layer.weight.detach().clone()]
    biases = [layer.bias.detach().clone()]

    def keep(*_: int) -> None:
        seen.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())

    model = nn.Sequential(nn.Flatten(), layer)
    train(model, tiny_images(), tiny_images(), tiny_run(recipe=recipe), on_step=keep)
    # SGD's own rate is 4 x 0.25.
    moved = [
        float(torch.cat([(a - b).flatten(), c - d]).norm())
        for a, b, c, d in zip(seen, seen[1:], biases, biases[1:], strict=False)
    ]
    assert max(moved) == pytest.approx(0.125, rel=1e-3)


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "tests.search.tiny"]

    def start(folder: str, kills: int) -> None:
        command = [*program, str(tmp_path / folder), str(kills), "7"]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("killed") == kills

    start("whole", 0)
    start("killed", 5)
    assert_equal(weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    finish(tmp_path)
    seen: list[EpochLog] = []
    run = small_run(tmp_path, checkpoint_steps=2)
    model = tiny_model(seed=5)

    def fail(*_: int) -> None:
        pytest.fail("a step was made")

    result = train(
        model, tiny_images(), tiny_images(seed=1), run, on_epoch=seen.append, on_step=fail
    )
    assert len(seen) == len(result.curve) == 3


def test_a_complete_run_keeps_one_checkpoint_without_the_optimisers_state(tmp_path: Path) -> None:
    finish(tmp_path)
    found = checkpointing.load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert found[1]["epoch"] == 3
    assert {name.partition(".")[0] for name in found[0]} == {"model", "ema"}
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_complete_run_goes_on_with_more_epochs_on_the_longer_schedule(tmp_path: Path) -> None:
    train(
        tiny_model(),
        tiny_images(),
        tiny_images(seed=1),
        tiny_run(tmp_path / "short", tiny_recipe(epochs=2)),
    )
    before = weights_of(tmp_path / "short")
    steps: list[int] = []
    result = train(
        tiny_model(seed=5),
        tiny_images(),
        tiny_images(seed=1),
        tiny_run(tmp_path / "long", tiny_recipe(epochs=4), resume_from=tmp_path / "short"),
        on_step=lambda epoch, _, __: steps.append(epoch),
    )
    assert set(steps) == {3, 4}
    assert [log.epoch for log in result.curve] == [1, 2, 3, 4]
    recipe = tiny_recipe(epochs=4)
    assert result.curve[2].lr == pytest.approx(recipe.lr_at(2 + 5.5 / 6))
    assert_equal(weights_of(tmp_path / "short"), before)
    # Also with what follows from the length, but with no other recipe.
    follows = tiny_recipe(epochs=2).lengthened(4)
    other = dataclasses.replace(follows, weight_decay=3 * follows.weight_decay)
    with pytest.raises(ValueError, match="recipe is different"):
        train(
            tiny_model(),
            tiny_images(),
            tiny_images(seed=1),
            tiny_run(tmp_path / "other", other, resume_from=tmp_path / "short"),
        )
    longer = tiny_run(tmp_path / "other", follows, resume_from=tmp_path / "short")
    result_of = train(tiny_model(), tiny_images(), tiny_images(seed=1), longer)
    assert [log.epoch for log in result_of.curve] == [1, 2, 3, 4]
    grown = tiny_run(tmp_path / "short", tiny_recipe(epochs=4))
    again = train(tiny_model(seed=6), tiny_images(), tiny_images(seed=1), grown)
    assert again.curve[-1].loss == result.curve[-1].loss


@pytest.mark.filterwarnings("ignore:.* is licensed")
def test_the_licence_of_a_run_is_in_its_files_and_kept_by_what_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def licensed(name: str) -> FBNetV3:
        model = tiny_model()
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "license": name}
        return model

    images = (tiny_images(), tiny_images(seed=1))
    run = tiny_run(tmp_path / "nc", tiny_recipe(epochs=1))
    train(licensed("cc-by-nc-4.0"), *images, run)
    files = sorted((tmp_path / "nc").rglob("*.safetensors"))
    assert {path.name for path in files} > {"model.safetensors", "model_raw.safetensors"}
    assert {stated_license(path) for path in files} == {"cc-by-nc-4.0"}
    longer = tiny_run(tmp_path / "on", tiny_recipe(epochs=2), resume_from=tmp_path / "nc")
    for name in ("apache-2.0", ""):
        with pytest.raises(ValueError, match=r"nc is a run from weights licensed cc-by-nc-4\.0"):
            train(licensed(name), *images, longer)
    train(licensed(""), *images, dataclasses.replace(longer, license="CC-BY-NC-SA-4.0"))
    assert stated_license(tmp_path / "on" / "model.safetensors") == "cc-by-nc-sa-4.0"
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    with pytest.raises(ValueError, match=r"nc is licensed cc-by-nc-4\.0: no commercial use"):
        train(licensed("cc-by-nc-4.0"), *images, dataclasses.replace(longer, folder=None))


def test_fewer_epochs_and_a_folder_without_a_run_are_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "a", tiny_recipe(epochs=2))
    train(tiny_model(), tiny_images(), tiny_images(), run)
    shorter = tiny_run(tmp_path / "a", tiny_recipe(epochs=1))
    with pytest.raises(ValueError, match="its recipe is different: epochs 2, here 1;") as caught:
        train(tiny_model(), tiny_images(), tiny_images(), shorter)
    assert len(str(caught.value)) < 250 + len(str(tmp_path))
    lost = tiny_run(tmp_path / "b", resume_from=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing has no checkpoint"):
        train(tiny_model(), tiny_images(), tiny_images(), lost)


def scored(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[float]) -> None:
    """Lets validations give these accuracies, in this order."""
    given = iter(accuracies)

    def score(images: ImageSet) -> Score:
        right = round(next(given) * len(images) / 100)
        halves = torch.zeros(2, NUM_CLASSES, NUM_CLASSES).long()
        halves[0, 0, 0], halves[0, 0, 1] = right, len(images) - right
        return Score(halves, len(images), 1.0)

    def score_each(
        models: Sequence[nn.Module], images: ImageSet, *_: Any, **__: Any
    ) -> list[Score]:
        return [score(images) for _model in models]

    monkeypatch.setattr(loop, "score_each", score_each)


@pytest.mark.parametrize(
    ("patience", "epochs", "best"), [(None, 5, 4), (2, 5, 4), (1, 3, 2), (9, 5, 4)]
)
def test_the_best_epoch_is_kept_and_patience_ends_a_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int | None,
    epochs: int,
    best: int,
) -> None:
    scored(monkeypatch, [25, 50, 25, 75, 50])
    recipe = tiny_recipe(epochs=5, ema=False)
    run = tiny_run(tmp_path, recipe, keep_best=True, patience=patience)
    model, ends = tiny_model(), dict[int, torch.Tensor]()

    def keep(epoch: int, _step: int, _steps: int) -> None:
        ends[epoch] = model.state_dict()["classifier.weight"].clone()

    result = train(model, tiny_images(), tiny_images(100), run, on_step=keep)
    assert len(result.curve) == epochs
    assert result.best_epoch.epoch == best
    kept = read_tensors(tmp_path / "best" / "model.safetensors")["classifier.weight"]
    assert torch.equal(kept, ends[best])
    assert torch.equal(
        read_tensors(tmp_path / "model.safetensors")["classifier.weight"], ends[epochs]
    )


def test_of_equal_epochs_the_last_is_the_best_and_patience_counts_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [25, 50, 50, 50, 75])
    recipe = tiny_recipe(epochs=5, ema=False)
    run = tiny_run(tmp_path, recipe, keep_best=True, patience=2)
    result = train(tiny_model(), tiny_images(), tiny_images(100), run)
    assert len(result.curve) == 4
    assert result.best_epoch.epoch == 4
    kept = read_tensors(tmp_path / "best" / "model.safetensors")["classifier.weight"]
    assert torch.equal(kept, result.model.state_dict()["classifier.weight"])


def test_recalls_of_classes_and_their_mean_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = torch.zeros(2, NUM_CLASSES, NUM_CLASSES).long()
    halves[0, 0, 0], halves[1, 0, 1] = 90, 10
    halves[0, 1, 1], halves[1, 1, 0] = 1, 3
    halves[1, 3, 3] = 2
    found = Score(halves, 100, 1.0)
    monkeypatch.setattr(loop, "score_each", lambda models, *_, **__: [found] * len(models))
    run = tiny_run(tmp_path, tiny_recipe(epochs=1, warmup_epochs=0.0))
    (log,) = train(tiny_model(), tiny_images(), tiny_images(), run).curve
    # (90 + 25 + 100) / 3; the third class has no image.
    assert log.macro_recall_pct == pytest.approx(215 / 3)
    assert log.ema_top1_pct == pytest.approx(100 * 93 / 106)
    assert "macro recall 71.67 %" in log.line()
    assert "macro" not in dataclasses.replace(log, macro_recall_pct=log.ema_top1_pct).line()
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "class,images,recall_pct",
        "class0,100,90",
        "class1,4,25",
        "class2,0,",
        "class3,2,100",
    ]


def test_patience_that_ran_out_stays_so_and_more_of_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(epochs=3, ema=False)

    def trained(patience: int, accuracies: Sequence[float]) -> int:
        scored(monkeypatch, accuracies)
        run = tiny_run(tmp_path, recipe, patience=patience)
        return len(train(tiny_model(), tiny_images(), tiny_images(100), run).curve)

    assert trained(1, [50, 25]) == 2
    assert trained(1, []) == 2
    assert trained(2, [25]) == 3


def test_a_run_may_be_left_early_and_go_on(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    epochs = train_epochs(tiny_model(), tiny_images(), tiny_images(seed=1), run)
    first = next(epochs)
    epochs.close()
    result = train(tiny_model(seed=9), tiny_images(), tiny_images(seed=1), run)
    assert result.curve[0] == first


def test_checkpoints_may_be_epochs_apart_and_the_last_epoch_has_one(tmp_path: Path) -> None:
    epochs: list[int] = []

    def look(epoch: int, step: int, _: int) -> None:
        if step == 1:
            heads = (tmp_path / "checkpoints").glob("*.json")
            epochs.append(max((json.loads(h.read_text())["epoch"] for h in heads), default=0))

    run = tiny_run(tmp_path, tiny_recipe(epochs=5), checkpoint_epochs=2)
    train(tiny_model(), tiny_images(), tiny_images(), run, on_step=look)
    assert epochs == [0, 0, 2, 2, 4]
    found = checkpointing.load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert found[1]["epoch"] == 5


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    with pytest.raises(Stop):
        finish(tmp_path / "cut", stop_at(2, 5))
    newest = max((tmp_path / "cut" / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])
    finish(tmp_path / "cut")
    assert_equal(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))


def test_two_checkpoints_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    for step in range(5):
        checkpointing.save(tmp_path, step, {"t": torch.tensor(step)}, {"n": step})
    (tmp_path / "step-9.safetensors.abc.tmp").touch()
    (tmp_path / "step-0000000009.safetensors").touch()
    found = checkpointing.load_newest(tmp_path)
    assert found is not None
    assert int(found[0]["t"]) == found[1]["n"] == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path / "whole")
    real, calls = os.fsync, 0

    def full(number: int) -> None:
        nonlocal calls
        calls += stat.S_ISREG(os.fstat(number).st_mode)  # folders are flushed as well
        # The settings, two checkpoints, and then the tensors of the third.
        if calls > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="make room") as caught:
        finish(tmp_path / "full")
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "full").rglob("*.tmp"))
    monkeypatch.undo()
    finish(tmp_path / "full")
    assert_equal(weights_of(tmp_path / "full"), weights_of(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 3}, "seed"), ({"recipe": tiny_recipe(lr=0.1)}, "recipe")],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    run = dataclasses.replace(tiny_run(tmp_path), stop_epoch=1)
    train(tiny_model(), tiny_images(), tiny_images(), run)
    with pytest.raises(ValueError, match=f"its {named} is"):
        train(tiny_model(), tiny_images(), tiny_images(), dataclasses.replace(run, **change))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = dataclasses.replace(tiny_run(tmp_path), stop_epoch=1)
    train(tiny_model(), tiny_images(), tiny_images(), run)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES))
    with pytest.raises(ValueError, match="its network is"):
        train(other, tiny_images(), tiny_images(), run)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    def again(*_: int) -> None:
        with pytest.raises(ValueError, match="another process trains"):
            finish(tmp_path)
        raise Stop

    with pytest.raises(Stop):
        finish(tmp_path, again)


def test_a_loss_that_is_no_number_is_a_verdict_with_the_curve() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES))
    run = tiny_run(recipe=tiny_recipe(optimizer="sgd", lr=100.0, mixup=0.0, momentum=0.9))

    def poison(epoch: int, step: int, _steps: int) -> None:
        if (epoch, step) == (3, 2):
            with torch.no_grad():
                next(model.parameters()).fill_(float("inf"))

    with pytest.raises(Diverged, match="not finite at step 3 of epoch 3") as caught:
        train(model, tiny_images(), tiny_images(), run, on_step=poison)
    assert caught.value.epoch == 3
    assert len(caught.value.curve) == 2


def test_a_model_with_other_classes_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    with pytest.raises(ValueError, match="4 classes"):
        train(model, tiny_images(), tiny_images(), tiny_run(recipe=LEARNING))


def test_accumulated_passes_make_the_step_of_the_whole_batch() -> None:
    results = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES))
        run = tiny_run(recipe=LEARNING, accumulate=accumulate, stop_epoch=1)
        train(model, tiny_images(), tiny_images(), run)
        results.append(model[1].weight)
    torch.testing.assert_close(results[0], results[1])


def test_passes_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 passes"):
        train(tiny_model(), tiny_images(), tiny_images(), tiny_run(accumulate=3))


def test_the_average_follows_its_closed_form() -> None:
    layer = nn.Linear(3 * 16 * 16, NUM_CLASSES)
    model = nn.Sequential(nn.Flatten(), layer)
    recipe = dataclasses.replace(LEARNING, epochs=1, warmup_epochs=0.0, ema_decay=0.5)
    seen = [layer.weight.detach().clone()]
    result = train(
        model,
        tiny_images(),
        tiny_images(),
        tiny_run(recipe=recipe),
        on_step=lambda *_: seen.append(layer.weight.detach().clone()),
    )
    expected = seen[0]
    for n, weight in enumerate(seen[1:]):
        # The decay of n earlier updates; the first update takes the weights as they are.
        decay = min(0.5, n / (9 + n)) if n else 0.0
        expected = decay * expected + (1 - decay) * weight
    assert isinstance(result.ema, nn.Sequential)
    torch.testing.assert_close(result.ema[1].weight, expected)


@pytest.mark.parametrize("start", ["copy", "unbiased"])
def test_the_average_begins_as_the_recipe_says(start: str) -> None:
    decay, layer = 0.9, nn.Linear(3 * 16 * 16, NUM_CLASSES)
    model = nn.Sequential(nn.Flatten(), layer)
    recipe = dataclasses.replace(
        LEARNING, epochs=1, warmup_epochs=0.0, ema_decay=decay, ema_start=start
    )
    first, seen = layer.weight.detach().clone(), list[torch.Tensor]()
    result = train(
        model,
        tiny_images(),
        tiny_images(),
        tiny_run(recipe=recipe),
        on_step=lambda *_: seen.append(layer.weight.detach().clone()),
    )
    # v_t = decay * v_(t-1) + (1 - decay) * w_t as a sum; v_0 is the initial weights, or zero.
    steps = len(seen)
    assert steps >= 2
    expected = sum(
        ((1 - decay) * decay ** (steps - n) * weight for n, weight in enumerate(seen, 1)),
        torch.zeros_like(first),
    )
    if start == "copy":
        expected = decay**steps * first + expected
    else:
        expected = expected / (1 - decay**steps)
    assert isinstance(result.ema, nn.Sequential)
    torch.testing.assert_close(result.ema[1].weight, expected)


def test_weight_decay_leaves_batch_norm_and_biases_alone() -> None:
    model = tiny_model()
    for kind in ("rmsprop", "sgd", "adamw"):
        optimizer = make_optimizer(model, tiny_recipe(optimizer=kind, weight_decay=0.3))
        names = {id(p): name for name, p in model.named_parameters()}
        decayed = {
            names[id(p)]
            for group in optimizer.param_groups
            if group["weight_decay"]
            for p in group["params"]
        }
        assert all(name.endswith("weight") and ".bn." not in name for name in decayed)
        assert "stem.conv.weight" in decayed
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_layer_decay_lets_earlier_blocks_step_less() -> None:
    recipe = tiny_recipe(optimizer="sgd", momentum=0.0, weight_decay=0.0, layer_decay=0.5)
    model = tiny_model()
    optimizer = make_optimizer(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    set_lr(optimizer, 0.1)
    optimizer.step()
    steps = {
        name: float((before[name] - parameter).mean())
        for name, parameter in model.named_parameters()
    }
    # The classifier and the head, three blocks before them, and the stem.
    for name, rate in (
        ("classifier.weight", 0.1),
        ("head.expand.conv.weight", 0.1),
        ("stages.1.1.project.conv.weight", 0.05),
        ("stages.1.0.project.conv.weight", 0.025),
        ("stages.0.0.project.conv.weight", 0.0125),
        ("stem.conv.weight", 0.00625),
    ):
        assert steps[name] == pytest.approx(rate, rel=1e-4), name


def test_the_folder_is_what_create_loads(tmp_path: Path) -> None:
    import fbnetv3

    result = train(tiny_model(), tiny_images(), tiny_images(), small_run(tmp_path))
    loaded = fbnetv3.create(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(x), result.best(x))
    assert {"arch.json", "recipe.json", "log.csv", "log.json", "config.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    result = train(tiny_model(), tiny_images(), tiny_images(), small_run(None))
    plot_curve(tmp_path / "curve.svg", result.curve)
    assert "averaged weights" in (tmp_path / "curve.svg").read_text() or (
        (tmp_path / "curve.svg").stat().st_size > 5000
    )


def test_a_cpu_computes_in_float32_and_a_gpu_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert Hardware.of("cpu") == Hardware(device=torch.device("cpu"), bf16=False)
    assert Hardware.of("cuda").bf16
    assert Hardware.of("cuda", precision="fp32").half is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert Hardware.of("cuda").half is torch.float16


def test_float16_learns_and_resumes_with_its_scale(tmp_path: Path) -> None:
    recipe = dataclasses.replace(LEARNING, epochs=2)
    run = tiny_run(tmp_path, recipe, checkpoint_steps=2)
    run = dataclasses.replace(run, hardware=Hardware.of("cpu", precision="fp16"))
    with pytest.raises(Stop):
        train(tiny_model(), tiny_images(), tiny_images(seed=1), run, on_step=stop_at(2, 3))
    found = checkpointing.load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert found[1]["scaler"]["scale"] > 1
    resumed = train(tiny_model(seed=3), tiny_images(), tiny_images(seed=1), run)
    whole = train(
        tiny_model(), tiny_images(), tiny_images(seed=1), dataclasses.replace(run, folder=None)
    )
    assert [log.loss for log in resumed.curve] == [log.loss for log in whole.curve]
    exact = dataclasses.replace(run, folder=None, hardware=Hardware.of("cpu"))
    expected = train(tiny_model(), tiny_images(), tiny_images(seed=1), exact)
    assert whole.curve[-1].loss == pytest.approx(expected.curve[-1].loss, rel=0.05)


def test_the_log_has_the_learning_rate_as_it_was_given() -> None:
    recipe = dataclasses.replace(LEARNING, epochs=1, schedule="constant", warmup_epochs=0.0)
    result = train(tiny_model(), tiny_images(), tiny_images(), tiny_run(recipe=recipe))
    assert recipe.optimizer == "sgd"
    assert result.curve[0].lr == pytest.approx(recipe.lr)


def test_a_network_of_timm_is_trained_too() -> None:
    from fbnetv3.search.training.networks import open_network

    network = open_network("timm:test_resnet.r160_in1k", num_classes=NUM_CLASSES, pretrained=False)
    recipe = dataclasses.replace(LEARNING, epochs=1, resolution=16)
    result = train(network.model, tiny_images(), tiny_images(), tiny_run(recipe=recipe))
    assert np.isfinite(result.curve[0].loss)


@pytest.mark.slow
@pytest.mark.parametrize(("local", "bf16"), [(1, False), (2, False), (2, True)])
def test_two_processes_train_as_one_with_the_doubled_batch(
    tmp_path: Path, local: int, bf16: bool
) -> None:
    """`local` processes a node: two nodes double the batch and the rate, one node shares it."""
    run_two("train", str(tmp_path / "two"), *(["--bf16"] if bf16 else []), local=local)
    nodes = 2 // local
    whole = dataclasses.replace(shared_recipe(), batch_size=16 * nodes, lr=0.01 * nodes)
    run = tiny_run(tmp_path / "one", whole)
    run = dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, bf16=bf16))
    train(tiny_model(), tiny_images(), tiny_images(50, seed=1), run)
    one, two = (weights_of(tmp_path / name) for name in ("one", "two"))
    rtol, atol = (5e-2, 5e-2) if bf16 else (2e-3, 2e-4)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=rtol, atol=atol, msg=name)
    logs = [json.loads((tmp_path / n / "log.json").read_text())[-1] for n in ("one", "two")]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-2 if bf16 else 1e-3)
    # 50 images do not divide by two processes' batches: none may count twice.
    assert logs[0]["top1_pct"] == pytest.approx(logs[1]["top1_pct"], abs=4.1 if bf16 else 2.1)
    assert (logs[1]["top1_pct"] * 50 / 100) % 1 == pytest.approx(0, abs=1e-9)
