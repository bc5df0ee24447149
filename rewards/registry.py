"""The rewards known by name. Any other is given as "module:attribute"."""

from __future__ import annotations

REWARDS: dict[str, str] = {
    "deepeyes": "visualzoom.rewards:deepeyes",
    "deepeyes-paper": "visualzoom.rewards:deepeyes",
    "deepeyes-code": "visualzoom.rewards:deepeyes_code",
    "closer": "visualzoom.rewards:closer",
    "iou": "visualzoom.rewards:iou",
    "visual-cost": "visualzoom.rewards:visual_cost",
    "visionthink": "visualzoom.rewards:visionthink",
    "pixel-reasoner": "visualzoom.rewards:pixel_reasoner",
    "accuracy": "visualzoom.rewards:accuracy",
}
