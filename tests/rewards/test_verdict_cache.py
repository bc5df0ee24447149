"""Laws of rewards/verdict_cache.py: what was put is found, here and elsewhere, and no other file is touched."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.rewards import VerdictCache
from visualzoom.rewards.verdicts import Verdict

WRITER = """
import sys
from pathlib import Path
from visualzoom.rewards import VerdictCache
from visualzoom.rewards.verdicts import Verdict
cache = VerdictCache(Path(sys.argv[1]))
for number in range(200):
    cache.put(f"{number}", Verdict.CORRECT)
    cache.put(f"{sys.argv[2]}-{number}", Verdict.INCORRECT)
"""


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Verdict))))
def test_it_is_a_dictionary_whose_first_word_counts(puts: list[tuple[str, Verdict]]) -> None:
    cache, known = VerdictCache(), dict[str, Verdict]()
    for key, verdict in puts:
        cache.put(key, verdict)
        known.setdefault(key, verdict)
        assert cache.get(key) == known[key]
    assert len(cache) == len(known) and cache.get("e") is None
    cache.close()


def test_processes_share_a_file_and_it_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "verdicts.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]  # none of them closed it
    cache = VerdictCache(path)
    assert len(cache) == 600 and cache.get("b-199") is Verdict.INCORRECT and cache.get("7") is Verdict.CORRECT
    cache.close()


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("my notes " * 100)
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE mine (a)")
    database.close()
    for path in (text, other, tmp_path):
        before = None if path.is_dir() else path.read_bytes()
        with pytest.raises(ValueError, match="not a file of verdicts"):
            VerdictCache(path)
        assert before is None or path.read_bytes() == before
