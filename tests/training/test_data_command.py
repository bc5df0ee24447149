"""`visualzoom data ...` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer, refusal, saying
from PIL import Image

from visualzoom.envs import open_tasks
from visualzoom.training.cli import main

LOADED = """
import sys
from visualzoom.training.cli import main
code = main(sys.argv[1:])
assert not {"torch", "transformers", "ray"} & set(sys.modules), sorted(sys.modules)
sys.exit(code)
"""
POOL = "digit:0.4,plain:0.3,absent:0.3"


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LOADED, "data", *arguments], capture_output=True, text=True)


def test_tasks_are_written_checked_measured_and_shown_without_torch(tmp_path: Path) -> None:
    file = str(tmp_path / "t.jsonl")
    written = bare("write", "digit:1,sign:1", file, "--num-tasks", "8")
    assert written.returncode == 0 and "8 tasks" in written.stdout, written.stderr
    clean = bare("check", file)
    assert clean.returncode == 0 and clean.stdout.strip() == "8 tasks: nothing found", clean.stdout + clean.stderr
    figures = bare("stats", file, "--out", str(tmp_path / "stats.json"))
    assert figures.returncode == 0 and "tasks            8" in figures.stdout, figures.stderr
    assert json.loads((tmp_path / "stats.json").read_text())["num_with_evidence"] == 8
    sheet = bare("sample", file, "--num-samples", "5", "--out", str(tmp_path / "s.png"))
    assert sheet.returncode == 0, sheet.stderr
    with Image.open(tmp_path / "s.png") as shown:
        assert shown.size[0] > 1000


def test_what_is_wrong_is_found_named_saved_and_told_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (50, 50), "red").save(tmp_path / "flat.png")
    rows = [
        {"image": "flat.png", "question": "Which colour?", "answer": "red"},
        {"image": "flat.png", "question": "Which colour?", "answer": "blue"},
        {"image": "gone.png", "question": "?", "answer": "1"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "found.json")]) == 1
    said = capsys.readouterr().out
    assert "2 tasks, 1 rows that are no tasks, 3 findings" in said and "bad row: " in said and "'gone.png'" in said
    assert "contradiction: 1" in said and "flat picture: 2" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["bad_rows"]) == 1 and {one["kind"] for one in found["findings"]} == {
        "contradiction",
        "flat picture",
    }


def test_tokens_are_counted_with_a_models_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "digit", "--num-tasks", "5", "--model", "tiny", "--preset", "tiny"]) == 0
    assert "answer, tokens                    1  1  1  1  1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("chekc", "digit"),
            "no command is called 'data chekc'; known: check, stats, sample, write, select. Did you mean 'check'?",
        ),
        (("check", "digitt"), "no task family is called 'digitt'"),
        (("check", "nowhere.jsonl"), "does not exist"),
        (("write", "digit", "t.csv"), "ends in '.csv'; tasks are written to .jsonl or .parquet"),
        (("sample", "digit", "--num-samples", "900"), "a sheet has at most 200"),
        (("select", "digit", "t.jsonl", "--unseen-mode", "greedy"), "give blank, direct or answer"),
        (("select", "digit", "t.jsonl", "--temperature", "0"), "are all the same"),
        (("select", "digit", "t.jsonl", "--easy", "0"), "need 0 <= hard < easy <= 1"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(["data", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and said in " ".join(capsys.readouterr().err.split())


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0 and main(["data", "--help"]) == 0
    assert "keep the tasks that a model can learn to look closer from" in capsys.readouterr().out


def test_selection_keeps_what_needs_a_look_and_says_why_the_rest_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in model, untrained: it reads crops, and large digits at once; what is absent it can't tell."""
    out = tmp_path / "kept.jsonl"
    asked = ("--num-tasks", "60", "--samples", "8", "--unseen-mode", "blank", "answer", "--filters", "utility")
    command = ["data", "select", POOL, str(out), *asked, "--num-threads", "1"]
    assert main(command) == 0
    source, kept = open_tasks(POOL), open_tasks(out)
    assert kept.num_tasks is not None
    families = [source.task(index).family for index in range(60)]
    found = [kept.task(index).family for index in range(kept.num_tasks)]
    assert "absent" not in found
    num_absent = families.count("absent")
    assert f"{num_absent} tasks went because their evidence is not known" in capsys.readouterr().out
    assert found.count("digit") >= 0.9 * families.count("digit") and found.count("digit") >= 0.7 * len(found)
    work = tmp_path / "kept-selection"
    page = (work / "report.md").read_text()
    assert f"| kept | {kept.num_tasks} |" in page and "no evidence is known" in page and "without looking" in page
    assert (work / "utility.png").exists() and (work / "kept.png").exists()
    verdicts = [json.loads(line) for line in (work / "verdicts.jsonl").read_text().splitlines()]
    assert [one["index"] for one in verdicts] == list(range(60))
    assert sum(one["removed_by"] is None for one in verdicts) == kept.num_tasks
    num_rows = len((work / "rows.jsonl").read_text().splitlines())
    out.unlink()
    capsys.readouterr()
    assert main(command) == 2 and "kept-pictures is there already" in " ".join(capsys.readouterr().err.split())
    again = ["data", "select", POOL, str(tmp_path / "again.jsonl"), *asked, "--num-threads", "1", "--work", str(work)]
    assert main(again) == 0
    assert len((work / "rows.jsonl").read_text().splitlines()) == num_rows, "nothing was played twice"
    assert open_tasks(tmp_path / "again.jsonl").num_tasks == kept.num_tasks
    assert main([*again[:3], str(tmp_path / "x.jsonl"), *again[4:], "--seed", "4"]) == 2
    assert "holds a run with other settings (seed)" in " ".join(capsys.readouterr().err.split())


