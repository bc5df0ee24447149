"""`visualzoom bench` from the command line: real models, files in the published layout, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from bench_files import WRITERS
from faulty_server import FaultyServer, good, saying
from runs import command

from visualzoom.evaluation.benchmarks import BENCHMARKS
from visualzoom.training.cli import main

DRAWN = ("bench", "digit", "--num-threads", "1", "--num-tasks")


def published(data: Path) -> list[str]:
    names = list(BENCHMARKS)
    for name in names:
        (data / name).mkdir(parents=True)
        WRITERS[name](data / name)
    return names


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_every_published_benchmark_runs_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle knows every answer but those that are boxes: those it gives in pixels of the original."""
    names = published(tmp_path / "data")
    asked = ("--data", str(tmp_path / "data"), "--agent", "oracle", "--coordinates", "original", "--paper")
    sizes = ("--view-max-px", "100000", "--crop-max-px", "50000", "--mode", "greedy", "direct", "blank")
    assert main(["bench", *names, *asked, *sizes, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report) == names
    assert {name: modes["greedy"]["accuracy"]["mean"] for name, modes in report.items()} == dict.fromkeys(names, 1.0)
    knows_where = {"vstar", "refcoco", "refcoco+", "refcocog"}  # there it calls a tool, and in `direct` there is none
    direct = {name: modes["direct"]["accuracy"]["mean"] for name, modes in report.items()}
    assert direct == {name: float(name not in knows_where) for name in names}
    assert report["vstar"]["greedy"]["call_rate"] == 1.0 and report["pope"]["greedy"]["f1"] == 1.0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "DeepEyes-7B (paper) | 90.1" in page and (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert len(rows(tmp_path / "out")) == 3 * sum(one["num_tasks"] for one in num_tasks(report))
    capsys.readouterr()


def num_tasks(report: dict[str, Any]) -> list[dict[str, int]]:
    forms = {"hrbench-4k": 4, "hrbench-8k": 4}  # one question in four forms is one task of the report
    return [
        {"num_tasks": modes["greedy"]["accuracy"]["num_tasks"] * forms.get(name, 1)} for name, modes in report.items()
    ]


def test_the_modes_of_the_built_in_model_and_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("greedy", "direct", "blank", "oracle", "forced", "sampled", "budget")
    first, again = tmp_path / "a", tmp_path / "b"
    assert main([*DRAWN, "40", "--mode", *modes, "--repeats", "2", "--out", str(first)]) == 0
    report = json.loads((first / "report.json").read_text())["digit"]
    assert [report[mode]["repeats"] for mode in modes] == [1, 1, 1, 1, 1, 2, 1]
    accuracy = {mode: report[mode]["accuracy"]["mean"] for mode in modes}
    assert accuracy["oracle"] > 0.9 > accuracy["forced"] > accuracy["blank"] + 0.2
    assert report["oracle"]["against_base"]["p_value"] < 0.001
    assert report["budget"]["visual_tokens"] == pytest.approx(report["greedy"]["visual_tokens"], rel=0.3)
    assert main([*DRAWN, "40", "--mode", "forced", "--out", str(again), "--compare", str(first)]) == 0
    assert f"digit forced minus {first}: 0.0 [" in capsys.readouterr().out
    same = {row["index"]: row for row in rows(first) if row["mode"] == "forced"}
    assert {row["index"]: row for row in rows(again)} == same, "the seed decides"


def test_a_killed_run_is_gone_on_with_and_gives_the_same_rows(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    asked = ("bench", "digit", "locate", "--num-threads", "1", "--num-tasks", "192", "--mode", "sampled", "--seed", "5")
    assert main([*asked, "--out", str(whole)]) == 0
    running = subprocess.Popen(command(*asked, "--out", str(torn)), stdout=subprocess.DEVNULL)
    until_s = time.monotonic() + 120
    while not (torn / "rows.jsonl").exists() or not (torn / "rows.jsonl").stat().st_size:
        assert running.poll() is None and time.monotonic() < until_s
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    num_before = len(rows(torn))
    assert 0 < num_before < 384
    assert main([*asked, "--out", str(torn)]) == 0
    assert rows(torn) == rows(whole)
    assert json.loads((torn / "report.json").read_text()) == json.loads((whole / "report.json").read_text())


def test_a_model_behind_an_api_is_measured_and_judged_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = published(tmp_path / "data")
    assert "vstar" in names
    with (
        FaultyServer(usual=good("<answer>the soft one</answer>")) as model,
        FaultyServer(usual=saying(soft_is_cotton)) as judge,
    ):
        player = ("--api", model.url, "--api-model", "qwen2.5-vl")
        judged = ("--judge-api", judge.url, "--judge-model", "large", "--mode", "greedy", "direct")
        out = ("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
        assert main(["bench", "vstar", *player, *judged, *out]) == 0
    said = capsys.readouterr().out
    assert "answers judged:" in said
    assert [row["right"] for row in rows(tmp_path / "out") if row["mode"] == "greedy"] == [True, False]


def soft_is_cotton(body: dict[str, Any]) -> str:
    asked = json.loads(body["messages"][1]["content"])
    return json.dumps({"verdict": "correct" if asked["reference_answer"] == "cotton" else "incorrect"})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("vstarr",), "no benchmark is called 'vstarr'; known: vstar, hrbench-4k"),
        (("vstar",), "Fetch them with --download, or: hf download craigwu/vstar_bench --repo-type dataset"),
        (("digit", "--repeats", "3"), "at temperature 0 they are all the same"),
        (("digit", "--mode", "budget"), "add --mode greedy"),
        (("digit", "--agent", "oracle", "--mode", "oracle"), "--mode oracle: oracle has no model"),
        (("digit", "--compare", "nowhere"), "there is no rows.jsonl"),
        (("digit", "--model", "nowhere"), "--model nowhere: no such model"),
    ],
)
def test_what_is_wrong_is_said(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["bench", *flags, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and said in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_other_settings_or_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "out"), "--agent", "oracle", "--mode", "greedy")
    assert main([*DRAWN, "3", *out]) == 0
    assert main([*DRAWN, "3", *out, "--seed", "1"]) == 2
    assert "holds a run with other settings (seed)" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main([*DRAWN, "3", "--agent", "oracle", "--mode", "greedy", "--out", str(tmp_path / "mine")]) == 2
    assert "holds no benchmark run" in capsys.readouterr().err
