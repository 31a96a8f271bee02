"""Recipes: validation, JSON, schedule, and the presets' constants."""

import dataclasses
import math

import pytest

from fbnetv3.search.training.presets import PRESETS, get_recipe
from fbnetv3.search.training.recipe import LENGTH_FIELDS, Recipe

PLAIN = Recipe(optimizer="rmsprop", lr=0.02, batch_size=256, epochs=10, schedule="constant")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json_and_keeps_its_identity(name: str) -> None:
    recipe = get_recipe(name)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.sha256 == recipe.sha256


def test_the_identity_tells_recipes_apart_and_ignores_how_a_number_is_written() -> None:
    assert dataclasses.replace(PLAIN, lr=0.021).sha256 != PLAIN.sha256
    assert dataclasses.replace(PLAIN, warmup_epochs=2).sha256 == (
        dataclasses.replace(PLAIN, warmup_epochs=2.0).sha256
    )


def test_a_training_of_another_length_keeps_what_acts_per_training() -> None:
    found = dataclasses.replace(
        PLAIN,
        schedule="exponential",
        decay_per_epoch=0.9,
        warmup_epochs=2.0,
        weight_decay=1e-5,
        ema_decay=0.99,
    )
    assert found.lengthened(10) == found
    for epochs, data_times in ((40, 5), (3, 0.2), (1, 1e-3)):
        other = found.lengthened(epochs, data_times=data_times)
        steps = epochs * data_times / 10
        assert other.weight_decay * steps == pytest.approx(1e-5)
        assert other.ema_decay**steps == pytest.approx(0.99)
        assert other.warmup_epochs / epochs == pytest.approx(0.2)
        assert other.decay_per_epoch**epochs == pytest.approx(0.9**10)
        assert other.lr_at(0.1 * epochs) == pytest.approx(found.lr_at(1.0))
        kept = {name: getattr(found, name) for name in (*LENGTH_FIELDS, "epochs")}
        assert dataclasses.replace(other, **kept) == found


def test_a_length_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        PLAIN.lengthened(0)
    with pytest.raises(ValueError, match="data_times is 0"):
        PLAIN.lengthened(10, data_times=0)
    with pytest.raises(ValueError, match="weight_decay is 10"):
        dataclasses.replace(PLAIN, weight_decay=1.0).lengthened(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("augment", "mixup"),
        ("lr", 0.0),
        ("lr", math.nan),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("epochs", True),
        ("dropout", 1.0),
        ("ema_decay", -0.1),
        ("ema_start", "zero"),
        ("warmup_epochs", 11.0),
        ("ema", 1),
        ("resolution", 4),
        ("clip_norm", -1.0),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("freeze", -1),
        ("freeze", "head"),
        ("freeze", True),
        ("balance", "weights"),
    ],
)
def test_a_field_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Recipe.from_dict({**PLAIN.to_dict(), field: value})


def test_mixup_needs_an_even_batch() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        dataclasses.replace(PLAIN, batch_size=3, mixup=0.1)


def test_unknown_and_missing_fields_are_named() -> None:
    fields = PLAIN.to_dict()
    with pytest.raises(ValueError, match="colour"):
        Recipe.from_dict({**fields, "colour": 1})
    del fields["lr"]
    with pytest.raises(ValueError, match="'lr'"):
        Recipe.from_dict(fields)
    with pytest.raises(ValueError, match="schema"):
        Recipe.from_dict({})
    with pytest.raises(ValueError, match="JSON"):
        Recipe.from_json("{")


def test_sgd_has_four_times_the_rate_and_nodes_add_up() -> None:
    sgd = dataclasses.replace(PLAIN, optimizer="sgd")
    assert sgd.lr_at(3.0) == pytest.approx(4 * PLAIN.lr_at(3.0))
    # Eight nodes: the paper's 0.16.
    assert PLAIN.lr_at(3.0, nodes=8) == pytest.approx(0.16)


def test_the_rate_warms_up_linearly_and_then_falls_once_an_epoch() -> None:
    recipe = dataclasses.replace(
        PLAIN, schedule="exponential", decay_per_epoch=0.9875, warmup_epochs=5.0
    )
    assert recipe.lr_at(2.5) == pytest.approx(0.01)
    assert recipe.lr_at(5.0) == recipe.lr_at(5.99) == pytest.approx(0.02)
    assert recipe.lr_at(8.5) == pytest.approx(0.02 * 0.9875**3)


@pytest.mark.parametrize(("schedule", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1)])
def test_schedules_pass_through_their_middle_and_end(schedule: str, half: float) -> None:
    recipe = dataclasses.replace(PLAIN, schedule=schedule)
    assert recipe.lr_at(5.0) == pytest.approx(0.02 * half)
    assert recipe.lr_at(10.0) == pytest.approx(0.02 if schedule == "constant" else 0.0, abs=1e-12)


def test_presets_have_the_constants_of_the_papers_text() -> None:
    search, final = get_recipe("search"), get_recipe("final")
    assert (search.epochs, search.decay_per_epoch, search.batch_size) == (150, 0.963, 256)
    assert (final.epochs, final.decay_per_epoch, final.warmup_epochs) == (400, 0.9875, 5)
    assert final.lr_at(5.0, nodes=8) == pytest.approx(0.16)
    assert final.ema_decay == 0.99985
    assert get_recipe("cifar10").ema_decay == 0.999
    assert get_recipe("coco").ema_decay == 0.9998
    assert get_recipe("table1-90").lr_at(0.0) == pytest.approx(0.1)


def test_notes_name_fields_and_say_which_values_are_unsure() -> None:
    fields = {field.name for field in dataclasses.fields(Recipe)}
    for preset in PRESETS.values():
        assert set(preset.notes) <= fields
        assert all(
            note.split(":")[0].split()[0] in ("text", "low", "ours")
            for note in preset.notes.values()
        )
    for field in ("lr", "weight_decay", "dropout", "drop_path", "mixup"):
        assert PRESETS["search"].notes[field].startswith("low")


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="fine-tune"):
        get_recipe("finetune")


@pytest.mark.parametrize("change", [{"optimizer": "x" * 9000}, {"epochs": {"\x1b": 1}}])
def test_a_message_about_a_hostile_file_is_one_short_line(change: dict[str, object]) -> None:
    fields = {**get_recipe("search").to_dict(), **change}
    with pytest.raises(ValueError, match="expected") as caught:
        Recipe.from_dict(fields)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
