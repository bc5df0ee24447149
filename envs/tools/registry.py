"""The tools by name, and how a call is run.

Law: every call gives an outcome; no arguments raise, and no box leaves the picture.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from visualzoom.envs.records import ToolCall
from visualzoom.envs.registry import suggest
from visualzoom.envs.tools.arguments import typed
from visualzoom.envs.tools.sight import Outcome, Sight, Tool
from visualzoom.envs.tools.zoom import DEEPEYES_RULES, ZoomIn

ZOOM_CHOOSE_IMAGE = ZoomIn(choose_image=True)
ZOOM_DEEPEYES = ZoomIn(DEEPEYES_RULES)

TOOLS: dict[str, str] = {
    "image_zoom_in_tool": "visualzoom.envs.tools.zoom:ZoomIn",
    "image_rotate_tool": "visualzoom.envs.tools.rotate:Rotate",
    "zoom-choose-image": "visualzoom.envs.tools.registry:ZOOM_CHOOSE_IMAGE",
    "zoom-deepeyes": "visualzoom.envs.tools.registry:ZOOM_DEEPEYES",
    "zoom-blank": "visualzoom.envs.tools.no_look:NoLook",
}
"""A variant has a name of its own here; the name that the model reads is the tool's."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What may be repeated to the model: no role token, tag or sentence can hide in it."""


def run_call(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """Find the tool, check the arguments, run it. Only a defect of the tool itself raises."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    size = sight.images[0].size_told
    if tool is None:
        names = [tool.name for tool in tools]
        given = f"called {call.name}" if _PLAIN_NAME.fullmatch(call.name) else "of that name"
        found = f"There is no tool {given}; there is {', '.join(names) or 'none'}."
        return Outcome(error="unknown_tool", message=f"{found}{suggest(call.name[:100], names)} {size}")
    arguments = typed(call.arguments, tool.arguments)
    if isinstance(arguments, Outcome):
        return dataclasses.replace(arguments, message=f"{arguments.message} {size}")
    return tool.run(arguments, sight)
