"""Environments in Ray workers: equal to Gymnasium's serial vector, also while workers are killed, hang or throw."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs import FilePicture, Task, VisualZoomEnv
from visualzoom.envs.testing import call_text, make_task, make_tasks
from visualzoom.envs.testing.vector_laws import assert_same, check_same_as_sync
from visualzoom.envs.vector.hosted import HostedVectorEnv
from visualzoom.envs.vector.make_vector import make_vector
from visualzoom.envs.vector.records import Host, Reset, Result, Step

ray = pytest.importorskip("ray")

from visualzoom.envs.vector.ray_host import RayHost  # noqa: E402  only where Ray is installed
from visualzoom.envs.vector.ray_session import RaySession  # noqa: E402
from visualzoom.envs.vector.ray_vector import RayVectorEnv  # noqa: E402

TASKS = make_tasks()
REPLIES = (
    call_text(1, 2, 50, 60),
    call_text(10, 20, 190, 110),
    call_text(5, float("nan"), 3, 4),
    "rubbish",
    "<answer>2</answer>",
)
MODES = st.sampled_from(list(AutoresetMode))
LARGE = (100, 100, 3)


def zoom_env() -> gymnasium.Env[Any, Any]:
    return VisualZoomEnv(tasks=TASKS, max_turns=3, share_images=True)


def cart_pole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=12)


class TwoWords(Exception):
    """Can be pickled, but not opened again: it keeps one word of two."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Odd(gymnasium.Env[Any, Any]):
    """0 does nothing, 1 ends, 2 raises, 3 hangs, 4 kills its process, 5 waits, 6 can't be pickled, 7 not opened."""

    observation_space = Dict({"steps": Discrete(1000), "noise": Box(0, 255, LARGE, np.uint8)})
    action_space = Discrete(8)

    def __init__(self) -> None:
        self.num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._seen(), {}

    def step(self, action: int) -> Any:
        self.num_steps += 1
        if action == 2:
            raise ValueError("the world fell over")
        if action == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep({3: 30.0, 5: 0.4}.get(int(action), 0.0))
        info: dict[str, Any] = {"lock": threading.Lock()} if action == 6 else {"pid": os.getpid()}
        if action == 7:
            info["error"] = TwoWords("one", "two")
        return self._seen(), float(action), action == 1, False, info

    def _seen(self) -> Any:
        return {"steps": self.num_steps, "noise": self.np_random.integers(256, size=LARGE, dtype=np.uint8)}


class Noise(gymnasium.Env[Any, Any]):
    """Large arrays and nothing else."""

    observation_space = Box(0, 255, LARGE, np.uint8)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.integers(256, size=LARGE, dtype=np.uint8), {}

    def step(self, action: int) -> Any:
        return self.np_random.integers(256, size=LARGE, dtype=np.uint8), 0.0, action == 1, False, {}


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import a test


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray session for all tests here."""
    running = RaySession()
    yield
    running.close()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def zoom_hosts(session: None) -> Iterator[list[Host]]:
    """One worker that shares memory; three whose pixels travel."""
    with_block, without = RayHost(lambda _: zoom_env()), RayHost(lambda _: zoom_env(), num_workers=3, block_bytes=0)
    assert [link.facts().has_block for link in (*with_block.links, *without.links)] == [True, False, False, False]
    yield [with_block, without]
    with_block.close()
    without.close()


@pytest.fixture(scope="module")
def pole_host(session: None) -> Iterator[RayHost]:
    host = RayHost(lambda _: cart_pole(), num_workers=2)
    yield host
    host.close()


@pytest.fixture(scope="module")
def odd_host(session: None) -> Iterator[RayHost]:
    host = RayHost(lambda _: Odd(), num_workers=2, step_timeout_s=2.0)
    yield host
    host.close()


def kill(host: RayHost, worker: int) -> int:
    """Kill a worker's process; its number."""
    pid = host.links[worker].pid
    os.kill(pid, signal.SIGKILL)
    return pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone, or going while it is read
        return False


def gone_within(seconds: float, pids: Sequence[int]) -> bool:
    until_s = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


