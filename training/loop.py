"""The training loop: play, pack, credit, update, publish. Everything else is done by the parts named here.

Law: a run that is stopped after any step and resumed gives the parameters of one that was not, bit for bit (CPU,
float32, same number of threads). Nothing random is carried along: every step draws from the seed and its own number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NoReturn

from visualzoom.agents.api_records import ApiError
from visualzoom.agents.engine_policy import EngineLost
from visualzoom.agents.rollout import Played
from visualzoom.algorithms.diagnostics import credit_metrics
from visualzoom.algorithms.records import Credit, CreditIn
from visualzoom.evaluation.curves import draw_curves
from visualzoom.evaluation.evaluate import Mode
from visualzoom.evaluation.measure import Measures
from visualzoom.training.alarms import Alarms
from visualzoom.training.checks import check_train
from visualzoom.training.config import SamplerLost, TrainConfig, UsageError
from visualzoom.training.gather import Gathered
from visualzoom.training.metrics import read_metrics
from visualzoom.training.pack import pack_played
from visualzoom.training.progress import Progress, open_progress
from visualzoom.training.ranks.ranks import ALONE, Ranks
from visualzoom.training.ranks.team import Lead
from visualzoom.training.rollouts import Rollouts
from visualzoom.training.run import Run, open_training
from visualzoom.training.run_folder import open_run
from visualzoom.training.step_clock import StepClock
from visualzoom.training.stopping import StopRequest
from visualzoom.training.streaming import Streaming
from visualzoom.training.summary import Evaluations, Summary, last_words, own_name, summarise
from visualzoom.training.world import unseen


def train(config: TrainConfig, ranks: Ranks = ALONE) -> Summary | None:
    """Train as the config says and leave a run folder.

    Args:
        config: Of the run.
        ranks: Who learns together: this is the first of them, and the others are in `follow` (follower.py).

    Returns:
        The figures of the run; None if it was asked to stop before its last step.

    Raises:
        UsageError: What was asked for can't be done; nothing was lost.
    """
    check_train(config)
    with Lead(ranks) as lead:
        return _train(open_training(config, open_run(config), lead))


def _train(run: Run) -> Summary | None:
    config = run.config
    state, objective, alarms = run.state, run.objective, Alarms.of(run.earlier_rows())
    shown = open_progress(config.steps, first_step=state.step)
    with (
        closing(run),
        kept_if_lost(run),
        closing(open_rollouts(run)) as rollouts,
        StopRequest() as stop,
        shown as progress,
    ):
        first_step = state.step + 1
        run.check_sampler("at the start")
        examine_before(run, progress)
        progress.phase("training")
        while state.step < config.steps and not stop.requested:
            clock = StepClock()
            with clock.phase("rollout"), run.playing():
                gathered = rollouts.next()
            batch = pack_played(gathered.kept, gathered.greedy_rewards) if gathered.kept else give_up(run, gathered)
            with clock.phase("credit"):
                values = run.learner.values(batch) if objective.algorithm.needs_values else None
                reference = run.learner.reference_logprobs(batch) if objective.needs_reference else None
                given = batch.credit_in(values, reference)
                credit = credit_or_give_up(run, given)
            run.rest_sampler()
            with clock.phase("update"):
                report = run.learner.update(batch, credit, objective, values_T=values, reference_logprobs_T=reference)
            state.step, state.next_task = state.step + 1, gathered.next_task
            rollouts.updated()
            if state.step == first_step:
                rollouts.publish()
                run.check_sampler("after the first publish")
            figures = credit_metrics(given, objective.charged(given), credit) | clock.values(report)
            row = run.note_step(gathered, report, figures)
            progress.step(state.step, row)
            alarmed = sound(run, alarms.watch(row), progress)
            keep(run, gathered.played)
            if alarmed:
                break
        keep_last(run)
        summary = conclude(run, progress) if state.step >= config.steps else None
    if troubles := run.troubles():
        print(f"{troubles}. What was replayed changed nothing; what was lost left the loss.", flush=True)
    words = f"Stopped after step {state.step}; to go on: {own_name()} train --resume {run.folder.path}"
    print(words if summary is None else last_words(summary, run.folder), flush=True)
    return summary


def open_rollouts(run: Run) -> Rollouts | Streaming:
    """What plays: a batch for each step, or without a pause."""
    return Streaming(run) if run.config.placement.max_staleness > 1 else Rollouts(run)


@contextmanager
def kept_if_lost(run: Run) -> Iterator[None]:
    """Save what was trained when replies can't be made any more."""
    try:
        yield
    except (SamplerLost, EngineLost):
        keep_last(run)
        raise
    except ApiError as problem:  # of the judge: no answer can be judged any more
        keep_last(run)
        raise UsageError(f"the judge: {problem}. What was trained is saved in {run.folder.path}") from problem


