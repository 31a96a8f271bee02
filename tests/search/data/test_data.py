"""Reading image sets, their layouts, their splits, and what is refused."""

import io
import json
import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from fbnetv3.arch.tables import ARCHS
from fbnetv3.images.labels import example_photos
from fbnetv3.images.reader import open_image
from fbnetv3.search.data.datasets import (
    cifar_arch,
    open_images,
    open_train_val,
    search_split,
)
from fbnetv3.search.data.image_set import ImageSet
from fbnetv3.search.data.splitting import hold_out, split_by_class
from fbnetv3.search.training.batches import (
    TrainBatches,
    default_preprocess,
    eval_batches,
)
from fbnetv3.search.training.parallel import World
from fbnetv3.search.training.photos import PhotoTransform
from fbnetv3.search.training.seeds import seed_all
from tests.search.tiny import tiny_images, tiny_recipe

CPU = torch.device("cpu")


def write_folders(folder: Path, classes: dict[str, int], side: int = 8, seed: int = 0) -> None:
    """Writes PNGs of noise, `classes` giving how many of each class."""
    rng = np.random.default_rng(seed)
    for name, num in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(num):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_cifar10(folder: Path, per_batch: int = 4) -> np.ndarray[Any, Any]:
    """Writes a small cifar-10-batches-py; returns its training rows as they are stored."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, per_batch).tolist()
        with (folder / name).open("wb") as file:
            pickle.dump({"data": data, "labels": labels}, file)
        rows.append(data)
    with (folder / "batches.meta").open("wb") as file:
        pickle.dump({"label_names": [f"c{n}" for n in range(10)]}, file)
    return np.concatenate(rows[:5])


def test_class_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_folders(tmp_path, {"b": 2, "a": 3})
    images = open_images(tmp_path)
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.pixels is not None
    with Image.open(tmp_path / "b" / "1.png") as last:
        assert np.array_equal(images.pixels[4].numpy(), np.asarray(last))


def test_large_images_stay_encoded(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 1, "b": 1}, side=120)
    images = open_images(tmp_path)
    assert images.pixels is None
    assert images.sources is not None
    assert len(images.sources) == 2


def test_cifar10_is_read_as_channel_planes_of_rows(tmp_path: Path) -> None:
    rows = write_cifar10(tmp_path / "cifar-10-batches-py")
    train, val = open_train_val(tmp_path)
    assert (len(train), len(val)) == (20, 4)
    assert train.pixels is not None
    # Byte c * 1024 + y * 32 + x, as the data set's page has it.
    assert int(train.pixels[7, 5, 9, 2]) == rows[7, 2 * 1024 + 5 * 32 + 9]
    assert train.classes[3] == "c3"


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    write_cifar10(tmp_path / "d")
    (tmp_path / "d" / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="which CIFAR-10 does not"):
        open_images(tmp_path / "d")
    assert not (tmp_path / "ran").exists()


@pytest.mark.needs("pyarrow")
def test_parquet_of_hugging_face_gives_the_same_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_folders(tmp_path / "png", {"cat": 2, "dog": 1})
    plain = open_images(tmp_path / "png")
    files = sorted((tmp_path / "png").rglob("*.png"))
    features = {
        "img": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    table = pa.table(
        {
            "img": [{"bytes": f.read_bytes(), "path": f.name} for f in files],
            "label": [0, 0, 1],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "hf" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / "hf" / "data" / f"{split}-00000-of-00001.parquet")
    train, val = open_train_val(tmp_path / "hf")
    assert train.classes == plain.classes
    assert train.pixels is not None
    assert plain.pixels is not None
    assert torch.equal(train.pixels, plain.pixels)
    assert torch.equal(val.labels, plain.labels)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("kind", ["Sequence", "List"])
def test_parquet_with_lists_of_labels_is_multi_label(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_folders(tmp_path / "png", {"x": 3})
    files = sorted((tmp_path / "png").rglob("*.png"))
    label = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    features = {"img": {"_type": "Image"}, "labels": {"_type": kind, "feature": label}}
    table = pa.table(
        {"img": [{"bytes": f.read_bytes()} for f in files], "labels": [[0, 1], [], [1]]}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train-0.parquet")
    found = open_images(tmp_path, "train")
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [[True, True], [False, False], [False, True]]


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("images", ["bytes", "structs", "paths"])
@pytest.mark.parametrize("names", [True, False])
def test_parquet_that_says_nothing_about_its_columns_is_read(
    tmp_path: Path, images: str, names: bool
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_folders(tmp_path / "png", {"x": 3})
    files = sorted((tmp_path / "png").rglob("*.png"))
    column: Any = {
        "bytes": [f.read_bytes() for f in files],
        "structs": [{"bytes": f.read_bytes(), "path": None} for f in files],
        "paths": [{"bytes": None, "path": str(f.relative_to(tmp_path))} for f in files],
    }[images]
    if images == "paths":
        struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        column = pa.array(column, struct)
    for part, labels in (("train", [2, 0, 2]), ("val", [0, 1, 0])):
        values = [("ant", "bee", "cow")[label] for label in labels] if names else labels
        table = pa.table({"id": [1, 2, 3], "jpg": column, "target": values})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    train, val = open_train_val(tmp_path)
    assert train.classes == val.classes == (("ant", "bee", "cow") if names else ("0", "1", "2"))
    assert (train.labels.tolist(), val.labels.tolist()) == ([2, 0, 2], [0, 1, 0])
    assert train.pixels is not None
    plain = np.stack([np.asarray(Image.open(f)) for f in files])
    assert torch.equal(train.pixels, torch.from_numpy(plain))


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, r"has columns \['label'\]; expected one of encoded images"),
        ({"image": [b"a", b"b"], "y": [0, 1]}, "one of labels called label, labels"),
        ({"image": [b"a", b"b"], "label": [0, None]}, "'label' has None; expected names"),
        ({"image": [b"a", b"b"], "label": [0.0, 0.5]}, "'label' has 0.[05]; expected names"),
    ],
)
def test_parquet_without_images_or_labels_is_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"train\.parquet is no parquet file, or damaged"):
        open_images(tmp_path, "train")


def write_parquet(path: Path, labels: list[int | None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({"image": [stream.getvalue()] * len(labels), "label": labels})
    info = json.dumps({"info": {"features": names}})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)


@pytest.mark.needs("pyarrow")
def test_parquet_without_validation_is_split_as_folders_are(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00001.parquet", "other/photos.parquet"):
        write_parquet(tmp_path / name, [0, 1] * 4)
    for location in (tmp_path / "data", tmp_path / "other", tmp_path / "other" / "photos.parquet"):
        train, val = open_train_val(location)
        assert (train.counts, val.counts) == ([3, 3], [1, 1])
    assert any("part of the parquet of train" in n for n in open_train_val(tmp_path)[0].notes)
    with pytest.raises(
        FileNotFoundError, match=r"has no parquet file named val-\*\.parquet; it has"
    ):
        open_images(tmp_path / "data")


@pytest.mark.needs("pyarrow")
def test_parquet_of_a_test_part_is_left_out_beside_validation(tmp_path: Path) -> None:
    for part, labels in (("train", [0, 1]), ("validation", [1, 0, 1]), ("test", [-1, -1])):
        write_parquet(tmp_path / "default" / part / "0000.parquet", [*labels])
    train, val = open_train_val(tmp_path)
    assert (len(train), len(val)) == (2, 3)
    assert any("1 of the 3 files" in n and "0000.parquet" in n for n in val.notes)


@pytest.mark.needs("pyarrow")
def test_a_table_beside_class_folders_makes_no_parquet_set_of_them(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 2, "b": 2})
    write_parquet(tmp_path / "metadata.parquet", [0, 1])
    assert open_images(tmp_path).classes == ("a", "b")


@pytest.mark.needs("pyarrow")
def test_parquet_with_an_image_without_label_or_with_other_columns_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_parquet(tmp_path / "train-0.parquet", [0, None])
    with pytest.raises(ValueError, match="image 1 has no label in column 'label'"):
        open_images(tmp_path, "train")
    pq.write_table(pa.table({"image": [b""], "cls": [0]}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match=r"train-1\.parquet has columns .*, without 'label'"):
        open_images(tmp_path, "train")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        open_images(tmp_path)


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_that_validation_lacks_is_named_and_not_measured(
    tmp_path: Path, empty: bool
) -> None:
    write_folders(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    write_folders(tmp_path / "val", {"a": 2, "c": 1})
    if empty:
        (tmp_path / "val" / "b").mkdir()
    train, val = open_train_val(tmp_path)
    assert val.classes == train.classes == ("a", "b", "c")
    assert val.labels.tolist() == [0, 0, 2]
    assert val.notes == (f"{tmp_path / 'val'} has no image of 1 class, not measured: 'b'",)
    # Evaluated alone, the same classes can be guessed.
    assert open_images(tmp_path).classes == ("a", "b", "c")


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"a": 2, "b": 2})
    write_folders(tmp_path / "val", {"c": 2})
    with pytest.raises(ValueError, match=r"only in validation \['c'\]; give both the same"):
        open_train_val(tmp_path)


def test_classes_that_validation_spells_otherwise_are_the_same_and_said(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"Ant": 2, "caf\u00e9": 2, "hot dog": 2})
    write_folders(tmp_path / "val", {"ant": 1, "cafe\u0301": 2, "hot_dog": 3})
    train, val = open_train_val(tmp_path)
    assert val.classes == train.classes == ("Ant", "caf\u00e9", "hot dog")
    assert val.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert any("taken: 'ant' as 'Ant'" in note for note in val.notes)


def test_classes_that_could_be_two_of_training_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"Cat": 2, "cat": 2, "dog": 2})
    write_folders(tmp_path / "val", {"CAT": 1, "dog": 2})
    with pytest.raises(ValueError, match=r"only in validation \['CAT'\]"):
        open_train_val(tmp_path)


def test_a_train_folder_alone_is_split_for_training_and_refused_for_evaluation(
    tmp_path: Path,
) -> None:
    write_folders(tmp_path / "train", {"a": 6, "b": 4})
    train, val = open_train_val(tmp_path, val_share=0.5)
    assert (train.counts, val.counts) == ([3, 2], [3, 2])
    note = f"{tmp_path} has no validation images: part of {tmp_path / 'train'} validates"
    assert note in train.notes
    with pytest.raises(FileNotFoundError, match="has no val part"):
        open_images(tmp_path)


def test_parts_under_other_usual_names_and_in_a_wrapper_are_found(tmp_path: Path) -> None:
    write_folders(tmp_path / "set" / "Training", {"a": 2, "b": 3})
    write_folders(tmp_path / "set" / "Testing", {"a": 1, "b": 1})
    train, val = open_train_val(tmp_path)
    assert (len(train), len(val), train.classes) == (5, 2, ("a", "b"))
    assert f"{tmp_path} only wraps {tmp_path / 'set'}, which was used" in train.notes
    assert len(open_images(tmp_path)) == 2
    assert len(open_images(tmp_path, "train")) == 5


def test_a_part_that_is_missing_is_named_with_what_lies_in_its_place(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"a": 2, "b": 2})
    write_folders(tmp_path, {"test": 1})
    for split in (None, "val"):
        with pytest.raises(
            FileNotFoundError, match=r"no val part; expected val or .*skipped: test"
        ):
            open_images(tmp_path, split)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 1})
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="b holds no image"):
        open_images(tmp_path)


def test_a_folder_without_images_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one folder of images for each class"):
        open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")


def broken_in_the_middle(path: Path) -> None:
    """Leaves the header and the end, so that only decoding finds out."""
    content = bytearray(path.read_bytes())
    content[60 : len(content) - 20] = bytes(len(content) - 80)
    path.write_bytes(content)


@pytest.mark.parametrize("side", [16, 120])
def test_a_damaged_file_is_named_before_training_and_left_out(tmp_path: Path, side: int) -> None:
    write_folders(tmp_path / "train", {"a": 3, "b": 3}, side=side)
    write_folders(tmp_path / "val", {"a": 3, "b": 3}, side=side)
    for part in ("train", "val"):
        path = tmp_path / part / "a" / "1.png"
        path.write_bytes(path.read_bytes()[:-40])
    for images in open_train_val(tmp_path):
        assert images.labels.tolist() == [0, 0, 1, 1, 1]
        (note,) = images.notes
        assert note.startswith(f"1 of the 6 images of {images.name} cannot be read and were left")
        assert f"{Path(images.name) / 'a' / '1.png'}: " in note
    assert (images.pixels is None) == (side > 96)
    first = images.pixels[1] if images.pixels is not None else None
    if first is not None:
        with Image.open(tmp_path / "val" / "a" / "2.png") as photo:
            assert np.array_equal(first.numpy(), np.asarray(photo))


def test_several_damaged_files_are_refused_by_name_before_training(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 3, "b": 3})
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2 of the 6 .*above 1 %.*a/1\.png.*b/2\.png"):
        open_images(tmp_path)


def test_a_photo_of_too_many_pixels_counts_as_damaged(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 3, "b": 3}, side=120)
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a" / "huge.png")
    images = open_images(tmp_path)
    assert len(images) == 6
    (note,) = images.notes
    assert "a/huge.png: " in note
    assert "196000000 pixels" in note


def test_files_that_are_no_images_are_told(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "x.heic").touch()
    assert open_images(tmp_path).notes == ("skipped 1 file without an image's extension: .heic 1",)


def test_a_label_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="label 4"):
        ImageSet(
            name="set",
            classes=("a", "b"),
            labels=torch.tensor([0, 4]),
            pixels=torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        )


def test_a_split_repeats_with_its_seed_and_takes_of_every_class() -> None:
    images = tiny_images(80)
    rest, held = split_by_class(images, share=0.25, seed=3)
    again = split_by_class(images, share=0.25, seed=3)[1]
    other = split_by_class(images, share=0.25, seed=4)[1]
    assert held.pixels is not None
    assert again.pixels is not None
    assert other.pixels is not None
    assert torch.equal(held.pixels, again.pixels)
    assert not torch.equal(held.pixels, other.pixels)
    assert held.labels.bincount().tolist() == [5, 5, 5, 5]
    assert len(rest) == 60


def test_the_papers_search_set_has_its_classes_and_held_out_images() -> None:
    images = tiny_images(400, classes=40)
    train, val = search_split(images, num_classes=20, num_held=50, seed=0)
    assert len(train.classes) == 20
    assert (len(train), len(val)) == (150, 50)
    assert set(train.classes) < set(images.classes)
    # A class keeps its images under its new number.
    number = train.classes.index(val.classes[int(val.labels[0])])
    assert number == int(val.labels[0])
    assert search_split(images, num_classes=20, num_held=50, seed=1)[0].classes != train.classes


def test_holding_out_splits_without_overlap() -> None:
    images = tiny_images(40)
    marked = ImageSet(
        name="m", classes=tuple("abcdefgh" * 5), labels=torch.arange(40), pixels=images.pixels
    )
    rest, held = hold_out(marked, 10, seed=0)
    assert sorted([*rest.labels.tolist(), *held.labels.tolist()]) == list(range(40))
    assert len(held) == 10


def test_cifar_networks_take_inputs_in_proportion_and_one_stride_less() -> None:
    sides = [cifar_arch(ARCHS[f"fbnetv3_{letter}"]).resolution for letter in "abcdefg"]
    assert sides == [32, 36, 36, 36, 38, 38, 46]
    strides = [row.stride for row in cifar_arch(ARCHS["fbnetv3_a"]).rows]
    assert strides == [1, 1, 2, 2, 1, 2, 1]


@pytest.mark.parametrize("limit", ["s", "m", "l"])
def test_a_network_made_for_small_images_stays_as_it_is(limit: str) -> None:
    arch = ARCHS[f"nars_cifar_{limit}"]
    assert cifar_arch(arch) is arch


def test_every_image_is_evaluated_once_over_all_processes() -> None:
    images = tiny_images(23)
    preprocess = default_preprocess(images, 16)
    seen = [
        index
        for rank in range(3)
        for batch in eval_batches(
            images, preprocess, batch_size=4, world=World(rank, 3, 1), device=CPU
        )
        for index in batch.indices.tolist()
    ]
    assert sorted(seen) == list(range(23))


def batches_of(images: ImageSet, rank: int = 0, size: int = 1, **fields: Any) -> TrainBatches:
    recipe = tiny_recipe(**fields)
    preprocess = default_preprocess(images, 16)
    return TrainBatches(images, recipe, preprocess, seed=0, world=World(rank, size, 1), device=CPU)


def test_processes_share_the_batch_that_one_would_have() -> None:
    images = tiny_images(96)
    whole = list(batches_of(images).epoch(1))
    halves = [list(batches_of(images, rank, 2).epoch(1)) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        joined = torch.cat([half[number].images for half in halves])
        assert torch.equal(batch.images, joined)


def test_batches_from_a_step_on_are_those_of_the_whole_epoch() -> None:
    batches = batches_of(tiny_images(96))
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, 4))
    assert len(whole) == 6
    for one, other in zip(whole[4:], rest, strict=True):
        assert torch.equal(one.images, other.images)
    assert not torch.equal(whole[0].indices, next(batches.epoch(3)).indices)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller batch_size"):
        batches_of(tiny_images(12))


def photos(tmp_path: Path, num: int) -> ImageSet:
    write_folders(tmp_path, {"a": num, "b": num}, side=100)
    return open_images(tmp_path)


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "cutout", "trivial", "autoaugment"])
def test_photos_are_augmented_the_same_way_each_time(tmp_path: Path, augment: str) -> None:
    images = photos(tmp_path, 8)
    batches = batches_of(images, augment=augment)
    first, again = (next(batches.epoch(0)) for _ in range(2))
    assert first.images.shape == (16, 3, 16, 16)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, images.labels[first.indices])


@pytest.mark.parametrize("augment", ["none", "crop", "trivial"])
def test_transforms_reach_processes_that_start_anew(augment: str) -> None:
    preprocess = default_preprocess(tiny_images(), 16)
    for recipe in (None, tiny_recipe(augment=augment)):
        again = pickle.loads(pickle.dumps(PhotoTransform(recipe, preprocess)))
        assert again(example_photos()[0]).shape == (16, 16, 3)


def test_decoding_processes_give_the_batches_of_none_and_live_over_epochs(tmp_path: Path) -> None:
    images = photos(tmp_path, 16)
    preprocess = default_preprocess(images, 16)
    batches = [
        TrainBatches(
            images, tiny_recipe(), preprocess, seed=0, world=World(), device=CPU, workers=workers
        )
        for workers in (0, 1)
    ]
    pids = []
    for epoch, first in ((0, 0), (1, 1)):
        one, other = (list(b.epoch(epoch, first)) for b in batches)
        assert len(one) == len(other) == 2 - first
        assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))
        pids.append([child.pid for child in multiprocessing.active_children()])
    assert pids[0]
    assert pids[0] == pids[1]


def test_a_damaged_photo_in_an_epoch_is_replaced_and_counted(tmp_path: Path) -> None:
    images = photos(tmp_path, 8)
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    batches = batches_of(images)
    with pytest.warns(UserWarning, match=r"another image is trained on: .*a/3\.png: "):
        batch = next(batches.epoch(0))
    assert batch.images.shape[0] == 16
    assert batches.damaged == {3}
    assert 3 not in batch.indices.tolist()


def test_too_many_damaged_photos_stop_training_by_name(tmp_path: Path) -> None:
    images = photos(tmp_path, 8)
    for number in (3, 5):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png"):
        list(batches_of(images).epoch(0))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_leaves_a_damaged_photo_out_and_names_it(
    tmp_path: Path, batch_size: int
) -> None:
    images = photos(tmp_path, 2)
    broken_in_the_middle(tmp_path / "a" / "1.png")
    preprocess = default_preprocess(images, 16)
    with pytest.warns(UserWarning, match=r"left out: cannot read image .*a/1\.png: ") as told:
        batches = list(
            eval_batches(images, preprocess, batch_size=batch_size, world=World(), device=CPU)
        )
    assert len(told) == 1
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 2, 3]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 1]
    assert sum(len(batch.images) for batch in batches) == 3


def test_photos_are_evaluated_as_the_preprocessing_record_has_them(tmp_path: Path) -> None:
    images = photos(tmp_path, 1)
    preprocess = default_preprocess(images, 32)
    batch = next(eval_batches(images, preprocess, batch_size=2, world=World(), device=CPU))
    with Image.open(tmp_path / "a" / "0.png") as photo:
        assert np.array_equal(batch.images[0].numpy(), preprocess(photo))


def test_the_check_of_files_tells_how_far_it_is(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_folders(tmp_path / part, {"a": 150, "b": 150}, side=2)
    seen: list[tuple[int, int]] = []
    open_train_val(tmp_path, on_check=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 300), (300, 300)] * 2


def test_a_large_photo_is_cropped_at_random_as_timm_does_it(tmp_path: Path) -> None:
    preprocess = default_preprocess(tiny_images(), 32)
    recipe = tiny_recipe(augment="crop")
    transform = PhotoTransform(recipe, preprocess)
    theirs = create_transform(
        32, is_training=True, interpolation=preprocess.interpolation, color_jitter=0.0
    ).transforms[:2]
    path = tmp_path / "photo.jpg"
    open_image(example_photos()[0]).resize((800, 600)).save(path, quality=95)
    apart = []
    for seed in range(20):
        seed_all(seed)
        ours = transform(path).numpy().astype(float)
        seed_all(seed)
        image = open_image(path)
        for step in theirs:
            image = step(image)
        apart.append(np.abs(ours - np.asarray(image, dtype=float)).mean())
    # The same part of the photo, flipped alike: of another part it would be tens of 255.
    assert max(apart) < 6
    assert np.mean(apart) < 3


def test_a_photo_smaller_than_twice_its_crop_has_the_very_pixels_of_timm(tmp_path: Path) -> None:
    preprocess = default_preprocess(tiny_images(), 32)
    theirs = create_transform(
        32, is_training=True, interpolation=preprocess.interpolation, color_jitter=0.0
    ).transforms[:2]
    path = tmp_path / "photo.jpg"
    open_image(example_photos()[0]).resize((60, 45)).save(path)
    seed_all(3)
    ours = PhotoTransform(tiny_recipe(augment="crop"), preprocess)(path)
    seed_all(3)
    image = open_image(path)
    for step in theirs:
        image = step(image)
    np.testing.assert_array_equal(ours.numpy(), np.asarray(image))
