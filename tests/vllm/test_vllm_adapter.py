"""An adapter that is published by itself gives what its weights merged into the model's would."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from following import Following

from visualzoom.agents.model_lora import LoraSettings, save_lora
from visualzoom.agents.records import Sampling
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.vllm_adapter import AdapterFolders
from visualzoom.agents.vllm_engine import rank_for

NEAR = 1e-4


@pytest.fixture(scope="module", params=["here", pytest.param("own", marks=pytest.mark.slow)])
def adapted(request: pytest.FixtureRequest) -> Iterator[Following]:
    """A model with an adapter, and an engine that is sent the adapter alone."""
    following = Following(ASSETS, request.param, lora=LoraSettings(rank=4, alpha=8))
    yield following
    following.policy.close()


def test_after_publish_the_engine_has_the_adapter(adapted: Following) -> None:
    requests, sampling = adapted.requests(2, 4), Sampling(max_tokens=16)
    assert adapted.mismatch(adapted.played(requests, sampling)).max() < NEAR, "a new adapter changes nothing"
    for version in (1, 2, 3):
        old = adapted.played(requests, sampling)
        adapted.disturb("lora_B", by=0.1)
        assert adapted.mismatch(old).max() > 100 * NEAR, "the change can be seen"
        adapted.policy.publish(version)
        ledgers = adapted.played(requests, sampling)
        assert adapted.mismatch(ledgers).max() < NEAR, "no block of the version before was served"
        assert adapted.policy.version == version
        assert all(set(one.policy_versions) <= {None, version} for one in ledgers)


def test_images_stay_known_and_prompts_don_t(adapted: Following) -> None:
    requests, sampling = adapted.requests(1, 4, seed=9), Sampling(max_tokens=4)
    adapted.played(requests, sampling)
    adapted.policy.figures()
    adapted.policy.publish(9)
    adapted.played(requests[:1], sampling)
    assert adapted.policy.figures() == {"perf/prefix_hit_rate": 0.0}
    adapted.played(requests, sampling)
    assert adapted.policy.prefix_hit_rate > 0.5


def test_the_folder_of_the_version_before_is_removed(adapted: Following) -> None:
    loaded: list[Any] = []
    dropped: list[int] = []
    folders = AdapterFolders()
    for _ in range(3):
        folders.renew(partial(save_lora, adapted.model.module), loaded.append, dropped.append)
    assert [one.lora_int_id for one in loaded] == [1, 2, 3] and len({one.lora_name for one in loaded}) == 3
    assert dropped == [1, 2]
    assert [Path(one.lora_path).is_dir() for one in loaded] == [False, False, True]
    folders.close()
    assert not Path(loaded[-1].lora_path).is_dir()


def test_a_rank_that_vllm_has_not_is_rounded_up() -> None:
    assert [rank_for(rank) for rank in (1, 4, 8, 9, 512)] == [1, 8, 8, 16, 512]
    with pytest.raises(ValueError, match="an adapter of rank 513: vLLM takes 512 at most; publish it merged"):
        rank_for(513)
