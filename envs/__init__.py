"""The world: pictures, tasks, tools, protocols, and the environment `VisualZoom-v0`. No tokens and no torch here.

Importing this module registers the environment, so `gymnasium.make("visualzoom.envs:VisualZoom-v0")` finds it.
"""

import gymnasium

from visualzoom.envs.boxes import Frame, FramedBox, iou
from visualzoom.envs.image_store import ImageStore
from visualzoom.envs.images import ArrayPicture, BytesPicture, FilePicture, ImageError
from visualzoom.envs.protocol import PROTOCOLS, DeepEyesV2, Parsed, WordProtocol
from visualzoom.envs.records import (
    Box,
    Episode,
    ImageRef,
    Picture,
    Pixels,
    Reward,
    RewardFn,
    StopReason,
    Task,
    TaskSource,
    ToolCall,
    ToolResult,
    Turn,
)
from visualzoom.envs.registry import resolve
from visualzoom.envs.spaces import ImageTuple, UnicodeText
from visualzoom.envs.tasks import HELD_OUT_FIRST, TASKS, MixedTasks, endless, open_tasks
from visualzoom.envs.tools import TOOLS, Outcome, Sight, Tool, ZoomIn, function_schema
from visualzoom.envs.views import ViewRule
from visualzoom.envs.zoom_env import Observation, VisualZoomEnv

__all__ = [
    "HELD_OUT_FIRST",
    "PROTOCOLS",
    "TASKS",
    "TOOLS",
    "ArrayPicture",
    "Box",
    "BytesPicture",
    "DeepEyesV2",
    "Episode",
    "FilePicture",
    "Frame",
    "FramedBox",
    "ImageError",
    "ImageRef",
    "ImageStore",
    "ImageTuple",
    "MixedTasks",
    "Observation",
    "Outcome",
    "Parsed",
    "Picture",
    "Pixels",
    "Reward",
    "RewardFn",
    "Sight",
    "StopReason",
    "Task",
    "TaskSource",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Turn",
    "UnicodeText",
    "ViewRule",
    "VisualZoomEnv",
    "WordProtocol",
    "ZoomIn",
    "endless",
    "function_schema",
    "iou",
    "open_tasks",
    "resolve",
]

if "VisualZoom-v0" not in gymnasium.registry:  # a reload of this module must not warn
    gymnasium.register(id="VisualZoom-v0", entry_point="visualzoom.envs.zoom_env:VisualZoomEnv")
