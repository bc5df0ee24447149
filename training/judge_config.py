"""A language model that judges answers: where it is served, and what to do without it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from visualzoom.training.usage import UsageError, at_least, positive


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """A language model that judges the answers that rules leave open, behind the API of OpenAI."""

    judge_api: str | None = None
    """Address of the judge's server up to /v1, for example http://localhost:8001/v1; needs visualzoom[api]."""
    judge_model: str | None = None
    """Name of the model there."""
    judge_key_env: str | None = None
    """Environment variable that holds the key. Without it OPENAI_API_KEY for api.openai.com, and no key elsewhere."""
    judge_cache: Path | None = None
    """SQLite file of verdicts: what was asked once is known, in other runs too."""
    judge_offline: bool = False
    """Ask nobody: replay the verdicts of --judge-cache. What is not among them is not judged."""
    judge_control: bool = True
    """Ask once more about each answer that was called correct, with a reference that no honest answer equals: who
    passes there too has talked to the judge, and is wrong."""
    judge_plain: bool = False
    """Don't ask the server to hold replies to a JSON schema, for one that refuses that."""
    judge_concurrency: int = 16
    """Questions in flight at once."""
    judge_timeout_s: float = 60.0
    """Longest time of one request."""
    judge_deadline_s: float = 180.0
    """Longest time of one question, with its retries; its episode then leaves the loss, and is counted."""
    judge_retries: int = 6
    """Requests after the first, where the server is busy or broken."""

    def __post_init__(self) -> None:
        """Refuse half a judge."""
        changed = [one.name for one in dataclasses.fields(self) if getattr(self, one.name) != one.default]
        if changed and self.judge_model is None:
            raise UsageError(f"{', '.join(changed)}: settings of a judge; name its model too, with --judge-model")
        if self.judge_model is not None and (self.judge_api is None) != self.judge_offline:
            raise UsageError(
                "a judge needs either --judge-api, the address of its server, or --judge-offline with --judge-cache"
            )
        if self.judge_offline and self.judge_cache is None:
            raise UsageError("judge_offline replays a file of verdicts; name it with --judge-cache")
        at_least(1, judge_concurrency=self.judge_concurrency)
        at_least(0, judge_retries=self.judge_retries)
        positive(judge_timeout_s=self.judge_timeout_s, judge_deadline_s=self.judge_deadline_s)