@given(st.lists(st.lists(st.sampled_from(REPLIES), min_size=3, max_size=3), max_size=6), MODES, st.integers(0, 2**31))
def test_zooming_in_workers_is_bit_for_bit_what_the_serial_vector_gives(
    zoom_hosts: list[Host], replies: list[list[str]], mode: AutoresetMode, seed: int
) -> None:
    for host in zoom_hosts:
        vector = HostedVectorEnv(host, 3, autoreset_mode=mode)
        check_same_as_sync(vector, SyncVectorEnv([zoom_env] * 3, autoreset_mode=mode), map(tuple, replies), seed=seed)


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), max_size=20), MODES)
def test_cart_poles_in_workers_are_bit_for_bit_what_the_serial_vector_gives(
    pole_host: RayHost, pushes: list[list[int]], mode: AutoresetMode
) -> None:
    vector = HostedVectorEnv(pole_host, 3, autoreset_mode=mode)
    check_same_as_sync(vector, SyncVectorEnv([cart_pole] * 3, autoreset_mode=mode), map(np.array, pushes), seed=7)


def test_large_arrays_land_in_the_batch_that_the_serial_vector_gives() -> None:
    turns = np.random.default_rng(0).integers(2, size=(12, 3))
    with RayVectorEnv([Noise] * 3, num_workers=2, autoreset_mode="SameStep") as vector:
        check_same_as_sync(vector, SyncVectorEnv([Noise] * 3, autoreset_mode=AutoresetMode.SAME_STEP), turns, seed=7)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_nothing_is_to_be_seen_of_a_worker_that_is_killed(pole_host: RayHost, mode: AutoresetMode) -> None:
    def pushes() -> Iterator[Any]:
        for number in range(40):
            if number == 25:  # after episodes that began without a seed
                kill(pole_host, 0)
            yield np.array([number % 2, 1, number % 3 % 2])

    vector = HostedVectorEnv(pole_host, 3, autoreset_mode=mode)
    sync = SyncVectorEnv([cart_pole] * 3, autoreset_mode=mode)
    for envs in (vector, sync):
        envs.set_attr("gravity", [9.0, 10.0, 11.0])
    before = pole_host.faults.copy()
    check_same_as_sync(vector, sync, pushes(), seed=3)
    assert pole_host.faults - before == {"restarted": 1, "replayed": 2}, "environments 0 and 2 lived there"


def test_an_episode_that_can_not_be_brought_back_as_it_was_is_lost(session: None) -> None:
    def fickle_env() -> gymnasium.Env[Any, Any]:
        return VisualZoomEnv(tasks=[make_task(os.getpid())], max_turns=3, share_images=True)  # by process, not by seed

    with RayVectorEnv([fickle_env, zoom_env], num_workers=1) as vector:
        vector.reset(seed=1)
        assert isinstance(vector.host, RayHost)
        kill(vector.host, 0)
        _, _, _, truncated, infos = vector.step((REPLIES[0], REPLIES[0]))
        assert truncated.tolist() == [True, False]
        assert infos["stop_reason"][0] == "worker_lost"
        assert "the same moves lead elsewhere" in infos["problem"][0]


def test_a_step_under_way_is_done_again_and_who_is_idle_is_brought_back_later(odd_host: RayHost) -> None:
    vector, alone = HostedVectorEnv(odd_host, 4), [Odd() for _ in range(4)]
    vector.reset(seed=1)
    for env_id, env in enumerate(alone):
        env.reset(seed=1 + env_id)
    before = odd_host.faults.copy()
    timer = threading.Timer(0.2, kill, (odd_host, 1))
    timer.start()
    for env_id in (1, 2):
        vector.send(env_id, Step(action=5))
    results = {one.env_id: one for one in (vector.recv(timeout_s=20), vector.recv(timeout_s=20))}
    timer.join()
    for env_id in (1, 2):
        assert_same(results[env_id].observation, alone[env_id].step(5)[0])
    assert odd_host.faults - before == {"restarted": 1, "replayed": 1}
    observation, *_ = vector.step(np.zeros(4, dtype=np.int64))
    for env_id, env in enumerate(alone):
        assert_same({name: seen[env_id] for name, seen in observation.items()}, _unbatched(env.step(0)[0]))
    assert odd_host.faults - before == {"restarted": 1, "replayed": 2}


