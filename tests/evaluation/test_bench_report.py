"""Laws of evaluation/bench_rows.py, bench_report.py and box_answers.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench_rows_made import row
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import COORDINATES, Coordinates, Frame, FramedBox, frame_of, iou
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Box, Episode, ImageRef, StopReason, Task, Turn
from visualzoom.evaluation.bench_report import compare, markdown, report_of, scores_by_unit
from visualzoom.evaluation.bench_rows import BenchLog, BenchRow, row_of
from visualzoom.evaluation.box_answers import BoxReferee, answer_overlap, read_box
from visualzoom.evaluation.paper_rows import PAPER


def episode(answer: str | None, *, choices: tuple[str, ...] = (), evidence: tuple[Box, ...] = ()) -> Episode:
    picture = ArrayPicture(np.zeros((100, 200, 3), dtype=np.uint8))
    task = Task(id="t", question="?", answer="red", pictures=(picture,), choices=choices, evidence=evidence)
    turn = Turn(text="?", images=(ImageRef("k", 56, 28),), reply="")
    stop = StopReason.ANSWERED if answer is not None else StopReason.NO_REPLY
    return Episode(task=task, system="", turns=(turn,), stop_reason=stop, answer=answer)


def test_rows_are_appended_once_and_a_torn_line_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    log = BenchLog(path)
    log.append([row(0), row(1), row(1, right=False)])
    assert [(one.index, one.right) for one in log] == [(0, True), (1, True)] and BenchLog(path).rows == log.rows
    assert len(path.read_bytes().splitlines()) == 2
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:37])
    torn = BenchLog(path)
    torn.append([row(2)])
    assert [one.index for one in BenchLog(path)] == [0, 1, 2]


def test_repeats_and_forms_of_a_question_are_averaged_before_anything_is_concluded() -> None:
    rows = [
        row(0, True),
        row(0, False, repeat=1),
        row(1, True, unit="t0"),
        row(1, True, unit="t0", repeat=1),
        row(2, None),
    ]
    assert scores_by_unit(rows) == {"t0": 0.75}
    uneven = [row(0, True), *(row(1, False, unit="t0", repeat=repeat) for repeat in range(3))]
    assert scores_by_unit(uneven) == {"t0": 0.5}, "a task counts once, however often it was played"
    figures = report_of(rows)["vstar"]["greedy"]
    assert figures.accuracy.num_tasks == 1 and figures.repeats == 2 and figures.num_unjudged == 1


def test_the_figures_of_a_mode_are_those_of_its_finished_episodes() -> None:
    rows = [row(index, index < 6) for index in range(8)]
    rows += [row(8, None, is_failed=True, visual_tokens=9e9), row(9, None)]
    rows += [row(index, index < 2, mode="blank", num_calls=0) for index in range(8)]
    report = report_of(rows)
    greedy, blank = report["vstar"]["greedy"], report["vstar"]["blank"]
    assert greedy.accuracy.mean == 0.75 and greedy.num_failed == 1 and greedy.num_unjudged == 1
    assert (greedy.call_rate, greedy.calls, greedy.error_rate, greedy.visual_tokens) == (1.0, 2.0, 0.5, 20.0)
    assert {name: one.mean for name, one in greedy.categories.items()} == {"a": 3 / 4, "b": 3 / 4}
    assert greedy.categories["a"].num_tasks == 4 and greedy.against_base is None
    assert blank.against_base is not None and blank.against_base.difference.mean == -0.5
    assert blank.against_base.only_first == 4 and blank.against_base.p_value == pytest.approx(0.125)


def test_yes_and_no_are_told_apart_as_pope_does() -> None:
    said = [("yes", "yes"), ("yes", "Yes."), ("yes", "no"), ("no", "yes"), ("no", "no"), ("no", "a dog")]
    rows = [
        row(index, answer.lower().startswith(truth), reference=truth, answer=answer)
        for index, (truth, answer) in enumerate(said)
    ]
    figures = report_of(rows)["vstar"]["greedy"]
    precision, recall = 2 / 3, 2 / 3
    assert figures.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures.yes_share == pytest.approx(3 / 6) and figures.accuracy.mean == pytest.approx(3 / 6)
    assert report_of([row()])["vstar"]["greedy"].f1 is None


def test_two_runs_are_compared_where_both_have_rows() -> None:
    first = [row(index, index < 4) for index in range(8)] + [row(0, mode="blank")]
    second = [row(index, index < 6) for index in range(2, 8)]
    found = compare(first, second)
    assert set(found) == {("vstar", "greedy")}
    assert found["vstar", "greedy"].difference.num_tasks == 6 and found["vstar", "greedy"].only_second == 2


def test_the_page_shows_the_figures_the_paper_and_what_decides_them_and_no_text_breaks_out() -> None:
    nasty = "a|b\n<script>"
    rows = [row(0, category=nasty), row(1, False, category="plain"), row(0, False, mode="blank", category=nasty)]
    page = markdown(report_of(rows), {"model": "m", "seed": 3}, with_paper=True)
    assert "| greedy | 50.0 [" in page and "| blank | 0.0 [" in page and "minus greedy" in page
    assert "<script>" not in page and "a/b &lt;script>" in page
    assert all(figure in page for figure in PAPER["vstar"].values()) and '"seed": 3' in page
    assert "(paper)" not in markdown(report_of(rows), {})


def test_a_row_says_what_was_shown_and_done() -> None:
    def of(given: Episode, index: int) -> BenchRow:
        return row_of(given, benchmark="b", mode="m", index=index, repeat=0, right=None, factor_px=28)

    found, other = of(episode("x" * 5000, choices=("red", "blue")), 3), of(episode(None, choices=("blue", "red")), 4)
    assert found.visual_tokens == 2.0 and found.answer == "x" * 400 and not found.is_failed
    assert other.is_failed and other.answer is None
    assert found.unit == other.unit != of(episode("red", choices=("blue", "green")), 5).unit
    lighter = dataclasses.replace(episode("red").task, pictures=(ArrayPicture(np.full((9, 9, 3), 7, dtype=np.uint8)),))
    elsewhere = dataclasses.replace(lighter, choices=("blue", "red"))
    assert of(dataclasses.replace(episode("red"), task=elsewhere), 6).unit != found.unit, "another picture"


@given(st.sampled_from(COORDINATES), st.integers(0, 190), st.integers(0, 90), st.integers(5, 60), st.integers(5, 60))
def test_a_box_is_read_in_the_frame_that_the_model_speaks_in(
    coordinates: Coordinates, left: int, top: int, width: int, height: int
) -> None:
    truth = Box(left, top, min(left + width, 200), min(top + height, 100))
    frame = frame_of(coordinates, Frame(56, 28), Frame(200, 100))
    told = FramedBox.of(truth, Frame(200, 100)).within(frame)
    sides = (told.left, told.top, told.right, told.bottom)
    said = f"[{', '.join(f'{side:.6f}' for side in sides)}]"
    played = episode(said, evidence=(truth, Box(0, 0, 1, 1)))
    assert answer_overlap(played, coordinates) == pytest.approx(1.0, abs=1e-3)
    assert BoxReferee(coordinates).grades([played, episode(None)]) == [True, None]


@given(st.integers(0, 150), st.integers(0, 80), st.integers(1, 50), st.integers(1, 20))
def test_the_overlap_is_that_of_whole_boxes(left: int, top: int, width: int, height: int) -> None:
    truth, box = Box(20, 10, 120, 60), Box(left, top, left + width, top + height)
    found = answer_overlap(episode(", ".join(map(str, box)), evidence=(truth,)), "original")
    assert found == pytest.approx(iou(box, truth))


@given(st.text(max_size=60))
def test_any_text_is_a_box_or_none(text: str) -> None:
    assert read_box(text) is None or len(read_box(text) or ()) == 4
    assert 0 <= answer_overlap(episode(text, evidence=(Box(0, 0, 5, 5),)), "shown") <= 1


def test_hedging_with_two_boxes_is_no_box() -> None:
    assert read_box("[1, 2, 3, 4] or [5, 6, 7, 8]") is None and read_box("[1, 2, 3.5, 4]") == (1, 2, 3.5, 4)
    assert read_box("1 " * 2000) is None
    assert answer_overlap(episode("[50, 50, 10, 10]", evidence=(Box(10, 10, 50, 50),)), "original") == 0.0
