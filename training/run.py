"""A training run under way: its parts, its state, and how it is examined, reported and kept.

Law: `RunState` and the parts' own state dicts hold everything that a resumed run needs; the rest is made anew from the
config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch

from visualzoom.agents.pool import EnvPool
from visualzoom.agents.records import Agent, Policy, ReportingPolicy, RestingPolicy, Sampling, TrainedPolicy
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.state import Stateful
from visualzoom.algorithms.terms import Terms
from visualzoom.envs.records import TaskSource
from visualzoom.evaluation.evaluate import Mode, evaluate
from visualzoom.evaluation.measure import Measures, measure, reply_lengths
from visualzoom.evaluation.pictures import save_episode
from visualzoom.training.assemble import (
    OpenModel,
    call_end_ids,
    make_agent,
    make_algorithm,
    make_sampler,
    make_trackers,
)
from visualzoom.training.canary import NUM_SIBLINGS, NUM_TASKS, check_agreement
from visualzoom.training.checkpoint import Checkpoint, CheckpointStore, restore_rng, rng_state
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.config_file import check_resumable
from visualzoom.training.curriculum import PassRates
from visualzoom.training.eval_modes import begun
from visualzoom.training.gather import Gathered
from visualzoom.training.gpus import take_gpu
from visualzoom.training.judging import OpenJudge
from visualzoom.training.learner import LearnerReport
from visualzoom.training.metrics import MetricsLog, Row, read_metrics
from visualzoom.training.open_learner import open_learner
from visualzoom.training.ranks.ranks import ALONE
from visualzoom.training.ranks.shared_state import SHARES
from visualzoom.training.ranks.team import AnyLearner, Lead, LeadLearner, Opening, whole_if
from visualzoom.training.run_folder import RunFolder
from visualzoom.training.summary import Evaluations
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import coordinates_of, env_maker, open_pool, open_source, unseen


@dataclass(kw_only=True, slots=True)
class RunState:
    """What changes while a run goes on, apart from weights and optimiser."""

    step: int = 0
    """Batches of episodes trained on."""
    next_task: int = 0
    """Tasks drawn so far."""
    seconds: float = 0.0
    """Spent in training steps."""
    best_score: float = -math.inf
    """Of the greedy evaluations so far."""
    skipped_updates: int = 0
    failed_episodes: int = 0
    pass_rates: dict[str, float] = field(default_factory=dict)
    """Of a curriculum, by what comes again: see curriculum.py."""
    before: Evaluations | None = None
    forced: Measures | None = None
    """None also where no task has an answer."""


@runtime_checkable
class StagedPolicy(TrainedPolicy, Protocol):
    """A sampler that takes weights between two moments of its work, from another thread than the one it works in."""

    def stage(self, version: int) -> None:
        """Lay the present weights ready, to be taken as this version as soon as can be."""


@runtime_checkable
class Troubled(Protocol):
    """A sampler that other processes are part of."""

    def troubles(self) -> str:
        """What went wrong so far, counted, for a person; an empty text if nothing did."""


@dataclass(kw_only=True, slots=True)
class Run:
    """The parts of a run."""

    config: TrainConfig
    folder: RunFolder
    opened: OpenModel
    policy: TrainedPolicy
    agent: Agent
    source: TaskSource
    envs: EnvPool
    learner: AnyLearner
    objective: Objective
    checkpoints: CheckpointStore
    metrics: MetricsLog
    num_threads: int
    judge: OpenJudge
    """Of answers."""
    pass_rates: PassRates | None = None
    """Of a curriculum."""
    state: RunState = field(default_factory=RunState)

    def examine(self, mode: Mode, num_tasks: int, *, log: bool = True) -> Measures:
        """Figures of the present weights on unseen tasks."""
        config = self.config
        temperature = 1.0 if mode is Mode.SAMPLED else 0.0
        prefix = begun(mode, config.world.protocol)
        agent = _agent(config, self.policy, self.opened, temperature=temperature, prefix=prefix)
        with self.playing():
            measures = evaluate(
                agent, self.envs, unseen(num_tasks, self.source), seed=config.seed, referee=self.judge.referee
            ).measures
        figures = policy_figures(self.policy)
        if log:
            self.metrics.log(mode, self.state.step, measures.values() | figures)
        return measures

    def playing(self) -> AbstractContextManager[None]:
        """Within this context the policy can sample: one that reads through the learner's model needs it whole."""
        return whole_if(self.learner, samples_with_learner(self.config))

    def publish(self) -> None:
        """Hand the present weights to the policy."""
        with whole_if(self.learner, not samples_with_learner(self.config)):
            self.policy.publish(self.state.step)

    def stage(self) -> None:
        """Lay the present weights ready for a policy that works in another thread."""
        if isinstance(self.policy, StagedPolicy):
            with self.learner.whole():
                self.policy.stage(self.state.step)

    def earlier_rows(self) -> list[Row]:
        """Training rows of the part of the run before this one."""
        return [row for row in read_metrics(self.folder.metrics) if row["kind"] == "train"]

    def greedy_agent(self) -> Agent:
        """Who plays the baseline of algorithms that want one."""
        return _agent(self.config, self.policy, self.opened, temperature=0.0)

    def check_sampler(self, when: str) -> None:
        """Stop a run whose sampler has weights of its own that are not the learner's.

        Raises:
            UsageError: They are not.
        """
        if samples_with_learner(self.config):
            return
        jobs = group_jobs(unseen(NUM_TASKS, self.source), group_size=NUM_SIBLINGS, seed=self.config.seed)
        played = play(self.agent, self.envs, jobs)
        ledgers = [one.ledger for one in played if one.ledger is not None and one.ledger.num_sampled]
        if ledgers:  # else the first step will say how the episodes failed
            check_agreement(self.learner, ledgers, dtype=self.config.machine.dtype, when=when)

    def rest_sampler(self) -> None:
        """Let the sampler leave its memory to the learner; the publish that follows wakes it."""
        if isinstance(self.policy, RestingPolicy):
            self.policy.rest()

    def note_step(self, gathered: Gathered, report: LearnerReport, figures: Mapping[str, float]) -> dict[str, float]:
        """Count and log a step that was just taken; gives the row that was logged."""
        state = self.state
        state.seconds += figures["timing/step"]
        state.skipped_updates += report.num_skipped_steps
        done = [one for one in gathered.played if not one.is_left_behind]
        lengths = reply_lengths(one.ledger for one in done)
        measures = measure([one.episode for one in done], lengths, grade=self.judge.referee.grades)
        state.failed_episodes += measures.num_failed
        row = measures.values() | gathered.values(state.step - 1) | learner_values(report) | dict(figures)
        row |= policy_figures(self.policy) | self.judge.figures()
        row |= {} if self.pass_rates is None else self.pass_rates.figures()
        self.metrics.log("train", state.step, row)
        return row

    def save_episodes(self, played: Sequence[Played]) -> None:
        """Keep a few episodes of this step as JSON and as pictures."""
        for number, one in enumerate(played[:: max(1, self.config.learn.group_size)]):
            if number == self.config.report.episodes_saved:
                return
            save_episode(one.episode, self.folder.episodes, f"step-{self.state.step:06d}-{number}")

    def save(self, *, best: bool = False) -> Checkpoint:
        """Write a checkpoint of this moment."""
        algorithm = self.objective.algorithm
        memory = algorithm.state_dict() if isinstance(algorithm, Stateful) else {}
        state = {
            "run": asdict(self.state),
            "learner": self.learner.saved_state(),
            "algorithm": dict(memory),
            "rng": rng_state(),
            "num_threads": self.num_threads,
        }
        return self.checkpoints.save(
            self.state.step, config=self.config, save_model=self._save_model, state=state, best=best
        )

    def _save_model(self, folder: Path) -> None:
        with self.learner.whole():
            self.opened.save(folder, coordinates=coordinates_of(self.config.world, self.opened.renderer))
        self.learner.write_shares(folder / SHARES)

    def is_kept(self, step: int) -> bool:
        """Whether weights are saved or measured after this step, or it is the last."""
        report = self.config.report
        return step == self.config.steps or not step % report.eval_every or not step % report.checkpoint_every

    def troubles(self) -> str:
        """What went wrong with environments and generators, counted; an empty text if nothing did."""
        said = {"Environments": self.envs.troubles()}
        if isinstance(self.policy, Troubled):
            said["Generators"] = self.policy.troubles()
        return "; ".join(f"{name}: {counts}" for name, counts in said.items() if counts)

    def close(self) -> None:
        """Write what is left and let the environments go."""
        self.metrics.close()
        self.envs.close()
        self.policy.close()
        self.judge.close()


