"""A classical agent, without a language model: a small conv net learns by PPO which box to look at.

It sees the overview as pixels and gives four numbers; `PixelBox` writes them as a call of the tool. The reward says how
much of the evidence its only look shows, and how close it looks. About two minutes on one core:

    python examples/box_agent.py
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from visualzoom.envs import Box, Episode, Reward, Task
from visualzoom.envs.boxes import area
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.envs.wrappers.pixel_box import CHANNELS, PixelBox

SIZE_PX, NUM_ENVS, NUM_PLACES, SHARPNESS = 32, 128, 32, 8.0
EPOCHS, MINIBATCHES, CLIP, ENTROPY = 4, 4, 0.2, 1e-3


class OneCard:
    """A thousand scenes with one card each, so that nothing need be read to know where to look."""

    first = 0
    num_tasks: int | None = 1024

    def task(self, index: int) -> Task:
        """The scene of that index."""
        return DigitScenes(size_px=512, max_cards=1).task(self.first + index)


class UnseenCard(OneCard):
    """Others, to measure on."""

    first = 1_000_000
    num_tasks = 256


def closeness(episode: Episode) -> Reward:
    """Share of the evidence that the look shows, times how close it is: 0 for the whole picture, nearly 1 at best."""
    (look,), (evidence,) = [result.executed_box for result in episode.tool_results], episode.task.evidence
    if look is None:
        return Reward(total=0.0)
    left, top = max(look.left_px, evidence.left_px), max(look.top_px, evidence.top_px)
    shown = Box(left, top, min(look.right_px, evidence.right_px), min(look.bottom_px, evidence.bottom_px))
    share = area(shown) / area(evidence)
    return Reward(
        total=share * (1 - math.sqrt(area(look) / math.prod(episode.task.image_size))), parts={"share": share}
    )


class Net(nn.Module):
    """From pixels to the middle of a box's distribution, and to the reward that is expected.

    Each map of the last layer gives one place, where it is brightest: what is learned of one place holds for all.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (CHANNELS, 16, 3, 2), (16, 32, 3, 2), (32, NUM_PLACES, 3, 1)
        convs = [nn.Conv2d(*size, padding=1) for size in sizes]
        self.convs = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.mix = nn.Sequential(nn.Linear(2 * NUM_PLACES, 64), nn.ReLU())
        self.middle, self.value = nn.Linear(64, 4), nn.Linear(64, 1)
        self.log_width = nn.Parameter(torch.full((4,), -0.7))
        self.middle.bias.data = torch.tensor([-0.5, -0.5, 0.5, 0.5])  # it begins in the middle of the picture

    def forward(self, pixels: Tensor) -> tuple[Normal, Tensor]:
        """Distribution of actions [B, 4] and values [B] of observations uint8 [B, height, width, channels]."""
        maps = self.convs(pixels.permute(0, 3, 1, 2) / 127.5 - 1)
        weights = (SHARPNESS * maps.flatten(2)).softmax(-1).view_as(maps)
        axis = torch.linspace(-1, 1, maps.shape[-1])
        features = self.mix(torch.cat([weights.sum(2) @ axis, weights.sum(3) @ axis], dim=1))
        return Normal(self.middle(features), self.log_width.exp()), self.value(features).squeeze(-1)


def make(tasks: str, seed: int) -> tuple[gymnasium.vector.VectorEnv, Tensor]:
    """Many environments with one look each; the next episode begins in the step that ends the last one."""
    envs = gymnasium.make_vec(
        "visualzoom.envs:VisualZoom-v0",
        num_envs=NUM_ENVS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        wrappers=[partial(PixelBox, size_px=SIZE_PX)],
        tasks=tasks,
        reward="box_agent:closeness",
        max_turns=1,
    )
    return envs, torch.from_numpy(envs.reset(seed=seed)[0])


def update(net: Net, optimizer: torch.optim.Optimizer, seen: Tensor, actions: Tensor, rewards: Tensor) -> None:
    """PPO on episodes of one step: the return is the reward."""
    with torch.no_grad():
        policy, values = net(seen)
        before, credit = policy.log_prob(actions).sum(-1), rewards - values
        credit = (credit - credit.mean()) / (credit.std() + 1e-6)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(seen)).chunk(MINIBATCHES):
            policy, values = net(seen[rows])
            ratio = (policy.log_prob(actions[rows]).sum(-1) - before[rows]).exp()
            gain = torch.minimum(ratio * credit[rows], ratio.clamp(1 - CLIP, 1 + CLIP) * credit[rows]).mean()
            loss = ((values - rewards[rows]) ** 2).mean() - gain - ENTROPY * policy.entropy().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()


def train(num_updates: int, *, seed: int = 0, every: int = 20, rate: float = 2.5e-3) -> list[float]:
    """Rewards of the updates; prints a line now and then."""
    torch.set_num_threads(1)  # the net is small: more threads only wait for one another
    torch.manual_seed(seed)
    envs, seen = make("box_agent:OneCard", seed)
    net, start, curve = Net(), time.perf_counter(), list[float]()
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for number in range(num_updates):
        optimizer.param_groups[0]["lr"] = rate * (1 - number / num_updates)
        batch = []
        for _ in range(4):
            with torch.no_grad():
                actions = net(seen)[0].sample()
            following, rewards, *_ = envs.step(actions.numpy())
            batch.append((seen, actions, torch.from_numpy(rewards).float()))
            seen = torch.from_numpy(following)
        curve.append(float(np.mean([rewards.mean() for _, _, rewards in batch])))
        update(net, optimizer, *(torch.cat(part) for part in zip(*batch, strict=True)))
        if number % every == every - 1:
            print(f"update {number + 1:4}  reward {np.mean(curve[-every:]):.3f}  {time.perf_counter() - start:5.1f} s")
    envs.close()
    print(f"on scenes that it has not seen: {measure(net):.3f}")
    return curve


def measure(net: Net) -> float:
    """Mean reward of the middle box on unseen scenes."""
    envs, seen = make("box_agent:UnseenCard", seed=1)
    rewards = []
    for _ in range(4):
        following, paid, *_ = envs.step(net(seen)[0].mean.detach().numpy())
        rewards.append(paid.mean())
        seen = torch.from_numpy(following)
    return float(np.mean(rewards))


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description="Train it.")
    flags.add_argument("--updates", type=int, default=200)
    flags.add_argument("--seed", type=int, default=0)
    train(flags.parse_args().updates, seed=flags.parse_args().seed)
