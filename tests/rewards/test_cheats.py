"""The reward-hacking laboratory: which preset pays whom, and that it finds what is planted."""

from __future__ import annotations

from pathlib import Path

import pytest

from visualzoom.envs.parts import open_reward
from visualzoom.envs.records import Episode, Reward
from visualzoom.envs.testing.laws import LawError
from visualzoom.rewards import REWARDS, WeightedTerms, closer, deepeyes
from visualzoom.rewards.cheats import CHEATS, PLAIN, Cheat, act
from visualzoom.rewards.testing import assert_not_exploitable, payments, report_reward, table
from visualzoom.training.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
PAID = {
    "deepeyes": {"whole image", "elsewhere"},
    "deepeyes-paper": {"whole image", "elsewhere"},
    "deepeyes-code": {"whole image", "elsewhere", "vision tokens in text", "no tag"},
    "closer": set(),
    "iou": set(),
    "visual-cost": set(),
    "deepeyes-v2": set(),
    "mini-o3": set(),
    "visionthink": set(),
    "pixel-reasoner": set(),
    "accuracy": set(),
}


@pytest.mark.parametrize("name", REWARDS)
def test_every_preset_pays_the_cheats_that_it_is_known_to_pay(name: str) -> None:
    report = report_reward(open_reward(name), num_tasks=4)
    assert {row.law.name for row in report.rows if row.error is not None} == PAID[name]
    assert all(row.tried == 4 for row in report.rows)


def test_the_plain_behaviours_are_what_they_are_called() -> None:
    episodes = [act(script, deepeyes, task=5) for script in PLAIN.values()]
    assert [one.answer == one.task.answer for one in episodes] == [True, False, True]
    assert [one.num_looks for one in episodes] == [0, 0, 1]
    assert all(one.stop_reason.terminated for one in episodes)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_reward_that_pays_a_cheat_is_found_out(cheat: Cheat) -> None:
    """A planted reward pays for exactly what the cheat leaves in its episode."""
    marked = tuple(turn.reply for turn in act(cheat.script, closer, task=0).turns)

    def planted(episode: Episode) -> Reward:
        return Reward(total=float(tuple(turn.reply for turn in episode.turns) == marked))

    with pytest.raises(LawError, match=cheat.name):
        assert_not_exploitable(planted, num_tasks=1)
    assert_not_exploitable(planted, allow=[cheat.name], num_tasks=1)


def test_an_unconditional_bonus_pays_a_wrong_answer_after_a_look() -> None:
    greedy = WeightedTerms({"accuracy": 0.8, "any_tool": 1.2})
    with pytest.raises(LawError, match=r"it is paid 2, and rightly, without a look 0\.8"):
        assert_not_exploitable(greedy)


def test_what_may_pay_must_be_known() -> None:
    with pytest.raises(ValueError, match="no cheat is called whole picture; known: whole image, elsewhere"):
        assert_not_exploitable(deepeyes, allow=["whole picture"])
    assert_not_exploitable(deepeyes, allow=["whole image", "elsewhere"])


def test_the_page_shows_what_is_paid() -> None:
    assert table({name: open_reward(name) for name in PAID if name != "deepeyes-paper"}) in PAGE.read_text(
        encoding="utf-8"
    )


def test_the_command_tells_and_its_program_shows_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "deepeyes-code", "--examples", "1"]) == 1
    said = capsys.readouterr().out
    program = said[said.index("import pkgutil") : said.index("\n\nbroken: elsewhere")]
    exec(compile(program, "program", "exec"), {})
    assert capsys.readouterr().out.strip() == str(payments(open_reward("deepeyes-code"))["whole image"])
    assert main(["check", "closer", "--examples", "2"]) == 0
    assert main(["check", "reward:no.such:thing"]) == 2
