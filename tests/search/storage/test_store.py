"""The trial store: nothing finished is lost, and there is one coordinator."""

import errno
import json
import math
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fbnetv3._internal.errors import StoreError
from fbnetv3.search.storage import lock
from fbnetv3.search.storage.lock import reported
from fbnetv3.search.storage.results import attempt_folder, read_epochs, write_epoch, write_json
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal

SETTINGS = {"identity": {"space": "abc", "recipe": "none", "split": "val", "code": "1"}}


def proposal(*genes: int, epochs: int = 2, seed: int = 0, slot: int = 0) -> Proposal:
    return Proposal(genes, {"macs": 10.0 * sum(genes)}, epochs, seed, slot)


def batch(number: int, kind: str = "random") -> Batch:
    return Batch(number, kind, np.random.default_rng(number).bit_generator.state, "")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "s", SETTINGS) as made:
        yield made


def finish(store: Store, seq: int, *values: float) -> None:
    trial = store.trials()[seq]
    attempt = store.lease(trial, "me", 60)
    for epoch, value in enumerate(values, 1):
        write_epoch(store.folder, trial.id, attempt, epoch, value)
    store.ingest(trial)


def test_round_comes_back_as_it_was_proposed(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1, 2, slot=3), proposal(300, 4, epochs=5, seed=7)])
    first, second = store.trials()
    assert (first.genes, first.costs, first.slot, first.state) == (
        (1, 2), {"macs": 30.0}, 3, "queued",
    )  # fmt: skip
    assert (second.genes, second.epochs, second.seed) == ((300, 4), 5, 7)
    rng = np.random.default_rng()
    rng.bit_generator.state = store.batches()[0].rng_state
    assert rng.integers(1 << 60) == np.random.default_rng(0).integers(1 << 60)


def test_same_candidate_is_one_trial_and_any_part_of_the_identity_makes_another(
    store: Store,
) -> None:
    assert store.add_batch(batch(0), [proposal(1, 2), proposal(1, 2)]) == 1
    others = [proposal(1, 3), proposal(1, 2, epochs=3), proposal(1, 2, seed=1)]
    assert store.add_batch(batch(1), [proposal(1, 2), *others]) == 3
    assert len({t.id for t in store.trials()}) == 4


def test_labels_are_those_of_the_fidelity_asked_for(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1, epochs=3), proposal(2, epochs=3), proposal(3)])
    finish(store, 1, 40.0, 50.0, 60.0)
    finish(store, 2, 42.0, 52.0)
    at_two = store.labels(2)
    assert at_two.matrix.tolist() == [[2], [3]]
    assert at_two.values.tolist() == [50.0, 52.0]
    assert store.labels(3).values.tolist() == [60.0]
    assert store.labels().values.tolist() == [60.0, 52.0]
    assert store.labels(kinds=["bins"]).values.size == 0


def test_diverged_training_is_a_label_and_ends_the_trial(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1, epochs=4)])
    finish(store, 0, 30.0, math.nan)
    assert store.trials()[0].state == "done"
    assert store.curve(1) == [30.0, None]
    assert np.isnan(store.labels(4).values).tolist() == [True]


@pytest.mark.parametrize("set_s", [-3600.0, 86400.0])
def test_a_clock_that_is_set_does_not_change_what_a_training_took(
    store: Store, monkeypatch: pytest.MonkeyPatch, set_s: float
) -> None:
    clocks = SimpleNamespace(time=lambda: 1e9, monotonic=lambda: 5.0)
    monkeypatch.setattr("fbnetv3.search.storage.store.time", clocks)
    store.add_batch(batch(0), [proposal(1)])
    store.lease(store.trials()[0], "me", 60)
    clocks.time, clocks.monotonic = lambda: 1e9 + set_s, lambda: 12.0
    for epoch in (1, 2):
        write_epoch(store.folder, store.trials()[0].id, 1, epoch, 30.0)
    assert store.ingest(store.trials()[0])
    assert store.trials()[0].seconds == pytest.approx(7.0)


@pytest.mark.parametrize(("written_s", "seconds"), [(6.0, 6.0), (-3600.0, None)])
def test_a_training_whose_end_nobody_saw_took_until_its_last_result(
    store: Store, written_s: float, seconds: float | None
) -> None:
    store.add_batch(batch(0), [proposal(1, epochs=1)])
    store.lease(store.trials()[0], "me", 60)
    trial = store.trials()[0]
    write_epoch(store.folder, trial.id, 1, 1, 30.0)
    assert trial.started is not None
    os.utime(attempt_folder(store.folder, trial.id, 1) / "epoch_1.json",
             (0.0, trial.started + written_s))  # fmt: skip
    store.close()
    with Store.open(store.folder) as again:
        (found,) = again.trials("done")
        assert found.seconds == (None if seconds is None else pytest.approx(seconds))


