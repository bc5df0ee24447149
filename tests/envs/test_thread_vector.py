"""Environments on threads: equal to Gymnasium's serial vector, and sound when environments throw, hang or wait."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces import Sequence as SequenceSpace
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs import ImageStore, StopReason, VisualZoomEnv
from visualzoom.envs.testing import call_text, make_tasks
from visualzoom.envs.testing.vector_laws import assert_same, check_same_as_sync
from visualzoom.envs.vector.layout import seed_after_loss
from visualzoom.envs.vector.make_vector import make_vector
from visualzoom.envs.vector.records import Reset, Step
from visualzoom.envs.vector.thread_host import ThreadHost
from visualzoom.envs.vector.thread_vector import ThreadVectorEnv

TASKS = make_tasks()
REPLIES = (
    call_text(1, 2, 50, 60),
    call_text(10, 20, 190, 110),
    call_text(5, float("nan"), 3, 4),
    "rubbish",
    "<answer>2</answer>",
)
MODES = st.sampled_from(list(AutoresetMode))


def zoom_env(**options: Any) -> VisualZoomEnv:
    return VisualZoomEnv(tasks=TASKS, max_turns=3, **options)


def cart_pole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=12)


class Odd(gymnasium.Env[Any, Any]):
    """Does what the action says: 0 nothing, 1 ends, 2 raises, 3 waits for `hang_s`, 4 waits a little."""

    observation_space = SequenceSpace(Box(0, 9, (2,), np.int64))
    action_space = Discrete(5)
    num_made = itertools.count()

    def __init__(self, hang_s: float = 3.0) -> None:
        self.hang_s = hang_s
        self.number = next(Odd.num_made)
        self.seen: list[np.ndarray[Any, Any]] = []
        self.num_closed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if options and options.get("raise"):
            raise OSError("no such world")
        self.seen = [self.np_random.integers(10, size=2)]
        return self.seen, {"number": self.number}

    def step(self, action: int) -> Any:
        if action == 2:
            raise ValueError("the world fell over")
        if action >= 3:
            time.sleep(self.hang_s if action == 3 else 0.3)
        self.seen.append(self.np_random.integers(10, size=2))
        return self.seen, float(action), action == 1, False, {"action": int(action)}

    def close(self) -> None:
        self.num_closed += 1


class Unspeakable(Exception):
    """Can't even be told."""

    def __str__(self) -> str:
        raise OSError("no words")


@pytest.mark.parametrize("thrown", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), Unspeakable()])
def test_whatever_is_thrown_there_is_a_result(thrown: BaseException) -> None:
    class Throws(Odd):
        def step(self, action: int) -> Any:
            raise thrown

        def close(self) -> None:
            raise thrown

    with ThreadVectorEnv([Throws] * 3, num_threads=2) as vector:
        for _ in range(2):
            vector.reset(seed=0)
            assert vector.step([0] * 3)[3].all()


def test_chance_goes_on_in_the_same_way_after_a_loss_whoever_resets() -> None:
    def play() -> Any:
        with odd_vector(autoreset_mode="Disabled") as vector:
            vector.reset(seed=3)
            truncated = vector.step([0, 2, 0])[3]
            return vector.reset(options={"reset_mask": truncated})[0][1][0].tolist()

    assert play() == play()


@pytest.mark.parametrize("seed", [None, 5])
def test_chance_goes_on_in_the_same_way_after_a_loss_in_send_and_recv(seed: int | None) -> None:
    def play() -> Any:
        with odd_vector(autoreset_mode="Disabled") as vector:
            vector.reset(seed=3)
            if seed is not None:
                vector.send(1, Reset(seed=seed))
                vector.recv(timeout_s=5)
            vector.send(1, Step(action=2))
            assert vector.recv(timeout_s=5).fault is not None
            vector.send(1, Reset())
            return vector.recv(timeout_s=5).observation[0].tolist(), vector.get_attr("np_random_seed")[1]

    assert play() == play()
    assert play()[1] == seed_after_loss(3 + 1 if seed is None else seed, 1)


