"""Classification on Ray: the answers of one machine, complete though a node dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from fbnetv3.deploy.answer_table import AnswerTable
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.ray_classify import classify_on_ray, ray_cluster
from fbnetv3.images.labels import example_photos
from tests.search.ray_nodes import add_node
from tests.search.ray_nodes import ray_cluster as cluster_here
from tests.shell import carried_out

NUM_PHOTOS = 160


@pytest.mark.slow
@pytest.mark.needs("ray")
@pytest.mark.needs("pyarrow")
def test_a_dead_node_costs_no_answer_and_doubles_none(
    small_export: Exported, tmp_path: Path
) -> None:
    from pyarrow import parquet

    photos = tmp_path / "photos"
    photos.mkdir()
    examples = [photo.read_bytes() for photo in example_photos()]
    for n in range(NUM_PHOTOS):
        (photos / f"{n:03}.jpg").write_bytes(b"damaged" if n == 21 else examples[n % 3])
    names = [str(photo) for photo in sorted(photos.iterdir())]
    classifier = Classifier(small_export.path, top_k=2)
    expected = [prediction.to_dict() for prediction in classifier.stream(names)]
    output = tmp_path / "answers"
    with cluster_here(num_cpus=0) as cluster:
        nodes = [add_node(cluster, num_cpus=1) for _ in range(2)]
        table = AnswerTable(output, "killed", names)
        with ray_cluster(None):
            for number, records in classify_on_ray(
                table.missing(), small_export.path, like=classifier
            ):
                table.add(number, records)
                if nodes:  # with answers that nobody has fetched from it yet
                    assert table.missing()
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                    nodes.clear()
        assert table.finish() == 1
        # The command, on the node that is left.
        (tmp_path / "few").mkdir()
        for name in names[20:24]:
            Path(name).rename(tmp_path / "few" / Path(name).name)
        line = f"fbnetv3 classify few --model {small_export.path} --engine ray -o few.parquet"
        done = carried_out(line, tmp_path, {})
    found = {row["file"]: row for row in parquet.read_table(output).to_pylist()}
    assert list(found) == names
    assert sum(parquet.read_table(part).num_rows for part in output.glob("*.parquet")) == len(names)
    for record in expected:
        row = found[record["source"]]
        assert {key: row[key] for key in record if key != "source"} == {
            key: value for key, value in record.items() if key != "source"
        }
    assert "not an image" in found[names[21]]["error"]
    assert done.code == 1, done.err
    assert "note: 1 of the images could not be classified" in done.err
    few = parquet.read_table(tmp_path / "few.parquet").to_pylist()
    assert [row["label"] for row in few] == [found[name]["label"] for name in names[20:24]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine ray", "--output is None; with --engine ray expected"),
        ("--engine ray -o a.csv", "--output is a.csv; with --engine ray expected"),
        ("--address auto -o a.parquet", "--address is auto, which is for --engine ray"),
        ("--engine ray --device cuda -o a", "exclude each other"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: str, message: str, tmp_path: Path) -> None:
    line = f"fbnetv3 classify {example_photos()[0]} --embedded {options}"
    done = carried_out(line, tmp_path, {})
    assert done.code == 2
    assert message in done.err