def open_training(config: TrainConfig, folder: RunFolder, lead: Lead | None = None) -> Run:
    """Make the parts of a run; with `config.resume` they go on from its newest whole checkpoint.

    Args:
        config: Of the run.
        folder: Where it writes.
        lead: Of the learner ranks, if there are several.

    Raises:
        UsageError: What was asked for can't be done.
    """
    lead = lead or Lead(ALONE)
    num_threads = choose_threads(config.machine.num_threads)
    set_threads(num_threads)
    num_gpus = take_gpu(config)  # before anything is put on one
    checkpoints = CheckpointStore(folder.checkpoints, keep=config.report.keep_checkpoints)
    checkpoint = checkpoints.latest() if config.resume is not None else None
    if checkpoint is not None:
        check_resumable(config, checkpoint.config(), checkpoint=checkpoint.folder)
    algorithm = make_algorithm(config.algorithm, config.algorithm_options)
    source = open_source(config.world)
    at, lead.run = None if checkpoint is None else checkpoint.folder, folder.path
    with lead.together(Opening(config=config, checkpoint=at)):
        opened, learner = open_learner(config, algorithm, at, lead.ranks)  # before the environments: if it fails, none
    leading = LeadLearner(learner, lead) if lead.ranks.count > 1 else learner
    make_env = env_maker(config.world, source, onlooker=opened.renderer)
    with whole_if(leading, not samples_with_learner(config)):  # a sampler of its own may be sent weights
        policy = make_sampler(config, opened, num_gpus=num_gpus)
    torch.manual_seed(config.seed)  # nothing of ours draws from it; an algorithm of the user's may
    run = Run(
        config=config,
        folder=folder,
        opened=opened,
        policy=policy,
        agent=_agent(config, policy, opened, temperature=config.policy.temperature),
        source=source,
        envs=open_pool(make_env, config.world, env_workers=config.env_workers, num_threads=num_threads),
        learner=leading,
        objective=Objective(algorithm=algorithm, terms=with_length(config)),
        checkpoints=checkpoints,
        metrics=_metrics(config, folder, checkpoint),
        num_threads=num_threads,
        judge=OpenJudge(config.world, config.judge),
    )
    if checkpoint is not None:
        try:
            _restore(run, checkpoint)
        except BaseException:
            run.close()
            raise
    if config.learn.curriculum == "pass-rate":
        run.pass_rates = PassRates(run.state.pass_rates, floor=config.learn.curriculum_floor)
    return run


