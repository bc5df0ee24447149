"""The world: pictures, tasks, tools, protocols, and the environment `VisualZoom-v0`. No tokens and no torch here.

Importing this module registers the environment, so `gymnasium.make("visualzoom.envs:VisualZoom-v0")` finds it.
"""

import gymnasium

from visualzoom.envs.boxes import COORDINATES, Coordinates, Frame, FramedBox, iou
from visualzoom.envs.foreign.adapt import adapt
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.kernels import KERNELS, Kernel, open_kernel
from visualzoom.envs.images.pictures import ArrayPicture, BytesPicture, FilePicture, ImageError
from visualzoom.envs.protocols.protocol import PROTOCOLS, BadCall, DeepEyesV2, Parsed, WordProtocol
from visualzoom.envs.records import (
    Box,
    Episode,
    GroupRewardFn,
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
from visualzoom.envs.regions import Region
from visualzoom.envs.registry import resolve
from visualzoom.envs.spaces import ImageTuple, UnicodeText
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST, TASKS, MixedTasks, endless, open_tasks
from visualzoom.envs.tools.arguments import function_schema
from visualzoom.envs.tools.no_look import NoLook
from visualzoom.envs.tools.registry import TOOLS
from visualzoom.envs.tools.rotate import Rotate
from visualzoom.envs.tools.sight import Outcome, Seen, Sight, Tool
from visualzoom.envs.tools.zoom import ZoomIn, ZoomRules
from visualzoom.envs.vector.thread_vector import ThreadVectorEnv
from visualzoom.envs.views import ViewRule
from visualzoom.envs.wrappers.pixel_box import PixelBox
from visualzoom.envs.wrappers.structured import StructuredActions
from visualzoom.envs.zoom_env import Observation, VisualZoomEnv

__all__ = [
    "COORDINATES",
    "HELD_OUT_FIRST",
    "KERNELS",
    "PROTOCOLS",
    "TASKS",
    "TOOLS",
    "ArrayPicture",
    "BadCall",
    "Box",
    "BytesPicture",
    "Coordinates",
    "DeepEyesV2",
    "Episode",
    "FilePicture",
    "Frame",
    "FramedBox",
    "GroupRewardFn",
    "ImageError",
    "ImageRef",
    "ImageStore",
    "ImageTuple",
    "Kernel",
    "MixedTasks",
    "NoLook",
    "Observation",
    "Outcome",
    "Parsed",
    "Picture",
    "PixelBox",
    "Pixels",
    "Region",
    "Reward",
    "RewardFn",
    "Rotate",
    "Seen",
    "Sight",
    "StopReason",
    "StructuredActions",
    "Task",
    "TaskSource",
    "ThreadVectorEnv",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Turn",
    "UnicodeText",
    "ViewRule",
    "VisualZoomEnv",
    "WordProtocol",
    "ZoomIn",
    "ZoomRules",
    "adapt",
    "endless",
    "function_schema",
    "iou",
    "open_kernel",
    "open_tasks",
    "resolve",
]

if "VisualZoom-v0" not in gymnasium.registry:  # a reload of this module must not warn
    gymnasium.register(
        id="VisualZoom-v0",
        entry_point="visualzoom.envs.zoom_env:VisualZoomEnv",
        vector_entry_point="visualzoom.envs.vector.make_vector:make_vector",
    )
