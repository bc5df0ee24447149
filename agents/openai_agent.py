"""An agent around any model behind the API of OpenAI: it keeps the conversation of every unfinished episode.

Law: the environment's words and pictures go out as they are, pictures first and lossless, and the model's replies come
back as they are; no tag or tool is known here. No episode waits for another. One that gets no reply ends as `no_reply`,
which is a fault and no wrong answer. When no episode can go well any more, the agent raises if it has had no reply at
all; else what was paid for is kept: it asks nobody any more, all that is left ends as `no_reply`, and it knows why.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image

from visualzoom.agents.api_reading import without_halves
from visualzoom.agents.api_records import Answer, ApiError, Messages, Usage
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import AgentTurn, Reply, Sampling
from visualzoom.envs.records import Pixels, StopReason

MOMENT_S = 0.02
"""How long `ready` waits for something to do."""
PNG_LEVEL = 1
"""Of compression: more would take longer than it saves on the way."""

_log = logging.getLogger(__name__)


class OpenAIAgent:
    """Plays any number of episodes at once with one server."""

    is_paced = True

    def __init__(self, server: OpenAIServer, sampling: Sampling, *, give_up_after: int = 8) -> None:
        """Use a server, which stays the caller's to close.

        Args:
            server: Where the model is.
            sampling: How replies are drawn, and how long they may be.
            give_up_after: So many episodes in a row without a reply are no chance any more.
        """
        self.sampling = sampling
        self.usage = Usage()
        """Of all replies so far."""
        self.problems: dict[str, int] = {}
        """Why replies did not come, and how often."""
        self.refusal: ApiError | None = None
        """Why nobody is asked any more."""
        self._server = server
        self._give_up_after = give_up_after
        self._num_in_vain = 0
        """Episodes in a row that the server gave nothing to."""
        self._talks: dict[str, Messages] = {}
        self._asked: dict[str, Future[Answer]] = {}
        self._ended: SimpleQueue[tuple[str, Future[Answer]]] = SimpleQueue()

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        """A reply for each turn; all are asked for at once."""
        self.begin(turns)
        replies: dict[str, Reply] = {}
        while len(replies) < len(turns):
            replies |= self.ready()
        return [replies[turn.episode_id] for turn in turns]

    def begin(self, turns: Sequence[AgentTurn]) -> None:
        """Ask for a reply in each of these episodes."""
        for turn in turns:
            talk = self._opened(turn) if turn.turn == 0 else self._going_on(turn)
            talk.append(_user(turn.text, turn.images))
            asked = self._ask(talk, turn.seed)
            self._asked[turn.episode_id] = asked
            asked.add_done_callback(partial(self._note, turn.episode_id))

    def put(self, turn: AgentTurn, text: str) -> Reply:
        """Reply with this text, as if the model had written it; nobody is asked."""
        talk = self._opened(turn) if turn.turn == 0 else self._going_on(turn)
        talk += [_user(turn.text, turn.images), {"role": "assistant", "content": text}]
        return Reply(text=text)

    def ready(self) -> dict[str, Reply]:
        """The replies that came; waits a moment if there are none.

        Raises:
            ApiError: No episode can go well, and none has.
        """
        replies: dict[str, Reply] = {}
        while self._asked:
            try:
                episode_id, done = self._ended.get(timeout=0 if replies else MOMENT_S)
            except Empty:
                break
            if self._asked.get(episode_id) is done:  # else the episode was begun again since, or is over
                del self._asked[episode_id]
                replies[episode_id] = self._replied(episode_id, self._answer(done))
        return replies

    def finish(self, episode_id: str) -> TokenLedger | None:
        """Drop the conversation, and the question under way in it; there are no tokens to hand out."""
        self._talks.pop(episode_id, None)
        asked = self._asked.pop(episode_id, None)
        if asked is not None:
            asked.cancel()
        return None

    def talk(self, episode_id: str) -> Messages:
        """The conversation of an unfinished episode so far."""
        return list(self._talks[episode_id])

    def _note(self, episode_id: str, done: Future[Answer]) -> None:
        self._ended.put((episode_id, done))  # in the server's thread

    def _ask(self, talk: Messages, seed: int) -> Future[Answer]:
        if self.refusal is None:
            return self._server.ask(list(talk), self.sampling, seed)
        asked: Future[Answer] = Future()
        asked.set_result(_nothing(self.refusal))
        return asked

    def _answer(self, done: Future[Answer]) -> Answer:
        if self.refusal is not None and done.cancelled():
            return _nothing(self.refusal)
        try:
            return done.result()
        except ApiError as problem:
            self._give_up(problem)
            return _nothing(problem)

    def _give_up(self, problem: ApiError) -> None:
        if not self.usage.replies:
            raise problem
        if self.refusal is None:
            self.refusal = problem
            for asked in self._asked.values():  # what waits for its turn or for another try would take the night too
                asked.cancel()

    def _opened(self, turn: AgentTurn) -> Messages:
        self.finish(turn.episode_id)  # played before and left unfinished
        system = [{"role": "system", "content": without_halves(turn.system)}] if turn.system else []
        talk = self._talks[turn.episode_id] = [*system]
        return talk

    def _going_on(self, turn: AgentTurn) -> Messages:
        talk = self._talks.get(turn.episode_id, [])
        num_replies = sum(message["role"] == "assistant" for message in talk)
        if num_replies != turn.turn or turn.episode_id in self._asked:
            raise LookupError(
                f"episode {turn.episode_id!r} is at turn {turn.turn}, but this agent has replied {num_replies} times"
            )
        return talk

    def _replied(self, episode_id: str, answer: Answer) -> Reply:
        talk = self._talks[episode_id]
        self.usage += answer.usage
        if answer.problem is not None:
            _log.warning("episode %s ends as %s: %s", episode_id, answer.stop, answer.problem)
            self.problems[answer.problem] = self.problems.get(answer.problem, 0) + 1
        is_first = all(message["role"] != "assistant" for message in talk)
        self._count_in_vain(answer, is_first=is_first)
        talk.append({"role": "assistant", "content": answer.text})
        return Reply(text=answer.text, stop=answer.stop)

    def _count_in_vain(self, answer: Answer, *, is_first: bool) -> None:
        """Give up where going on would only take the night.

        Raises:
            ApiError: No episode at all got anything from the server.
        """
        refused = is_first and answer.stop is StopReason.CONTEXT_OVERFLOW  # its beginning alone is too long
        self._num_in_vain = self._num_in_vain + 1 if refused or answer.stop is StopReason.NO_REPLY else 0
        if self._num_in_vain >= self._give_up_after and self.refusal is None:
            self._give_up(
                ApiError(
                    f"none of the last {self._num_in_vain} episodes got a reply from {self._server.settings.url}; "
                    f"the last time: {answer.problem}"
                )
            )


def _nothing(refusal: ApiError) -> Answer:
    return Answer(text="", stop=StopReason.NO_REPLY, usage=Usage(failures=1), problem=str(refusal))


def _user(text: str, images: Sequence[Pixels]) -> dict[str, Any]:
    """Images stand before the text, as they do everywhere here."""
    words = without_halves(text)
    if not images:
        return {"role": "user", "content": words}
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(pixels)}} for pixels in images]
    return {"role": "user", "content": [*shown, *([{"type": "text", "text": words}] if words else [])]}


def data_url(pixels: Pixels) -> str:
    """The pixels as they are, in a PNG within a URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
