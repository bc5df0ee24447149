"""The rewards and the judges known by name. Any other is given as "module:attribute"."""

from __future__ import annotations

REWARDS: dict[str, str] = {
    "deepeyes": "visualzoom.rewards:deepeyes",
    "deepeyes-paper": "visualzoom.rewards:deepeyes",
    "deepeyes-code": "visualzoom.rewards:deepeyes_code",
    "closer": "visualzoom.rewards:closer",
    "iou": "visualzoom.rewards:iou",
    "visual-cost": "visualzoom.rewards:visual_cost",
    "deepeyes-v2": "visualzoom.rewards:deepeyes_v2",
    "mini-o3": "visualzoom.rewards:mini_o3",
    "visionthink": "visualzoom.rewards:visionthink",
    "pixel-reasoner": "visualzoom.rewards:pixel_reasoner",
    "accuracy": "visualzoom.rewards:accuracy",
}

JUDGES: dict[str, str] = {
    "exact": "visualzoom.rewards:is_correct",
    "list": "visualzoom.rewards:as_list",
    "set": "visualzoom.rewards:as_set",
    "boxed": "visualzoom.rewards:Boxed",
    "math": "visualzoom.rewards:Mathematical",
    "boxed-math": "visualzoom.rewards:BoxedMath",
}