def test_cheap_filters_alone_need_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(open_tasks("digit").task(0).pictures[0].pixels()).save(picture)
    rows = [
        {"image": "a.png", "question": "Which?", "answer": "7"},
        {"image": "a.png", "question": "Which?", "answer": "7"},
        {"image": "a.png", "question": "Why?", "answer": "because nobody knew where the picture had been taken"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filters = ("--filters", "duplicate", "verifiable")
    assert main(["data", "select", str(tmp_path / "t.jsonl"), str(tmp_path / "kept.parquet"), *filters]) == 0
    said = capsys.readouterr().out
    assert "duplicate          1" in said and "verifiable         1" in said and "kept               1" in said
    assert open_tasks(tmp_path / "kept.parquet").num_tasks == 1


def test_training_takes_a_folder_of_files(tmp_path: Path) -> None:
    assert main(["data", "write", "digit", str(tmp_path / "d" / "a.parquet"), "--num-tasks", "12"]) == 0
    assert main(["data", "write", "digit", str(tmp_path / "d" / "b.jsonl"), "--num-tasks", "9"]) == 0
    sizes = ("--tasks-per-step", "3", "--group-size", "2", "--final-eval-tasks", "3", "--num-threads", "1")
    out = ("--out", str(tmp_path / "run"), "--steps", "1")
    assert main(["train", "--data", str(tmp_path / "d"), *sizes, *out]) == 0


def test_questions_with_options_are_rewritten_by_a_served_model_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(open_tasks("digit").task(0).pictures[0].pixels()).save(picture)
    rows = [
        {"image": "a.png", "question": f"Which word {n}?", "answer": "B", "choices": ["red", "blue"]} for n in range(4)
    ]
    rows.append({"image": "a.png", "question": "Open?", "answer": "7"})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def put(body: dict[str, Any]) -> str:
        asked = json.loads(body["messages"][1]["content"])
        return json.dumps({"question": f"Open {asked['question']}" if "2" not in asked["question"] else None})

    with FaultyServer(refusal(500), usual=saying(put)) as house:
        served = ("--rewrite-api", house.url, "--rewrite-model", "large", "--filters", "verifiable")
        command = ["data", "select", str(tmp_path / "t.jsonl"), *served, "--work", str(tmp_path / "work")]
        assert main([*command[:3], str(tmp_path / "a.parquet"), *command[3:]]) == 0
        num_asked = len(house.bodies)
        assert main([*command[:3], str(tmp_path / "b.parquet"), *command[3:]]) == 0
        assert len(house.bodies) == num_asked == 5, "four, one of them twice; and nothing again"
    kept = open_tasks(tmp_path / "b.parquet")
    tasks = [kept.task(index) for index in range(5)]
    assert [task.question for task in tasks[:3]] == ["Open Which word 0?", "Open Which word 1?", "Which word 2?"]
    assert [task.choices for task in tasks] == [(), (), ("red", "blue"), (), ()]
    assert [task.answer for task in tasks] == ["blue", "blue", "B", "blue", "7"]
    assert "3 questions of 4 with options are open now" in capsys.readouterr().out