def _unbatched(observation: dict[str, Any]) -> dict[str, Any]:
    """As it stands in a batch."""
    return {"noise": observation["noise"], "steps": np.int64(observation["steps"])}


def test_an_environment_that_kills_its_worker_is_given_up_and_no_other(odd_host: RayHost) -> None:
    vector, sync = HostedVectorEnv(odd_host, 6), SyncVectorEnv([Odd] * 6)
    vector.reset(seed=1), sync.reset(seed=1)
    before = odd_host.faults.copy()
    observation, _, _, truncated, infos = vector.step(np.array([0, 0, 4, 0, 0, 0]))
    assert truncated.tolist() == [False, False, True, False, False, False]
    assert infos["stop_reason"][2] == "worker_lost"
    spared = [0, 1, 3, 4, 5]
    expected = sync.step(np.zeros(6, dtype=np.int64))[0]
    for name in expected:
        assert np.array_equal(observation[name][spared], expected[name][spared])
    counted = odd_host.faults - before
    assert counted["lost"] == 1
    assert counted["restarted"] <= 3
    assert not vector.step(np.zeros(6, dtype=np.int64))[3].any(), "it begins anew"


def test_a_result_that_cannot_be_opened_ends_its_own_episode_only(odd_host: RayHost) -> None:
    vector = HostedVectorEnv(odd_host, 4)
    vector.reset(seed=1)
    _, _, _, truncated, infos = vector.step(np.array([0, 7, 0, 0]))
    assert truncated.tolist() == [False, True, False, False]
    assert "can't be opened" in infos["problem"][1]
    assert not vector.step(np.zeros(4, dtype=np.int64))[3].any()


def test_what_cannot_be_sent_takes_nothing_from_what_goes_with_it(odd_host: RayHost) -> None:
    odd_host.send_all((env_id, Reset(seed=env_id)) for env_id in (0, 2, 4))
    odd_host.recv_all(20)
    odd_host.send_all([(0, Step(action=0)), (2, Step(action=threading.Lock())), (4, Step(action=0))])
    ended = {one.env_id: one.fault is not None for one in odd_host.recv_all(20)}
    assert ended == {0: False, 2: True, 4: False}


def test_one_may_ask_without_waiting(odd_host: RayHost) -> None:
    odd_host.send(0, Reset(seed=0))
    results: list[Result] = []
    until_s = time.monotonic() + 20
    while not results and time.monotonic() < until_s:
        with suppress(TimeoutError):
            results.append(odd_host.recv(timeout_s=0))
    assert results[0].observation is not None


def test_a_driver_that_was_away_for_long_loses_no_worker(session: None) -> None:
    host = RayHost(lambda _: Odd(), num_workers=3, silence_timeout_s=2.0)
    try:
        host.send_all((env_id, Reset(seed=env_id)) for env_id in range(3))
        host.recv_all(20)
        host.send_all((env_id, Step(action=0)) for env_id in range(3))
        host.recv(20)
        time.sleep(3)
        assert [one.fault for one in host.recv_all(20)] == [None, None]
        assert host.faults["restarted"] == 0
    finally:
        host.close()


def test_commands_of_which_one_is_too_many_are_all_refused(odd_host: RayHost) -> None:
    with pytest.raises(RuntimeError, match="environment 1 is busy"):
        odd_host.send_all([(0, Reset(seed=0)), (1, Reset(seed=0)), (1, Reset(seed=0))])
    assert odd_host.in_flight == 0


