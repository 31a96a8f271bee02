"""Engines run trials and notice deaths; the coordinator retries and replaces."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fbnetv3._internal.errors import StoreError, TrialError
from fbnetv3._internal.processors import available_cpus
from fbnetv3.search.execution.coordinator import OVERDUE_S, Coordinator, Policy, Progress
from fbnetv3.search.execution.engine import Engine, LocalEngine
from fbnetv3.search.execution.spec import load_objective
from fbnetv3.search.execution.worker import Outcome, Task
from fbnetv3.search.storage.results import read_epochs
from fbnetv3.search.storage.store import Store
from fbnetv3.search.storage.trials import Batch, Proposal, Trial
from tests.paths import TOY
from tests.search.ray_nodes import ray_cluster

EPOCHS = 3
MakeEngine = Callable[..., Engine]


def toy(**arguments: Any) -> dict[str, Any]:
    return {"kind": "python", "target": TOY, "arguments": arguments}


def local(objective: dict[str, Any], folder: Path, workers: int = 2) -> Engine:
    return LocalEngine(objective, folder, workers=workers, threads=1)


@pytest.mark.parametrize("asked", ["1", "999"])
def test_a_worker_has_its_share_of_processors_or_the_threads_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    engine = LocalEngine(toy(), tmp_path, workers=1)
    try:
        engine.submit(Task(str(tmp_path), "t", 1, (0, 0), 0, 1))
        (worker,) = engine.pids()
        words = ["ps", "eww", "-o", "command=", "-p", str(worker)]
        environment = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    finally:
        engine.close()
    assert f" OMP_NUM_THREADS={min(int(asked), available_cpus())} " in environment


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    # Engines use the connection that is there, which saves some seconds each.
    with ray_cluster(num_cpus=2) as cluster:
        yield cluster.address


@pytest.fixture(
    params=["local", pytest.param("ray", marks=(pytest.mark.slow, pytest.mark.needs("ray")))]
)
def make_engine(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """The same tests hold for every engine."""
    made: list[Engine] = []

    def make(objective: dict[str, Any], folder: Path, workers: int = 2) -> Engine:
        if request.param == "local":
            engine = local(objective, folder, workers)
        else:
            from fbnetv3.search.execution.ray_engine import RayEngine

            address = request.getfixturevalue("ray_address")
            engine = RayEngine(objective, folder, address=address, max_running=workers)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def task(folder: Path, *genes: int, trial: str = "t", attempt: int = 1) -> Task:
    return Task(str(folder), trial, attempt, genes, 0, EPOCHS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The coordinator's clock, which stands still unless a test moves its `now`."""
    made = SimpleNamespace(now=0.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr("fbnetv3.search.execution.coordinator.time", made)
    return made


def wait(engine: Engine, seconds: float = 120) -> Outcome:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if outcomes := engine.poll(1.0):
            assert len(outcomes) == 1
            return outcomes[0]
    raise AssertionError(f"nothing ended within {seconds} s")


def test_engine_writes_the_objectives_labels(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(toy(), tmp_path)
    assert engine.capacity() == 2
    engine.submit(task(tmp_path, 1, 2))
    assert engine.capacity() == 1
    assert wait(engine) == Outcome("t", 1)
    expected = load_objective(toy()).evaluate((1, 2), seed=0, epochs=EPOCHS)
    assert [e.value for e in read_epochs(tmp_path, "t", [])] == pytest.approx(list(expected))
    assert engine.capacity() == 2
    assert engine.poll(0.0) == []


@pytest.mark.parametrize(
    ("trouble", "error"),
    [("raise", "ValueError: no such device"), ("short", "yielded 1 labels; expected 3")],
)
def test_objectives_error_ends_the_attempt_not_the_engine(
    make_engine: MakeEngine, tmp_path: Path, trouble: str, error: str
) -> None:
    engine = make_engine(toy(trouble={"1,2": trouble}), tmp_path)
    engine.submit(task(tmp_path, 1, 2))
    outcome = wait(engine)
    assert error in outcome.error
    assert not outcome.fatal
    engine.submit(task(tmp_path, 2, 2, trial="u"))
    assert wait(engine) == Outcome("u", 1)


def test_workers_death_is_noticed_and_it_is_replaced(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine(toy(trouble={"1,2": "die"}, folder=str(tmp_path)), tmp_path, 1)
    engine.submit(task(tmp_path, 1, 2))
    outcome = wait(engine)
    assert (outcome.trial, outcome.attempt) == ("t", 1)
    assert "died" in outcome.error.lower()
    engine.submit(task(tmp_path, 2, 2, trial="u"))
    assert wait(engine) == Outcome("u", 1)


def test_cancelled_trial_has_no_outcome(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(toy(trouble={"*": "hang"}), tmp_path)
    engine.submit(task(tmp_path, 1, 2))
    engine.poll(0.5)
    engine.cancel("t")
    assert engine.capacity() == 2
    assert engine.poll(0.5) == []


def make_store(folder: Path, *genes: tuple[int, ...]) -> Store:
    store = Store.create(folder, {})
    proposals = [Proposal(g, {"macs": 1.0}, EPOCHS, 0, slot) for slot, g in enumerate(genes)]
    store.add_batch(Batch(0, "random", {}, ""), proposals)
    return store


def no_replacement(trial: Trial) -> Proposal:
    raise AssertionError(f"{trial.genes} must not fail: {trial.reason}")


def test_round_ends_with_a_label_each(make_engine: MakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    seen: list[Progress] = []
    with make_store(folder, *[(n, 1) for n in range(7)]) as store:
        engine = make_engine(
            toy(trouble={"3,1": "once", "4,1": "nan"}, folder=str(tmp_path)), folder
        )
        Coordinator(store, engine, Policy()).complete(no_replacement, seen.append)
        assert [t.state for t in store.trials()] == ["done"] * 7
        assert [t.failures for t in store.trials()] == [0, 0, 0, 1, 0, 0, 0]
        assert store.curve(5)[1:] == [None]
        assert (seen[-1].done, seen[-1].running, seen[-1].waiting) == (7, 0, 0)


@pytest.mark.parametrize("trouble", ["raise", "die"])
def test_trial_that_fails_three_times_is_replaced_in_its_round(
    make_engine: MakeEngine, tmp_path: Path, trouble: str
) -> None:
    folder = tmp_path / "s"
    with make_store(folder, (0, 1), (1, 1), (2, 1)) as store:
        engine = make_engine(toy(trouble={"1,1": trouble}, folder=str(tmp_path)), folder)
        replaced: list[Trial] = []

        def replace(trial: Trial) -> Proposal:
            replaced.append(trial)
            return Proposal((9, 9), {"macs": 2.0}, EPOCHS, 0, trial.slot)

        Coordinator(store, engine, Policy()).complete(replace)
        states = [(t.genes, t.state, t.failures, t.batch, t.slot) for t in store.trials()]
        assert states == [
            ((0, 1), "done", 0, 0, 0),
            ((1, 1), "failed", 3, 0, 1),
            ((2, 1), "done", 0, 0, 2),
            ((9, 9), "done", 0, 0, 1),
        ]
        assert [t.genes for t in replaced] == [(1, 1)]


def test_trials_that_all_fail_stop_the_search_with_their_reason(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with make_store(folder, *[(n, 1) for n in range(9)]) as store:
        engine = local(toy(trouble={"*": "raise"}), folder)
        extra = iter(range(10, 99))
        with pytest.raises(TrialError, match=r"3 trials failed .* no such device"):
            Coordinator(store, engine, Policy()).complete(
                lambda t: Proposal((next(extra), 1), {"macs": 1.0}, EPOCHS, 0)
            )
        engine.close()


def test_silent_trial_loses_its_lease(tmp_path: Path, clock: SimpleNamespace) -> None:
    folder = tmp_path / "s"
    with make_store(folder, (0, 1), (1, 1)) as store:
        frozen: list[int] = []

        class Frozen(LocalEngine):
            def poll(self, timeout_s: float) -> list[Outcome]:
                # A stopped process is what a machine that hangs looks like from outside.
                if not frozen:
                    frozen.extend(self.pids())
                    os.kill(frozen[0], signal.SIGSTOP)
                if frozen[0] in self.pids():
                    clock.now += 3
                return super().poll(timeout_s)

        engine = Frozen(toy(sleep_s=0.05), folder, workers=1, threads=1)
        Coordinator(store, engine, Policy(lease_s=2.0)).complete(no_replacement)
        engine.close()
        assert [(t.state, t.failures) for t in store.trials()] == [("done", 1), ("done", 0)]
        assert "no heartbeat" in str(store.trials()[0].reason)


def test_trial_over_its_time_fails(tmp_path: Path, clock: SimpleNamespace) -> None:
    folder = tmp_path / "s"
    with make_store(folder, (0, 1), (1, 1)) as store:

        class Slow(LocalEngine):
            def poll(self, timeout_s: float) -> list[Outcome]:
                ended = super().poll(timeout_s)
                clock.now += 3 * len(ended)  # only the hanging trial is left then
                return ended

        engine = Slow(toy(trouble={"1,1": "hang"}), folder, workers=2, threads=1)
        policy = Policy(timeout_s=2.0, max_attempts=1, lease_s=4)
        Coordinator(store, engine, policy).complete(
            lambda t: Proposal((5, 5), {"macs": 1.0}, EPOCHS, 0)
        )
        engine.close()
        assert store.trials()[1].reason == "took longer than 2 s"
        assert store.trials()[2].state == "done"


def test_hanging_trial_is_reported_and_ends_nothing(tmp_path: Path, clock: SimpleNamespace) -> None:
    folder = tmp_path / "s"
    seen: list[float] = []

    class SeenError(Exception):
        pass

    def report(progress: Progress) -> None:
        seen.append(progress.overdue_s)
        if progress.done and not progress.overdue_s:
            clock.now += 400
        if progress.overdue_s:
            raise SeenError

    with make_store(folder, (0, 1), (1, 1)) as store:
        engine = LocalEngine(toy(trouble={"1,1": "hang"}), folder, workers=2, threads=1)
        coordinator = Coordinator(store, engine, Policy(lease_s=1e6))
        with pytest.raises(SeenError):
            coordinator.complete(no_replacement, report)
        coordinator.cancel()
        engine.close()
        assert seen[-1] > OVERDUE_S
        assert store.counts()["failed"] == 0


def test_a_full_training_is_not_late_because_rungs_are_short(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbnetv3.search.execution.coordinator.POLL_S", 0.05)
    folder = tmp_path / "s"
    seen: list[Progress] = []
    step_s = 100.0

    class Timed(LocalEngine):
        def poll(self, timeout_s: float) -> list[Outcome]:
            ended = super().poll(timeout_s)
            clock.now += step_s
            return ended

    with make_store(folder) as store:
        engine = Timed(toy(sleep_s=0.1), folder, workers=1, threads=1)
        coordinator = Coordinator(store, engine, Policy(lease_s=1e6))
        rung = Proposal((0, 1), {"macs": 1.0}, 1, 0, fidelity=1 / 32)
        full = Proposal((0, 1), {"macs": 1.0}, EPOCHS, 0)
        store.add_batch(Batch(1, "random", {}, ""), [rung])
        coordinator.complete(no_replacement)
        took_s, step_s = clock.now, 1000.0
        store.add_batch(Batch(2, "random", {}, ""), [full])
        coordinator.complete(no_replacement, seen.append)
        engine.close()
    lefts = [one.seconds_left for one in seen if one.running and one.seconds_left]
    assert lefts
    assert all(left >= 0.5 * took_s * 32 for left in lefts)
    assert not any(one.overdue_s for one in seen)


def test_straggler_rule_closes_a_round_and_the_late_label_still_comes(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    genes = [(n, 1) for n in range(24)]
    with make_store(folder, *genes) as store:
        engine = local(toy(trouble={"3,1": "hang"}, sleep_s=0.01), folder, 2)
        coordinator = Coordinator(store, engine, Policy(straggler_factor=1.5))
        coordinator.complete(no_replacement)
        assert store.counts() == {"queued": 0, "leased": 1, "done": 23, "failed": 0}
        coordinator.cancel()
        engine.close()


def test_truncated_result_is_trained_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with make_store(folder, (0, 1)) as store:

        class Truncating(LocalEngine):
            def poll(self, timeout_s: float) -> list[Outcome]:
                outcomes = super().poll(timeout_s)
                for outcome in outcomes:
                    if outcome.attempt == 1:
                        place = folder / "trials" / outcome.trial / "1" / "epoch_3.json"
                        place.write_bytes(place.read_bytes()[:20])
                return outcomes

        engine = Truncating(toy(), folder, workers=1, threads=1)
        Coordinator(store, engine, Policy()).complete(no_replacement)
        engine.close()
        (trial,) = store.trials()
        assert (trial.state, trial.failures, trial.attempt) == ("done", 1, 2)
        assert "epoch_3.json" in store.messages[0]


def test_full_disk_at_a_worker_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with make_store(folder, (0, 1)) as store:
        target = tmp_path / "full.py"
        target.write_text(
            "import resource\n"
            "class Full:\n"
            "    def evaluate(self, row, *, seed, epochs):\n"
            "        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
            "        yield from [1.0] * epochs\n"
        )
        spec = {"kind": "python", "target": f"{target}:Full"}
        engine = local(spec, folder, 1)
        with pytest.raises(StoreError, match="free some space"):
            Coordinator(store, engine, Policy()).complete(no_replacement)
        engine.close()
        assert store.trials()[0].failures == 0


ORPHAN = """
import sys, time
from pathlib import Path
from fbnetv3.search.execution.engine import LocalEngine
from fbnetv3.search.execution.worker import Task
folder = Path(sys.argv[1])
spec = {"kind": "python", "target": sys.argv[2], "arguments": {"trouble": {"*": "hang"}}}
engine = LocalEngine(spec, folder, workers=1)
engine.submit(Task(str(folder), "t", 1, (1,), 0, 2))
engine.poll(1.0)
print(engine.pids()[0], flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_coordinator(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path), TOY], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        parent.kill()
    end = time.monotonic() + 60
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"kind": "magic"}, ValueError, "expected one of table, train, python"),
        ({"kind": "python", "target": "nothing"}, ValueError, "module:name"),
        (
            {"kind": "python", "target": "no_such_module_here:x"},
            ValueError,
            "no module 'no_such_module_here'",
        ),
        ({"kind": "python", "target": "/no/such.py:x"}, FileNotFoundError, "no file /no/such.py"),
        (
            {"kind": "python", "target": TOY, "arguments": {"x": 1}},
            ValueError,
            "wrong settings of the python objective",
        ),
        ({"kind": "python", "target": f"{TOY}r"}, ValueError, "has no 'maker'"),
    ],
)
def test_wrong_objective_settings_are_named(
    spec: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_objective(spec)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("class One\n", ValueError, r"one\.py is not valid Python"),
        ("import no_such_module_here\n", ImportError, "needs no_such_module_here; install it"),
        ("1 / 0\n", ValueError, "division by zero"),
    ],
)
def test_an_objectives_file_that_does_not_load_is_named(
    tmp_path: Path, code: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "one.py").write_text(code)
    with pytest.raises(error, match=message):
        load_objective({"kind": "python", "target": f"{tmp_path / 'one.py'}:One"})


def test_an_objectives_file_is_run_as_it_is_now_and_nothing_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "one.py"
    for value in (1, 2):
        path.write_text(f"class One:\n    def evaluate(self, *_, **__): return [{value}.0]\n")
        os.utime(path, (0, 0))  # of the same size and time: Python's cache would take the first
        objective = load_objective({"kind": "python", "target": f"{path}:One"})
        assert objective.evaluate((), seed=0, epochs=1) == [value]
    assert [one.name for one in tmp_path.iterdir()] == ["one.py"]


def test_workers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        LocalEngine(toy(), tmp_path, workers=0)
    with pytest.raises(ValueError, match="1 GPUs for 2 workers"):
        LocalEngine(toy(), tmp_path, workers=2, gpus=("0",))


def test_a_task_beyond_the_capacity_is_refused(tmp_path: Path) -> None:
    engine = LocalEngine(toy(), tmp_path, workers=1)
    engine.submit(task(tmp_path, 1, 1))
    assert engine.capacity() == 0
    with pytest.raises(RuntimeError, match=r"all 1 workers are busy; see capacity\(\)"):
        engine.submit(task(tmp_path, 1, 2, trial="u"))
    engine.close()
