"""The trials of one search on disk: nothing finished is lost by a kill at any moment.

One process, the coordinator, has the database open for writing; `Store.open` refuses a second.
A round enters in one transaction before any of its trials starts. Workers never see the database:
they write result files (`results`), which are read in here as often as one likes. Database lost?
`rebuild` makes it again from the folder:

    search.json                 the settings
    search.sqlite               this module's database (WAL; on a local disk)
    batches/<number>.json       each round as proposed
    trials/<id>/<attempt>/      what workers wrote

The store takes no decisions about the search.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fbnetv3._internal.errors import StoreError

from .files import (
    BATCHES,
    SETTINGS,
    read_batch,
    read_settings,
    write_batch,
    write_settings,
)
from .lock import beat, give_lock, reported, take_lock
from .queries import Queries
from .results import last_written, read_epochs
from .trials import Batch, Proposal, Trial

DATABASE = "search.sqlite"

_TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stage (name TEXT PRIMARY KEY, content TEXT NOT NULL, finished REAL NOT NULL);
CREATE TABLE batch (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, rng_state TEXT NOT NULL,
    predictor TEXT NOT NULL, created REAL NOT NULL, filed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE trial (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    batch INTEGER NOT NULL REFERENCES batch(number), slot INTEGER NOT NULL,
    genes BLOB NOT NULL, costs TEXT NOT NULL, seed INTEGER NOT NULL, epochs INTEGER NOT NULL,
    predicted REAL, origin TEXT NOT NULL, state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    owner TEXT, lease_until REAL, started REAL, ended REAL, reason TEXT,
    fidelity REAL NOT NULL DEFAULT 1);
CREATE INDEX trial_state ON trial(state);
CREATE INDEX trial_batch ON trial(batch);
CREATE TABLE metric (
    trial INTEGER NOT NULL REFERENCES trial(seq), epoch INTEGER NOT NULL,
    attempt INTEGER NOT NULL, value REAL, PRIMARY KEY (trial, epoch, attempt)) WITHOUT ROWID;
"""


