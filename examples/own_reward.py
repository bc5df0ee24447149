"""A reward of your own: a right answer pays 1, every crop costs a little. `--reward own_reward:thrifty`"""

from visualzoom.envs import Episode, Reward
from visualzoom.rewards import is_correct


def thrifty(episode: Episode) -> Reward:
    right = float(episode.answer is not None and is_correct(episode.task, episode.answer))
    return Reward(total=right - 0.1 * episode.num_crops, parts={"right": right, "crops": episode.num_crops})