def test_what_throws_hangs_or_cannot_be_sent_ends_one_episode_each(odd_host: RayHost) -> None:
    vector = HostedVectorEnv(odd_host, 5)
    vector.reset(seed=1)
    before = odd_host.faults.copy()
    start_s = time.monotonic()
    _, _, _, truncated, infos = vector.step(np.array([2, 3, 0, 6, 0]))
    assert time.monotonic() - start_s < 10
    assert truncated.tolist() == [True, True, False, True, False]
    assert infos["stop_reason"].tolist() == ["env_error", "worker_lost", None, "env_error", None]
    assert infos["problem"][0] == "ValueError: the world fell over"
    assert "a step did not end within 2 s" in infos["problem"][1]
    assert "pickle" in infos["problem"][3]
    assert odd_host.faults - before == {"raised": 2, "hung": 1}
    assert not vector.step(np.zeros(5, dtype=np.int64))[3].any()
    vector.send(0, Step(action=threading.Lock()))
    assert "pickle" in vector.recv(timeout_s=5).info["problem"]


def test_results_come_as_completed_from_all_workers(odd_host: RayHost) -> None:
    vector = HostedVectorEnv(odd_host, 4)
    vector.reset(seed=1)
    for env_id in (0, 1):
        vector.send(env_id, Step(action=5))
    order = []
    for _ in range(3):
        for env_id in (2, 3):
            vector.send(env_id, Step(action=0))
        order += [vector.recv(timeout_s=5).env_id for _ in range(2)]
    assert sorted(order) == [2, 2, 2, 3, 3, 3], "nobody waited for the slow ones"
    with pytest.raises(TimeoutError, match="of 2 results"):
        odd_host.recv_all(timeout_s=0.05)
    with pytest.raises(RuntimeError, match="environment 1 is busy"):
        vector.send(1, Step(action=0))
    assert {vector.recv(timeout_s=5).reward for _ in range(2)} == {5.0}
    with pytest.raises(RuntimeError, match="nothing is in flight"):
        vector.recv()


def test_a_worker_that_is_frozen_is_replaced() -> None:
    with_limit = RayHost(lambda _: Odd(), silence_timeout_s=2.5)
    with HostedVectorEnv(with_limit, 2) as vector:
        vector.reset(seed=1)
        os.kill(with_limit.links[0].pid, signal.SIGSTOP)
        start_s = time.monotonic()
        observation, *_ = vector.step(np.zeros(2, dtype=np.int64))
        assert time.monotonic() - start_s < 20
        assert observation["steps"].tolist() == [1, 1]
        assert with_limit.faults == {"restarted": 1, "replayed": 2}


def test_lost_episodes_end_where_that_was_chosen_and_nothing_is_left_after_the_end() -> None:
    vector = RayVectorEnv([Odd] * 4, num_workers=2, on_lost="truncate", autoreset_mode="Disabled")
    host = vector.host
    assert isinstance(host, RayHost)
    folder = host.originals.folder
    held = vector.reset(seed=1)[0]["noise"][0].copy()
    host.send_all((env_id, Step(action=5)) for env_id in (0, 1))
    kill(host, 0)
    assert {one.env_id: one.info.get("stop_reason") for one in host.recv_all(20)} == {0: "worker_lost", 1: None}
    host.send_all((env_id, Step(action=0)) for env_id in range(4))
    ended = {one.env_id: one.info.get("stop_reason") for one in host.recv_all(20)}
    assert ended[2] == "worker_lost", "it was idle when its worker died, and its episode is lost as well"
    assert (ended[1], ended[3]) == (None, None)
    host.send_all((env_id, Reset(seed=1)) for env_id in (0, 2))
    first = next(one for one in host.recv_all(20) if one.env_id == 0)
    assert np.array_equal(first.observation["noise"], held)
    assert host.faults["restarted"] == 1
    assert host.faults["lost"] >= 2
    pids = [link.pid for link in host.links]
    vector.close()
    vector.close()
    host.close()
    assert gone_within(10, pids)
    assert not list(folder.parent.glob(f"{folder.name}*"))
    assert np.array_equal(first.observation["noise"], held), "what is held outlives the worker"
    with pytest.raises(RuntimeError, match="are closed"):
        host.send(0, Reset())


