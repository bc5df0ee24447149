"""Is this machine ready? Everything that needs a GPU, tried once, each part in a process of its own; one table.

    python benchmarks/gpu_check.py              # a CUDA machine, without network; some 20 minutes
    python benchmarks/gpu_check.py --layers 4   # a shallower model of the same widths
    python benchmarks/gpu_check.py --tiny       # the same parts with a tiny model, on a CPU too: two minutes

The parts: versions; an update of the learner (learner_cuda.py); a few steps of `visualzoom train` on a checkpoint of
random weights in the shape of Qwen2.5-VL-3B, all weights and an adapter, in bfloat16; and where vLLM is installed the
same with `--engine vllm` beside the learner, which publishes after each step and is held to the learner's
log-probabilities by the canary and at every step. "said" is what `train --dry-run` says of the peak.

Exit code 1 if a part failed, or if there was nothing to try them on. What follows `--` is passed to the runs with vLLM,
for example `-- --engine-gpu-share 0.3`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timing import table

HEADER = ("step", "what", "seconds", "tokens/s", "peak, GB", "said, GB", "result")
CHILD = Path(__file__).with_name("gpu_check_part.py")
KEPT_CHARACTERS = 300
"""Of what a failed part complained about."""


class SkippedError(Exception):
    """A part that can't be tried here, and why."""


class FailedError(Exception):
    """A part that did not work, and why."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one part that worked."""

    what: str
    seconds: float | None = None
    tokens_per_s: float | None = None
    peak_gb: float | None = None
    said_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is tried, and where."""

    tiny: bool
    layers: int
    steps: int
    limit_s: float
    folder: Path
    vllm_flags: tuple[str, ...] = ()
    device: str = "cuda"

    @property
    def model(self) -> Path:
        return self.folder / "model"


@dataclass(kw_only=True)
class Table:
    """Rows as they come."""

    rows: list[list[str]] = field(default_factory=list)
    failed: bool = False

    def try_part(self, step: str, part: Callable[[], Found]) -> None:
        """A row, whatever happens in the part."""
        began_s = time.perf_counter()
        try:
            found, result = part(), "ok"
        except SkippedError as reason:
            found, result = Found(what=""), f"skipped: {reason}"
        except FailedError as reason:
            found, result = Found(what="", seconds=time.perf_counter() - began_s), f"failed: {reason}"
            self.failed = True
        numbers = (found.seconds, found.tokens_per_s, found.peak_gb, found.said_gb)
        self.rows.append([step, found.what, *("" if n is None else f"{n:,.4g}" for n in numbers), result])
        print(f"{step}: {result}", flush=True)


def child(arguments: Sequence[str], limit_s: float) -> str:
    """What a process prints.

    Raises:
        FailedError: It fell, or took too long and was stopped with all that it had started.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complained = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise FailedError(f"not done after {limit_s:g} s") from None
    if process.returncode:
        lines = [
            line for line in (complained or printed).splitlines() if re.search(r"\w", line)
        ]  # not the frame of a box
        words = lines[-1].strip()[:KEPT_CHARACTERS].replace("|", "/") if lines else "it said nothing"
        raise FailedError(f"exit code {process.returncode}: {words}")
    return printed


def asked_of_part(name: str, asked: Asked) -> dict[str, Any]:
    """The JSON object that a part of gpu_check_part.py prints last."""
    sizes = ["--tiny"] if asked.tiny else []
    printed = child(
        [str(CHILD), name, "--layers", str(asked.layers), "--folder", str(asked.model), *sizes], asked.limit_s
    )
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer


def run_flags(asked: Asked) -> list[str]:
    """Of every run: short replies, little evaluation, and a pull at the entropy, which has a gradient at any reward."""
    flags = ["--model", str(asked.model), "--device", asked.device]
    flags += [
        "--steps",
        str(asked.steps),
        "--algorithm",
        "reinforce",
        "--entropy-weight",
        "0.01",
        "--warmup-steps",
        "0",
    ]
    flags += ["--learning-rate", "1e-4", "--final-eval-tasks", "2", "--eval-tasks", "2", "--eval-every", "100"]
    flags += ["--checkpoint-every", "100", "--group-size", "4", "--tracker"]
    if asked.tiny:
        return [*flags, "--tasks-per-step", "4"]
    flags += ["--dtype", "bfloat16", "--tasks-per-step", "8", "--view-max-px", "802816", "--crop-max-px", "401408"]
    flags += ["--max-tokens", "256", "--max-context-tokens", "4096", "--micro-batch-tokens", "8192", "--freeze-vision"]
    return [*flags, "--checkpoint-layers", "--size-px", "1024"]


