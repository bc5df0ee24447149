"""`visualzoom train --dry-run`: the checks of a run, and what it would need of memory, without running it.

Law: nothing is written, no weight is read, nothing is fetched. Exit code 0, or 2 if it can't fit or can't run at all;
what this machine lacks for the run (a GPU, vLLM, the weights) is told and is no error, so that a run can be planned
elsewhere. Nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from visualzoom.training.checks import check_learning, check_names, lacks_of_machine, refuse_adapter
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.memory.asked import DryRun
from visualzoom.training.models import named_folder
from visualzoom.training.ranks.launch import launched

CANT_FIT = 2


def take_dry_run(arguments: Sequence[str]) -> tuple[DryRun | None, list[str]]:
    """What is asked of a dry run, if one is wanted, and the other arguments.

    Raises:
        UsageError: A number is none, or there is one without --dry-run.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--device-memory-gb", type=float)
    parser.add_argument("--learner-gpus", type=int)
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as problem:
        raise UsageError(f"{problem}; give a number") from problem
    given = {"--device-memory-gb": found.device_memory_gb, "--learner-gpus": found.learner_gpus}
    for flag, value in given.items():
        if value is not None and not found.dry_run:
            raise UsageError(f"{flag} {value} is about an estimate; ask for it with --dry-run")
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag} is {value}; it must be a positive number")
    if not found.dry_run:
        return None, rest
    return DryRun(device_memory_gb=found.device_memory_gb, learner_gpus=found.learner_gpus), rest


def dry_run(config: TrainConfig, asked: DryRun) -> int:
    """Check the config, print the estimate and the verdict, give the exit code.

    Raises:
        UsageError: What `check_train` refuses; or nothing can be known of the model.
    """
    check_names(config)
    folder = named_folder(config.model) if config.resume is None else None
    if folder is not None:
        refuse_adapter(config, folder)
    lacks = lacks_of_machine(config)
    with_critic = check_learning(config).needs_values

    from visualzoom.training.memory.report import Plan, report, verdict

    if asked.learner_gpus is None:
        asked = dataclasses.replace(asked, learner_gpus=_num_shares(config))
    plan = Plan.of(config, asked, with_critic=with_critic)
    print(report(plan))
    for lack in [*lacks, *plan.lacks]:
        print(f"Before it can run here: {lack}.")
    fits, sentence = verdict(plan)
    print(f"\n{sentence}")
    return CANT_FIT if fits is False else 0


def _num_shares(config: TrainConfig) -> int:
    """Over how many ranks this launch divides the learner's states."""
    return max(config.placement.num_learners, launched()[1]) if config.learn.shard == "full" else 1