def test_an_error_that_is_raised_takes_nothing_from_the_others() -> None:
    with odd_vector(on_error="raise") as vector:
        vector.reset(seed=0)
        with pytest.raises(RuntimeError, match="the world fell over"):
            vector.step([1, 2, 0])
        assert vector.step([0, 0, 0])[0][0], "the first one had ended, and is reset"


def odd_vector(num_envs: int = 3, **options: Any) -> ThreadVectorEnv:
    return ThreadVectorEnv([Odd] * num_envs, **options)


@given(
    st.lists(st.lists(st.sampled_from(REPLIES), min_size=3, max_size=3), max_size=8),
    MODES,
    st.integers(1, 5),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_zooming_on_threads_is_bit_for_bit_what_the_serial_vector_gives(
    replies: list[list[str]], mode: AutoresetMode, num_threads: int, seed: int, shared: bool
) -> None:
    fns = [lambda: zoom_env(share_images=shared)] * 3
    with ThreadVectorEnv(fns, num_threads=num_threads, autoreset_mode=mode) as vector:
        check_same_as_sync(vector, SyncVectorEnv(fns, autoreset_mode=mode), map(tuple, replies), seed=seed)


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), max_size=40), MODES, st.integers(1, 5), st.booleans()
)
def test_cart_poles_on_threads_are_bit_for_bit_what_the_serial_vector_gives(
    pushes: list[list[int]], mode: AutoresetMode, num_threads: int, copy: bool
) -> None:
    fns = [cart_pole] * 4
    with ThreadVectorEnv(fns, num_threads=num_threads, autoreset_mode=mode, copy=copy) as vector:
        sync = SyncVectorEnv(fns, autoreset_mode=mode, copy=copy)
        check_same_as_sync(vector, sync, map(np.array, pushes), seed=7)


class Wide(gymnasium.Env[Any, Any]):
    """Large arrays, now and then the same one; the action says what happens, as in `Odd`."""

    observation_space = Box(0, 255, (64, 96, 3), np.uint8)
    action_space = Discrete(4)

    def __init__(self) -> None:
        self.seen = np.zeros((64, 96, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.integers(256, size=(64, 96, 3), dtype=np.uint8), {}

    def step(self, action: int) -> Any:
        if action == 2:
            self.seen[:8] += 1
            return self.seen, 0.0, False, False, {}
        if action == 3:
            raise ValueError("the world fell over")
        return self.np_random.integers(256, size=(64, 96, 3), dtype=np.uint8), 0.0, action == 1, False, {}


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), max_size=8), MODES, st.integers(1, 4), st.booleans()
)
def test_large_arrays_land_in_the_batch_that_the_serial_vector_gives(
    actions: list[list[int]], mode: AutoresetMode, num_threads: int, copy: bool
) -> None:
    with ThreadVectorEnv([Wide] * 3, num_threads=num_threads, autoreset_mode=mode, copy=copy) as vector:
        sync = SyncVectorEnv([Wide] * 3, autoreset_mode=mode, copy=copy)
        check_same_as_sync(vector, sync, map(np.array, actions), seed=7)


def test_a_batch_of_large_arrays_shows_the_last_observation_of_who_failed_and_is_the_callers_own() -> None:
    with ThreadVectorEnv([Wide] * 3) as vector:
        first, _ = vector.reset(seed=0)
        kept = first.copy()
        second, *_ = vector.step(np.array([0, 3, 0]))
        assert np.array_equal(second[1], first[1])
        assert not np.array_equal(second[0], first[0])
        third, _ = vector.reset(options={"reset_mask": np.array([True, False, False])})
        assert np.array_equal(third[1:], second[1:])
        assert np.array_equal(first, kept)


