"""What a finished episode is worth. No torch here."""

from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct, same_answer
from visualzoom.rewards.deepeyes_code import DeepEyesCodeReward, deepeyes_code
from visualzoom.rewards.group_presets import GroupTerms, pixel_reasoner, visionthink
from visualzoom.rewards.judged_reward import JudgedReward, judged_by
from visualzoom.rewards.judges import Boxed, ByFamily, Numeric, Short, as_list, as_set
from visualzoom.rewards.llm_judge import LlmJudge, Ruling
from visualzoom.rewards.mathematical import BoxedMath, Mathematical
from visualzoom.rewards.presets import accuracy, closer, deepeyes, deepeyes_v2, iou, mini_o3, visual_cost
from visualzoom.rewards.registry import JUDGES, REWARDS
from visualzoom.rewards.terms import TERMS, Judged, WeightedTerms
from visualzoom.rewards.verdict_cache import VerdictCache

__all__ = [
    "JUDGES",
    "MAX_ANSWER_CHARACTERS",
    "REWARDS",
    "TERMS",
    "Boxed",
    "BoxedMath",
    "ByFamily",
    "DeepEyesCodeReward",
    "GroupTerms",
    "Judged",
    "JudgedReward",
    "LlmJudge",
    "Mathematical",
    "Numeric",
    "Ruling",
    "Short",
    "VerdictCache",
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
    "judged_by",
    "mini_o3",
    "pixel_reasoner",
    "same_answer",
    "visionthink",
    "visual_cost",
]
