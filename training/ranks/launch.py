"""Joining the learner ranks: which of them this process is, and the process group of them all.

torchrun says everything in environment variables; without them this is the only process. Ranks that Ray starts join by
a store that the first one keeps (ray_learners.py). No torch until they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visualzoom.training.ranks.ranks import Ranks


def launched() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def after_restart(arguments: Sequence[str], out: Path | None) -> list[str]:
    """What to run when torchrun has restarted everything after a failure: the same, going on with the run in `out`."""
    begun = out is not None and (out / "config.json").is_file()
    return ["--resume", str(out)] if _restarts() and begun else list(arguments)


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """The ranks of this launch by torchrun; of several, each calls this and waits for the others."""
    import torch  # which is not to be imported before the threads are set

    from visualzoom.training.ranks.ranks import ALONE

    number, count = launched()
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" then means in this process
    with joined(number, count, _store_of_attempt()) as ranks:
        yield ranks


@contextmanager
def joined(number: int, count: int, store: Any) -> Iterator[Ranks]:
    """The ranks, once all have met; each calls this.

    Args:
        number: Of this process.
        count: Of all.
        store: Of torch, where they find each other; None is what the environment names.
    """
    import datetime

    import torch
    from torch import distributed as dist

    from visualzoom.training.ranks.ranks import STEP_TIMEOUT_S, ranks_of_group

    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=datetime.timedelta(seconds=STEP_TIMEOUT_S),
        store=store,
        rank=number,
        world_size=count,
    )
    yield ranks_of_group()
    dist.destroy_process_group()  # not after a failure: the others may be gone, and waiting for them would hide it


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store_of_attempt() -> Any:
    """Where the ranks of this attempt find each other; None leaves it to torch.

    torchrun on one machine keeps one store over its restarts, in which gloo would find the addresses of dead ranks. On
    several machines they count restarts apart: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each attempt its own.
    """
    from torch import distributed

    stores: Any = distributed  # whose annotations leave the stores out
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE") == "1"
    if not shared:
        return None
    store = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return stores.PrefixStore(f"visualzoom-{_restarts()}", store)
