"""The SQLite file of a server: opened once, checked, locked against a second server, written in transactions."""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from heliograph.errors import UserError

VERSION = 1

SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, created_at INTEGER NOT NULL,
    completed_at INTEGER, status TEXT NOT NULL, made_with TEXT NOT NULL, plan TEXT NOT NULL, client TEXT NOT NULL,
    num_done INTEGER NOT NULL, error TEXT
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, plan TEXT NOT NULL, client TEXT NOT NULL, tip TEXT, is_saved INTEGER NOT NULL,
    name TEXT NOT NULL
) STRICT;
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, parent TEXT,
    place INTEGER NOT NULL, prompt TEXT NOT NULL, figures TEXT NOT NULL, made_at REAL NOT NULL
) STRICT;
CREATE INDEX chunks_by_owner ON chunks (owner, place);
"""


class Database:
    """One server's database. Reading never waits for writing; whatever a finished `writing` wrote survives a crash."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            UserError: it is damaged, or was written by another version.
        """
        self.path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(
                f"the database {path} cannot be used ({error}); give another --data-dir, or put a copy of the file "
                "back: the videos beside it are ordinary mp4 files and unharmed"
            ) from error

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """What a query finds."""
        return self._connection().execute(query, values).fetchall()

    def row(self, query: str, values: tuple[Any, ...] = ()) -> sqlite3.Row | None:
        """The first thing that a query finds."""
        return self._connection().execute(query, values).fetchone()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it happens, or nothing does."""
        with self._writing:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            self._opened.append(connection)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return self._local.connection

    def _prepare(self) -> None:
        connection = self._connection()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"it has version {version}, this program reads version {VERSION}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)


class FolderLock:
    """Holds a data folder for one server, as long as the process lives; a crash frees it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and take it.

        Raises:
            UserError: another server has it, or it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file: IO[str] = (folder / "lock").open("a")
        except OSError as error:
            raise UserError(f"cannot write in {folder} ({error.strerror}); give another --data-dir") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"another server uses {folder}; stop it, or give another --data-dir") from None

    def release(self) -> None:
        """Let another server have the folder."""
        self._file.close()
