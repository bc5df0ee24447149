"""What a finished episode is worth. No torch here."""

from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct, same_answer
from visualzoom.rewards.deepeyes_code import DeepEyesCodeReward, deepeyes_code
from visualzoom.rewards.group_presets import GroupTerms, pixel_reasoner, visionthink
from visualzoom.rewards.judges import Boxed, Numeric, Short, as_list, as_set
from visualzoom.rewards.presets import accuracy, closer, deepeyes, deepeyes_v2, iou, mini_o3, visual_cost
from visualzoom.rewards.registry import REWARDS
from visualzoom.rewards.terms import TERMS, Judged, WeightedTerms

__all__ = [
    "MAX_ANSWER_CHARACTERS",
    "REWARDS",
    "TERMS",
    "Boxed",
    "DeepEyesCodeReward",
    "GroupTerms",
    "Judged",
    "Numeric",
    "Short",
    "WeightedTerms",
    "accuracy",
    "as_list",
    "as_set",
    "closer",
    "deepeyes",
    "deepeyes_code",
    "deepeyes_v2",
    "iou",
    "is_correct",
    "mini_o3",
    "pixel_reasoner",
    "same_answer",
    "visionthink",
    "visual_cost",
]
