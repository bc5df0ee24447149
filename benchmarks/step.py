"""A whole training step against TRL's: rollout, reward, update; the same weights, pictures and numbers of tokens.

    python -m venv trl-peer
    trl-peer/bin/pip install trl==1.16.0 transformers==5.19.0 torch torchvision
    python benchmarks/step.py --peer-python trl-peer/bin/python

Both sides load one checkpoint of 344 thousand weights and take steps in turns, one thread each, float32, on the CPU.
Each proves its work: hooks count what goes through the model, and a step that leaves the weights as they were raises.
What must be equal is checked: episodes, prompts, sampled tokens, images. TRL does not close a turn that was cut at its
length, so that its sequences are one token shorter for each turn but the last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from line_process import Answer, LineProcess
from step_model import save_checkpoint
from step_ours import Ours
from step_task import WORLDS
from timing import table
from transformers.utils import logging

PEER = Path(__file__).with_name("step_peer_trl.py")
EQUAL = ("episodes", "prompt", "sampled", "images")
COUNTED = ("tokens_rolled_out", "patches_rolled_out", "tokens_updated", "patches_updated")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the table."""

    name: str
    world: str
    siblings: int
    bar: float | None
    """Times faster that we want to be."""


SETTINGS = (
    Setting(name="a", world="two turns", siblings=4, bar=4.0),
    Setting(name="b", world="one turn", siblings=4, bar=3.0),
    Setting(name="c", world="two turns", siblings=16, bar=None),
)


@dataclass(kw_only=True)
class Result:
    """What both sides took in every round."""

    setting: Setting
    ours: list[Answer] = field(default_factory=list)
    theirs: list[Answer] = field(default_factory=list)

    def ratios(self, what: str = "seconds") -> list[float]:
        """Times faster, round by round."""
        return [b[what] / a[what] for a, b in zip(self.ours, self.theirs, strict=True)]

    def check(self) -> None:
        """Refuse rounds in which the two did not do the same work.

        Raises:
            RuntimeError: They did not.
        """
        num_open_turns = WORLDS[self.setting.world].num_turns - 1
        for a, b in zip(self.ours, self.theirs, strict=True):
            unequal = [name for name in EQUAL if a[name] != b[name]]
            if unequal or a["sequences"] - b["sequences"] != num_open_turns * a["episodes"]:
                raise RuntimeError(f"unequal work in {unequal or 'sequences'}: ours {a}, TRL's {b}")


def run(setting: Setting, args: argparse.Namespace, folder: Path) -> Result:
    """A step of each to warm up, then rounds in turns."""
    ours = Ours(
        folder,
        WORLDS[setting.world],
        num_tasks=args.tasks,
        group_size=setting.siblings,
        budget_tokens=args.budget_tokens,
    )
    sizes = ("--tasks", args.tasks, "--siblings", setting.siblings, "--settings", args.peer_settings)
    result = Result(setting=setting)
    with LineProcess(args.peer_python, PEER, folder, setting.world, *sizes) as peer, closing(ours.envs):
        ours.step()
        peer.ask()
        for _ in range(args.rounds):
            result.ours.append(ours.step())
            result.theirs.append(peer.ask())
    result.check()
    return result


def median(taken: Sequence[Answer], what: str) -> float:
    return float(statistics.median(one[what] for one in taken))


def show(results: Sequence[Result], num_tasks: int) -> None:
    """Tables for people."""
    rows = []
    for result in results:
        setting, ratios = result.setting, result.ratios()
        found = statistics.median(ratios)
        bar = "" if setting.bar is None else f"{setting.bar:g} x: {'met' if found >= setting.bar else 'missed'}"
        name = f"({setting.name}) {setting.world}, {num_tasks} x {setting.siblings}"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        times = [median(side, "seconds") for side in (result.ours, result.theirs)]
        in_cpu = statistics.median(result.ratios("cpu_seconds"))
        rows.append([name, times[0], median(result.ours, "rollout_seconds"), times[1], found, spread, in_cpu, bar])
    header = ("step", "ours, s", "of it rollout, s", "TRL, s", "times faster", "range", "in CPU seconds", "bar")
    table(f"Seconds a step (median of {len(results[0].ours)})", header, rows)
    names = (*EQUAL, "sequences", *COUNTED)
    counts = [
        [f"({result.setting.name}) {side}", *(int(taken[-1][name]) for name in names)]
        for result in results
        for side, taken in (("ours", result.ours), ("TRL", result.theirs))
    ]
    table("Work of one step", ("", *(name.replace("_", " ") for name in names)), counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with TRL")
    parser.add_argument(
        "--peer-settings",
        choices=("fastest", "default"),
        default="fastest",
        help="of TRL: Pillow's image processor and no gradient checkpointing, or what it does if not told otherwise",
    )
    parser.add_argument("--only", nargs="+", choices=[setting.name for setting in SETTINGS])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget-tokens", type=int, default=2048, help="of our learner, in one forward pass")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        num_weights = save_checkpoint(Path(folder))
        print(f"{num_weights} weights, {args.tasks} prompts, one thread a side, float32")
        chosen = [setting for setting in SETTINGS if args.only is None or setting.name in args.only]
        results = [run(setting, args, Path(folder)) for setting in chosen]
    show(results, args.tasks)


if __name__ == "__main__":
    main()
