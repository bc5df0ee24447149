"""`check_agent`: the laws of agents, on episodes of an environment, alone, side by side and in any order.

Law: a failure names the law and shows what was played. An agent is made anew for each playing, so that chance must
come from the turns' seeds. Needs Hypothesis; no model is known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.records import Agent, AgentTurn, Reply, ShownImage
from visualzoom.envs.records import Pixels, StopReason, Task
from visualzoom.envs.testing import Book, Effort, Law, Part, Report, investigate
from visualzoom.envs.testing.python_text import with_imports
from visualzoom.envs.vector.records import Stoppable
from visualzoom.envs.zoom_env import VisualZoomEnv

ACTS = Law("acts", "an agent acts on every turn that an environment shows; nothing raises")
ONE_REPLY = Law("one reply", "there is one Reply for each turn, in the order of the turns")
KNOWN_STOP = Law("known stop", "what stops an episode from the token side is a truncation")
SPOKEN = Law(
    "spoken", "a reply says something, tells why it stops, or has tokens to show: no turn is refused in silence"
)
SAME_REPLY = Law("same reply", "a new agent gives the same replies to the same turns and seeds")
ALONE = Law("alone", "a reply depends on its own episode only: not on the others, nor on their number or order")
UNTOUCHED = Law("untouched", "the images of a turn are not written to")
RELEASED = Law("released", "an episode is handed out once; begun again under its name, finished or not, it begins anew")
LEDGER = Law("ledger", "the ledger has the episode's images in order, and sampled tokens for each reply and no other")
APPEND_ONLY = Law("append only", "the ledger of an episode's first turns is the beginning of that of all its turns")
AGENT_LAWS = (ACTS, ONE_REPLY, KNOWN_STOP, SPOKEN, SAME_REPLY, ALONE, UNTOUCHED, RELEASED, LEDGER, APPEND_ONLY)

MakeAgent = Callable[[], Agent]
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]
_MOST_TURNS = 12


def check_agent(
    make_agent: MakeAgent,
    make_env: MakeEnv = VisualZoomEnv,
    *,
    max_examples: int = 20,
    seed: int = 0,
) -> None:
    """Search for episodes in which the agent breaks a law.

    Args:
        make_agent: Makes a new agent, each time in the same way.
        make_env: Makes the environment it plays in.
        max_examples: Sets of episodes that are tried.
        seed: Another one tries others.

    Raises:
        LawError: It does; the law, what was found, and the episodes.
    """
    effort = Effort(max_examples=max_examples, seed=seed)
    investigate("agent", agent_parts(make_agent, make_env), effort, first_only=True).raise_first()


def report_agent(
    make_agent: MakeAgent,
    make_env: MakeEnv = VisualZoomEnv,
    effort: Effort | None = None,
    *,
    subject: str = "agent",
    source: str = "make_agent()",
) -> Report:
    """What `check_agent` finds, for every law; `source` is Python that makes the agent."""
    parts = agent_parts(make_agent, make_env, source=source)
    return investigate(subject, parts, effort or Effort(max_examples=20))


def agent_parts(
    make_agent: MakeAgent, make_env: MakeEnv = VisualZoomEnv, *, source: str = "make_agent()"
) -> list[Part]:
    """The search behind `check_agent`, for `investigate` and `first_breach`."""
    return [Part(laws=AGENT_LAWS, search=partial(_search, make_agent, make_env, source))]


@dataclass(frozen=True, slots=True)
class _Start:
    """An episode to be played."""

    task: int
    seed: int


@dataclass(slots=True)
class _Live:
    """An episode that is played."""

    name: str
    start: _Start
    env: gymnasium.Env[Any, Any]
    system: str = ""
    text: str = ""
    images: tuple[Pixels, ...] = ()
    shown: list[Pixels] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    ledger: TokenLedger | None = None
    is_over: bool = False

    def begin(self) -> None:
        observation, info = self.env.reset(seed=self.start.task)
        self.system = str(info.get("system", ""))
        self._see(observation)

    def turn(self) -> AgentTurn:
        world = self.env.unwrapped
        task: Task | None = world.task if isinstance(world, VisualZoomEnv) else None
        return AgentTurn(
            episode_id=self.name,
            seed=self.start.seed * 1000 + len(self.replies),
            turn=len(self.replies),
            text=self.text,
            images=self.images,
            system=self.system,
            task=task,
        )

    def take(self, reply: Reply) -> None:
        """What the environment makes of a reply."""
        self.replies.append(reply)
        world = self.env.unwrapped
        if reply.stop is not None:
            self.is_over = True
            if isinstance(world, Stoppable):
                world.stop(reply.stop, reply.text)
            return
        observation, _, terminated, truncated, _ = self.env.step(reply.text)
        self.is_over = bool(terminated or truncated) or len(self.replies) >= _MOST_TURNS
        if not self.is_over:
            self._see(observation)

    def _see(self, observation: Any) -> None:
        self.text, self.images = observation["text"], tuple(observation["images"])
        self.shown += [np.array(image) for image in self.images]


class _FaultError(Exception):
    """The agent raised, or did not reply as it must; the law has been judged."""


@dataclass(frozen=True, slots=True)
class _Playing:
    """How to play, and where to write what is seen."""

    make_env: MakeEnv
    book: Book
    source: str

    def judge(self, law: Law, holds: bool, found: str, starts: Sequence[_Start]) -> bool:
        def example() -> str:
            told = ", ".join(f"(task seed {start.task}, turn seeds from {start.seed * 1000})" for start in starts)
            return with_imports(f"agent = {self.source}\n# plays, side by side and in this order: {told}")

        return self.book.judge(law, holds, found, example)

    def play(self, agent: Agent, starts: Sequence[_Start], *, most: int = _MOST_TURNS, tag: str = "") -> list[_Live]:
        """Play these episodes side by side, for at most so many turns, and finish them."""
        lives = [_Live(f"{tag}{number}", start, self.make_env()) for number, start in enumerate(starts)]
        for live in lives:
            live.begin()
        for _ in range(most):
            going = [live for live in lives if not live.is_over]
            if not going:
                break
            for live, reply in zip(going, self._acted(agent, [live.turn() for live in going], starts), strict=True):
                live.take(reply)
        for live in lives:
            live.ledger = self._called(partial(agent.finish, live.name), starts)
            live.env.close()
        return lives

    def _acted(self, agent: Agent, turns: list[AgentTurn], starts: Sequence[_Start]) -> list[Reply]:
        before = [[image.tobytes() for image in turn.images] for turn in turns]
        replies = self._called(partial(agent.act, turns), starts)
        fits = isinstance(replies, list) and len(replies) == len(turns) and all(isinstance(r, Reply) for r in replies)
        if not self.judge(ONE_REPLY, fits, f"{len(turns)} turns gave {replies!r:.300}", starts):
            raise _FaultError
        same = before == [[image.tobytes() for image in turn.images] for turn in turns]
        self.judge(UNTOUCHED, same, "an image was changed", starts)
        for reply in replies:
            known = reply.stop is None or (reply.stop in set(StopReason) and not StopReason(reply.stop).terminated)
            self.judge(KNOWN_STOP, known, f"it stopped as {reply.stop!r}", starts)
            if not known:
                raise _FaultError
        found: list[Reply] = replies
        return found

    def _called(self, call: Callable[[], Any], starts: Sequence[_Start]) -> Any:
        try:
            result = call()
        except Exception as problem:  # whatever it is, it is the law's breach
            self.judge(ACTS, False, f"it raised {problem!r:.300}", starts)
            raise _FaultError from problem
        self.judge(ACTS, True, "", starts)
        return result


def _search(make_agent: MakeAgent, make_env: MakeEnv, source: str, book: Book, number: int, how: settings) -> None:
    playing = _Playing(make_env, book, source)
    starts = st.lists(st.builds(_Start, st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=3)

    def check(starts: list[_Start]) -> None:
        if not book.skips():
            with contextlib.suppress(_FaultError):
                _try(make_agent, playing, starts)

    seed(number)(how(given(starts)(check)))()


def _try(make_agent: MakeAgent, playing: _Playing, starts: list[_Start]) -> None:
    """The same episodes in every way."""
    agent = make_agent()
    first = playing.play(agent, starts)
    said = [live.replies for live in first]
    for live in first:
        _look_at(playing, live, starts)
    again = [live.replies for live in playing.play(make_agent(), starts)]
    playing.judge(SAME_REPLY, again == said, f"first {said!r:.300}\nthen {again!r:.300}", starts)
    turned = [live.replies for live in playing.play(make_agent(), starts[::-1])][::-1]
    alone = [playing.play(make_agent(), [start])[0].replies for start in starts]
    found = f"side by side {said!r:.200}\nin turned order {turned!r:.200}\nalone {alone!r:.200}"
    playing.judge(ALONE, turned == said == alone, found, starts)
    _try_release(agent, playing, starts, said)
    early = playing.play(make_agent(), starts, most=1)
    for some, whole in zip(early, first, strict=True):
        if some.ledger is not None and whole.ledger is not None:
            beginning = whole.ledger.token_ids[: some.ledger.num_tokens]
            found = f"{some.ledger.num_tokens} tokens are not the first of {whole.ledger.num_tokens}"
            playing.judge(APPEND_ONLY, beginning == some.ledger.token_ids, found, starts)


def _try_release(agent: Agent, playing: _Playing, starts: list[_Start], said: list[list[Reply]]) -> None:
    """Names are used again: of finished episodes, and of one that is left unfinished."""
    handed_out = [agent.finish(str(number)) for number in range(len(starts))]
    playing.judge(RELEASED, not any(handed_out), "a finished episode was handed out again", starts)
    left = _Live("0", starts[0], playing.make_env())
    left.begin()
    agent.act([left.turn()])
    left.env.close()
    again = [live.replies for live in playing.play(agent, starts)]
    playing.judge(RELEASED, again == said, f"first {said!r:.300}\nunder the same names {again!r:.300}", starts)


def _look_at(playing: _Playing, live: _Live, starts: Sequence[_Start]) -> None:
    """What one episode left."""
    ledger = live.ledger
    for reply in live.replies:
        spoken = bool(reply.text) or reply.stop is not None or ledger is not None
        playing.judge(SPOKEN, spoken, "a reply is empty, and nothing says why", starts)
    if ledger is None:
        return
    pairs = zip(ledger.turns, ledger.authors, strict=True)
    sampled = sorted({turn for turn, author in pairs if author is Author.POLICY})
    unsaid = StopReason.CONTEXT_OVERFLOW
    replied = [turn for turn, reply in enumerate(live.replies) if reply.stop is not unsaid]
    playing.judge(LEDGER, sampled == replied, f"replies in turns {replied}, sampled tokens in {sampled}", starts)
    keys = [image.key for image in ledger.images]
    shown = [ShownImage.of(image).key for image in live.shown][: len(keys) if unsaid in _stops(live) else None]
    playing.judge(LEDGER, keys == shown, f"{len(shown)} images were shown, the ledger has {len(keys)}", starts)


def _stops(live: _Live) -> list[StopReason | None]:
    return [reply.stop for reply in live.replies]