def test_attributes_are_called_and_set_as_in_the_serial_vector() -> None:
    fns = [lambda: gymnasium.make("CartPole-v1", render_mode="rgb_array")] * 3
    sync = SyncVectorEnv(fns)
    with ThreadVectorEnv(fns) as vector:
        for envs in (sync, vector):
            envs.reset(seed=[4, 5, 6])
            envs.set_attr("gravity", [1.0, 2.0, 3.0])
            envs.set_attr("length", 0.25)
        for name in ("gravity", "length", "np_random_seed", "render_mode"):
            assert vector.get_attr(name) == sync.get_attr(name)
        assert_same(vector.render(), sync.render())
        assert vector.call("has_wrapper_attr", "gravity") == (True, True, True)
        assert [rng.random() for rng in vector.np_random] == [rng.random() for rng in sync.np_random]
        with pytest.raises(RuntimeError, match="no_such_thing"):
            vector.get_attr("no_such_thing")
        with pytest.raises(ValueError, match="2 values for 3 environments"):
            vector.set_attr("gravity", [1.0, 2.0])
        vector.step(np.zeros(3, dtype=np.int64))  # a wrong name costs no episode


def test_spaces_that_differ_are_refused_unless_that_is_meant() -> None:
    class High(gymnasium.Env[Any, Any]):
        action_space = Discrete(2)

        def __init__(self, high: int) -> None:
            self.observation_space = Box(0, high, (2,), np.float32)

    fns = [lambda: High(1), lambda: High(2)]
    with pytest.raises(RuntimeError, match=r"environment 1 has the observation space .*'different'"):
        ThreadVectorEnv(fns)
    with ThreadVectorEnv(fns, observation_mode="different") as vector:
        assert vector.observation_space == SyncVectorEnv(fns, observation_mode="different").observation_space
    with pytest.raises(ValueError, match="observation_mode is 'some'"):
        ThreadVectorEnv(fns, observation_mode="some")


def test_images_are_the_stores_own_and_what_was_returned_stays_as_it_was() -> None:
    store = ImageStore()
    with ThreadVectorEnv([lambda: zoom_env(store=store, share_images=True)] * 2) as vector:
        observation, _ = vector.reset(seed=0, options={"task": 1})
        one, other = (images[0] for images in observation["images"])
        assert np.shares_memory(one, other)
        assert not one.flags.writeable
    with odd_vector() as odd:
        first, _ = odd.reset(seed=0)
        odd.step(np.zeros(3, dtype=np.int64))
        assert [len(seen) for seen in first] == [1, 1, 1], "the environment goes on in the list that it gave"
        kept = [np.array(seen) for seen in first]
        odd.step(np.zeros(3, dtype=np.int64))
        assert_same([np.array(seen) for seen in first], kept)


def test_an_environment_that_throws_ends_its_episode_and_no_other() -> None:
    with odd_vector() as vector:
        _, infos = vector.reset(seed=0)
        made = infos["number"].copy()
        _, rewards, terminated, truncated, infos = vector.step(np.array([0, 2, 1]))
        assert rewards.tolist() == [0.0, 0.0, 1.0]
        assert (terminated.tolist(), truncated.tolist()) == ([False, False, True], [False, True, False])
        assert infos["stop_reason"].tolist() == [None, "env_error", None]
        assert infos["problem"][1] == "ValueError: the world fell over"
        assert vector.host.faults == {"raised": 1}
        _, _, _, truncated, infos = vector.step(np.array([0, 0, 0]))
        assert not truncated.any()
        assert infos["number"][1] > made.max() and infos["number"][2] == made[2], "only the broken one is made again"


def test_what_follows_a_fault_depends_on_the_seed_alone() -> None:
    def play(num_threads: int) -> list[Any]:
        with odd_vector(num_threads=num_threads) as vector:
            vector.reset(seed=5)
            return [
                vector.step(np.array(actions))[0] for actions in ([0, 2, 0], [0, 0, 2], [0, 0, 0], [2, 0, 0], [0] * 3)
            ]

    assert_same(play(1), play(4))


