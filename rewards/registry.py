"""The rewards known by name. Any other is given as "module:attribute"."""

from __future__ import annotations

REWARDS: dict[str, str] = {
    "deepeyes": "visualzoom.rewards:deepeyes",
    "accuracy": "visualzoom.rewards:accuracy",
}
