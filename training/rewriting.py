"""Asking a served model to rewrite multiple-choice questions, resumable: what it said is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from visualzoom.agents.api_records import ApiError, ServerSettings
from visualzoom.agents.records import Sampling
from visualzoom.envs.records import TaskSource
from visualzoom.evaluation.rewriting import (
    REPLY_FORMAT,
    RewrittenTasks,
    is_rewritable,
    read_rewritten,
    rewriting_messages,
)
from visualzoom.training.api import OPENAI_HOST, OPENAI_KEY
from visualzoom.training.config import UsageError

REPLY_TOKENS = 300
ASKED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteChoice:
    """A language model that turns multiple-choice questions into open ones before they are selected."""

    rewrite_api: str | None = None
    """Address of its server up to /v1; needs visualzoom[api]."""
    rewrite_model: str | None = None
    """Name of the model there."""
    rewrite_key_env: str | None = None
    """Environment variable that holds the key. Without it OPENAI_API_KEY for api.openai.com, and no key elsewhere."""

    def __post_init__(self) -> None:
        """Refuse half a choice."""
        if (self.rewrite_api is None) != (self.rewrite_model is None):
            raise UsageError("to rewrite questions give both --rewrite-api and --rewrite-model")


def rewritten(choice: RewriteChoice, source: TaskSource, indices: Sequence[int], folder: Path) -> TaskSource:
    """The tasks with the questions that the model put; those that it could not put stay as they are.

    Raises:
        UsageError: The server is not there, or refuses for good.
    """
    if choice.rewrite_api is None or choice.rewrite_model is None:
        return source
    folder.mkdir(parents=True, exist_ok=True)
    said = _Said(folder / "rewritten.jsonl")
    wanted = [index for index in indices if index not in said.questions and is_rewritable(source.task(index))]
    if wanted:
        _ask(choice, source, wanted, said)
    questions = {index: question for index, question in said.questions.items() if question is not None}
    print(f"{len(questions)} questions of {len(said.questions)} with options are open now", flush=True)
    return RewrittenTasks(source, questions)


class _Said:
    """What was said about each task so far, in a file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.questions: dict[int, str | None] = {}
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            self.questions = {one["index"]: one["question"] for one in map(json.loads, filter(_is_whole, lines))}

    def note(self, index: int, question: str | None) -> None:
        self.questions[index] = question
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"index": index, "question": question}) + "\n")


def _is_whole(line: str) -> bool:
    return line.endswith("}\n")


def _ask(choice: RewriteChoice, source: TaskSource, wanted: Sequence[int], said: _Said) -> None:
    from visualzoom.agents.openai_server import OpenAIServer  # needs a package that the core does not

    assert choice.rewrite_api is not None and choice.rewrite_model is not None  # the caller looked
    on_openai = urlsplit(choice.rewrite_api).hostname == OPENAI_HOST
    try:
        server = OpenAIServer(
            ServerSettings(
                url=choice.rewrite_api,
                model=choice.rewrite_model,
                key_env=choice.rewrite_key_env or (OPENAI_KEY if on_openai else None),
                extra={"response_format": REPLY_FORMAT},
                flags={"key_env": "--rewrite-key-env", "body": "--rewrite-model"},
            )
        )
        try:
            server.check()
            sampling = Sampling(temperature=0.0, max_tokens=REPLY_TOKENS)
            for start in range(0, len(wanted), ASKED_AT_ONCE):
                tasks = {index: source.task(index) for index in wanted[start : start + ASKED_AT_ONCE]}
                asked = {index: server.ask(rewriting_messages(task), sampling, 0) for index, task in tasks.items()}
                for index, future in asked.items():
                    answer = future.result()
                    if answer.problem is None:  # without a reply it is asked again next time
                        said.note(index, read_rewritten(tasks[index], answer.text))
                print(f"rewritten: {min(start + ASKED_AT_ONCE, len(wanted))}/{len(wanted)}", flush=True)
        finally:
            server.close()
    except ApiError as problem:
        raise UsageError(f"the model that rewrites: {problem}") from problem