@dataclass
class Store(Queries):
    """An open search folder. Made by `create`, `open` or `read`; a context manager.

    Attributes:
        folder: the search's.
        settings: space, objective and config as JSON, as `create_search` makes them.
        messages: what a person should know of, such as damaged files that were passed over.
    """

    folder: Path
    settings: dict[str, Any]
    messages: list[str] = field(default_factory=list)
    _database: sqlite3.Connection = field(init=False, repr=False)
    _lock: FileLock | None = field(init=False, default=None, repr=False)
    _depth: int = field(init=False, default=0, repr=False)
    _copy: tempfile.TemporaryDirectory[str] | None = field(init=False, default=None, repr=False)
    # Number of a trial -> when this process leased it, by a clock that nobody sets.
    _leased: dict[int, float] = field(init=False, default_factory=dict, repr=False)

    @staticmethod
    def create(folder: str | Path, settings: Mapping[str, Any]) -> Store:
        """Returns a new, empty store in a folder that has none.

        Raises:
            ValueError: the folder already holds a search, or is a file.
        """
        folder = Path(folder)
        if (folder / SETTINGS).exists():
            raise ValueError(f"{folder} already holds a search; resume it or name another folder")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; expected a folder for the search")
        folder.mkdir(parents=True, exist_ok=True)
        with reported(folder):
            write_settings(folder, settings)
        return Store.open(folder)

    @staticmethod
    def open(folder: str | Path) -> Store:
        """Returns the store as its only coordinator; trials that were running are queued again.

        Raises:
            FileNotFoundError: there is no search in the folder.
            StoreError: another coordinator is at work, or the database is damaged or full.
        """
        folder = Path(folder)
        store = Store(folder, read_settings(folder))
        store._lock = take_lock(folder)
        try:
            with reported(folder):
                store._connect()
                store._recover()
        except BaseException:
            store.close()
            raise
        return store

    @staticmethod
    def read(folder: str | Path) -> Store:
        """Returns the store for reading only; a coordinator may be at work meanwhile.

        Raises:
            FileNotFoundError: there is no search in the folder, or it has no database.
            StoreError: the database is damaged.
        """
        folder = Path(folder)
        store = Store(folder, read_settings(folder))
        path = folder / DATABASE
        if not path.exists():
            raise _unmade(folder)
        with reported(folder):
            store._database = _reading(path)
            try:
                made = store._has_tables()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname.split("_")[1] not in ("READONLY", "CANTOPEN"):
                    raise
                store._database.close()
                store._copy = _copied(path)
                store._database = _reading(Path(store._copy.name) / DATABASE)
                made = store._has_tables()
            if not made:
                store.close()
                raise _unmade(folder)
            store._database.execute("SELECT COUNT(*) FROM batch").fetchone()
            if store._is_of_one_fidelity():
                # A view of this connection hides the table of that name.
                store._database.execute(
                    "CREATE TEMP VIEW trial AS SELECT *, 1.0 AS fidelity FROM main.trial"
                )
        return store

    @staticmethod
    def rebuild(folder: str | Path) -> Store:
        """Returns the store with its database made again from the folder's other files.

        An existing database is kept as `search.sqlite.old`, and untouched if a file is damaged.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        lock = take_lock(folder)
        try:
            rounds = [read_batch(path) for path in sorted((folder / BATCHES).glob("*.json"))]
        except BaseException:
            give_lock(folder, lock)
            raise
        for suffix in ("", "-wal", "-shm"):
            old = folder / (DATABASE + suffix)
            if old.exists():
                os.replace(old, folder / f"{DATABASE}.old{suffix}")
        store = Store(folder, settings)
        store._lock = lock
        try:
            with reported(folder):
                store._connect(rebuilding=True)
                with store.transaction():
                    for batch, proposals, failed in rounds:
                        store._load_batch(batch, proposals, failed)
                store._recover()
        except BaseException:
            store.close()
            raise
        return store

    def _connect(self, *, rebuilding: bool = False) -> None:
        path = self.folder / DATABASE
        lost = not rebuilding and any((self.folder / BATCHES).glob("*.json"))
        if lost and not path.exists():
            raise _lost(self.folder, "missing")
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
        if lost and not self._has_tables():
            raise _lost(self.folder, "empty")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA foreign_keys=ON")
        with self.transaction():
            if not self._has_tables():
                for statement in _TABLES.split(";"):
                    self._database.execute(statement)
            elif self._is_of_one_fidelity():
                self._database.execute(
                    "ALTER TABLE trial ADD COLUMN fidelity REAL NOT NULL DEFAULT 1"
                )

    def _has_tables(self) -> bool:
        """Returns whether the database was made; a kill just before leaves an empty one."""
        found = self._database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        return found is not None

    def _is_of_one_fidelity(self) -> bool:
        """Returns whether the database was made by a version without rungs."""
        columns = self._database.execute("SELECT name FROM pragma_table_info('trial')")
        return "fidelity" not in {name for (name,) in columns}

    def _recover(self) -> None:
        """Files rounds that a crash left unfiled, reads all results in, frees what was running."""
        self._file_batches()
        with self.transaction():
            for trial in self.trials("queued", "leased"):
                self.ingest(trial)
            # The workers died with their coordinator: this is no failure of the trial.
            self._database.execute(
                "UPDATE trial SET state='queued', owner=NULL, lease_until=NULL WHERE state='leased'"
            )

    def close(self) -> None:
        """Closes the database and gives up the coordinator's lock."""
        if hasattr(self, "_database"):
            self._database.close()
        if self._copy is not None:
            self._copy.cleanup()
        if self._lock is not None:
            give_lock(self.folder, self._lock)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def beat(self) -> None:
        """Shows coordinators on other hosts that this one is alive."""
        beat(self.folder)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is written inside; nests into the outermost.

        Raises:
            StoreError: the disk is full, or the database is damaged; nothing was written.
        """
        if self._depth:
            yield
            return
        with reported(self.folder):
            self._database.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
            self._file_batches()

    def trial_id(self, proposal: Proposal) -> str:
        """Returns the trial's content hash: equal trials are one trial, wherever they come from."""
        identity = {
            **self.settings.get("identity", {}),
            "genes": [int(gene) for gene in proposal.genes],
            "epochs": proposal.epochs,
            "seed": proposal.seed,
            **({"fidelity": proposal.fidelity} if proposal.fidelity < 1 else {}),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def add_batch(self, batch: Batch, proposals: Sequence[Proposal]) -> int:
        """Writes a round and its trials in one transaction; returns how many trials are new."""
        with self.transaction():
            self._insert_batch(batch)
            return self._insert(batch.number, proposals)

    def add_replacement(self, failed: Trial, proposal: Proposal) -> Trial:
        """Returns the trial that takes the place of a failed one, added to the same round.

        Raises:
            ValueError: the proposed trial is known already.
        """
        with self.transaction():
            if not self._insert(failed.batch, [proposal]):
                raise ValueError(
                    f"{proposal.genes} has already been tried; expected an untried candidate"
                )
            self._database.execute("UPDATE batch SET filed=0 WHERE number=?", (failed.batch,))
            return self.trials("queued", batch=failed.batch)[-1]

    def _insert_batch(self, batch: Batch, *, filed: bool = False) -> None:
        state = json.dumps(batch.rng_state)
        self._database.execute(
            "INSERT INTO batch VALUES (?,?,?,?,?,?)",
            (batch.number, batch.kind, state, batch.predictor, time.time(), int(filed)),
        )

    def _insert(self, number: int, proposals: Sequence[Proposal]) -> int:
        before = self._database.total_changes
        self._database.executemany(
            "INSERT OR IGNORE INTO trial (id,batch,slot,genes,costs,seed,epochs,predicted,origin,"
            "state,fidelity) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                (
                    self.trial_id(p), number, p.slot, np.asarray(p.genes, "<i2").tobytes(),
                    json.dumps(dict(p.costs)), p.seed, p.epochs, p.predicted, p.origin,
                    "queued" if p.value is None else "done", p.fidelity,
                )
                for p in proposals
            ),
        )  # fmt: skip
        new = self._database.total_changes - before
        self._database.executemany(
            "INSERT OR IGNORE INTO metric SELECT seq, epochs, 0, ? FROM trial WHERE id=?",
            ((p.value, self.trial_id(p)) for p in proposals if p.value is not None),
        )
        return new

    def _file_batches(self) -> None:
        for (number,) in self._database.execute(
            "SELECT number FROM batch WHERE filed=0"
        ).fetchall():
            self._file_batch(number)

    def _file_batch(self, number: int) -> None:
        trials = self.trials(batch=number)
        imported = {t.seq: self.curve(t.seq)[-1] for t in trials if t.origin != "search"}
        write_batch(self.folder, self.batch(number), trials, imported)
        self._database.execute("UPDATE batch SET filed=1 WHERE number=?", (number,))

    def _load_batch(
        self, batch: Batch, proposals: Sequence[Proposal], failed: Sequence[tuple[Proposal, str]]
    ) -> None:
        self._insert_batch(batch, filed=True)
        self._insert(batch.number, proposals)
        for proposal, reason in failed:
            self._database.execute(
                "UPDATE trial SET state='failed', reason=? WHERE id=?",
                (reason, self.trial_id(proposal)),
            )

    def lease(self, trial: Trial, owner: str, seconds: float) -> int:
        """Marks a trial as running until the lease ends; returns the number of its attempt."""
        now = time.time()
        with self.transaction():
            self._database.execute(
                "UPDATE trial SET state='leased', attempt=attempt+1, owner=?, lease_until=?,"
                "started=? WHERE seq=?",
                (owner, now + seconds, now, trial.seq),
            )
        self._leased[trial.seq] = time.monotonic()
        return trial.attempt + 1

    def extend_leases(self, owner: str, seconds: float) -> None:
        """Extends the leases of all trials that an owner runs."""
        with self.transaction():
            self._database.execute(
                "UPDATE trial SET lease_until=? WHERE state='leased' AND owner=?",
                (time.time() + seconds, owner),
            )

    def release(self, trial: Trial, reason: str, max_attempts: int) -> bool:
        """Counts a failure of a running trial; returns whether it has now failed for good."""
        failed = trial.failures + 1 >= max_attempts
        with self.transaction():
            self._database.execute(
                "UPDATE trial SET state=?, failures=failures+1, owner=NULL, lease_until=NULL,"
                "reason=? WHERE seq=?",
                ("failed" if failed else "queued", reason, trial.seq),
            )
            if failed:
                self._database.execute("UPDATE batch SET filed=0 WHERE number=?", (trial.batch,))
        return failed

    def ingest(self, trial: Trial) -> bool:
        """Reads a trial's result files in, again if need be; returns whether it is complete.

        Complete means a label for every epoch, or one that says that training diverged.
        """
        found = list(read_epochs(self.folder, trial.id, self.messages))
        if not found:
            return False
        curve = {epoch.epoch: epoch.value for epoch in found}
        diverged = any(value is None for value in curve.values())
        complete = diverged or all(k in curve for k in range(1, trial.epochs + 1))
        with self.transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO metric VALUES (?,?,?,?)",
                ((trial.seq, e.epoch, e.attempt, e.value) for e in found),
            )
            if complete:
                ended, took = None, 0.0
                if trial.seq in self._leased:
                    took = time.monotonic() - self._leased.pop(trial.seq)
                else:  # no process saw its end
                    ended = last_written(self.folder, trial.id)
                self._database.execute(
                    "UPDATE trial SET state='done', ended=COALESCE(?, started + ?), owner=NULL, "
                    "lease_until=NULL WHERE seq=? AND state<>'done'",
                    (ended, took, trial.seq),
                )
        return complete

    def reopen_rounds(self, kind: str, renamed: str) -> None:
        """Has a finished search go on: forgets its answers, and trials that its last stage left.

        Args:
            kind: of the rounds of the last stage.
            renamed: their kind from then on.
        """
        left = "(SELECT seq FROM trial JOIN batch ON number=batch WHERE kind=? AND state='queued')"
        with self.transaction():
            self._database.execute(f"DELETE FROM metric WHERE trial IN {left}", (kind,))
            self._database.execute(f"DELETE FROM trial WHERE seq IN {left}", (kind,))
            self._database.execute("UPDATE batch SET kind=?, filed=0 WHERE kind=?", (renamed, kind))
            self._database.execute("DELETE FROM stage WHERE name='answers'")

    def replace_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes other settings for the search, atomically."""
        with reported(self.folder):
            write_settings(self.folder, settings)
        self.settings = dict(settings)

    def set_stage(self, name: str, content: Mapping[str, Any]) -> None:
        """Remembers what a stage found; every stage can be worked out again from the rounds."""
        with self.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO stage VALUES (?,?,?)",
                (name, json.dumps(content), time.time()),
            )


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30
    )


def _copied(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Returns a folder with a copy of a database, which SQLite only reads where it may write."""
    copy = tempfile.TemporaryDirectory(prefix="fbnetv3-search-")
    for source in (path, path.with_name(f"{path.name}-wal")):
        if source.is_file():
            shutil.copyfile(source, Path(copy.name) / source.name)
    return copy


def _unmade(folder: Path) -> FileNotFoundError:
    """Returns the error of reading a search that has no database, or an empty one."""
    path = folder / DATABASE
    if any((folder / BATCHES).glob("*.json")):
        what = "empty" if path.exists() else "missing"
        return FileNotFoundError(f"{path} is {what}; {_rebuild(folder)}")
    return FileNotFoundError(
        f"the search in {folder} was stopped before its first round; resume it"
    )


def _lost(folder: Path, what: str) -> StoreError:
    return StoreError(f"{folder / DATABASE} is {what}, but its rounds exist; {_rebuild(folder)}")


def _rebuild(folder: Path) -> str:
    return f"rebuild it with fbnetv3-search rebuild {folder}"