def test_whoever_wants_exceptions_gets_them() -> None:
    with odd_vector(on_error="raise") as vector:
        vector.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"environment 2 failed: ValueError: the world fell over\nTraceback"):
            vector.step(np.array([0, 0, 2]))
    with odd_vector() as vector, pytest.raises(RuntimeError, match="environment 0 failed: OSError: no such world"):
        vector.reset(options={"raise": True})
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        odd_vector(on_error="ignore")


def test_a_step_over_its_deadline_is_given_up_and_its_late_result_is_nobodys() -> None:
    Odd.num_made = itertools.count()
    with odd_vector(step_timeout_s=0.2, autoreset_mode="Disabled") as vector:
        vector.reset(seed=0)
        vector.set_attr("hang_s", 0.6)
        start_s = time.monotonic()
        _, _, terminated, truncated, infos = vector.step(np.array([3, 0, 3]))
        assert time.monotonic() - start_s < 0.55
        assert not terminated.any()
        assert truncated.tolist() == [True, False, True]
        assert infos["stop_reason"].tolist() == ["worker_lost", None, "worker_lost"]
        assert "a step did not end within 0.2 s" in infos["problem"][0]
        assert vector.host.faults == {"hung": 2}
        _, infos = vector.reset(seed=1, options={"reset_mask": truncated})
        assert infos["number"].tolist() == [3, 0, 4] or infos["number"].tolist() == [4, 0, 3]
        time.sleep(0.6)  # the hung steps come to their end
        vector.send(0, Step(action=0))
        assert vector.recv(timeout_s=2).reward == 0.0, "not the 3.0 of the step that hung"
        observation, *_ = vector.step(np.zeros(3, dtype=np.int64))
        assert [len(seen) for seen in observation] == [3, 3, 2]
        assert vector.host.in_flight == 0


def test_no_environment_waits_for_another_when_results_come_as_completed() -> None:
    with odd_vector(num_threads=2) as vector:
        vector.reset(seed=0)
        vector.send(0, Step(action=4))
        order = []
        for _ in range(5):
            vector.send(1, Step(action=0))
            order.append(vector.recv(timeout_s=2).env_id)
        assert order == [1] * 5
        with pytest.raises(RuntimeError, match="environment 0 is busy"):
            vector.send(0, Step(action=0))
        with pytest.raises(RuntimeError, match=r"1 results of send\(\) were not received"):
            vector.step(np.zeros(3, dtype=np.int64))
        with pytest.raises(TimeoutError, match="0 of 1 results"):
            vector.recv(timeout_s=0.01)
        assert vector.recv(timeout_s=2).reward == 4.0, "after a timeout nothing is lost"
        with pytest.raises(RuntimeError, match="nothing is in flight"):
            vector.recv(timeout_s=1)
        with pytest.raises(ValueError, match="environment 3; there are the numbers 0 to 2"):
            vector.send(3, Reset())


def test_an_episode_is_stopped_from_outside() -> None:
    with ThreadVectorEnv([zoom_env] * 2) as vector:
        vector.reset(seed=0)
        result = vector.stop(1, StopReason.MAX_TOKENS, "a reply that was cu")
        assert (result.truncated, result.info["stop_reason"]) == (True, "max_tokens")
        assert result.info["record"].turns[-1].reply == "a reply that was cu"
        _, _, _, truncated, infos = vector.step((REPLIES[0],) * 2)
        assert not truncated.any()
        assert infos["system"][1] is not None, "it was reset"
    with odd_vector(1) as foreign:
        foreign.reset(seed=0)
        assert foreign.stop(0, StopReason.ABORTED).info == {"stop_reason": "aborted"}


def test_the_task_and_the_record_come_with_the_results() -> None:
    host = ThreadHost(lambda _: zoom_env())
    host.send(5, Reset(seed=0, options={"task": 2}))
    assert host.recv().task == TASKS[2]
    host.send(5, Step(action="<answer>2</answer>"))
    result = host.recv()
    assert result.reward == result.info["record"].reward.total
    assert result.info["record"].task == TASKS[2]
    host.send(5, Step(action="more"))
    assert "call reset" in host.recv().info["problem"]
    host.close()


