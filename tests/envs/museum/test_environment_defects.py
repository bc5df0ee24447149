"""The bug museum, second room: defects of published environments, rebuilt small, and the law that finds each.

`python tests/envs/museum/test_environment_defects.py` prints the room's rows of the table in docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from broken_environments import (
    AnswersFromTheTranscript,
    AnswersWithoutTags,
    BothEnds,
    ClosesOnce,
    CountsPrintedImages,
    CutsTheOverview,
    Evaluates,
    FloatImages,
    ForgetsChance,
    FourValues,
    GlobalSeed,
    GoesOnAfterTheEnd,
    HandsOutItsOwn,
    KeepsState,
    LastCallOnly,
    NeverEnds,
    NoLimits,
    NoSeed,
    OneBadDiscardsAll,
    OneBuffer,
    OneFlag,
    OpenRecord,
    PaysCalls,
    PaysFailures,
    RaisesOnBadCalls,
    RawInfo,
    RestoresTheBeginning,
    RunsAway,
    SharedSession,
    TellsBoxesOutside,
    TellsTheRequest,
    Unchecked,
    make_env,
)

from visualzoom.envs import VisualZoomEnv
from visualzoom.envs.protocols.deepeyes import DeepEyesV5
from visualzoom.envs.testing import (
    Effort,
    Law,
    environment_parts,
    first_breach,
    make_tasks,
    report_environment,
)
from visualzoom.envs.testing import environment_laws as law
from visualzoom.envs.testing import episode_laws as own_law
from visualzoom.envs.testing.tool_laws import INERT

EFFORT = Effort(max_examples=60, num_steps=5)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing.md"

Exhibit = tuple[Callable[[], gymnasium.Env[Any, Any]], Law]
EXHIBITS: dict[str, Exhibit] = {
    "terminated and truncated at once": (lambda: make_env(BothEnds, max_turns=2), law.ONE_END),
    "one flag for all ends": (lambda: make_env(OneFlag), law.ONE_END),
    "a failed episode is paid": (lambda: make_env(PaysFailures), law.FAILED_UNPAID),
    "each call is paid": (lambda: make_env(PaysCalls), own_law.SILENT_END),
    "a malformed reply is asked for again, for ever": (lambda: make_env(NeverEnds), own_law.LIMITS),
    "state of one episode is in the next": (lambda: make_env(KeepsState), law.SAME_SEED),
    "the seed is ignored": (lambda: make_env(NoSeed), law.SAME_SEED),
    "the global generators are seeded": (lambda: make_env(GlobalSeed), law.NO_GLOBAL_CHANCE),
    "one buffer for all observations": (lambda: make_env(OneBuffer), law.NO_ALIAS),
    "what is shown is what is kept": (lambda: make_env(HandsOutItsOwn), law.HARMLESS),
    "the last turn is not on record": (lambda: make_env(OpenRecord), own_law.RECORD),
    "the answer ... of the instruction": (lambda: make_env(AnswersFromTheTranscript), own_law.ANSWER),
    "a reply without tags is an answer": (lambda: make_env(AnswersWithoutTags), own_law.ANSWER),
    "image tokens that the policy prints are images": (lambda: make_env(CountsPrintedImages), own_law.RECORD),
    "the requested box is on record": (lambda: make_env(TellsTheRequest), own_law.SHOWN_EXACT),
    "the last of several calls is run": (lambda: make_env(LastCallOnly, protocol=DeepEyesV5()), own_law.EVERY_CALL),
    "one bad call discards all": (lambda: make_env(OneBadDiscardsAll, protocol=DeepEyesV5()), own_law.EVERY_CALL),
    "a step after the end goes on": (lambda: make_env(GoesOnAfterTheEnd), law.RESET_NEEDED),
    "a bad call raises": (lambda: make_env(RaisesOnBadCalls), law.ANY_ACTION),
    "a reply hangs the reader": (lambda: make_env(protocol=RunsAway()), law.TIMELY),
    "more images than the limit": (lambda: make_env(NoLimits, max_images=1), own_law.LIMITS),
    "images outside their space": (lambda: make_env(FloatImages), law.CONTAINED),
    "the reward is NaN": (lambda: make_env(Unchecked), law.FINITE_REWARD),
    "a snapshot without chance": (lambda: make_env(ForgetsChance), law.RESTORED),
    "a snapshot without the replies": (lambda: make_env(RestoresTheBeginning), law.REWOUND),
    "crops of the overview": (lambda: make_env(CutsTheOverview), own_law.SHOWN_EXACT),
    "numbers that JSON does not know": (lambda: make_env(RawInfo), law.JSON_INFO),
    "closing twice raises": (lambda: make_env(ClosesOnce), law.CLOSED),
    "four values in place of five": (lambda: make_env(FourValues), law.FORM),
    "boxes on record outside the picture": (lambda: make_env(TellsBoxesOutside), own_law.BOXES_INSIDE),
    "answers are evaluated": (lambda: make_env(protocol=Evaluates()), INERT),
    "environments share a session": (lambda: make_env(SharedSession), law.VECTOR),
    "images are stale for Gymnasium, too": (lambda: make_env(OneBuffer), law.GYMNASIUM),
}


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_law_finds_the_defect(name: str) -> None:
    make, broken = EXHIBITS[name]
    error = first_breach(environment_parts(make, limit_s=0.5), broken, EFFORT)
    assert error is not None
    assert broken.text in str(error)
    assert "make_env()" in error.example
    assert row(name) in PAGE.read_text(encoding="utf-8"), f"docs/testing.md wants the row {row(name)}"


def test_every_law_has_its_defect() -> None:
    laws = {law for part in environment_parts(make_env) for law in part.laws}
    assert {broken for _, broken in EXHIBITS.values()} == laws


@pytest.mark.parametrize(
    "make",
    [
        make_env,
        lambda: make_env(protocol="qwen3", tools=("zoom-choose-image", "image_rotate_tool"), coordinates="0-1000"),
        lambda: make_env(max_visual_tokens=60, tasks=make_tasks(2)),
    ],
)
def test_the_environment_without_defects_passes(make: Callable[[], VisualZoomEnv]) -> None:
    assert [str(error) for error in report_environment(make, Effort(max_examples=12)).errors] == []


def row(name: str) -> str:
    return f"| {name} | {EXHIBITS[name][1].name} |"


if __name__ == "__main__":
    print("\n".join(map(row, EXHIBITS)))  # noqa: T201