def test_a_picture_is_decoded_once_for_all_workers_of_a_node(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(256, size=(300, 400, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    task = Task(id="a", question="What?", answer="A", pictures=(FilePicture(tmp_path / "a.png"),))
    with make_vector(4, workers=2, tasks=[task]) as vector:
        vector.reset(seed=0)
        assert isinstance(vector.host, RayHost)
        assert 300 * 400 * 3 <= vector.host.originals.used_bytes < 2 * 300 * 400 * 3


def test_workers_that_cannot_be_had_are_told_at_once() -> None:
    with pytest.raises(RuntimeError, match=r"it did not start within 1 s.*Ray has \d+ CPUs in all"):
        RayHost(lambda _: Odd(), cpus_per_worker=1000, start_timeout_s=1.0)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="can't be sent to workers: cannot pickle"):
        RayHost(lambda _: Odd() if lock.locked() else cart_pole())
    with pytest.raises(ValueError, match="num_workers=0"):
        RayHost(lambda _: Odd(), num_workers=0)
    with pytest.raises(ValueError, match="on_lost is 'forget'"):
        RayHost(lambda _: Odd(), on_lost="forget")  # type: ignore[arg-type]


SCRIPT = """
from user_world import World
from visualzoom.envs.vector.ray_vector import RayVectorEnv
vector = RayVectorEnv([World] * 2, num_workers=2)
print(vector.reset()[1]["said"].tolist())
print(vector.host.originals.folder, *[link.pid for link in vector.host.links], sep="\\n")
"""
MODULE = """
import gymnasium, os
class World(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)
    def reset(self, **_):
        return 0, {"said": open("data/said.txt").read() + os.environ["OMP_NUM_THREADS"]}
"""


def test_workers_find_the_users_modules_and_files_and_end_with_the_driver_that_forgot_them(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/said.txt").write_text("hello")
    (tmp_path / "user_world.py").write_text(MODULE)
    (tmp_path / "main.py").write_text(SCRIPT)
    said, folder, *pids = python("main.py", cwd=tmp_path).splitlines()
    assert said == "['hello1', 'hello1']"
    assert gone_within(10, [int(pid) for pid in pids])
    assert not Path(folder).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "num_envs", "threads"), [(4, 2, 1), (2, 64, 3), (5, 13, 8), (8, 64, 1)])
def test_any_number_of_workers_and_threads_gives_the_same_bits(num_workers: int, num_envs: int, threads: int) -> None:
    fns = [zoom_env] * num_envs
    sync, calls = SyncVectorEnv(fns), [(call_text(1, 2, 50, 60), "<answer>A</answer>", "nothing")]
    actions = [tuple(calls[0][(turn + env) % 3] for env in range(num_envs)) for turn in range(6)]
    with RayVectorEnv(fns, num_workers=num_workers, threads_per_worker=threads) as vector:
        check_same_as_sync(vector, sync, actions, seed=num_envs)


@pytest.mark.slow
def test_workers_may_live_on_other_nodes(python: Callable[..., str]) -> None:
    code = """
import ray, gymnasium, numpy as np
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
from gymnasium.vector import SyncVectorEnv
from visualzoom.envs import VisualZoomEnv
from visualzoom.envs.vector.ray_vector import RayVectorEnv
from visualzoom.envs.testing import call_text, make_tasks
from visualzoom.envs.testing.vector_laws import check_same_as_sync
fns = [lambda: VisualZoomEnv(tasks=make_tasks(), max_turns=3)] * 4
with RayVectorEnv(fns, num_workers=2) as vector:
    print(len({link.facts().node for link in vector.host.links}))
    check_same_as_sync(vector, SyncVectorEnv(fns), [(call_text(1, 2, 50, 60),) * 4] * 7, seed=0)
    vector.reset(seed=0)
    cluster.remove_node(cluster.list_all_nodes()[-1])  # with its worker
    cluster.add_node(num_cpus=1)
    sync = SyncVectorEnv(fns)
    check_same_as_sync(vector, sync, [(call_text(1, 2, 50, 60),) * 4] * 7, seed=0)
    print(vector.host.faults["restarted"])
ray.shutdown()
cluster.shutdown()
"""
    assert python("-c", code).split() == ["2", "1"]