def give_up(run: Run, gathered: Gathered) -> NoReturn:
    """A step without anything to learn from is no chance: say how the episodes ended, and save what there is."""
    run.save()
    played = gathered.played
    counts = Counter(one.episode.stop_reason.value for one in played)
    ends = ", ".join(f"{count} {end}" for end, count in counts.items())
    problem = next((f"; the first problem: {one.problem}" for one in played if one.problem is not None), "")
    left_out = {"failed": gathered.num_failed, "were cut off": gathered.num_truncated}
    left_out["could not be judged"] = gathered.num_unjudged
    left_out["have no greedy episode to be compared with"] = gathered.num_no_baseline
    why = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    raise UsageError(
        f"none of the {len(played)} episodes of step {run.state.step + 1} can be learned from: {why} "
        f"({ends}{problem}). After context_overflow raise --max-context-tokens; after env_error mend the environment, "
        "reward or tool, and go on with --resume; with --truncated drop raise the limit that was met. A limit can't be "
        f"changed on resume: begin a new run from here with --model {run.folder.path} --out NEW"
    )


def credit_or_give_up(run: Run, given: CreditIn) -> Credit:
    """The objective's credit; a reward that the algorithm can't work with is the user's to mend."""
    try:
        return run.objective.credit(given)
    except ValueError as problem:
        run.save()
        raise UsageError(
            f"--algorithm {run.config.algorithm} with --reward {run.config.world.reward}: {problem}. What was trained "
            f"so far is saved in {run.folder.path}"
        ) from problem


def sound(run: Run, alarms: Sequence[str], progress: Progress) -> bool:
    """Say what looks sick; whether to stop for it."""
    mode = run.config.report.alarms
    for alarm in alarms if mode != "off" else ():
        progress.note(f"ALARM at step {run.state.step}: {alarm}")
    return bool(alarms) and mode == "stop"


def examine_before(run: Run, progress: Progress) -> None:
    """Measure the untrained model once: greedy, sampled, and, where tasks have answers, with a call forced upon it."""
    if run.state.before is not None:
        return
    run.state.before = _examine(run, progress, "before training")
    if not math.isnan(run.state.before.greedy.accuracy):
        progress.phase("evaluating a forced call")
        run.state.forced = run.examine(Mode.FORCED, run.config.report.final_eval_tasks)


def keep(run: Run, played: Sequence[Played]) -> None:
    """Evaluate, save episodes and checkpoints when they are due."""
    step, report = run.state.step, run.config.report
    best = False
    last = step == run.config.steps  # `conclude` logs a larger evaluation; the best is found on equal tasks
    if last or step % report.eval_every == 0:
        best = is_best(run, run.examine(Mode.GREEDY, report.eval_tasks, log=not last))
    if step % report.episodes_every == 0:
        run.save_episodes(played)
    if best or step % report.checkpoint_every == 0:
        run.save(best=best)


def keep_last(run: Run) -> None:
    """Save where the training ended, by itself or by a signal that may have come at any moment."""
    last = run.checkpoints.latest()
    if last is None or last.step != run.state.step:
        run.save()


def is_best(run: Run, measures: Measures) -> bool:
    """Whether no greedy evaluation was better so far: in accuracy, or in reward where tasks have no answers."""
    assert run.state.before is not None  # `examine_before` came first
    score = measures.reward if math.isnan(run.state.before.greedy.accuracy) else measures.accuracy
    best = score > run.state.best_score  # never of NaN: all episodes failed
    if best:
        run.state.best_score = score
    return best


def conclude(run: Run, progress: Progress) -> Summary:
    """Measure the trained model, and leave the figures and the picture of the run."""
    after = _examine(run, progress, "after training")
    state = run.state
    assert state.before is not None  # `examine_before` came first
    last = run.checkpoints.latest()
    summary = summarise(
        algorithm=run.config.algorithm,
        seed=run.config.seed,
        updates=state.step,
        seconds=state.seconds,
        before=state.before,
        after=after,
        forced=state.forced,
        skipped_updates=state.skipped_updates,
        failed_episodes=state.failed_episodes,
        checkpoint=None if last is None else last.folder,
    )
    summary.save(run.folder.summary)
    draw_curves(read_metrics(run.folder.metrics), run.folder.curves, summary=summary.values())
    return summary


def _examine(run: Run, progress: Progress, when: str) -> Evaluations:
    num_tasks = len(unseen(run.config.report.final_eval_tasks, run.source))
    progress.phase(f"evaluating {num_tasks} unseen tasks {when}, greedy")
    greedy = run.examine(Mode.GREEDY, num_tasks)
    progress.phase(f"evaluating {num_tasks} unseen tasks {when}, sampled")
    return Evaluations(greedy=greedy, sampled=run.examine(Mode.SAMPLED, num_tasks))
