"""What a finished episode is worth. No torch here."""

from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct, same_answer
from visualzoom.rewards.episode_rules import DeepEyesReward, accuracy, deepeyes
from visualzoom.rewards.registry import REWARDS

__all__ = ["MAX_ANSWER_CHARACTERS", "REWARDS", "DeepEyesReward", "accuracy", "deepeyes", "is_correct", "same_answer"]