def samples_with_learner(config: TrainConfig) -> bool:
    """Whether the sampler reads through the learner's own model."""
    return config.policy.engine == "transformers" and config.placement.cluster == "none"


def _agent(
    config: TrainConfig, policy: TrainedPolicy, opened: OpenModel, *, temperature: float, prefix: str = ""
) -> Agent:
    stop_ids = call_end_ids(config.world.protocol, opened.renderer) if config.policy.stop_after_call else ()
    return make_agent(
        config.agent,
        policy,
        opened.renderer,
        Sampling(temperature=temperature, max_tokens=config.policy.max_tokens, stop_ids=stop_ids),
        max_context_tokens=config.policy.max_context_tokens,
        forced_prefix=prefix,
    )


def _metrics(config: TrainConfig, folder: RunFolder, checkpoint: Checkpoint | None) -> MetricsLog:
    done = -1 if checkpoint is None else checkpoint.step  # without a checkpoint even the first evaluation is redone
    return MetricsLog(
        folder.metrics,
        trackers=make_trackers(config.report.tracker, folder.path, done + 1),
        after_step=None if config.resume is None else done,
    )


def _restore(run: Run, checkpoint: Checkpoint) -> None:
    saved = cast("dict[str, Any]", checkpoint.state())
    if saved["num_threads"] != run.num_threads and run.config.machine.device == "cpu":
        raise UsageError(
            f"{checkpoint.folder} was trained with {saved['num_threads']} threads and this run has {run.num_threads}: "
            f"sums would round differently. Pass --num-threads {saved['num_threads']}"
        )
    try:
        run.learner.load_saved(saved["learner"], checkpoint.folder / SHARES)
    except ValueError as problem:
        raise UsageError(f"{checkpoint.folder} can't be gone on from: {problem}") from problem
    if isinstance(run.objective.algorithm, Stateful):
        run.objective.algorithm.load_state_dict(saved["algorithm"])
    values = saved["run"]
    before, forced = values.pop("before"), values.pop("forced")
    run.state = RunState(
        **values,
        before=None if before is None else Evaluations(**{name: Measures(**part) for name, part in before.items()}),
        forced=None if forced is None else Measures(**forced),
    )
    run.publish()
    restore_rng(saved["rng"])


def with_length(config: TrainConfig) -> Terms:
    """The terms, with the most tokens that the replies of an episode can have where a constant is asked for."""
    most = min(config.policy.max_tokens * config.world.max_turns, config.policy.max_context_tokens)
    return config.terms if config.terms.length_tokens else replace(config.terms, length_tokens=most)


def policy_figures(policy: Policy) -> dict[str, float]:
    """How the policy worked since this was last asked; nothing if it does not know."""
    return dict(policy.figures()) if isinstance(policy, ReportingPolicy) else {}


def learner_values(report: LearnerReport) -> dict[str, float]:
    """Flat figures of an update for the metrics log."""
    row = {
        "policy/objective": report.loss,
        "policy/grad_norm": report.grad_norm,
        "policy/lr": report.learning_rate,
        "policy/skipped_steps": float(report.num_skipped_steps),
        "perf/tokens_read": float(report.num_tokens_read),
        "perf/action_tokens": float(report.num_actions),
    }
    return row | {name: float(value) for name, value in report.metrics.items()}