def test_a_folder_that_cannot_be_written_is_read() -> None:
    # The parents of `tmp_path` are for their owner only.
    with tempfile.TemporaryDirectory() as top, Store.create(Path(top) / "s", SETTINGS) as store:
        store.add_batch(batch(0), [proposal(1)])
        finish(store, 0, 30.0, 31.0)
        wal = (store.folder / "search.sqlite-wal").read_bytes()
        store.close()
        # With the log that a kill leaves.
        (store.folder / "search.sqlite-wal").write_bytes(wal)
        for path in (Path(top), *Path(top).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            with Store.read(store.folder) as found:
                assert found.curve(1) == [30.0, 31.0]
                assert found._copy is not None
                copy = Path(found._copy.name)
                assert copy.is_dir()
        finally:
            os.seteuid(user)
            for path in (Path(top), store.folder):
                path.chmod(0o755)
        assert not copy.exists()


def test_results_are_read_in_any_number_of_times(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1)])
    finish(store, 0, 30.0, 31.0)
    for _ in range(3):
        assert store.ingest(store.trials()[0])
    assert store.curve(1) == [30.0, 31.0]


def test_later_attempt_goes_on_where_an_earlier_one_died(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1, epochs=3)])
    finish(store, 0, 30.0)
    assert not store.release(store.trials()[0], "worker died", 3)
    trial = store.trials()[0]
    attempt = store.lease(trial, "me", 60)
    assert attempt == 2
    for epoch, value in ((2, 35.0), (3, 36.0)):
        write_epoch(store.folder, trial.id, attempt, epoch, value)
    assert store.ingest(trial)
    assert store.curve(1) == [30.0, 35.0, 36.0]


def test_third_failure_is_final_and_the_coordinators_own_death_is_none(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1)])
    for expected in (False, False):
        store.lease(store.trials()[0], "me", 60)
        assert store.release(store.trials()[0], "no such device", 3) is expected
    store.lease(store.trials()[0], "me", 60)
    store.close()
    with Store.open(store.folder) as again:
        (trial,) = again.trials()
        assert (trial.state, trial.failures, trial.attempt) == ("queued", 2, 3)
        assert again.release(trial, "no such device", 3)
        (trial,) = again.trials()
        assert (trial.state, trial.reason) == ("failed", "no such device")


@pytest.mark.parametrize(
    "content",
    ["", '{"trial": "', "[]", '{"trial": "other", "attempt": 1, "epoch": 2, "value": 3}', "NaN"],
)
def test_damaged_result_file_is_ignored_with_a_message(store: Store, content: str) -> None:
    store.add_batch(batch(0), [proposal(1)])
    finish(store, 0, 30.0)
    trial = store.trials()[0]
    path = attempt_folder(store.folder, trial.id, 1) / "epoch_2.json"
    path.write_text(content)
    assert not store.ingest(trial)
    assert store.curve(1) == [30.0]
    assert str(path) in store.messages[-1]


def test_finished_results_of_a_killed_coordinator_are_not_lost(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1), proposal(2)])
    trial = store.trials()[1]
    attempt = store.lease(trial, "me", 60)
    for epoch in (1, 2):
        write_epoch(store.folder, trial.id, attempt, epoch, 10.0 * epoch)
    store.close()
    with Store.open(store.folder) as again:
        assert [t.state for t in again.trials()] == ["queued", "done"]


def test_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def broken() -> None:
        with store.transaction():
            store.add_batch(batch(0), [proposal(1)])
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        broken()
    assert store.trials() == []
    assert store.batches() == []


def hold(folder: str, ready: "multiprocessing.synchronize.Event") -> None:
    with Store.open(Path(folder)):
        ready.set()
        time.sleep(60)


def test_second_coordinator_is_refused_and_a_dead_ones_lock_is_taken_over(store: Store) -> None:
    store.close()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(store.folder), ready))
    process.start()
    try:
        assert ready.wait(20)
        with pytest.raises(StoreError, match=f"process {process.pid} on host "):
            Store.open(store.folder)
        assert Store.read(store.folder).counts()["queued"] == 0
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with Store.open(store.folder) as again:
        assert again.trials() == []


def test_coordinator_of_another_host_is_believed_while_it_shows_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    owner = store.folder / lock.OWNER
    write_json(owner, {"pid": 7, "host": "elsewhere", "since": 0})
    with pytest.raises(StoreError, match="process 7 on host elsewhere, last seen 0 s ago"):
        Store.open(store.folder)
    os.utime(owner, (0, time.time() - 2 * lock.REMOTE_SILENCE_S))
    Store.open(store.folder).close()


def snapshot(store: Store) -> list[object]:
    return [
        (t.seq, t.id, t.batch, t.slot, t.genes, t.costs, t.predicted, t.origin, t.state,
         t.reason if t.state == "failed" else None, store.curve(t.seq))
        for t in store.trials()
    ]  # fmt: skip


def lose_database(store: Store) -> None:
    store.close()
    for path in store.folder.glob("search.sqlite*"):
        path.unlink()


