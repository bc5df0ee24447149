r"""Judging answers as mathematics where the rules of text and number say no: 0.5 for \frac{1}{2}, (x-1)(x+1) for x^2-1.

`math-verify` (visualzoom[math]) decides, in a process of its own with a bound on memory, killed when time is up.
Law: total; a text that can't be read, or not in time, is not right; two values in one answer are a set, not one of
them. One process serves all judges of this one, one question at a time; it is started at the first that rules leave.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec

from visualzoom.envs.records import Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct
from visualzoom.rewards.judges import Boxed, Judge

START_S = 60.0
"""Longest start of the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mathematical:
    """A `Judge`: right by `is_correct`, or equal to the reference as mathematics."""

    timeout_s: float = 5.0
    """Longest comparison; what takes longer is not right."""

    def __post_init__(self) -> None:
        """Refuse to begin without the library."""
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be positive and finite")
        if find_spec("math_verify") is None:
            raise ModuleNotFoundError(
                'judging mathematics needs math-verify: pip install "visualzoom[math]"', name="math_verify"
            )

    def __call__(self, task: Task, answer: str) -> bool:
        """Whether the answer is right."""
        if is_correct(task, answer):
            return True
        if task.choices or not answer.strip() or len(answer) >= MAX_ANSWER_CHARACTERS:
            return False
        return _CHECKER.equal(task.answer, answer, timeout_s=self.timeout_s)


@dataclass(frozen=True, slots=True)
class BoxedMath(Boxed):
    r"""Judges what stands in \boxed{} as mathematics."""

    judge: Judge = field(default_factory=Mathematical)


class _Checker:
    """The process; another one after one that was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def equal(self, reference: str, answer: str, *, timeout_s: float) -> bool:
        with self._lock:
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([reference, answer]).encode() + b"\n")
                process.stdin.flush()
                return _line(process, timeout_s) == b"true\n"
            except OSError:  # time is up, or it died: a text that does that to the library equals nothing
                self._end()
                return False

    def close(self) -> None:
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        """The process that runs, or a new one; a forked child has none of its own yet.

        Raises:
            RuntimeError: It can't be started; that is no fault of the text.
        """
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visualzoom.rewards.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        try:
            if _line(self._process, START_S) == b"ready\n":
                return self._process
        except TimeoutError:
            pass
        self._end()
        raise RuntimeError("the process that compares mathematics does not start; is math-verify whole?")

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None


def _line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """The next line that it writes; less than a line if it ended.

    Raises:
        TimeoutError: It did not come in time.
    """
    assert process.stdout is not None
    until_s, read = time.monotonic() + timeout_s, b""
    while not read.endswith(b"\n"):
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
            raise TimeoutError
        piece = process.stdout.read(64)
        if not piece:
            break
        read += piece
    return read


_CHECKER = _Checker()
atexit.register(_CHECKER.close)
