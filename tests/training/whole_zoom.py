"""A zoom that always shows the whole picture of 512 px: what a tool that is used blindly looks like."""

from __future__ import annotations

from visualzoom.envs.tools.zoom import ZoomIn, ZoomRules

WHOLE = ZoomIn(ZoomRules(min_side_px=512))
