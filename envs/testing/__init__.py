"""What you need to property-test tools, environments, protocols and readers of pictures of your own.

`check_tool`, `check_environment`, `check_protocol`, `check_picture` search for an example that breaks a law and raise
a `LawError` with the smallest one; `report_...` tells it for every law. Behind them are strategies, makers of small
tasks, and `environment_machine`, a state machine to subclass. Agents: `visualzoom.agents.testing`.

Needs Hypothesis; the rest of the house does not import it.
"""

from visualzoom.envs.testing.environments import check_environment, environment_parts, report_environment
from visualzoom.envs.testing.laws import Book, Law, LawError
from visualzoom.envs.testing.machines import environment_machine
from visualzoom.envs.testing.makers import call_text, make_noise, make_sight, make_task, make_tasks
from visualzoom.envs.testing.pictures import check_picture, picture_parts, report_picture
from visualzoom.envs.testing.protocols import check_protocol, protocol_parts, report_protocol
from visualzoom.envs.testing.replies import actions_for, model_texts
from visualzoom.envs.testing.report import Report, Row
from visualzoom.envs.testing.search import Effort, Part, first_breach, investigate
from visualzoom.envs.testing.strategies import (
    arguments_for,
    encoded_images,
    hostile_arguments,
    hostile_boxes,
    small_images,
    tasks,
)
from visualzoom.envs.testing.tools import ToolSettings, check_tool, report_tool, tool_parts
from visualzoom.envs.testing.vector_laws import check_same_as_sync

__all__ = [
    "Book",
    "Effort",
    "Law",
    "LawError",
    "Part",
    "Report",
    "Row",
    "ToolSettings",
    "actions_for",
    "arguments_for",
    "call_text",
    "check_environment",
    "check_picture",
    "check_protocol",
    "check_same_as_sync",
    "check_tool",
    "encoded_images",
    "environment_machine",
    "environment_parts",
    "first_breach",
    "hostile_arguments",
    "hostile_boxes",
    "investigate",
    "make_noise",
    "make_sight",
    "make_task",
    "make_tasks",
    "model_texts",
    "picture_parts",
    "protocol_parts",
    "report_environment",
    "report_picture",
    "report_protocol",
    "report_tool",
    "small_images",
    "tasks",
    "tool_parts",
]
