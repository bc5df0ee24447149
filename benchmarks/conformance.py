"""Conformance of the field: the laws of the kit on published zoom tools, each in a Python of its own.

    python benchmarks/conformance.py --out docs/conformance.md

Makes a virtual environment for each peer and installs the released package into it without its dependencies but those
that the tool needs; or takes `--peer-python NAME=PATH`. Nothing of theirs is copied: they are asked over a pipe.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visualzoom.envs import Outcome, Sight, Tool, ToolCall, ZoomIn
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.records import Box
from visualzoom.envs.testing import Effort, Law, Report, ToolSettings, report_tool
from visualzoom.envs.testing import geometry_laws as box_law
from visualzoom.envs.testing import tool_laws as law
from visualzoom.envs.testing.strategies import sight_plans
from visualzoom.envs.testing.tool_laws import Trial
from visualzoom.envs.tools.zoom import ZoomArguments, ZoomRules

WORKER = Path(__file__).with_name("conformance_peer.py")
BOUNDED = Law("bounded", "what is shown has no more pixels than the tool's own code allows, whatever the box")
LAWS: tuple[Law, ...] = (
    *(law.TOTAL, law.FINITE, box_law.IN_BOUNDS, box_law.CONTAINED, box_law.SERVED, box_law.MIN_SIDE),
    *(box_law.ROUND_TRIP, box_law.IDEMPOTENT, law.DETERMINISTIC, law.READABLE, law.PLAIN_WORDS),
    *(law.SCHEMA, law.SCHEMA_KEPT, BOUNDED),
)
"""Those that can be seen from outside; what the store shows and what an outcome reports are matters of ours."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A published tool."""

    name: str
    package: str
    """As pip takes it, with its version."""
    needs: tuple[str, ...]
    """What the tool itself needs."""
    tool: str
    coordinates: Coordinates
    rules: ZoomRules
    """As its own code means them."""
    most_px: int
    """Largest area that it shows, by its own code; of a crop that is not scaled, that of the picture."""
    caught: str
    """Where its exceptions go."""


PEERS = (
    Peer(
        name="verl",
        package="verl==0.7.0",
        needs=("pillow", "numpy", "pydantic"),
        tool="ImageZoomInTool",
        coordinates="original",
        rules=ZoomRules(min_side_px=28, max_aspect=100),
        most_px=300 * 300,
        caught="the text of the exception is what the model reads",
    ),
    Peer(
        name="qwen-agent",
        package="qwen-agent==0.0.34",
        needs=("pillow", "numpy", "pydantic", "jsonschema"),
        tool="ImageZoomInToolQwen3VL",
        coordinates="0-1000",
        rules=ZoomRules(min_side_px=32, max_aspect=1e9),
        most_px=12_845_056,
        caught="the exception and its traceback are what the model reads",
    ),
)


@dataclass
class Asked:
    """A peer's process."""

    process: subprocess.Popen[str]
    schema: Mapping[str, object] = field(default_factory=dict)
    stubs: Sequence[str] = ()

    def ask(self, question: Mapping[str, object]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the peer's process has ended")
        found: dict[str, Any] = json.loads(line)
        return found


class PeerTool:
    """A peer as a tool of ours: its schema, its rules, and arguments that it is given as the model wrote them."""

    name = "image_zoom_in_tool"
    arguments: type[msgspec.Struct] = ZoomArguments

    def __init__(self, peer: Peer, asked: Asked) -> None:
        self.rules = peer.rules
        self.most_px = peer.most_px
        self.asked = asked

    def schema(self) -> Mapping[str, object]:
        return self.asked.schema

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        raise NotImplementedError("a peer is asked, see `ask`")

    def ask(self, call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
        """What the peer makes of a call: pictures are told by size and seed."""
        width_px, height_px = sight.original
        given = with_rest(dict(call.arguments), self.asked.schema)
        question = {"width_px": width_px, "height_px": height_px, "seed": 0, "arguments": given}
        found = self.asked.ask(question)
        if found["box"] is None:
            about_form = "bbox_2d" not in given or "parameter is missing" in found["text"]
            return Outcome(error="bad_arguments" if about_form else "refused", message=found["text"] or " ")
        width_px, height_px = found["size"]
        shown = np.broadcast_to(np.uint8(0), (height_px, width_px, 3))  # its size is all that is asked for
        return Outcome(executed_box=Box(*found["box"]), pixels=shown)

    def check_cost(self, trial: Trial) -> Iterator[tuple[bool, str]]:
        """What is shown, and whether there was memory for it."""
        if trial.outcome.pixels is not None:
            height_px, width_px, _ = trial.outcome.pixels.shape
            yield height_px * width_px <= self.most_px, f"{width_px}x{height_px} px were shown"
        elif trial.box is not None:
            yield "Memory" not in trial.outcome.message, f"the message was {trial.outcome.message!r:.200}"


def with_rest(arguments: dict[str, object], schema: Mapping[str, Any]) -> dict[str, object]:
    """With a label and the first image where the peer requires them and only a box was given."""
    if set(arguments) == {"bbox_2d"}:
        required = schema["function"]["parameters"].get("required", ())
        usual = {"label": "it", "img_idx": 0}
        return arguments | {name: value for name, value in usual.items() if name in required}
    return arguments


@contextmanager
def asked(peer: Peer, python: Path) -> Iterator[Asked]:
    """A running peer."""
    command = [str(python), str(WORKER), peer.name]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    try:
        running = Asked(process)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        running.schema, running.stubs = first["schema"], first["stubs"]
        yield running
    finally:
        process.kill()
        process.communicate()


def python_of(peer: Peer, folder: Path) -> Path:
    """A Python with the peer's package in it; made if it is not there."""
    home = folder / peer.package.replace("==", "-")
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *peer.needs], check=True)
        subprocess.run([*install, "--no-deps", peer.package], check=True)
        (home / "ready").touch()
    return python


