"""Verdicts on disk, by the content of what was asked: asked once, known for ever, and replayed without the judge.

Law: what was put is found, in this process and others, after a crash too; the first verdict stays. A file that is none
of ours is refused, never overwritten. SQLite; many processes may share a file.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from visualzoom.rewards.verdicts import Verdict

BUSY_S = 30.0
_APPLICATION = 0x767A7664
"""In the header of the file, so that another program's database is told from ours."""
_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID"

_KNOWN = {verdict.value: verdict for verdict in Verdict}


class VerdictCache:
    """A file of verdicts, or memory alone. Close it in the end."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file, or make it.

        Raises:
            ValueError: It is no file of verdicts, or can't be opened.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                ":memory:" if path is None else path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except (sqlite3.Error, OSError) as problem:
            raise ValueError(f"{path}: not a file of verdicts ({problem}); name another one") from problem

    def get(self, key: str) -> Verdict | None:
        """The verdict of that name, if there is one."""
        with self._lock:
            row = self._database.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return _KNOWN.get(row[0]) if row else None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; one that is there already stays."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, verdict.value))

    def __len__(self) -> int:
        """How many verdicts there are."""
        with self._lock:
            return int(self._database.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0])

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._database.close()

    def _prepare(self) -> None:
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        (num_tables,) = self._database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if num_tables and application != _APPLICATION:
            raise sqlite3.DatabaseError("a database of something else")
        self._database.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._database.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(_TABLE)