def test_database_is_rebuilt_from_the_files(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1), proposal(2), proposal(3)])
    finish(store, 0, 30.0, 31.0)
    finish(store, 1, math.nan)
    third = store.trials()[2]
    assert store.release(third, "out of memory", 1)
    store.add_replacement(third, proposal(9, slot=third.slot))
    store.add_batch(
        batch(1, "import"), [Proposal((4,), {"macs": 40.0}, 2, 0, origin="old.csv", value=77.0)]
    )
    before, batches = snapshot(store), store.batches()
    lose_database(store)
    with pytest.raises(StoreError, match="rebuild"):
        Store.open(store.folder)
    with Store.rebuild(store.folder) as again:
        assert snapshot(again) == before
        assert again.batches() == batches


def test_damaged_database_says_how_to_go_on_and_can_be_rebuilt(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1)])
    finish(store, 0, 1.0, 2.0)
    before = snapshot(store)
    store.close()
    path = store.folder / "search.sqlite"
    path.write_bytes(b"not a database" * 400)
    with pytest.raises(StoreError, match="fbnetv3-search rebuild"):
        Store.open(store.folder)
    with Store.rebuild(store.folder) as again:
        assert snapshot(again) == before
    assert (store.folder / "search.sqlite.old").exists()
    Store.open(store.folder).close()


def test_rebuilding_from_a_damaged_round_leaves_the_database_alone(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1), proposal(2)])
    finish(store, 0, 60.0, 70.0)
    store.close()
    file = store.folder / "batches" / "00000.json"
    whole = file.read_text()
    file.write_text(whole[:20])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"00000\.json is damaged"):
            Store.rebuild(store.folder)
    with Store.read(store.folder) as kept:
        assert kept.counts()["done"] == 1
    file.write_text(whole)
    with Store.rebuild(store.folder) as made:
        assert made.counts()["done"] == 1


def test_search_that_was_stopped_while_it_was_made_is_to_be_resumed(store: Store) -> None:
    lose_database(store)
    with pytest.raises(FileNotFoundError, match="was stopped before its first round; resume it"):
        Store.read(store.folder)
    with Store.open(store.folder) as resumed:
        assert resumed.trials() == []


def test_round_that_a_crash_left_unfiled_is_filed_at_the_next_opening(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1)])
    path = store.folder / "batches" / "00000.json"
    content = path.read_text()
    path.unlink()
    store.close()
    with sqlite3.connect(store.folder / "search.sqlite") as database:
        database.execute("UPDATE batch SET filed=0")
    database.close()
    Store.open(store.folder).close()
    assert path.read_text() == content


def test_full_database_is_one_clear_error_and_nothing_is_lost(store: Store) -> None:
    store.add_batch(batch(0), [proposal(1)])
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count={pages}")
    many = [proposal(*range(200), n) for n in range(500)]
    with pytest.raises(StoreError, match=r"disk is full .* resume"):
        store.add_batch(batch(1), many)
    assert len(store.trials()) == 1
    store._database.execute("PRAGMA max_page_count=100000")
    assert store.add_batch(batch(1), many) == 500


FULL_DISK = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from fbnetv3._internal.errors import StoreError
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal
store = Store.create(Path(sys.argv[1]), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    for n in range(1000):
        store.add_batch(Batch(n, "random", {}, ""), [Proposal((n, 1), {"macs": 1.0}, 1, 0)])
except StoreError as error:
    print(error)
"""


def test_disk_that_takes_no_more_is_one_clear_error(tmp_path: Path) -> None:
    # A limit on the size of files is the full disk that a test can have without being root.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "resume" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1


def test_result_file_on_a_full_disk_leaves_no_part_of_it(tmp_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, old[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_epoch(tmp_path, "t", 1, 1, 50.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(attempt_folder(tmp_path, "t", 1).iterdir()) == []
    messages: list[str] = []
    assert list(read_epochs(tmp_path, "t", messages)) == []
    assert messages == []


def test_settings_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fbnetv3-search run"):
        Store.open(tmp_path)
    (tmp_path / "search.json").write_text(json.dumps({"schema": "fbnetv3-search/0"}))
    with pytest.raises(StoreError, match="fbnetv3-search/0"):
        Store.open(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", "3", "null"])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(StoreError, match=r"search\.json is damaged .*restore it from a copy"):
        Store.open(tmp_path)


def test_folder_with_a_search_is_not_started_over(store: Store) -> None:
    with pytest.raises(ValueError, match="already holds a search"):
        Store.create(store.folder, SETTINGS)


def test_reader_sees_the_rows_of_a_killed_coordinator(tmp_path: Path) -> None:
    code = FULL_DISK.replace("resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))", "")
    code = code.replace("range(1000)", "range(3)") + "\nimport os; os.kill(os.getpid(), 9)\n"
    folder = tmp_path / "s"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    reader = Store.read(folder)
    assert reader.counts()["queued"] == 3
    reader.close()


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({}, r"fbnetv3-search resume .*s"),
        ({"call": {"trainings": 24}}, "repeat the call that started it"),
    ],
)
def test_a_full_disk_says_how_this_search_goes_on(
    tmp_path: Path, settings: dict[str, Any], way: str
) -> None:
    Store.create(tmp_path / "s", settings).close()
    with (
        pytest.raises(StoreError, match=f"disk is full .* then: {way}; no finished trial"),
        reported(tmp_path / "s"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
