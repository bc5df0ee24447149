"""The learner's update of one group: siblings behind one reading of their prompt, against padded rows, and a peer.

    python benchmarks/update.py
    python -m venv grouper-peer
    grouper-peer/bin/pip install prefix_grouper transformers==5.19.0 torch
    python benchmarks/update.py --peer-python grouper-peer/bin/python

A Qwen2.5-VL of hidden size 256 and four layers, random weights, one thread, float32; a picture of 64 tokens in the
prompt, whose tower is frozen and has seen it. Every row of the table is one group in one pass, so that memory is
compared at its fullest. Each contestant is a process of its own; they take turns. PrefixGrouper reads text alone: its
rows have no picture, on both sides. All readings of a side must give one loss and one gradient.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from line_process import Answer, LineProcess, ask_in_turns
from timing import table
from update_cell import Cell

HERE = Path(__file__).parent
OURS, PEER = HERE / "update_ours.py", HERE / "update_peer_prefix_grouper.py"
LEAST_OF_TOKENS = 0.75
"""Bar: the speed-up is at least this share of what is saved in tokens."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way of reading, by one side."""

    script: Path
    reading: str

    def start(self, cell: Cell, peer_python: str | None) -> LineProcess:
        """Start it on a group."""
        ours = self.script == OURS
        return LineProcess(
            sys.executable if ours or peer_python is None else peer_python,
            self.script,
            self.reading,
            *cell.arguments(),
            path=os.environ.get("PYTHONPATH", "") if ours else "",
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one contestant and one group."""

    peak_bytes: int
    tokens_read: int
    seconds: list[float]
    loss: float
    grad_norm: float


def measure(contestants: Sequence[Contestant], cell: Cell, args: argparse.Namespace) -> list[Found]:
    """Memory of the first update of each, then times in turns."""
    with ExitStack() as stack:
        running = [stack.enter_context(one.start(cell, args.peer_python)) for one in contestants]
        firsts = [one.ask() for one in running]
        return [found(*pair) for pair in zip(firsts, ask_in_turns(running, args.rounds), strict=True)]


def found(first: Answer, later: Sequence[Answer]) -> Found:
    return Found(
        peak_bytes=int(first["peak_bytes"]),
        tokens_read=int(first["tokens_read"]),
        seconds=[answer["seconds"] for answer in later],
        loss=first["loss"],
        grad_norm=first["grad_norm"],
    )


def check(shared: Found, plain: Found) -> None:
    """Refuse readings that do not agree.

    Raises:
        RuntimeError: They do not.
    """
    pairs = ((shared.loss, plain.loss), (shared.grad_norm, plain.grad_norm))
    if not all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5) for a, b in pairs):
        raise RuntimeError(f"shared and plain reading give different (loss, gradient norm): {pairs}")


def row(name: str, shared: Found, plain: Found) -> list[object]:
    """Of one table."""
    check(shared, plain)
    saved = plain.tokens_read / shared.tokens_read
    faster = statistics.median(b / a for a, b in zip(shared.seconds, plain.seconds, strict=True))
    lighter = plain.peak_bytes / shared.peak_bytes
    met = faster >= LEAST_OF_TOKENS * saved and lighter > 1
    times = [statistics.median(one.seconds) for one in (shared, plain)]
    peaks = [f"{one.peak_bytes / 1e6:.0f}" for one in (shared, plain)]
    tokens = [shared.tokens_read, plain.tokens_read]
    return [name, *tokens, saved, *times, faster, faster / saved, *peaks, lighter, "met" if met else "missed"]


HEADER = (
    *("prompt:reply, siblings", "tokens shared", "plain", "times fewer", "shared, s", "plain, s", "times faster"),
    *("faster / fewer", "peak shared, MB", "plain, MB", "times lighter", "bar"),
)
PEER_HEADER = (
    *("prompt:reply, siblings", "ours, s", "PrefixGrouper, s", "times faster", "ours, MB", "PrefixGrouper, MB"),
    *("its own times faster than plain", "ours"),
)


def against_plain(args: argparse.Namespace) -> None:
    """The main table: a picture in the prompt, both readings ours."""
    contestants = [Contestant(script=OURS, reading=reading) for reading in ("shared", "plain")]
    rows = [row(name, *measure(contestants, cell, args)) for name, cell in cells(args, image=True)]
    table(f"One update: shared reading against plain (median of {args.rounds})", HEADER, rows)


def against_peer(args: argparse.Namespace) -> None:
    """The other table: text alone."""
    contestants = [
        Contestant(script=script, reading=reading) for script in (OURS, PEER) for reading in ("shared", "plain")
    ]
    rows = []
    for name, cell in cells(args, image=False):
        ours, ours_plain, theirs, theirs_plain = measure(contestants, cell, args)
        check(ours, ours_plain)
        check(theirs, theirs_plain)
        times = [statistics.median(one.seconds) for one in (ours, theirs)]
        peaks = [f"{one.peak_bytes / 1e6:.0f}" for one in (ours, theirs)]
        pairs = ((ours, theirs), (theirs, theirs_plain), (ours, ours_plain))
        faster = [statistics.median(b / a for a, b in zip(x.seconds, y.seconds, strict=True)) for x, y in pairs]
        rows.append([name, *times, faster[0], *peaks, *faster[1:]])
    table(f"One update: against PrefixGrouper, text alone (median of {args.rounds})", PEER_HEADER, rows)


def against_peer_shared(args: argparse.Namespace) -> None:
    """The readings that share a prompt alone, which take minutes in place of a quarter of an hour."""
    contestants = [Contestant(script=script, reading="shared") for script in (OURS, PEER)]
    rows = []
    for name, cell in cells(args, image=False):
        ours, theirs = measure(contestants, cell, args)
        ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
        times = [statistics.median(one.seconds) for one in (ours, theirs)]
        peaks = [f"{one.peak_bytes / 1e6:.0f}" for one in (ours, theirs)]
        rows.append([name, *times, statistics.median(ratios), f"{min(ratios):.2f}-{max(ratios):.2f}", *peaks])
    header = ("prompt:reply, siblings", "ours, s", "PrefixGrouper, s", "times faster", "range", "ours, MB", "its, MB")
    table(f"One update: against PrefixGrouper, text alone (median of {args.rounds})", header, rows)


def cells(args: argparse.Namespace, *, image: bool) -> list[tuple[str, Cell]]:
    """The groups, named."""
    return [
        (
            f"{ratio}:1, {siblings}",
            Cell(
                prompt_tokens=ratio * args.reply_tokens,
                reply_tokens=args.reply_tokens,
                siblings=siblings,
                hidden_size=args.hidden_size,
                image=image,
            ),
        )
        for ratio, siblings in product(args.ratios, args.siblings)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment with prefix_grouper")
    parser.add_argument("--ratios", type=int, nargs="+", default=[1, 3, 8], help="prompt tokens for a token of a reply")
    parser.add_argument("--siblings", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--reply-tokens", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=256, help="a multiple of 128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-shared", action="store_true", help="nothing but shared readings against the peer's")
    args = parser.parse_args()
    if args.peer_shared:
        if args.peer_python is None:
            parser.error("--peer-shared wants --peer-python, an interpreter of an environment with prefix_grouper")
        against_peer_shared(args)
        return
    against_plain(args)
    if args.peer_python is not None:
        against_peer(args)


if __name__ == "__main__":
    main()
