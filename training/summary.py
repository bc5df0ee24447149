"""What came of a run: the figures of summary.json, and the last words to the user."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from visualzoom.evaluation.measure import Measures
from visualzoom.training.run_folder import RunFolder, saved_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Figures on unseen tasks before and after training. The names are fixed: scripts read them."""

    algorithm: str
    seed: int
    updates: int
    """Batches of episodes trained on."""
    seconds: float
    """Training alone, without the evaluations before and after."""
    greedy_accuracy_before: float
    greedy_accuracy_after: float
    sampled_accuracy_before: float
    sampled_accuracy_after: float
    forced_call_accuracy: float
    """Greedy, by the untrained model, its first reply forced to begin a call."""
    greedy_reward_before: float
    greedy_reward_after: float
    sampled_reward_before: float
    sampled_reward_after: float
    tool_rate_before: float
    tool_rate_after: float
    iou_before: float
    iou_after: float
    eval_tasks: int
    skipped_updates: int = 0
    """Optimizer steps left out because a gradient was not finite."""
    failed_episodes: int = 0
    """Episodes that ended by a fault and left the loss."""
    checkpoint: str = ""
    """Opens with `from_pretrained`."""

    def values(self) -> dict[str, str | int | float | None]:
        """The figures by name; what could not be measured is None, because NaN is not JSON."""
        return {name: value if value == value else None for name, value in dataclasses.asdict(self).items()}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.values(), indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """Measures of one set of weights on the unseen tasks."""

    greedy: Measures
    sampled: Measures
    """At temperature 1."""


def summarise(
    *,
    algorithm: str,
    seed: int,
    updates: int,
    seconds: float,
    before: Evaluations,
    after: Evaluations,
    forced: Measures | None,
    skipped_updates: int = 0,
    failed_episodes: int = 0,
    checkpoint: Path | None = None,
) -> Summary:
    """Put the figures under their fixed names."""
    return Summary(
        algorithm=algorithm,
        seed=seed,
        updates=updates,
        seconds=seconds,
        greedy_accuracy_before=before.greedy.accuracy,
        greedy_accuracy_after=after.greedy.accuracy,
        sampled_accuracy_before=before.sampled.accuracy,
        sampled_accuracy_after=after.sampled.accuracy,
        forced_call_accuracy=math.nan if forced is None else forced.accuracy,
        greedy_reward_before=before.greedy.reward,
        greedy_reward_after=after.greedy.reward,
        sampled_reward_before=before.sampled.reward,
        sampled_reward_after=after.sampled.reward,
        tool_rate_before=before.sampled.tool_rate,
        tool_rate_after=after.sampled.tool_rate,
        iou_before=before.sampled.iou,
        iou_after=after.sampled.iou,
        eval_tasks=after.greedy.num_episodes,
        skipped_updates=skipped_updates,
        failed_episodes=failed_episodes,
        checkpoint="" if checkpoint is None else str(checkpoint),
    )


def last_words(summary: Summary, folder: RunFolder) -> str:
    """What happened and what to look at next, for a person."""
    s, program = summary, own_name()
    forced = f"   (a forced call without training: {_figure(s.forced_call_accuracy, '{:.1%}')})"
    return "\n".join(
        (
            "",
            f"Trained with {s.algorithm} for {s.updates} steps in {s.seconds:.0f} s. On {s.eval_tasks} unseen tasks:",
            *_change("accuracy, greedy", s.greedy_accuracy_before, s.greedy_accuracy_after, "{:.1%}", forced),
            *_change("accuracy, sampled", s.sampled_accuracy_before, s.sampled_accuracy_after, "{:.1%}"),
            *_change("reward, greedy", s.greedy_reward_before, s.greedy_reward_after, "{:.2f}"),
            *_change("reward, sampled", s.sampled_reward_before, s.sampled_reward_after, "{:.2f}"),
            *_change("calls the tool", s.tool_rate_before, s.tool_rate_after, "{:.1%}"),
            *_change("IoU of its boxes", s.iou_before, s.iou_after, "{:.2f}"),
            "Look next at:",
            f"  {folder.curves}   the curves",
            *([f"  {folder.episodes}   what the model saw and said, with its boxes drawn"] * folder.episodes.exists()),
            f"  {program} eval --model {folder.path}",
            *_to_go_on(folder, s.updates),
            f"  {program.removesuffix('visualzoom')}tensorboard --logdir {folder.path}",
        )
    )


def _to_go_on(folder: RunFolder, num_updates: int) -> tuple[str, ...]:
    """The command that trains further; none where the learning rate has fallen to its end."""
    if saved_config(folder.path).learn.schedule != "constant":
        return ()
    return (f"  {own_name()} train --resume {folder.path} --steps {2 * num_updates}   to go on",)


def own_name() -> str:
    """How the user called this program, so that a command that is printed can be copied."""
    called = sys.argv[0]
    return called if Path(called).name == "visualzoom" and not Path(called).is_absolute() else "visualzoom"


def _change(name: str, before: float, after: float, form: str, remark: str = "") -> tuple[str, ...]:
    """A line of the report; none for what was measured neither before nor after."""
    if math.isnan(before) and math.isnan(after):
        return ()
    return (f"  {name:<18}  {_figure(before, form):>6} -> {_figure(after, form):>6}{remark}",)


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
