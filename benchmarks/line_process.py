"""A contestant in a process of its own: it works when it is sent a line, answers with one JSON object, and waits.

So that contestants with other Pythons, or whose memory is measured, can take turns. The standard library alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Answer = Mapping[str, Any]
KEPT_CHARACTERS = 4000
"""Of what a dead contestant complained about."""


class LineProcess:
    """One contestant. Leaving the context closes its input, at which it is to end."""

    def __init__(self, python: str, script: Path, *arguments: object, path: str = "") -> None:
        """Start it.

        Args:
            python: Interpreter.
            script: What it runs.
            arguments: On its command line.
            path: Its PYTHONPATH: empty for a peer, which must see nothing of ours.
        """
        self._name = script.name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lives as long as the process
        environment = {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [python, str(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, line: str = "") -> Answer:
        """Send a line and wait for the answer.

        Raises:
            RuntimeError: It died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"{self._name} died:\n{self._log.read()[-KEPT_CHARACTERS:]}")
        told: Answer = json.loads(answer)
        return told


def ask_in_turns(contestants: Sequence[LineProcess], num_rounds: int) -> list[list[Answer]]:
    """Answers of each contestant, after one that is not kept."""
    for contestant in contestants:
        contestant.ask()
    rounds = [[contestant.ask() for contestant in contestants] for _ in range(num_rounds)]
    return [list(answers) for answers in zip(*rounds, strict=True)]