def example(plan: Mapping[str, Any], arguments: str) -> str:
    """A counter-example in words of nobody's: the size of the picture, and what the model wrote."""
    return f"picture: {plan['width_px']} x {plan['height_px']} px\narguments = {arguments}"


def reports(peer: Peer, python: Path, effort: Effort) -> tuple[Report, Sequence[str]]:
    """The peer's report, and what was a stub."""
    plans = sight_plans((peer.coordinates,), max_parts=0, min_side_px=64).map(lambda plan: plan | {"seed": 0})
    with asked(peer, python) as running:
        tool = PeerTool(peer, running)
        around = ToolSettings(run=tool.ask, plans=plans, program=example, laws={BOUNDED: tool.check_cost})
        return report_tool(tool, around, effort), running.stubs


def ours() -> ToolSettings:
    """Of our own tool the store shows what comes of a call."""
    around = ToolSettings()

    def check_cost(trial: Trial) -> Iterator[tuple[bool, str]]:
        box = trial.outcome.executed_box
        if box is not None:
            picture = trial.sight.images[trial.outcome.image_index].picture
            ref, _ = trial.sight.store.view(picture, box, around.rule, True)
            found = f"{ref.width_px}x{ref.height_px} px were shown"
            yield ref.width_px * ref.height_px <= around.rule.max_px, found

    return replace(around, laws={BOUNDED: check_cost})


def page(found: Mapping[str, Report], stubs: Mapping[str, Sequence[str]], effort: Effort) -> str:
    """The report as a page."""
    rows = {name: {row.law: row for row in report.rows} for name, report in found.items()}
    lines = [
        "# Conformance of the field",
        "",
        f"The laws of [the kit](testing.md) on zoom tools as they are published: {effort.max_examples} calls each,",
        f"seed {effort.seed}, pictures of 64 to 300 px a side. Made by `python benchmarks/conformance.py --out",
        "docs/conformance.md`; each package ran in a Python of its own, and nothing of it is here. `-`: no example",
        "could be judged.",
        "",
        f"| law | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
    ]
    for one in LAWS:
        cells = [verdict(rows[name][one].verdict if one in rows[name] else "not tried") for name in found]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    counts = [str(sum(one in rows[name] and rows[name][one].error is not None for one in LAWS)) for name in found]
    lines += [f"| **broken** | {' | '.join(counts)} |", "", *about_peers(stubs)]
    for name, report in found.items():
        for error in report.errors:
            if error.law in LAWS:
                lines += ["", f"## {name}: {error.law.name}", "", f"{error.law.text}.", "", "```text"]
                lines += [error.example, "```", "", found_in(error.found)]
    return "\n".join(lines) + "\n"


def verdict(word: str) -> str:
    return {"ok": "ok", "BROKEN": "**broken**", "not tried": "-"}[word]


def about_peers(stubs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """How each was called."""
    for peer in PEERS:
        if peer.package in stubs:
            least, most = peer.rules.min_side_px, peer.rules.max_aspect
            limit = f" and an aspect of at most {most:g}" if most < 1e6 else ""
            yield (
                f"* `{peer.package}`, `{peer.tool}`: boxes in {words(peer.coordinates)}; by its own code a least side "
                f"of {least} px{limit}; {peer.caught}. The box that was cut is what it asked Pillow for, rounded as "
                f"Pillow does. Stubs, which the tool does not use: {', '.join(stubs[peer.package])}."
            )


def words(coordinates: Coordinates) -> str:
    return {"original": "pixels of the picture", "0-1000": "thousandths"}.get(coordinates, coordinates)


def found_in(text: str) -> str:
    """One line, without the paths of this machine."""
    return "Found: " + " ".join(re.sub(r'File \\*"[^"]*"', 'File "..."', text).split())[:400]


def main() -> None:
    """Ask every peer that can be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="calls for each tool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="where virtual environments are made")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH", help="use this Python")
    parser.add_argument("--out", type=Path, help="the page; printed if it is not given")
    chosen = parser.parse_args()
    effort = Effort(max_examples=chosen.examples, seed=chosen.seed)
    given = dict(pair.split("=", 1) for pair in chosen.peer_python)
    found: dict[str, Report] = {"visualzoom": report_tool(ZoomIn(), ours(), effort)}
    stubs: dict[str, Sequence[str]] = {}
    for peer in PEERS:
        try:
            python = Path(given[peer.name]) if peer.name in given else python_of(peer, chosen.folder.resolve())
            found[peer.package], stubs[peer.package] = reports(peer, python, effort)
        except (subprocess.CalledProcessError, json.JSONDecodeError) as problem:
            print(f"{peer.package} is left out: {problem}", file=sys.stderr)
    text = page(found, stubs, effort)
    if chosen.out is None:
        print(text)
    else:
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
