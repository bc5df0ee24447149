"""An agent around a policy: it keeps the ledger of every unfinished episode and lets the policy continue it.

Law: token in, token out. A ledger gets a prompt, then what was sampled, then what the environment showed, and never
anything decoded and encoded again. The text that goes to the environment is decoded from the sampled tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from visualzoom.agents.chat import Renderer
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import (
    AgentTurn,
    Completion,
    FinishReason,
    GenerateRequest,
    PacedPolicy,
    Policy,
    Reply,
    Sampling,
    ShownImage,
)
from visualzoom.envs.records import Pixels, StopReason

STOPS = {FinishReason.LENGTH: StopReason.MAX_TOKENS, FinishReason.ABORT: StopReason.ABORTED}


class VLMAgent:
    """Plays any number of episodes at once with one policy."""

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer,
        sampling: Sampling,
        *,
        max_context_tokens: int,
        forced_prefix: str = "",
    ) -> None:
        """Wrap a policy.

        Args:
            policy: Continues token sequences.
            renderer: Of the policy's model family.
            sampling: How replies are drawn, and how long they may be.
            max_context_tokens: An episode whose next reply might not fit ends with `context_overflow`.
            forced_prefix: The first reply of each episode begins with this text; its tokens carry no loss.
        """
        self.policy = policy
        self.renderer = renderer
        self.sampling = sampling
        self.max_context_tokens = max_context_tokens
        self._forced = tuple(renderer.tokens(forced_prefix)) if forced_prefix else ()
        self._ledgers: dict[str, TokenLedger] = {}
        self._asked: dict[str, GenerateRequest] = {}
        """Requests that the policy has under way."""
        self._early: dict[str, Reply] = {}
        """Replies that nobody has asked for yet."""
        self._put: set[str] = set()
        """Episodes whose last reply was put into the policy's mouth: what is shown next is read in the same turn."""
        self._lag: Counter[str] = Counter()
        """Turns of an episode that its ledger does not count, for that."""

    @property
    def is_paced(self) -> bool:
        return isinstance(self.policy, PacedPolicy)

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        requests, replies = self._requests(turns)
        completions = self.policy.generate(requests, self.sampling) if requests else []
        for request, completion in zip(requests, completions, strict=True):
            replies[request.episode_id] = self._replied(request, completion)
        return [replies[turn.episode_id] for turn in turns]

    def begin(self, turns: Sequence[AgentTurn]) -> None:
        requests, replies = self._requests(turns)
        self._early |= replies
        self._asked |= {request.episode_id: request for request in requests}
        self._paced_policy().submit(requests, self.sampling)

    def ready(self) -> dict[str, Reply]:
        replies, self._early = self._early, {}
        for episode_id, completion in self._paced_policy().collect().items():
            replies[episode_id] = self._replied(self._asked.pop(episode_id), completion)
        return replies

    def put(self, turn: AgentTurn, text: str) -> Reply:
        """Reply with this text, as if the policy had written it; it carries no loss."""
        images = [ShownImage.of(pixels) for pixels in turn.images]
        ledger = self._opened(turn, images, {}) if turn.turn == 0 else self._observed(turn, images)
        ids = (*self.renderer.tokens(text), *self.renderer.stop_ids[:1])
        self._ledgers[turn.episode_id] = ledger.with_forced(ids)
        self._put.add(turn.episode_id)
        return Reply(text=text)

    def finish(self, episode_id: str) -> TokenLedger | None:
        """Release the episode. Its ledger ends with the last reply; None if the agent never replied in it."""
        self.policy.release([episode_id])
        self._asked.pop(episode_id, None)
        self._early.pop(episode_id, None)
        self._forget_put(episode_id)
        return self._ledgers.pop(episode_id, None)

    def _paced_policy(self) -> PacedPolicy:
        if not isinstance(self.policy, PacedPolicy):
            raise TypeError(f"a {type(self.policy).__name__} answers all requests at once; call `act`")
        return self.policy

    def _requests(self, turns: Sequence[AgentTurn]) -> tuple[list[GenerateRequest], dict[str, Reply]]:
        """What to ask the policy, and the replies that need no policy."""
        shown: dict[int, ShownImage] = {}  # by identity: siblings are shown the same array
        prompts: dict[tuple[object, ...], TokenLedger] = {}  # siblings share their beginning
        replies: dict[str, Reply] = {}
        requests: list[GenerateRequest] = []
        for turn in turns:
            images = [_named(pixels, shown) for pixels in turn.images]
            ledger = self._opened(turn, images, prompts) if turn.turn == 0 else self._observed(turn, images)
            if ledger.num_tokens + self.sampling.max_tokens > self.max_context_tokens:
                replies[turn.episode_id] = Reply(text="", stop=StopReason.CONTEXT_OVERFLOW)
                continue
            self._ledgers[turn.episode_id] = ledger
            requests.append(GenerateRequest(episode_id=turn.episode_id, ledger=ledger, seed=turn.seed))
        return requests, replies

    def _opened(
        self, turn: AgentTurn, images: Sequence[ShownImage], prompts: dict[tuple[object, ...], TokenLedger]
    ) -> TokenLedger:
        if self._ledgers.pop(turn.episode_id, None) is not None:
            self.policy.release([turn.episode_id])  # played before and left unfinished
        self._forget_put(turn.episode_id)
        key = (turn.system, turn.text, *(image.key for image in images))
        if key not in prompts:
            rendered = self.renderer.open(turn.system, turn.text, [image.size_px for image in images])
            ledger = TokenLedger.open(rendered, images)
            prompts[key] = ledger.with_forced(self._forced) if self._forced else ledger
        return prompts[key]

    def _observed(self, turn: AgentTurn, images: Sequence[ShownImage]) -> TokenLedger:
        ledger = self._ledgers.get(turn.episode_id)
        if ledger is None or ledger.turns[-1] + 1 + self._lag[turn.episode_id] != turn.turn:
            seen = "none of its turns" if ledger is None else f"its turns up to {ledger.turns[-1]}"
            raise LookupError(f"episode {turn.episode_id!r} is at turn {turn.turn}, but this agent has seen {seen}")
        sizes = [image.size_px for image in images]
        rendered = self.renderer.observation(turn.text, sizes, last_id=ledger.token_ids[-1])
        if turn.episode_id in self._put:
            self._put.discard(turn.episode_id)
            self._lag[turn.episode_id] += 1
            return ledger.with_more(rendered, images)
        return ledger.with_observation(rendered, images)

    def _forget_put(self, episode_id: str) -> None:
        self._put.discard(episode_id)
        self._lag.pop(episode_id, None)

    def _replied(self, request: GenerateRequest, completion: Completion) -> Reply:
        ledger = request.ledger.with_completion(completion)
        self._ledgers[request.episode_id] = ledger
        forced = self._forced if ledger.turns[-1] == 0 else ()
        text = self.renderer.reply_text((*forced, *completion.token_ids))
        return Reply(text=text, stop=STOPS.get(completion.finish_reason))


def _named(pixels: Pixels, shown: dict[int, ShownImage]) -> ShownImage:
    """The image with its content key; an array that its owner might change is copied."""
    found = shown.get(id(pixels))
    if found is None:
        kept = pixels
        if pixels.flags.writeable:
            kept = np.array(pixels)
            kept.flags.writeable = False
        found = shown[id(pixels)] = ShownImage.of(kept)
    return found
