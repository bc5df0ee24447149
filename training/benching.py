"""`visualzoom bench`: benchmarks in several modes, resumable, with intervals, paired tests and a picture.

Law: what a figure depends on is in bench.json beside the rows, and a folder is gone on with only if all of it is the
same. Rows are written as episodes end; a run that is stopped plays only what is missing.
"""

from __future__ import annotations

import time
from pathlib import Path

from visualzoom.evaluation.bench_report import Report, compare, report_of
from visualzoom.evaluation.bench_rows import BenchLog
from visualzoom.evaluation.benchmarks import Benchmark, benchmark_named
from visualzoom.training.bench_config import BenchConfig
from visualzoom.training.bench_folder import open_folder, rows_of, settings_of_run, write_report
from visualzoom.training.bench_run import BenchRun
from visualzoom.training.config import UsageError
from visualzoom.training.evaluating import aligned
from visualzoom.training.players import open_players
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import user_errors


def run_bench(config: BenchConfig) -> int:
    """Play what is missing, then report."""
    set_threads(choose_threads(config.player.machine.num_threads))
    out = config.out or Path("runs") / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    other = None if config.compare is None else rows_of(config.compare)
    for name in dict.fromkeys(config.benchmarks):
        with user_errors("bench"):
            published = benchmark_named(name)
        if published is not None:
            _fetched(published, config)
    with open_players(config.player) as players:
        world = config.world.over(players.world)
        settings = settings_of_run(config, players, world)
        settings |= {"repeats": config.repeats, "shuffle_seed": None if config.published_order else config.shuffle_seed}
        log = BenchLog(open_folder(out, settings) / "rows.jsonl")
        for name in dict.fromkeys(config.benchmarks):
            BenchRun(config, name, players, world, log).play()
    report = report_of(log)
    print(table(report))
    if other is not None:
        for (benchmark, mode), found in compare(other, log).items():
            print(
                f"{benchmark} {mode} minus {config.compare}: {found.difference} (p {found.p_value:.3f}, {found.test})"
            )
    write_report(out, report, settings, with_paper=config.paper)
    print(f"saved: {out}/report.md, report.json, report.png, rows.jsonl")
    return 0


def table(report: Report) -> str:
    """One line for each benchmark and mode."""
    rows = [["benchmark", "mode", "accuracy [95 %]", "minus greedy", "p", "tasks", "calls", "visual tokens", "failed"]]
    for benchmark, modes in report.items():
        for mode, one in modes.items():
            against = one.against_base
            rows.append(
                [
                    benchmark,
                    mode if one.repeats == 1 else f"{mode} avg@{one.repeats}",
                    str(one.accuracy),
                    "" if against is None else str(against.difference),
                    "" if against is None else f"{against.p_value:.3f}",
                    str(one.accuracy.num_tasks),
                    f"{one.calls:.2f}",
                    f"{one.visual_tokens:.0f}",
                    str(one.num_failed + one.num_unjudged),
                ]
            )
    return aligned(rows)


def _fetched(benchmark: Benchmark, config: BenchConfig) -> None:
    """See that the files are there; fetch them if that is asked for."""
    folder = config.data / benchmark.name
    if any(any(folder.glob(pattern)) for pattern in benchmark.files):
        return
    if not config.download:
        raise UsageError(
            f"the files of {benchmark.name} are not in {folder}. Fetch them with --download, or: "
            f"{benchmark.hub.command(folder)}"
        )
    from huggingface_hub import snapshot_download  # comes with transformers
    from huggingface_hub.errors import HfHubHTTPError

    print(f"fetching {benchmark.hub.repo} into {folder}", flush=True)
    try:
        snapshot_download(
            benchmark.hub.repo, repo_type="dataset", allow_patterns=list(benchmark.hub.include), local_dir=folder
        )
    except (HfHubHTTPError, OSError) as problem:
        raise UsageError(f"{benchmark.hub.repo} can't be fetched: {problem}") from problem