@pytest.mark.parametrize("actions", [[0], [0] * 4, np.zeros(2, np.int64)])
def test_so_many_actions_as_there_are_environments(actions: Any) -> None:
    with odd_vector() as vector:
        vector.reset(seed=0)
        with pytest.raises(ValueError, match="actions for 3 environments; give one for each"):
            vector.step(actions)
        assert vector.step([0] * 3)[3].tolist() == [False] * 3


def test_masks_and_seeds_that_do_not_fit_are_refused() -> None:
    with odd_vector() as vector:
        with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[1, 2\] were never reset"):
            vector.reset(options={"reset_mask": np.array([True, False, False])})
        for mask, problem in (([True] * 3, TypeError), (np.ones(2, bool), ValueError), (np.zeros(3, bool), ValueError)):
            with pytest.raises(problem, match="reset_mask"):
                vector.reset(options={"reset_mask": mask})
        with pytest.raises(ValueError, match="2 seeds for 3 environments"):
            vector.reset(seed=[1, 2])
        options = {"reset_mask": np.ones(3, dtype=np.bool_)}
        vector.reset(seed=3, options=options)
        assert "reset_mask" in options, "what the caller gave stays as it was"
    with odd_vector(autoreset_mode="Disabled") as vector:
        vector.reset(seed=0)
        vector.step(np.array([0, 1, 0]))
        with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[1\] have ended"):
            vector.step(np.zeros(3, dtype=np.int64))


def test_closing_closes_every_environment_and_ends_every_thread() -> None:
    made: list[Odd] = []

    def make() -> Odd:
        made.append(Odd())
        return made[-1]

    before = threading.active_count()
    vector = ThreadVectorEnv([make] * 4, num_threads=3)
    assert before < threading.active_count() <= before + 3
    vector.close()
    vector.close()
    vector.host.close()
    assert [env.num_closed for env in made] == [1] * 4
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="are closed"):
        vector.step(np.zeros(4, dtype=np.int64))


def test_a_host_that_is_forgotten_leaves_no_thread() -> None:
    before = threading.active_count()
    host = ThreadHost(lambda _: Odd())
    host.send(0, Reset())
    host.recv()
    del host
    until_s = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until_s:  # a thread may still hold its last command
        gc.collect()
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_interpreter_ends_although_a_step_hangs(python: Callable[..., str]) -> None:
    code = """
import time, gymnasium
from visualzoom.envs.vector.thread_host import ThreadHost
from visualzoom.envs.vector.records import Reset, Step
class Hang(gymnasium.Env):
    def reset(self, **_): return 0, {}
    def step(self, action): time.sleep(600)
host = ThreadHost(lambda _: Hang(), step_timeout_s=0.1)
host.send(0, Reset()); host.recv(); host.send(0, Step(action=0)); print(host.recv().info["stop_reason"])
"""
    start_s = time.monotonic()
    assert python("-c", code) == "worker_lost"
    assert time.monotonic() - start_s < 60


def test_make_vec_reaches_it_by_the_vector_entry_point() -> None:
    gymnasium.register(id="ThreadZoom-v0", entry_point=zoom_env, vector_entry_point=make_vector)
    try:
        vector = gymnasium.make_vec("ThreadZoom-v0", 2, "vector_entry_point", tasks=TASKS, max_turns=3, threads=2)
    finally:
        del gymnasium.registry["ThreadZoom-v0"]
    assert isinstance(vector, ThreadVectorEnv)
    check_same_as_sync(vector, SyncVectorEnv([zoom_env] * 2), [(REPLIES[0], REPLIES[4])] * 3, seed=0)
    vector.close()
    with pytest.raises(ValueError, match="workers=-1"):
        make_vector(2, workers=-1)


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"step_timeout_s": 0.0}, {"autoreset_mode": "Never"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).partition("_")[0]):
        odd_vector(**options)
    with pytest.raises(ValueError, match="num_envs=0"):
        ThreadVectorEnv([])
