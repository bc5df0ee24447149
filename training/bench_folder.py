"""The folder of a benchmark run: what decided its figures, its rows, and its report.

Law: a folder is gone on with only by a run with the same settings; nothing else is written into.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import msgspec

from visualzoom.evaluation.bench_report import Report, markdown
from visualzoom.evaluation.bench_rows import BenchLog
from visualzoom.training.config import JudgeConfig, UsageError, WorldConfig
from visualzoom.training.players import PlayerChoice, Players, versions


class Decided(Protocol):
    """A config that says what its figures depend on."""

    @property
    def player(self) -> PlayerChoice: ...

    @property
    def seed(self) -> int: ...

    @property
    def temperature(self) -> float: ...

    @property
    def num_tasks(self) -> int | None: ...

    @property
    def judge(self) -> JudgeConfig: ...


def settings_of_run(config: Decided, players: Players, world: WorldConfig) -> dict[str, Any]:
    """All that decides a figure."""
    return {
        "model": players.name,
        "fingerprint": players.fingerprint,
        "agent": config.player.agent,
        "engine": config.player.engine.engine,
        "dtype": config.player.machine.dtype,
        "seed": config.seed,
        "temperature": config.temperature,
        "num_tasks": config.num_tasks,
        "world": msgspec.to_builtins(world, enc_hook=str),
        "judge_model": config.judge.judge_model,
        "judge_control": config.judge.judge_control,
        "versions": dict(versions()),
    }


def open_folder(out: Path, settings: dict[str, Any]) -> Path:
    """The folder of the run, if it is new or of the same settings."""
    note = out / "bench.json"
    if note.is_file():
        saved = json.loads(note.read_text(encoding="utf-8"))
        differing = [
            name for name in settings if saved.get(name) != json.loads(json.dumps(settings[name], default=str))
        ]
        if differing:
            raise UsageError(
                f"--out {out} holds a run with other settings ({', '.join(differing)}); choose another folder, or the "
                "same settings"
            )
        return out
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: this folder is not empty and holds no benchmark run; choose another")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
    return out


def rows_of(folder: Path) -> BenchLog:
    if not (folder / "rows.jsonl").is_file():
        raise UsageError(f"--compare {folder}: there is no rows.jsonl; give the folder that a benchmark run wrote")
    return BenchLog(folder / "rows.jsonl")


def write_report(out: Path, report: Report, settings: dict[str, Any], *, with_paper: bool) -> None:
    from visualzoom.evaluation.bench_picture import draw_report  # slow to import

    tree = {name: {mode: dataclasses.asdict(one) for mode, one in modes.items()} for name, modes in report.items()}
    (out / "report.json").write_text(json.dumps(_without_nan(tree), indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report, settings, with_paper=with_paper), encoding="utf-8")
    draw_report(report, out / "report.png", title=str(settings["model"]))


def _without_nan(value: Any) -> Any:
    """What was not measured is null: NaN is not JSON."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return None if isinstance(value, float) and value != value else value