def trained(name: str, asked: Asked, *more: str) -> Found:
    """A few steps of a real run, by its own figures.

    Raises:
        FailedError: It did not end well, learned nothing, or sampled with other weights than it learned.
    """
    flags, out = [*run_flags(asked), *more], asked.folder / name
    said = child(
        ["-m", "visualzoom.training.cli", "train", "--dry-run", *flags, "--device-memory-gb", "9999"], asked.limit_s
    )
    child(["-W", "ignore", "-m", "visualzoom.training.cli", "train", "--out", str(out), *flags], asked.limit_s)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    if len(rows) != asked.steps or not all(row["policy/grad_norm"] > 0 for row in rows):
        raise FailedError(f"{len(rows)} of {asked.steps} steps; gradients {[row['policy/grad_norm'] for row in rows]}")
    gap, limit = max(row["mismatch/abs_dlogp_mean"] for row in rows), 1e-3 if asked.tiny else 0.05
    if gap > limit:
        raise FailedError(f"sampler and learner differ by {gap:.3g} nats on average")
    last = rows[-1]
    peak = "mem/gpu_peak_gb" if asked.device == "cuda" else "mem/cpu_rss_gb"
    wanted = re.search(r"at most at once, (?:on the GPU|in all) +([\d.]+)", said)
    return Found(
        what=f"step {last['step']}; gap {gap:.2g} nats",
        seconds=last["timing/step"],
        tokens_per_s=last["perf/learner_tokens_per_s"],
        peak_gb=last[peak],
        said_gb=None if wanted is None else float(wanted[1]),
    )


def with_package(name: str, part: Callable[[], Found]) -> Found:
    """The part, where the package is installed."""
    if importlib.util.find_spec(name) is None:
        raise SkippedError(f"{name} is not installed")
    return part()


def check(asked: Asked) -> Table:
    """All parts, whatever becomes of each."""
    done = Table()
    part: Callable[[str], Callable[[], Found]] = lambda name: lambda: Found(**asked_of_part(name, asked))  # noqa: E731
    done.try_part("versions", part("versions"))
    done.try_part("update, shared prompt", part("shared"))
    done.try_part("update, plain rows", part("plain"))
    done.try_part("checkpoint of random weights", part("checkpoint"))
    adapter = ("--lora-rank", "16", "--learning-rate", "1e-3")
    done.try_part("train, all weights", lambda: trained("full", asked))
    done.try_part("train, adapter", lambda: with_package("peft", lambda: trained("adapter", asked, *adapter)))
    engine = ("--engine", "vllm", *asked.vllm_flags)
    done.try_part("vLLM, all weights", lambda: with_package("vllm", lambda: trained("vllm-full", asked, *engine)))
    done.try_part(
        "vLLM, adapter", lambda: with_package("vllm", lambda: trained("vllm-adapter", asked, *engine, *adapter))
    )
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model; float32 on the CPU if there is no GPU")
    parser.add_argument("--layers", type=int, default=36, help="of the language model; those of the 3B are 36")
    parser.add_argument("--steps", type=int, default=3, help="of each run")
    parser.add_argument("--limit-s", type=float, default=1200.0, help="longest time of a part")
    own, _, passed = " ".join(sys.argv[1:]).partition(" -- ")
    args = parser.parse_args(own.split())
    has_gpu = child(["-c", "import torch; print(torch.cuda.is_available())"], 300).strip() == "True"
    if not has_gpu and not args.tiny:
        print("This torch sees no GPU, and nothing was tried; --tiny tries the same parts on the CPU.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        done = check(
            Asked(
                tiny=args.tiny,
                layers=args.layers,
                steps=args.steps,
                limit_s=args.limit_s,
                folder=Path(folder),
                vllm_flags=tuple(passed.split()),
                device="cuda" if has_gpu else "cpu",
            )
        )
    table("Is this machine ready?", HEADER, done.rows)
    return 1 if done.failed else 0


if __name__ == "__main__":
    sys.exit(main())
