"""A language model that judges answers where rules can't: rules first, then what is known, then the model.

Law: every question gets one `Ruling`, whatever the model or its server does; what can't be judged has `right` None and
a reason, is counted, and is never wrong for it. The same question is asked once, however many siblings gave the
answer. How a question reaches a server is `Ask`: retries and deadlines are there.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from weakref import WeakKeyDictionary

from visualzoom.envs.records import Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, as_number, chosen_option, is_correct, normalised
from visualzoom.rewards.breaker import Breaker
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.verdict_cache import VerdictCache
from visualzoom.rewards.verdicts import DECOY, Messages, Verdict, question_messages, read_verdict, verdict_key

Ask = Callable[[Messages], Future[str]]
"""Begin to ask for a reply. The future gives its text, or raises `NoReplyError`; what else it raises ends the run."""


class NoReplyError(Exception):
    """No reply came in time; the message says why."""


class By(StrEnum):
    """Who decided, or why nobody did. The names of the counts."""

    RULE = "rule"
    CACHE = "cache"
    MODEL = "model"
    UNSURE = "unsure"
    """The model abstained."""
    UNREADABLE = "unreadable"
    """The model's reply is no verdict."""
    NO_REPLY = "no_reply"
    GIVEN_UP = "given_up"
    """Too many questions before it had no reply: nobody is asked for a while."""
    OFFLINE = "offline"
    """Nobody may be asked, and it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """What was found about one answer."""

    right: bool | None
    """None if it can't be judged."""
    by: By
    problem: str = ""
    """For a person, where `right` is None or the answer talked to the judge."""


class LlmJudge:
    """Judges answers, many at once, from any thread and event loop."""

    def __init__(
        self,
        ask: Ask | None,
        *,
        model: str,
        cache: VerdictCache | None = None,
        rules: Judge = is_correct,
        breaker: Breaker | None = None,
        concurrency: int = 32,
        control: bool = True,
    ) -> None:
        """Nothing is asked yet.

        Args:
            ask: How to reach the model; None replays what the cache knows.
            model: Its name, which is part of what is cached.
            cache: Of verdicts; in memory if None.
            rules: Asked first. What they call right is right.
            breaker: When to stop asking.
            concurrency: Questions at once, of each event loop.
            control: Ask once more about each answer that the model calls correct, with a reference that no honest
                answer equals. Who passes there too has talked to the judge, and is wrong.
        """
        self.model = model
        self.cache = VerdictCache() if cache is None else cache
        self.rules = rules
        self.counts: Counter[str] = Counter()
        """Rulings by `By`, and "injected": answers that talked to the judge."""
        self._ask = ask
        self._breaker = breaker or Breaker()
        self._concurrency = concurrency
        self._control = control
        self._lock = threading.Lock()
        self._asking: dict[str, Future[Ruling]] = {}
        self._rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def ruling(self, task: Task, answer: str, *, is_counted: bool = True) -> Ruling:
        """What this answer is worth."""
        found = await self._found(task, answer)
        if is_counted:
            with self._lock:
                self.counts[found.by.value] += 1
        return found

    async def _found(self, task: Task, answer: str) -> Ruling:
        certain = certainly(task, answer, self.rules)
        if certain is not None:
            return Ruling(right=certain, by=By.RULE)
        key = verdict_key(task, answer, model=self.model, control=self._control)
        known = self.cache.get(key)
        if known is not None:
            return _ruled(known, By.CACHE)
        if self._ask is None:
            return Ruling(right=None, by=By.OFFLINE, problem="not among the verdicts that are replayed")
        mine: Future[Ruling] = Future()
        mine.set_running_or_notify_cancel()  # a sibling that is cancelled does not cancel it
        with self._lock:
            first = self._asking.setdefault(key, mine)
        if first is not mine:
            return await asyncio.wrap_future(first)
        try:
            found = await self._asked(self._ask, key, task, answer)
            mine.set_result(found)
            return found
        except BaseException as problem:
            mine.set_exception(problem)
            raise
        finally:
            with self._lock:
                del self._asking[key]

    async def _asked(self, ask: Ask, key: str, task: Task, answer: str) -> Ruling:
        async with self._room():
            if not self._breaker.admits():
                return Ruling(right=None, by=By.GIVEN_UP, problem="the judge did not answer several times before")
            try:
                verdict = read_verdict(await asyncio.wrap_future(ask(question_messages(task, answer))))
                if verdict is Verdict.CORRECT and self._control:
                    verdict = await self._controlled(ask, task, answer)
            except NoReplyError as problem:
                self._breaker.failed()
                return Ruling(right=None, by=By.NO_REPLY, problem=str(problem))
            self._breaker.succeeded()
        if verdict is None:
            return Ruling(right=None, by=By.UNREADABLE, problem="the judge's reply is no verdict")
        self.cache.put(key, verdict)
        if verdict is Verdict.INJECTED:
            with self._lock:
                self.counts["injected"] += 1
        return _ruled(verdict, By.MODEL)

    async def _controlled(self, ask: Ask, task: Task, answer: str) -> Verdict:
        reply = await asyncio.wrap_future(ask(question_messages(task, answer, reference=DECOY)))
        return Verdict.INJECTED if read_verdict(reply) is Verdict.CORRECT else Verdict.CORRECT

    def _room(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        with self._lock:
            return self._rooms.setdefault(loop, asyncio.Semaphore(self._concurrency))


def certainly(task: Task, answer: str, rules: Judge) -> bool | None:
    """What needs no model: right by the rules; wrong if it is nothing, endless, another option or another number."""
    if not answer.strip() or len(answer) >= MAX_ANSWER_CHARACTERS:
        return False
    if rules(task, answer):
        return True
    if chosen_option(answer, task.choices) is not None and chosen_option(task.answer, task.choices) is not None:
        return False
    numbers = (as_number(normalised(answer)), as_number(normalised(task.answer)))
    return False if None not in numbers else None


def _ruled(verdict: Verdict, by: By) -> Ruling:
    if verdict is Verdict.UNSURE:
        return Ruling(right=None, by=By.UNSURE, problem="the judge is unsure")
    if verdict is Verdict.INJECTED:
        return Ruling(right=False, by=by, problem="the answer talks to the judge")
    return Ruling(right=verdict is Verdict.CORRECT, by=by)
