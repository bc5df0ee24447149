"""From names in a config to who judges answers: the rules of a world, and a language model behind a server.

Law: what is wrong with the judge's address, key or file is found before an episode is played. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from visualzoom.agents.api_records import Answer, ApiError, ServerSettings
from visualzoom.agents.records import Sampling
from visualzoom.envs.records import GroupRewardFn, StopReason
from visualzoom.evaluation.grading import ModelReferee, Referee, RuleReferee
from visualzoom.rewards import JudgedReward, LlmJudge, VerdictCache
from visualzoom.rewards.judged_reward import Judging, innermost
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.llm_judge import NoReplyError
from visualzoom.rewards.verdicts import MOST_REPLY_TOKENS, REPLY_FORMAT, Messages
from visualzoom.training.api import OPENAI_HOST, OPENAI_KEY
from visualzoom.training.config import JudgeConfig, UsageError, WorldConfig
from visualzoom.training.world import open_judge_rule, reward_of, user_errors

if TYPE_CHECKING:
    from visualzoom.agents.openai_server import OpenAIServer


class OpenJudge:
    """Who judges the answers of a run: rules, and a model where one was named. Close it in the end."""

    def __init__(self, world: WorldConfig, config: JudgeConfig, *, rule: Judge | None = None) -> None:
        """Find the rules; of a model ask the server whether it is there.

        Args:
            world: Names the reward, and a rule.
            config: Of the model.
            rule: In place of the one that the world names.

        Raises:
            UsageError: Something is wrong with them.
        """
        self._reward = reward_of(world)
        self._rule = rule or open_judge_rule(world.judge)
        self._server: OpenAIServer | None = None
        self.model: LlmJudge | None = None
        if config.judge_model is None:
            return
        if not isinstance(self._reward, Judging):
            raise UsageError(
                f"--judge-model {config.judge_model}: the reward {world.reward} judges no answers, or not in a way "
                "that can be changed; see `WeightedTerms`"
            )
        with user_errors("--judge-cache"):
            cache = VerdictCache(config.judge_cache)
        if not config.judge_offline:
            self._server = _opened_server(config)
        self.model = LlmJudge(
            None if self._server is None else _asks(self._server),
            model=config.judge_model,
            cache=cache,
            rules=innermost(self._rule),
            concurrency=config.judge_concurrency,
            control=config.judge_control,
        )

    @property
    def group_reward(self) -> GroupRewardFn | None:
        """What scores whole groups once they are over, if anything does."""
        if self.model is not None:
            return JudgedReward(cast(Judging, self._reward), self.model)
        return self._reward if isinstance(self._reward, GroupRewardFn) else None

    @property
    def referee(self) -> Referee:
        """Who decides about the episodes of evaluations."""
        if self.model is None:
            return RuleReferee(self._rule)
        return ModelReferee(JudgedReward(cast(Judging, self._reward), self.model), self._rule)

    def figures(self) -> dict[str, float]:
        """How many answers were decided by whom, so far; nothing without a model."""
        return {} if self.model is None else {f"judge/{by}": float(count) for by, count in self.model.counts.items()}

    def close(self) -> None:
        """Let the server and the file go."""
        if self._server is not None:
            self._server.close()
        if self.model is not None:
            self.model.cache.close()


@contextmanager
def open_referee(world: WorldConfig, config: JudgeConfig) -> Iterator[Referee]:
    """Who decides about the episodes of an evaluation; says in the end who decided about how many answers.

    Raises:
        UsageError: Something is wrong with the judge.
    """
    judge = OpenJudge(world, config)
    try:
        yield judge.referee
    except ApiError as problem:
        raise UsageError(f"the judge: {problem}") from problem
    finally:
        judge.close()
    if said := told(judge.figures()):
        print(said)


def told(figures: Mapping[str, float]) -> str:
    """Who decided about answers, for a person; nothing if rules did alone."""
    named = {name.removeprefix("judge/").replace("_", " "): int(count) for name, count in figures.items()}
    return f"answers judged: {', '.join(f'{count} {name}' for name, count in named.items())}" if named else ""


def _opened_server(config: JudgeConfig) -> OpenAIServer:
    from visualzoom.agents.openai_server import OpenAIServer  # needs a package that the core does not

    assert config.judge_api is not None and config.judge_model is not None  # the config says so
    on_openai = urlsplit(config.judge_api).hostname == OPENAI_HOST
    try:
        server = OpenAIServer(
            ServerSettings(
                url=config.judge_api,
                model=config.judge_model,
                key_env=config.judge_key_env or (OPENAI_KEY if on_openai else None),
                concurrency=config.judge_concurrency,
                timeout_s=config.judge_timeout_s,
                deadline_s=config.judge_deadline_s,
                max_retries=config.judge_retries,
                extra={} if config.judge_plain else {"response_format": REPLY_FORMAT},
                flags={"key_env": "--judge-key-env", "body": "--judge-plain"},
            )
        )
        try:
            server.check()
        except BaseException:
            server.close()
            raise
    except ApiError as problem:
        raise UsageError(f"the judge: {problem}") from problem
    return server


def _asks(server: OpenAIServer) -> Callable[[Messages], Future[str]]:
    """A question to the judge on this server."""
    sampling = Sampling(temperature=0.0, max_tokens=MOST_REPLY_TOKENS)

    def ask(messages: Messages) -> Future[str]:
        told: Future[str] = Future()
        told.set_running_or_notify_cancel()

        def tell(asked: Future[Answer]) -> None:
            try:
                answer = asked.result()
                if answer.stop is StopReason.NO_REPLY:
                    raise NoReplyError(answer.problem or "no reply")
                told.set_result(answer.text)
            except BaseException as problem:
                told.set_exception(problem)

        server.ask(messages, sampling, seed=0).add_done_callback(tell)
        return told

    return ask
